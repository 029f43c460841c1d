package dev.loran.engine.functional;

import dev.loran.engine.Autograd;
import dev.loran.engine.Checks;
import dev.loran.engine.Gradients;
import dev.loran.engine.Op;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.backend.ShapeException;
import dev.loran.engine.backend.UnaryFn;
import java.util.List;

/// y = fn(gate) · up, element-wise; backward recomputes fn(gate).
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
            gate.backend().activation().gated(fn, y, gate.buffer(), up.buffer());
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
        Gradient dGate = gradients.intoIfWanted(gate);
        Gradient dUp = gradients.intoIfWanted(up);
        gate.backend().activation().gatedBackward(fn, dGate, dUp, gradOut.buffer(), gate.buffer(), up.buffer());
    }
}
