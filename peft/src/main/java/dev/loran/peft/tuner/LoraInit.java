package dev.loran.peft.tuner;

import com.fasterxml.jackson.annotation.JsonValue;
import dev.loran.peft.io.InputException;
import java.util.List;
import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/// How LoRA's A and B are initialized, by peft's name.
///
/// `eva`, `lora_ga`, `orthogonal` and `mica` are accepted from files only: once saved, their result is plain LoRA.
///
/// @param name `true`, `false`, `gaussian`, `pissa`, `pissa_niter_[number]` or `olora`; in files also one of the above
public record LoraInit(String name) {
    /// A uniform in ±1/√in (Kaiming with a = √5), B zero: the initial update is zero.
    public static final LoraInit TRUE = new LoraInit("true");
    /// A from N(0, 1/r²), B zero.
    public static final LoraInit GAUSSIAN = new LoraInit("gaussian");
    /// Both random: the initial update is not zero; for tests.
    public static final LoraInit FALSE = new LoraInit("false");
    /// PiSSA: A and B are the principal part of W, which is replaced by the remainder. One decomposition per layer:
    /// seconds at a width of hundreds, minutes at thousands.
    public static final LoraInit PISSA = new LoraInit("pissa");
    /// OLoRA: A and B are the first rows of R and columns of Q in W = Q·R; W is replaced by the remainder.
    public static final LoraInit OLORA = new LoraInit("olora");

    /// Initializations that leave the base unchanged and that Loran does not compute.
    private static final List<String> IN_FILES = List.of("eva", "lora_ga", "orthogonal", "mica");

    private static final Pattern PISSA_NITER = Pattern.compile("pissa_niter_([1-9]\\d{0,3})");

    public LoraInit {
        name = name.toLowerCase(Locale.ROOT);
        if (name.startsWith("corda") || name.equals("loftq")) {
            throw new InputException("init_lora_weights " + name + ": A and B stand on a base that was changed by "
                    + (name.equals("loftq") ? "quantising it" : "statistics of its inputs")
                    + " when they were made, and the file does not say how; convert the adapter to plain LoRA"
                    + " where it was made (path_initial_model_for_weight_conversion), or save that base beside it");
        }
        if (!List.of("true", "false", "gaussian", "pissa", "olora").contains(name)
                && !IN_FILES.contains(name)
                && !PISSA_NITER.matcher(name).matches()) {
            throw new InputException("init_lora_weights " + name
                    + " is not supported; known are true, false, gaussian, pissa, pissa_niter_[number], olora");
        }
    }

    /// [#PISSA] by random projection with that many iterations: faster, and still exact as a whole, because the
    /// remainder is computed from the approximate factors.
    public static LoraInit pissa(int iterations) {
        return new LoraInit("pissa_niter_" + iterations);
    }

    /// The value in files: a boolean or a name.
    @JsonValue
    Object fileValue() {
        return equals(TRUE) || equals(FALSE) ? (Object) equals(TRUE) : name;
    }

    /// Whether this is accepted from files only.
    boolean isFromFile() {
        return IN_FILES.contains(name);
    }

    /// Whether part of the frozen weight is moved into A and B.
    boolean cutsBase() {
        return isPissa() || equals(OLORA);
    }

    boolean isPissa() {
        return name.startsWith("pissa");
    }

    /// Iterations of the random projection; 0 for the full decomposition.
    int iterations() {
        Matcher m = PISSA_NITER.matcher(name);
        return m.matches() ? Integer.parseInt(m.group(1)) : 0;
    }
}
