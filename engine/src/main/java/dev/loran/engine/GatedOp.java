package dev.loran.engine;

import java.util.List;

/// y = fn(gate) · up, element by element; fn(gate) is made again in backward.
record GatedOp(UnaryFn fn, Tensor gate, Tensor up) implements Op {
    static Tensor forward(UnaryFn fn, Tensor gate, Tensor up) {
        Checks.operand("gated", "gate", gate);
        Checks.operand("gated", "up", up, "gate", gate);
        if (!gate.shape().equals(up.shape())) {
            throw new ShapeException("gated: gate is " + gate.shape() + " but up is " + up.shape()
                    + "; they must have one shape, use mul() to broadcast");
        }
        try (Scratch scratch = new Scratch(gate.backend())) {
            Buffer y = scratch.like(gate.buffer());
            gate.backend().gated(fn, y, gate.buffer(), up.buffer());
            return Autograd.record(new GatedOp(fn, gate, up), gate.shape(), y.retain());
        }
    }

    @Override
    public List<Tensor> inputs() {
        return List.of(gate, up);
    }

    @Override
    public List<Tensor> saved() {
        return List.of(gate, up);
    }

    @Override
    public void backward(Tensor gradOut, Gradients gradients) {
        Gradients.Target dGate = gradients.wants(gate) ? gradients.into(gate) : null;
        Gradients.Target dUp = gradients.wants(up) ? gradients.into(up) : null;
        gate.backend()
                .gatedBackward(
                        fn,
                        dGate == null ? null : dGate.buffer(),
                        dUp == null ? null : dUp.buffer(),
                        gradOut.buffer(),
                        gate.buffer(),
                        up.buffer(),
                        dGate != null && dGate.accumulate(),
                        dUp != null && dUp.accumulate());
    }
}
