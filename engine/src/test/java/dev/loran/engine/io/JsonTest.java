package dev.loran.engine.io;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class JsonTest {
    @Test
    void everyKindOfValue() {
        Map<String, ?> o = Json.object("f", """
                 {"s": "a\\u00e9\\ud83d\\ude00\\n\\/", "i": -12, "zero": 0, "d": 1.5e-3, "big": 12345678901234567890,
                  "t": true, "f": false, "n": null, "o": {}, "a": [1, [], {"x": []}]}
                """);
        assertThat(o.get("s")).isEqualTo("aé😀\n/");
        assertThat(o.get("i")).isEqualTo(-12L);
        assertThat(o.get("zero")).isEqualTo(0L);
        assertThat(o.get("d")).isEqualTo(1.5e-3);
        assertThat(o.get("big")).isEqualTo(Double.valueOf("12345678901234567890"));
        assertThat(o.get("t")).isEqualTo(true);
        assertThat(o.get("f")).isEqualTo(false);
        assertThat(o.containsKey("n")).isTrue();
        assertThat(o.get("n")).isNull();
        assertThat(o.get("o")).isEqualTo(Map.of());
        assertThat(o.get("a")).isEqualTo(Arrays.asList(1L, List.of(), Map.of("x", List.of())));
    }

    @Test
    void quotingIsUndoneByReading() {
        String s = "a\"\\\b\f\n\r\t\u0001/é😀";
        assertThat(Json.object("f", "{" + Json.quote(s) + ":" + Json.quote(s) + "}"))
                .isEqualTo(Map.of(s, s));
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "",
                "1",
                "[]",
                "{",
                "{}{}",
                "{\"a\"}",
                "{\"a\":}",
                "{\"a\":1,}",
                "{,}",
                "{a:1}",
                "{'a':1}",
                "{\"a\":01}",
                "{\"a\":+1}",
                "{\"a\":.5}",
                "{\"a\":1.}",
                "{\"a\":1e}",
                "{\"a\":-}",
                "{\"a\":NaN}",
                "{\"a\":tru}",
                "{\"a\":[1,]}",
                "{\"a\":[1 2]}",
                "{\"a\":\"",
                "{\"a\":\"\\x\"}",
                "{\"a\":\"\\u12g4\"}",
                "{\"a\":\"\\u123",
                "{\"a\":\"\\ud83d\"}",
                "{\"a\":\"\\ude00\\ud83d\"}",
                "{\"a\":\"\n\"}",
                "{\"a\":1,\"a\":1}",
                "{\"a\":{\"b\":1,\"b\":2}}",
                "{\"a\":1}/**/",
                "\uFEFF{}"
            })
    void anythingElseIsRefused(String text) {
        assertThatThrownBy(() -> Json.object("f", text))
                .isInstanceOf(SafeTensorsException.class)
                .hasMessageStartingWith("f: no valid JSON at character ");
    }

    @Test
    void depthIsLimited() {
        String deep = "{\"a\":" + "[".repeat(100_000);
        assertThatThrownBy(() -> Json.object("f", deep))
                .isInstanceOf(SafeTensorsException.class)
                .hasMessage("f: no valid JSON at character 69: nested deeper than 64");
    }
}
