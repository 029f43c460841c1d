/// A local page that shows runs while they train and afterwards.
///
/// **Reading order**: [dev.loran.peft.cli.ui.PageServer] (what is served, and what is refused) →
/// [dev.loran.peft.cli.ui.Runs] (finds the runs) → [dev.loran.peft.cli.ui.Run] (what a run's files say) →
/// [dev.loran.peft.cli.ui.Course] (its curves) → `page.js` in the resources.
@NullMarked
package dev.loran.peft.cli.ui;

import org.jspecify.annotations.NullMarked;
