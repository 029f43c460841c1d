package dev.loran.engine;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;

class ShapeTest {
    @Test
    void countsAndPrints() {
        Shape s = Shape.of(4, 128, 768);
        assertThat(s)
                .hasToString("(4, 128, 768)")
                .isEqualTo(Shape.of(4, 128, 768))
                .isNotEqualTo(Shape.of(4, 128));
        assertThat(s.hashCode()).isEqualTo(Shape.of(4, 128, 768).hashCode());
        assertThat(s.rank()).isEqualTo(3);
        assertThat(s.size()).isEqualTo(4 * 128 * 768);
        assertThat(s.rows()).isEqualTo(512);
        assertThat(s.cols()).isEqualTo(768);
        assertThat(s.dim(-2)).isEqualTo(128);
        assertThat(s.product(1, 3)).isEqualTo(128 * 768);
    }

    @Test
    void aScalarHasOneElementInOneRow() {
        Shape s = Shape.of();
        assertThat(s).hasToString("()");
        assertThat(s.size()).isEqualTo(1);
        assertThat(s.rows()).isEqualTo(1);
        assertThat(s.cols()).isEqualTo(1);
    }

    @Test
    void cannotBeChangedFromOutside() {
        int[] dims = {2, 3};
        Shape s = Shape.of(dims);
        dims[0] = 9;
        s.dims()[1] = 9;
        assertThat(s).isEqualTo(Shape.of(2, 3));
        assertThat(s.withCols(7)).isEqualTo(Shape.of(2, 7));
        assertThat(s.withDim(-2, 7)).isEqualTo(Shape.of(7, 3));
        assertThat(s).isEqualTo(Shape.of(2, 3));
    }

    @Test
    void broadcastsFromTheEnd() {
        assertThat(Shape.broadcast("op", Shape.of(3, 1, 7), Shape.of(5, 1))).isEqualTo(Shape.of(3, 5, 7));
        assertThat(Shape.broadcast("op", Shape.of(), Shape.of(2))).isEqualTo(Shape.of(2));
        assertThat(Shape.broadcast("op", Shape.of(1), Shape.of(0))).isEqualTo(Shape.of(0));
        assertThat(Shape.of(5, 1).stridesIn(Shape.of(3, 5, 7))).containsExactly(0, 1, 0);
        assertThat(Shape.of(3, 1, 7).stridesIn(Shape.of(3, 5, 7))).containsExactly(7, 0, 1);
    }
}
