package dev.loran.engine.functional;

import dev.loran.engine.Autograd;
import dev.loran.engine.Gradients;
import dev.loran.engine.Op;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.LinearKernels.Segment;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.backend.ShapeException;
import dev.loran.engine.functional.Functional.Lora;
import dev.loran.engine.functional.Functional.LoraSegment;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// y = x · weightᵀ + bias, and to each segment of rows what its own LoRA adds, as in [LoraLinearOp]. The weight is
/// frozen.
///
/// @param t the t of each segment; null for a segment without LoRA
record SegmentedLoraLinearOp(
        Tensor x, Tensor weight, @Nullable Tensor bias, List<LoraSegment> segments, List<@Nullable Tensor> t)
        implements Op {

    static Tensor forward(Tensor x, Tensor weight, @Nullable Tensor bias, List<LoraSegment> segments) {
        LinearOp.check("segmentedLoraLinear", x, weight, bias);
        int total = segments.stream().mapToInt(LoraSegment::rows).sum();
        if (x.shape().rank() < 2 || total != x.shape().dim(0)) {
            throw new ShapeException("segmentedLoraLinear: the segments have " + total + " rows but x is " + x.shape());
        }
        Shape shape = x.shape().withCols(weight.shape().dim(0));
        try (Scratch scratch = new Scratch(x.backend())) {
            List<@Nullable Tensor> t = new ArrayList<>();
            int from = 0;
            for (LoraSegment s : segments) {
                Lora lora = s.lora();
                try (Tensor plain = x.detach();
                        Tensor rows = plain.slice(0, from, from + s.rows())) {
                    t.add(
                            lora == null
                                    ? null
                                    : LoraLinearOp.of(scratch, rows, weight, bias, lora)
                                            .t());
                }
                from += s.rows();
            }
            SegmentedLoraLinearOp op = new SegmentedLoraLinearOp(x, weight, bias, List.copyOf(segments), t);
            Matrix y = new Matrix(scratch.allocate(x.dtype(), shape.size()), shape.rows(), shape.cols());
            x.backend()
                    .linear()
                    .loraLinear(y, x.matrix(), weight.matrix(), bias == null ? null : bias.buffer(), op.passed());
            return Autograd.record(op, shape, y.buffer().retain());
        }
    }

    /// The segments as the backend takes them.
    private List<Segment> passed() {
        int each = x.shape().rows() / x.shape().dim(0);
        List<Segment> all = new ArrayList<>();
        for (int i = 0; i < segments.size(); i++) {
            Lora lora = segments.get(i).lora();
            Tensor small = t.get(i);
            all.add(new Segment(
                    segments.get(i).rows() * each,
                    lora == null || small == null ? null : new LoraLinearOp(x, weight, bias, lora, small).update()));
        }
        return all;
    }

    private List<Tensor> factors() {
        List<Tensor> all = new ArrayList<>();
        for (LoraSegment s : segments) {
            if (s.lora() != null) {
                all.add(s.lora().loraA());
                all.add(s.lora().loraB());
            }
        }
        return all;
    }

    @Override
    public List<Tensor> inputs() {
        List<Tensor> all = new ArrayList<>(List.of(x));
        all.addAll(factors());
        if (bias != null) {
            all.add(bias);
        }
        return all;
    }

    @Override
    public List<Tensor> saved() {
        List<Tensor> all = new ArrayList<>(List.of(x, weight));
        all.addAll(factors());
        for (Tensor small : t) {
            if (small != null) {
                all.add(small);
            }
        }
        return all;
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        Gradient dx = gradients.intoIfWanted(x);
        List<@Nullable Gradient> da = new ArrayList<>();
        List<@Nullable Gradient> db = new ArrayList<>();
        for (LoraSegment s : segments) {
            Lora lora = s.lora();
            da.add(lora == null ? null : gradients.intoIfWanted(lora.loraA()));
            db.add(lora == null ? null : gradients.intoIfWanted(lora.loraB()));
        }
        x.backend().linear().loraLinearBackward(dx, da, db, gradOut.matrix(), x.matrix(), weight.matrix(), passed());
        LinearOp.biasBackward(bias, gradOut, gradients);
    }
}
