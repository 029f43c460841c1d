package dev.loran.engine;

import dev.loran.engine.backend.BinaryFn;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Scratch;
import java.util.List;

/// y = a + sign · b, broadcast; sign is 1 or −1.
public record AddOp(Tensor a, Tensor b, int sign) implements Op {
    static Tensor forward(Tensor a, Tensor b, int sign) {
        String name = sign > 0 ? "add" : "sub";
        Shape shape = Broadcast.check(name, a, b);
        try (Scratch scratch = new Scratch(a.backend())) {
            Buffer y = scratch.allocate(a.dtype(), shape.size());
            BinaryFn fn = sign > 0 ? BinaryFn.ADD : BinaryFn.SUB;
            Broadcast.apply(fn, y, a.buffer(), a.shape(), b.buffer(), b.shape(), shape);
            return Autograd.record(new AddOp(a, b, sign), shape, y.retain());
        }
    }

    @Override
    public List<Tensor> inputs() {
        return List.of(a, b);
    }

    @Override
    public List<Tensor> saved() {
        return List.of();
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        if (gradients.wants(a)) {
            Broadcast.reduceInto(gradients, a, gradOut.buffer(), gradOut.shape(), 1);
        }
        if (gradients.wants(b)) {
            Broadcast.reduceInto(gradients, b, gradOut.buffer(), gradOut.shape(), sign);
        }
    }
}
