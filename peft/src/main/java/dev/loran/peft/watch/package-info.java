/// Watching runs: as they train, and afterwards by their files.
///
/// **Reading order**: [Diagnosis] (what was wrong with a run, and what to change) → [Finding] → [TensorBoard] →
/// [ProcessMemory].
@NullMarked
package dev.loran.peft.watch;

import org.jspecify.annotations.NullMarked;
