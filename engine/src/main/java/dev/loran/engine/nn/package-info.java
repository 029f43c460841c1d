/// Layers: named parameters, and the forward functions over them. [Layer] is torch's `Module`, a name already taken by
/// Java's own.
///
/// An [AdaptedLayer] is a layer into which a fine-tuning method can be inserted: its [Adapter], when set, computes the
/// forward from the frozen layer, and the parameter names become those of Hugging Face peft's wrappers.
@NullMarked
package dev.loran.engine.nn;

import org.jspecify.annotations.NullMarked;
