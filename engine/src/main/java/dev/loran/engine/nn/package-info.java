/// Layers: parameters with names, and the forward functions over them. [Layer] is torch's `Module` (a name that Java's
/// own
/// Module takes).
///
/// An [AdaptedLayer] is a place where a fine-tuning method can stand: its [Adapter], when set, computes the forward
/// from
/// the frozen layer, and the parameter names become those that Hugging Face peft's wrappers have.
@NullMarked
package dev.loran.engine.nn;

import org.jspecify.annotations.NullMarked;
