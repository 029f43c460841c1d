package dev.loran.peft.task;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.peft.task.Entities.Entity;
import java.util.List;
import org.junit.jupiter.api.Test;

/// Worked out by hand from the rules of seqeval's default mode (conlleval's).
class EntitiesTest {
    private static List<Entity> of(String tags) {
        return Entities.of(List.of(tags.split(" ")), true);
    }

    private static Entity entity(String type, int from, int to) {
        return new Entity(type, from, to);
    }

    @Test
    void beginningsAndInsides() {
        assertThat(of("O B-PER I-PER O B-LOC")).containsExactly(entity("PER", 1, 2), entity("LOC", 4, 4));
        assertThat(of("B-PER B-PER I-PER")).containsExactly(entity("PER", 0, 0), entity("PER", 1, 2));
        assertThat(of("O O")).isEmpty();
    }

    @Test
    void anInsideWithoutABeginningBeginsAnEntity() {
        assertThat(of("I-PER I-PER O I-LOC")).containsExactly(entity("PER", 0, 1), entity("LOC", 3, 3));
        assertThat(of("B-PER I-LOC I-LOC")).containsExactly(entity("PER", 0, 0), entity("LOC", 1, 2));
        assertThat(of("I-PER B-PER")).containsExactly(entity("PER", 0, 0), entity("PER", 1, 1));
    }

    @Test
    void endsAndSingles() {
        assertThat(of("B-PER E-PER S-PER I-PER"))
                .containsExactly(entity("PER", 0, 1), entity("PER", 2, 2), entity("PER", 3, 3));
        assertThat(of("E-LOC E-LOC")).containsExactly(entity("LOC", 0, 0), entity("LOC", 1, 1));
    }

    @Test
    void tagsOfOtherFormsAreEntitiesOfOneWord() {
        assertThat(Entities.areChunks(List.of("NOUN", "O", "VERB"))).isFalse();
        assertThat(Entities.of(List.of("NOUN", "NOUN", "O", "VERB"), false))
                .containsExactly(entity("NOUN", 0, 0), entity("NOUN", 1, 1), entity("VERB", 3, 3));
    }
}
