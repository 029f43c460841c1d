package dev.loran.peft.cli.console;

import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.util.concurrent.CountDownLatch;

/// The request that a command end and keep its results so far. The first signal (Ctrl-C, SIGTERM, SIGHUP) makes that
/// request if the command listens for it; the second signal, or the first if the command does not listen, ends the
/// process at once. In both cases the exit code is the JVM's own: 128 plus the number of the signal.
///
/// The first signal runs a shutdown hook, which waits for the command. From then on the JVM ignores signals, so the
/// hook restores their default handlers, which end the process. (`sun.misc.Signal` would receive every signal, but
/// javac's warning about it cannot be suppressed, and the build allows no warnings.)
public final class Stop {
    private static final int[] SIGNALS = {1, 2, 15};

    private final CountDownLatch ended = new CountDownLatch(1);
    private volatile boolean asked;
    private volatile boolean heard;

    /// Thrown by [#check] to end the command.
    public static final class Ended extends RuntimeException {
        private static final long serialVersionUID = 1L;
    }

    /// Listens to signals until [#end]. Only a program's entry point should call this.
    public static Stop onSignals() {
        Stop stop = new Stop();
        Runtime.getRuntime().addShutdownHook(new Thread(stop::signalled, "stop"));
        return stop;
    }

    private void signalled() {
        // If the command has already ended, the cause is System.exit and not a signal.
        if (ended.getCount() == 0 || !heard) {
            return;
        }
        giveBackSignals();
        ask();
        try {
            ended.await();
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    @SuppressWarnings("restricted")
    private static void giveBackSignals() {
        Linker linker = Linker.nativeLinker();
        linker.defaultLookup().find("signal").ifPresent(function -> {
            MethodHandle signal = linker.downcallHandle(
                    function, FunctionDescriptor.ofVoid(ValueLayout.JAVA_INT, ValueLayout.ADDRESS));
            try {
                for (int number : SIGNALS) {
                    // SIG_DFL is null; the previous handler is not needed.
                    signal.invokeExact(number, MemorySegment.NULL);
                }
            } catch (Throwable e) {
                throw new IllegalStateException("a C function throws nothing", e);
            }
        });
    }

    /// Requests that the command end.
    public void ask() {
        asked = true;
    }

    /// Sets whether the command calls [#isAsked] from time to time.
    public void listen(boolean listens) {
        heard = listens;
    }

    public boolean isAsked() {
        return asked;
    }

    /// Ends the command if that was requested.
    public void check() {
        if (asked) {
            throw new Ended();
        }
    }

    /// The command is over and its results are written.
    public void end() {
        ended.countDown();
    }
}
