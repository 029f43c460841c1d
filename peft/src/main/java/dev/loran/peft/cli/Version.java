package dev.loran.peft.cli;

import dev.loran.kernels.Backends;
import picocli.CommandLine.IVersionProvider;

/// What `--version` prints.
public final class Version implements IVersionProvider {
    /// Loran's version, which the build writes into the jar.
    static String ofLoran() {
        String version = Version.class.getPackage().getImplementationVersion();
        return version == null ? "(not from its jar)" : version;
    }

    /// The version of the JDK, and its maker.
    static String ofJdk() {
        return Runtime.version() + ", " + System.getProperty("java.vendor");
    }

    @Override
    public String[] getVersion() {
        return new String[] {
            "loran " + ofLoran() + ", JDK " + ofJdk() + ", " + System.getProperty("os.name") + " "
                    + System.getProperty("os.arch"),
            Backends.describe() + "; " + Backends.describeBf16()
        };
    }
}
