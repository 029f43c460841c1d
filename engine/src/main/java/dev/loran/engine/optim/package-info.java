/// Optimizers, gradient clipping and learning-rate schedules. State is kept by parameter **name**, as checkpoints and
/// adapters know it.
///
/// One training step reads:
///
/// ```java
/// optimizer.advance(learningRate * schedule.factor(step));   // the only place where numbers of the host enter
/// loss.backward();
/// clip.norm(parameters.values());
/// optimizer.step(parameters, clip.scale());
/// optimizer.zeroGrad(parameters);
/// ```
///
/// Nothing in it waits for the backend: learning rate, step number, norm and clip scale stay in one-element buffers.
/// All from `backward` on may therefore be captured once and replayed, with `advance` before every replay.
@NullMarked
package dev.loran.engine.optim;

import org.jspecify.annotations.NullMarked;
