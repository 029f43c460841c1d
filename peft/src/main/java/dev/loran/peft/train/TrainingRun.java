package dev.loran.peft.train;

import dev.loran.engine.Scope;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.train.Checkpoints.Standing;
import dev.loran.peft.train.TrainingReport.End;
import java.nio.file.Path;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// The state of one [Trainer#train] call, and what happens between its steps.
final class TrainingRun {
    private final Trainer trainer;
    private final TrainerConfig config;
    private final int totalSteps;
    private final DataLoader loader;
    private final int stepsPerEpoch;
    private final @Nullable Examples heldOut;
    private final @Nullable RunFolder folder;
    private final @Nullable Checkpoints checkpoints;
    private final List<TrainingListener> listeners;
    private final int firstStep;
    private final @Nullable SpikeWatch watch;
    private int spikesKept;
    private @Nullable StepResult unread;
    /// The batches of that step.
    private List<Batch> unreadBatches = List.of();
    private StepEvent unreadEvent = new StepEvent();
    private @Nullable Evaluation best;
    private int bestStep;
    private int worse;
    private long nanos;
    private long started = System.nanoTime();
    private long tokens;
    private double lossOfEpoch;
    private int stepsOfEpoch;
    /// Whether the evaluation due after the last step was not made or not completed.
    private boolean evaluationDue;
    /// The step of the newest up-to-date checkpoint; -1 for none.
    private int savedStep;
    /// The step whose parameters are known to give a finite loss.
    private int finiteStep;

    /// @param from the position that the newest of `checkpoints` holds; null if there is none
    TrainingRun(
            Trainer trainer,
            DataLoader loader,
            @Nullable Examples heldOut,
            @Nullable RunFolder folder,
            @Nullable Checkpoints checkpoints,
            List<TrainingListener> listeners,
            @Nullable Standing from,
            @Nullable SpikeWatch watch) {
        this.trainer = trainer;
        this.config = trainer.config();
        this.totalSteps = trainer.totalSteps();
        this.loader = loader;
        this.stepsPerEpoch = Math.ceilDiv(loader.size(), config.accumulation());
        this.heldOut = heldOut;
        this.folder = folder;
        this.checkpoints = checkpoints;
        this.listeners = listeners;
        this.watch = watch;
        this.finiteStep = trainer.step();
        this.savedStep = from == null ? -1 : from.step();
        Standing standing = from == null ? Standing.at(trainer.step()) : from;
        this.firstStep = standing.firstStep();
        this.best = standing.best();
        this.bestStep = standing.bestStep();
        // Asking for more steps resets the patience.
        this.worse = trainer.isProlonged() ? 0 : standing.worse();
        this.nanos = standing.nanos();
        this.tokens = standing.tokens();
        this.lossOfEpoch = standing.lossOfEpoch();
        this.stepsOfEpoch = standing.stepsOfEpoch();
        this.evaluationDue = standing.evaluationDue();
    }

    /// Trains until the run is over or is to stop, and writes the final files.
    TrainingReport toTheEnd() {
        End end = End.FAILED;
        try {
            steps();
            pause();
            boolean over = trainer.step() == totalSteps && !evaluationDue;
            end = over ? End.FINISHED : isWorse() ? End.PATIENCE : End.STOPPED;
            requireFinite();
            if (folder != null) {
                boolean goesOn = end == End.STOPPED || config.checkpoints().everySteps() > 0;
                if (checkpoints != null && goesOn && savedStep != trainer.step()) {
                    // A finished run too, since it may be extended.
                    save(checkpoints);
                }
                folder.save(trainer.learner(), folder.last());
                saved(folder.last());
            }
            return report(end);
        } catch (DivergedException e) {
            if (unread != null && unread.step() < e.step()) {
                readLate();
            }
            listeners.forEach(l -> l.diverged(e.step(), String.valueOf(e.getMessage())));
            throw e;
        } finally {
            TrainingReport report = report(end);
            listeners.forEach(l -> l.ended(report));
        }
    }

    private TrainingReport report(End end) {
        double loss = lossOfEpoch / Math.max(1, stepsOfEpoch);
        return new TrainingReport(trainer.step() - firstStep, nanos / 1e9, tokens, loss, best, bestStep, end);
    }

