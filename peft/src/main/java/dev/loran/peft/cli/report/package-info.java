/// The report of a comparison, or of any runs: figures and tables of what was measured.
/// [dev.loran.peft.cli.report.Results] gathers the numbers (`results.json`), [dev.loran.peft.cli.report.Findings] says
/// what they show, [dev.loran.peft.cli.report.Figures] draws them, and [dev.loran.peft.cli.report.Report] writes the
/// folder.
@NullMarked
package dev.loran.peft.cli.report;

import org.jspecify.annotations.NullMarked;
