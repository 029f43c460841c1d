package dev.loran.kernels.cuda;

import java.io.PrintWriter;
import java.util.Arrays;
import java.util.List;
import org.junit.platform.engine.discovery.ClassSelector;
import org.junit.platform.engine.discovery.DiscoverySelectors;
import org.junit.platform.launcher.LauncherDiscoveryRequest;
import org.junit.platform.launcher.core.LauncherDiscoveryRequestBuilder;
import org.junit.platform.launcher.core.LauncherFactory;
import org.junit.platform.launcher.listeners.SummaryGeneratingListener;
import org.junit.platform.launcher.listeners.TestExecutionSummary;

/// Runs test classes without Maven: `benchmarks/gpu.sh` copies them to a machine with a GPU.
final class RunTests {
    private RunTests() {}

    /// Takes the names of test classes; the exit status is 1 if one of their tests failed, or none ran.
    public static void main(String[] classes) {
        List<ClassSelector> selectors =
                Arrays.stream(classes).map(DiscoverySelectors::selectClass).toList();
        LauncherDiscoveryRequest request =
                LauncherDiscoveryRequestBuilder.request().selectors(selectors).build();
        SummaryGeneratingListener listener = new SummaryGeneratingListener();
        LauncherFactory.create().execute(request, listener);
        TestExecutionSummary summary = listener.getSummary();
        PrintWriter out = new PrintWriter(System.out, true, System.out.charset());
        summary.getFailures().forEach(f -> {
            out.println("FAILED " + f.getTestIdentifier().getUniqueId());
            f.getException().printStackTrace(out);
        });
        out.println("tests: " + summary.getTestsSucceededCount() + " passed, " + summary.getTotalFailureCount()
                + " failed, " + (summary.getTestsSkippedCount() + summary.getTestsAbortedCount()) + " skipped");
        System.exit(summary.getTotalFailureCount() > 0 || summary.getTestsSucceededCount() == 0 ? 1 : 0);
    }
}
