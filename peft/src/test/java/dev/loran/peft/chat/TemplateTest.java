package dev.loran.peft.chat;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.DynamicTest.dynamicTest;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.InputStream;
import java.time.LocalDateTime;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

/// The texts of `fixtures/chat/rendered.json` are those that transformers renders (`benchmarks/peers/chat_templates.py`).
class TemplateTest {
    private static final LocalDateTime NOON = LocalDateTime.of(2026, 3, 5, 12, 0);

    private static String render(String template, Map<String, Object> variables) {
        return new Template("t", template).render(variables, NOON).text();
    }

    private static String render(String template) {
        return render(template, Map.of());
    }

    @TestFactory
    List<DynamicTest> rendersWhatTransformersRenders() throws IOException {
        List<DynamicTest> tests = new ArrayList<>();
        try (InputStream in =
                Objects.requireNonNull(TemplateTest.class.getResourceAsStream("/fixtures/chat/rendered.json"))) {
            for (JsonNode each : new ObjectMapper().readTree(in)) {
                tests.add(dynamicTest(each.path("name").asText(), () -> same(each)));
            }
        }
        assertThat(tests).hasSizeGreaterThan(30);
        return tests;
    }

    private static void same(JsonNode each) {
        Map<String, Object> variables = new HashMap<>(Map.of("bos_token", "<s>", "eos_token", "</s>"));
        variables.put("messages", Values.of(each.path("messages")));
        variables.put("add_generation_prompt", each.path("prompt").asBoolean());
        variables.put("tools", Values.of(each.path("tools")));
        Template template = new Template("t", each.path("template").asText());
        if (each.has("error")) {
            assertThatThrownBy(() -> template.render(variables, NOON))
                    .hasMessageContaining(each.path("error").asText());
            return;
        }
        Template.Rendered rendered = template.render(variables, NOON);
        assertThat(rendered.text()).isEqualTo(each.path("text").asText());
        if (template.generates()) {
            assertThat(rendered.generated())
                    .isNotEmpty()
                    .hasSameSizeAs(each.path("generated"))
                    .extracting(Template.Span::from)
                    .isEqualTo(starts(each.path("generated")));
        }
    }

    private static List<Integer> starts(JsonNode spans) {
        List<Integer> starts = new ArrayList<>();
        spans.forEach(span -> starts.add(span.path(0).asInt()));
        return starts;
    }

    @Test
    void theDayIsTheGivenOne() {
        assertThat(render("{{ strftime_now('%d %b %Y, %A %-d %B, 100%%') }}"))
                .isEqualTo("05 Mar 2026, Thursday 5 March, 100%");
    }

    @Test
    void problemsHaveALine() {
        assertThatThrownBy(() -> render("a\n{{ b.c }}")).hasMessage("t:2: \"b\" is undefined");
        assertThatThrownBy(() -> render("{% if a %}\n\n"))
                .hasMessageContaining("t:2: ")
                .hasMessageContaining("endif");
        assertThatThrownBy(() -> render("\n{{ a | nosuch }}")).hasMessage("t:2: the filter \"nosuch\" is not known");
        assertThatThrownBy(() -> render("{{ 'a' + 1 }}")).hasMessage("t:1: \"+\" of a string and an integer");
        assertThatThrownBy(() -> render("{% include 'x' %}")).hasMessage("t:1: the block \"include\" is not supported");
        assertThatThrownBy(() -> render("\n{{ a")).hasMessage("t:2: the tag does not end: }} is missing");
        assertThatThrownBy(() -> render("{{ [1].append(2) }}")).hasMessageContaining("changes a value");
    }

    @Test
    void reachesNothingOfJava() {
        for (String reach :
                List.of("''.getClass()", "''.__class__.__mro__", "messages.class.name", "{}.getClass().forName('x')")) {
            assertThatThrownBy(() -> render("{{ " + reach + " }}", Map.of("messages", List.of())))
                    .as(reach)
                    .isInstanceOf(TemplateException.class);
        }
    }

    @Test
    void whatItDoesIsLimited() {
        for (String endless : List.of(
                "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
                "{{ 'a' * 2000000000 }}",
                "{{ [0] * 2000000000 }}",
                "{{ 9 ** 9999999 }}",
                "{{ range(99999999) }}",
                "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
                "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
                "{{ " + "(".repeat(5000) + "1" + ")".repeat(5000) + " }}",
                "{% if 1 %}".repeat(5000))) {
            assertThatThrownBy(() -> render(endless)).as(endless).isInstanceOf(TemplateException.class);
        }
    }
}
