package dev.loran.engine;

import jdk.jfr.Category;
import jdk.jfr.DataAmount;
import jdk.jfr.Description;
import jdk.jfr.Enabled;
import jdk.jfr.Event;
import jdk.jfr.Label;
import jdk.jfr.Name;
import jdk.jfr.StackTrace;

/// An operation in a recording of Java Flight Recorder, if `dev.loran.Operation#enabled=true` asks for it. A backward
/// pass lasts as long as its kernels on the CPU, and as long as it takes to start them on a GPU. A forward pass is
/// an instant: its end, by which the time since the thread's previous operation can be told.
@Name("dev.loran.Operation")
@Label("Operation")
@Category("Loran")
@Description("The forward or the backward pass of an operation on tensors")
@StackTrace(false)
@Enabled(false)
final class OperationEvent extends Event {
    @Label("Operation")
    String operation = "";

    @Label("Pass")
    @Description("forward or backward")
    String pass = "";

    @Label("Shape of the Output")
    String shape = "";

    @Label("Data Type of the Output")
    String dtype = "";

    @Label("Size of the Output")
    @DataAmount
    long bytes;

    static void forward(Op op, Tensor output) {
        OperationEvent event = new OperationEvent();
        if (event.isEnabled()) {
            event.commit("forward", op, output);
        }
    }

    static void backward(Op op, Tensor gradOut, Gradients gradients) {
        OperationEvent event = new OperationEvent();
        event.begin();
        op.backward(gradOut, gradients);
        if (event.shouldCommit()) {
            event.commit("backward", op, gradOut);
        }
    }

    private void commit(String name, Op op, Tensor output) {
        operation = op.getClass().getSimpleName();
        pass = name;
        shape = output.shape().toString();
        dtype = output.dtype().toString();
        bytes = output.shape().size() * output.dtype().bytes();
        commit();
    }
}
