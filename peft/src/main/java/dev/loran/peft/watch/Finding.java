package dev.loran.peft.watch;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.Locale;

/// Something that a run's files show to be wrong with it, or that may be.
///
/// @param name in lower case with `_`, the same for all runs
/// @param serious whether it is a fault, not just a hint
/// @param evidence the numbers of the run from which it follows, as a sentence without its end
/// @param advice the options to change, first the one that is most likely to help
public record Finding(String name, Area area, boolean serious, String evidence, String advice) {
    /// An object with these keys.
    public ObjectNode toJson() {
        return JsonNodeFactory.instance
                .objectNode()
                .put("name", name)
                .put("area", area.toString())
                .put("serious", serious)
                .put("evidence", evidence)
                .put("advice", advice);
    }

    /// What a user would complain of.
    public enum Area {
        MEMORY,
        /// Results that are worse than they could be.
        RESULTS,
        /// A loss that jumps or rises.
        STABILITY,
        SPEED;

        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }
    }
}
