package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.util.List;
import org.junit.jupiter.api.Test;

class TargetsCommandTest extends CommandLineTest {
    private static List<String> matching(JsonNode json) {
        return json.get("modules")
                .valueStream()
                .filter(m -> m.get("matches").booleanValue())
                .map(m -> m.get("name").asText())
                .toList();
    }

    @Test
    void theMethodsOwnTargets() throws IOException {
        Result result = loran("targets", encoder, "--rank", 4, "--json");
        assertThat(result.code()).as(result.err()).isZero();
        JsonNode json = result.json();
        assertThat(matching(json))
                .containsExactly(
                        "encoder.layer.0.attention.self.query",
                        "encoder.layer.0.attention.self.value",
                        "encoder.layer.1.attention.self.query",
                        "encoder.layer.1.attention.self.value");
        // A (4, 16) and B (16, 4) in each.
        assertThat(json.get("trainable_parameters").intValue()).isEqualTo(4 * 2 * 4 * 16);
        assertThat(json.get("matched").intValue()).isEqualTo(4);
        JsonNode query = json.get("modules")
                .valueStream()
                .filter(m -> m.get("name").asText().equals("encoder.layer.0.attention.self.query"))
                .findFirst()
                .orElseThrow();
        assertThat(query.get("shape").asText()).isEqualTo("16×16");
        assertThat(query.get("parameters").intValue()).isEqualTo(2 * 4 * 16);
        assertThat(result.out()).contains("  layer[0…1]\n", "        query").containsPattern("key +16×16\n");
        assertThat(result.out()).containsPattern("query +16×16 {2}<- 128 parameters in each\n");
    }

    @Test
    void targetsByNameAndByExpression() throws IOException {
        JsonNode all =
                loran("targets", encoder, "--targets", "all-linear", "--json").json();
        assertThat(matching(all)).hasSize(12);
        Result one = loran("targets", encoder, "--targets", "/.*\\.1\\..*key/", "--json");
        assertThat(matching(one.json())).containsExactly("encoder.layer.1.attention.self.key");
        assertThat(one.out()).contains("<- 256 parameters in each of 1");
        JsonNode bias =
                loran("targets", encoder, "--method", "ln-tuning", "--json").json();
        assertThat(matching(bias)).allMatch(name -> name.endsWith("LayerNorm")).isNotEmpty();
        JsonNode prefix =
                loran("targets", causal, "--method", "prompt", "--json").json();
        assertThat(matching(prefix)).isEmpty();
        assertThat(prefix.get("beside_the_modules").intValue()).isPositive();
        assertThat(matching(loran("targets", "seo", "--json").json())).contains("layers.0.attention.w_q");
    }

    @Test
    void whatMatchesNothingIsRefusedWithTheNearestNames() {
        Result wrong = loran("targets", encoder, "--targets", "q_proj");
        assertThat(wrong.code()).isEqualTo(2);
        assertThat(wrong.err())
                .startsWith(
                        "loran: target_modules [q_proj] match no module; did you mean query? (modules: LayerNorm, ");
        assertRefused(
                loran("targets", encoder, "--method", "full"),
                "loran: --method full has no targets: it trains every parameter; choose another method");
        assertRefused(
                loran("targets", folder), "loran: " + folder + ": holds no model (config.json); name a model's folder");
    }
}
