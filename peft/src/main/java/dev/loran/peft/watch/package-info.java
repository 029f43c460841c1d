/// Watching a run: what its files show of it.
///
/// **Reading order**: [Diagnosis] (what was wrong with a run, and what to change) → [Finding].
@NullMarked
package dev.loran.peft.watch;

import org.jspecify.annotations.NullMarked;
