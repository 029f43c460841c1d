package dev.loran.peft.data;

import dev.loran.peft.io.InputException;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import org.jspecify.annotations.Nullable;

/// The classes of a classifier: names, and their ids in the order of the head's rows.
public final class Labels {
    /// The number of names in an error message before it only says how many more there are.
    private static final int SHOWN = 12;

    private final List<String> names;
    private final boolean several;
    private final Map<String, Integer> ids = new HashMap<>();
    private final double @Nullable [] weights;

    /// Labels in the given order, which is the order of their ids: for an existing head.
    ///
    /// @throws InputException for fewer than two names or one that appears twice
    public Labels(List<String> names) {
        this(names, false);
    }

    /// As above.
    ///
    /// @param several whether a text may have any number of the labels, or none, rather than exactly one
    public Labels(List<String> names, boolean several) {
        this(names, several, null);
    }

    private Labels(List<String> names, boolean several, double @Nullable [] weights) {
        this.weights = weights;
        this.names = List.copyOf(names);
        this.several = several;
        for (String name : this.names) {
            if (ids.putIfAbsent(name, ids.size()) != null) {
                throw new InputException("labels: \"" + name + "\" appears twice; name each once");
            }
        }
        if (ids.size() < 2) {
            throw new InputException("labels: a classifier needs two labels or more, not " + this.names);
        }
    }

    /// The distinct labels of some data. They are sorted, so that the ids do not depend on the order of the rows: by
    /// value if all are integers (0, 1, 2 are then their own ids), otherwise by Unicode code units.
    ///
    /// @throws InputException for fewer than two distinct names
    public static Labels of(Collection<String> names) {
        return of(names, false);
    }

    /// As above, for texts that have any number of them.
    public static Labels of(Collection<String> names, boolean several) {
        List<String> sorted = new ArrayList<>(new TreeSet<>(names));
        if (sorted.stream().allMatch(name -> name.matches("-?[0-9]{1,18}"))) {
            sorted.sort(Comparator.comparingLong(Long::parseLong));
        }
        return new Labels(sorted, several);
    }

    /// The same labels, with a positive weight for each in the loss of training.
    public Labels withWeights(double[] weights) {
        return new Labels(names, several, weights.clone());
    }

    /// The weight of each label in the loss of training; null if all count the same. A row counts as much as its class;
    /// where a text has any number of labels, one that it has counts so many times as much as one that it has not.
    public double @Nullable [] weights() {
        return weights == null ? null : weights.clone();
    }

    public int size() {
        return names.size();
    }

    /// Whether a text may have any number of the labels, or none.
    public boolean several() {
        return several;
    }

    /// All names; a name's index is its id.
    public List<String> names() {
        return names;
    }

    /// The id of a name, from 0.
    ///
    /// @throws InputException for an unknown name
    public int id(String name) {
        Integer id = ids.get(name);
        if (id == null) {
            throw new InputException("label \"" + name + "\" is not one of the " + size() + " labels of the model: "
                    + String.join(", ", names.subList(0, Math.min(SHOWN, size())))
                    + (size() > SHOWN ? " and " + (size() - SHOWN) + " more" : ""));
        }
        return id;
    }

    @Override
    public String toString() {
        return names.toString();
    }
}
