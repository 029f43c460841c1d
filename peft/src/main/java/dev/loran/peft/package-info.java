/// Transformers, parameter-efficient methods that fine-tune them, the data and the trainer around them, and the command
/// line.
@NullMarked
package dev.loran.peft;

import org.jspecify.annotations.NullMarked;
