package dev.loran.peft.tuner;

import dev.loran.engine.Backend;
import dev.loran.engine.Buffer;
import dev.loran.engine.DropoutMask;
import dev.loran.peft.model.Model;
import java.util.random.RandomGenerator;
import org.jspecify.annotations.Nullable;

/// What a method needs to put itself onto a model.
///
/// @param name the adapter's name, `default` if nobody said otherwise
/// @param random source of initial values
/// @param seed key of all dropout masks
/// @param microStep (1) I32 counter of forwards, written by [PeftModel]
/// @param partialTargets whether target names that match nothing are let pass
public record Attachment(
        Model model, String name, RandomGenerator random, long seed, Buffer microStep, boolean partialTargets) {

    public Backend backend() {
        return model.backend();
    }

    /// The mask of dropout site `site`, or null for p = 0.
    @Nullable
    DropoutMask dropout(double p, int site) {
        return p == 0 ? null : new DropoutMask(p, seed, site, microStep);
    }
}
