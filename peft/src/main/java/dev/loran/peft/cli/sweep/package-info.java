/// What a sweep tries ([dev.loran.peft.cli.sweep.SweepSpace]), and which of its runs go on to the end
/// ([dev.loran.peft.cli.sweep.EarlyStopping]).
@NullMarked
package dev.loran.peft.cli.sweep;

import org.jspecify.annotations.NullMarked;