    private void steps() {
        if (evaluationDue && heldOut != null) {
            evaluate(heldOut);
            if (checkpoints != null && !evaluationDue) {
                // The existing checkpoint is from before the evaluation, which would be repeated on resuming.
                save(checkpoints);
            }
        }
        while (goesOn()) {
            List<Batch> batches = loader.epoch(trainer.step() / stepsPerEpoch);
            int index = trainer.step() % stepsPerEpoch;
            if (index == 0) {
                lossOfEpoch = 0;
                stepsOfEpoch = 0;
            }
            for (; index < stepsPerEpoch && goesOn(); index++) {
                int from = index * config.accumulation();
                long reading = System.nanoTime();
                List<Batch> ofStep =
                        List.copyOf(batches.subList(from, Math.min(batches.size(), from + config.accumulation())));
                double read = (System.nanoTime() - reading) / 1e9;
                StepEvent event = new StepEvent();
                event.begin();
                StepResult result = trainer.tryStep(ofStep, this::isToStop);
                if (result == null) {
                    break;
                }
                event.end();
                result.read(read);
                readLate();
                unread = result;
                unreadBatches = ofStep;
                unreadEvent = event;
                if (heldOut != null && isDue(index)) {
                    evaluate(heldOut);
                }
                if (checkpoints != null && checkpoints.isDue(trainer.step()) && !evaluationDue) {
                    save(checkpoints);
                }
            }
            readLate();
        }
    }

    private boolean goesOn() {
        return trainer.step() < totalSteps && !isWorse() && !isToStop();
    }

    private boolean isToStop() {
        return trainer.isToStop() || listeners.stream().anyMatch(TrainingListener::wantsStop);
    }

    private boolean isWorse() {
        return config.patience() > 0 && worse >= config.patience();
    }

    private boolean isDue(int index) {
        return trainer.step() == totalSteps
                || (config.evalEvery() == 0 ? index == stepsPerEpoch - 1 : trainer.step() % config.evalEvery() == 0);
    }

    /// The evaluation comes first, so that a step's checkpoint includes it.
    private void save(Checkpoints to) {
        pause();
        requireFinite();
        int step = trainer.step();
        try (Scope scope = Scope.open()) {
            to.write(
                    trainer.state(),
                    new Standing(
                            step,
                            firstStep,
                            nanos,
                            tokens,
                            lossOfEpoch,
                            stepsOfEpoch,
                            best,
                            bestStep,
                            worse,
                            evaluationDue));
        }
        savedStep = step;
        saved(to.place(step));
        started = System.nanoTime();
    }

    /// Refuses to write parameters that give no finite loss.
    private void requireFinite() {
        if (finiteStep != trainer.step()) {
            trainer.requireFinite();
            finiteStep = trainer.step();
        }
    }

    private void saved(Path where) {
        listeners.forEach(l -> l.saved(trainer.step(), where));
    }

    /// Reads the values of the step before, which the backend has had time to compute.
    private void readLate() {
        StepResult result = unread;
        if (result == null) {
            return;
        }
        unread = null;
        double loss = result.loss();
        if (Double.isFinite(loss) && result.problem() == null) {
            lossOfEpoch += loss;
            stepsOfEpoch++;
        }
        if (watch != null) {
            result.jumped(watch.next(loss, result.gradNorm()));
            keepIfSpike(result);
        }
        unreadEvent.commit(result, trainer.learner().backend().peakBytes());
        tokens += result.tokens();
        double seconds = (nanos + System.nanoTime() - started) / 1e9;
        listeners.forEach(l -> l.step(result, totalSteps, seconds));
    }

    private void keepIfSpike(StepResult result) {
        if (result.spike() != null && folder != null && spikesKept < config.spikesToKeep()) {
            spikesKept = folder.keepSpike(result, unreadBatches, loader.examples());
        }
    }

    private void pause() {
        trainer.settle();
        readLate();
        nanos += System.nanoTime() - started;
        started = System.nanoTime();
    }

    private void evaluate(Examples rows) {
        pause();
        Learner learner = trainer.learner();
        Evaluation e = Evaluation.of(learner, rows, config.batchSize(), this::isToStop);
        learner.train(true);
        evaluationDue = e == null;
        if (e != null && !Double.isFinite(e.loss())) {
            List<Batch> batches = new DataLoader(rows, DataLoader.Options.evaluation(config.batchSize())).epoch(0);
            throw trainer.diverged("the evaluation loss", e.loss(), batches);
        }
        if (e != null) {
            finiteStep = trainer.step();
            boolean better = best == null || e.loss() < best.loss();
            worse = better ? 0 : worse + 1;
            if (better) {
                best = e;
                bestStep = trainer.step();
                if (folder != null) {
                    folder.save(learner, folder.best());
                    saved(folder.best());
                }
            }
            listeners.forEach(l -> l.evaluated(trainer.step(), e, better));
        }
        started = System.nanoTime();
    }
}
