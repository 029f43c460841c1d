/// Optimizers, gradient clipping and learning-rate schedules. State is kept by parameter **name**, as in checkpoints
/// and adapters.
///
/// One training step looks like this:
///
/// ```java
/// optimizer.advance(learningRate * schedule.factor(step));   // the only place where values from the host enter
/// loss.backward();
/// clip.norm(parameters.values());
/// optimizer.step(parameters, clip.scale());
/// optimizer.zeroGrad(parameters);
/// ```
///
/// None of it waits for the backend: learning rate, step number, norm and clip scale stay in one-element buffers.
/// Everything from `backward` on can therefore be captured once and replayed, with `advance` before every replay.
@NullMarked
package dev.loran.engine.optim;

import org.jspecify.annotations.NullMarked;
