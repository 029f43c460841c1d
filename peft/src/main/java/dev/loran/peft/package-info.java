/// Transformers, the methods that fine-tune them with few parameters, the data and the trainer around them, and the
/// command line.
@NullMarked
package dev.loran.peft;

import org.jspecify.annotations.NullMarked;
