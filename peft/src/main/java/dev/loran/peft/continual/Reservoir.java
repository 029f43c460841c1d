package dev.loran.peft.continual;

import java.util.ArrayList;
import java.util.List;
import java.util.Random;

/// A uniform random sample of fixed size of everything added so far. **Paper**: Vitter, "Random Sampling with a
/// Reservoir", 1985, algorithm R.
final class Reservoir<T> {
    private final int size;
    private final List<T> kept = new ArrayList<>();
    /// Its sequence is fixed by its specification: the sample is the same on every JDK.
    private final Random random;

    private int seen;

    Reservoir(int size, long seed) {
        this.size = size;
        this.random = new Random(seed);
    }

    void add(T item) {
        seen = Math.addExact(seen, 1);
        if (kept.size() < size) {
            kept.add(item);
            return;
        }
        int place = random.nextInt(seen);
        if (place < size) {
            kept.set(place, item);
        }
    }

    /// The sample.
    List<T> items() {
        return List.copyOf(kept);
    }
}
