package dev.loran.peft.cli;

import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.util.concurrent.CountDownLatch;

/// The wish that a command end, and keep what it has. The first signal (Ctrl-C, SIGTERM, SIGHUP) is that wish, to a
/// command that listens for it; the second one, or the first where nobody listens, ends the process at once. Either way
/// the exit code is the JVM's own: 128 and the signal's number.
///
/// The first one comes as a shutdown hook, which waits for the command. The JVM takes no notice of signals after that,
/// so the hook gives them back to the system, which ends the process. (`sun.misc.Signal` would see each of them, but
/// javac warns of it whatever it is told, and nothing here compiles with warnings.)
final class Stop {
    private static final int[] SIGNALS = {1, 2, 15};

    private final CountDownLatch ended = new CountDownLatch(1);
    private volatile boolean asked;
    private volatile boolean heard;

    /// The command has ended, by [#check].
    static final class Ended extends RuntimeException {
        private static final long serialVersionUID = 1L;
    }

    /// Listens to signals until [#end]. To be called by a program's entry point alone.
    static Stop onSignals() {
        Stop stop = new Stop();
        Runtime.getRuntime().addShutdownHook(new Thread(stop::signalled, "stop"));
        return stop;
    }

    private void signalled() {
        // Not by a signal, but by System.exit, where that is so already.
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
                    // SIG_DFL is null; what it was before is of no interest.
                    signal.invokeExact(number, MemorySegment.NULL);
                }
            } catch (Throwable e) {
                throw new IllegalStateException("a C function throws nothing", e);
            }
        });
    }

    /// Wishes it.
    void ask() {
        asked = true;
    }

    /// Says whether somebody asks [#isAsked] from time to time.
    void listen(boolean listens) {
        heard = listens;
    }

    boolean isAsked() {
        return asked;
    }

    /// Ends the command, if it is to end.
    void check() {
        if (asked) {
            throw new Ended();
        }
    }

    /// The command is over: what it leaves is there.
    void end() {
        ended.countDown();
    }
}
