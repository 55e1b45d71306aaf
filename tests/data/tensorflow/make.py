"""Makes the graphs of this folder and their golden files (TensorFlow 2.21, tf_keras 2.21, Keras 3).

usage: python make.py FOLDER; python make.py FOLDER stateful (also writes states)

Every case is built with control flow v1 and v2; the folder keeps those that read differently.
"""
import os
import sys

import keras
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_from_session_graph
from tf_keras.src.layers.rnn import legacy_cell_wrappers, legacy_cells

tf1 = tf.compat.v1
OUT = sys.argv[1]
STATEFUL = sys.argv[2:] == ["stateful"]
if not STATEFUL:
    tf1.disable_eager_execution()
    tf1.disable_resource_variables()
RANDOM = np.random.RandomState(0)


def uniform(*shape):
    return RANDOM.uniform(-1, 1, shape).astype("f")


def ints(*values):
    return np.array(values, "i")


def save(name, build, feeds, v2):
    (tf1.enable_control_flow_v2 if v2 else tf1.disable_control_flow_v2)()
    graph, golden = tf1.Graph(), {}
    with graph.as_default(), tf1.Session(graph=graph) as session:
        outputs = build()
        for variable in tf1.global_variables():
            session.run(variable.assign(RANDOM.uniform(-0.6, 0.6, variable.shape.as_list()).astype("f")))
        names = [output.op.name for output in outputs]
        freeze = convert_variables_to_constants_from_session_graph if v2 else tf1.graph_util.convert_variables_to_constants
        frozen = freeze(session, graph.as_graph_def(), names)
        for run, feed in enumerate(feeds):
            results = session.run(outputs, {f"{key}:0": value for key, value in feed.items()})
            golden.update({f"r{run}.in.{key}": value for key, value in feed.items()})
            golden.update({f"r{run}.out.{key}": np.asarray(value) for key, value in zip(names, results)})
    path = f"{OUT}/{name}_{'v2' if v2 else 'v1'}"
    with open(path + ".pb", "wb") as file:
        file.write(frozen.SerializeToString())
    with open(path + ".pbtxt", "w") as file:
        file.write(text_format.MessageToString(frozen))
    np.savez(path + ".npz", **golden)


def gru_stack():
    x = tf1.placeholder(tf.float32, [None, None, 5], name="x")
    lengths = tf1.placeholder(tf.int32, [None], name="lengths")
    state = tf1.placeholder(tf.float32, [2, None, 6], name="state")
    cells = legacy_cells.MultiRNNCell([legacy_cells.GRUCell(6) for _ in range(2)])
    y, last = tf1.nn.dynamic_rnn(cells, x, sequence_length=lengths, initial_state=tuple(tf1.unstack(state)))
    return [tf.identity(y, name="y_out"), tf.stack(last, name="state_out")]


def static_len():
    x = tf1.placeholder(tf.float32, [None, 6, 4], name="x")
    lengths = tf1.placeholder(tf.int32, [None], name="lengths")
    y, last = tf1.nn.static_rnn(legacy_cells.LSTMCell(5), tf1.unstack(x, axis=1), sequence_length=lengths, dtype=tf.float32)
    return [tf.stack(y, 1, name="y_out"), tf.identity(last[0], name="c"), tf.identity(last[1], name="h")]


def bilen():
    x = tf1.placeholder(tf.float32, [None, None, 4], name="x")
    lengths = tf1.placeholder(tf.int32, [None], name="lengths")
    forward = legacy_cells.LSTMCell(5, use_peepholes=True, num_proj=3, cell_clip=0.5, proj_clip=0.3)
    y, last = tf1.nn.bidirectional_dynamic_rnn(
        forward, legacy_cells.LSTMCell(6), x, sequence_length=lengths, dtype=tf.float32
    )
    return [tf.concat(y, 2, name="y_out"), tf.identity(last[0][0], name="c"), tf.identity(last[1][1], name="h")]


def dropout():
    x = tf1.placeholder(tf.float32, [None, None, 4], name="x")
    keep = tf1.constant(1.0, name="keep")
    cell = legacy_cell_wrappers.DropoutWrapper(
        legacy_cells.BasicLSTMCell(5), output_keep_prob=keep, input_keep_prob=keep
    )
    y, _ = tf1.nn.dynamic_rnn(cell, x, dtype=tf.float32)
    logits = tf1.matmul(y[:, -1], tf1.get_variable("w", [5, 3])) + tf1.get_variable("b", [3])
    return [tf1.nn.softmax(logits, name="probs")]


def embed():
    ids = tf1.placeholder(tf.int32, [None, None], name="ids")
    x = tf1.nn.embedding_lookup(tf1.get_variable("emb", [20, 4]), ids)
    lengths = tf1.reduce_sum(tf1.cast(tf1.not_equal(ids, 0), tf.int32), 1)
    y, _ = tf1.nn.dynamic_rnn(legacy_cells.BasicRNNCell(5), x, sequence_length=lengths, dtype=tf.float32)
    logits = tf1.tensordot(y, tf1.get_variable("w", [5, 7]), 1)
    return [tf.identity(logits, name="logits"), tf1.argmax(logits, 2, name="cls")]


class ProjectedCell(legacy_cells.BasicLSTMCell):
    """Its output is no state, so that the shape of the list of outputs cannot be had from one."""

    def call(self, inputs, state):
        output, state = super().call(inputs, state)
        return tf1.matmul(output, self.weight), state

    @property
    def output_size(self):
        return 2


def outproj():
    x = tf1.placeholder(tf.float32, [None, None, 4], name="x")
    cell = ProjectedCell(5)
    cell.weight = tf1.get_variable("pw", [5, 2])
    y, _ = tf1.nn.dynamic_rnn(cell, x, dtype=tf.float32, time_major=True)
    return [tf.identity(y, name="y_out")]


def nested():
    x = tf1.placeholder(tf.float32, [None, 3], name="x")

    def turn(i, a):
        _, b = tf1.while_loop(lambda j, b: j < i + 1, lambda j, b: (j + 1, b * 0.5 + a), [0, a])
        return i + 1, b

    _, result = tf1.while_loop(lambda i, a: i < 4, turn, [0, x])
    return [tf.identity(result, name="r_out")]


def cond():
    x = tf1.placeholder(tf.float32, [None, 3], name="x")
    result = tf1.cond(tf1.reduce_sum(x) > 0, lambda: tf.tanh(x), lambda: x * 2 - 1)
    return [tf.identity(result, name="r_out")]


CASES = [
    (gru_stack, [
        {"x": uniform(3, 7, 5), "lengths": ints(7, 2, 0), "state": uniform(2, 3, 6)},
        {"x": uniform(1, 4, 5), "lengths": ints(3), "state": uniform(2, 1, 6)},
    ]),
    (static_len, [{"x": uniform(3, 6, 4), "lengths": ints(5, 2, 3)}]),
    (bilen, [
        {"x": uniform(3, 7, 4), "lengths": ints(7, 2, 5)},
        {"x": uniform(2, 3, 4), "lengths": ints(0, 3)},
    ]),
    (dropout, [{"x": uniform(2, 5, 4)}]),
    (embed, [{"ids": ints([3, 4, 0, 0], [5, 1, 2, 7])}]),
    (outproj, [{"x": uniform(6, 2, 4)}]),
    (nested, [{"x": uniform(2, 3)}]),
    (cond, [{"x": uniform(2, 3)}, {"x": -uniform(2, 3) ** 2}]),
]


def block_lstm(version):
    """BlockLSTM (1) and BlockLSTMV2 (2): three of five steps, peepholes, a clip, all cell states."""
    x, c0, h0 = (tf1.placeholder(tf.float32, shape, name=name)
                 for name, shape in [("x", [5, 2, 3]), ("c0", [2, 4]), ("h0", [2, 4])])
    kernel, bias = tf1.get_variable("k", [7, 16]), tf1.get_variable("b", [16])
    wci, wcf, wco = (tf1.get_variable(f"p{index}", [4]) for index in range(3))
    options = dict(seq_len_max=tf.constant(3, tf.int64), x=x, cs_prev=c0, h_prev=h0, w=kernel, wci=wci, wcf=wcf,
                   wco=wco, b=bias, cell_clip=0.2, use_peephole=True)
    raw = tf.raw_ops
    out = raw.BlockLSTM(**options, forget_bias=1.0) if version == 1 else raw.BlockLSTMV2(**options)
    return [tf.identity(out.h, "y"), tf.identity(out.cs[-1], "c"), tf.identity(out.cs, "call")]


def gru_block_cell():
    """GRUBlockCell in a loop."""
    x = tf1.placeholder(tf.float32, [5, 2, 3], name="x")
    ru, candidate = tf1.get_variable("k", [7, 8]), tf1.get_variable("kc", [7, 4])
    bias, candidate_bias = tf1.get_variable("b", [8]), tf1.get_variable("bc", [4])

    def body(t, h, outputs):
        h = tf.raw_ops.GRUBlockCell(x=x[t], h_prev=h, w_ru=ru, w_c=candidate, b_ru=bias, b_c=candidate_bias).h
        return t + 1, h, outputs.write(t, h)

    start = (0, tf.zeros([2, 4]), tf.TensorArray(tf.float32, 5))
    _, h, outputs = tf1.while_loop(lambda t, *_: t < 5, body, start)
    return [tf.identity(outputs.stack(), "y"), tf.identity(h, "h")]


def growing(x, kernel, recurrent):
    """A list that grows in an autograph loop; frozen by convert_variables_to_constants_v2."""
    outputs = tf.TensorArray(tf.float32, size=0, dynamic_size=True)
    h = tf.zeros([2, 4])
    for t in tf.range(tf.shape(x)[0]):
        h = tf.tanh(tf.matmul(x[t], kernel) + tf.matmul(h, recurrent))
        outputs = outputs.write(t, h)
    return outputs.stack(), h


class States(tf.Module):
    """Variables that are read, written, read again and written again in one run; one of them only counts."""

    def __init__(self):
        self.total = tf.Variable(np.array([1.5, -2.0, 3.0], "f"), name="total")
        self.count = tf.Variable(7, dtype=tf.int32, name="count")
        self.dead = tf.Variable(0, dtype=tf.int64, name="dead")
        self.scale = tf.Variable(np.array([0.5, 2.0, 1.0], "f"), name="scale")

    @tf.function(input_signature=[tf.TensorSpec([3], tf.float32, name="x")])
    def step(self, x):
        before = self.total.read_value()
        self.total.assign(before * self.scale + x)
        self.dead.assign_add(1)
        after = self.total.read_value()
        self.total.assign_add(x)
        self.count.assign_sub(2)
        return {"before": before, "after": after, "count": self.count + 1}


def states():
    model, golden = States(), {}
    tf.saved_model.save(model, f"{OUT}/states", signatures=model.step)
    run = tf.saved_model.load(f"{OUT}/states").signatures["serving_default"]
    for index in range(3):
        x, tag = uniform(3), f"r{index}{'+' if index else ''}"
        golden[f"{tag}.in.x"] = x
        golden.update({f"{tag}.out.{key}": value.numpy() for key, value in run(x=tf.constant(x)).items()})
    np.savez(f"{OUT}/states.npz", **golden)


def stateful():
    """A Keras 3 model that keeps its state in variables; needs eager execution, hence a process of its own."""
    x = keras.Input(batch_shape=(2, 4, 3), name="x")
    model = keras.Model(x, keras.layers.LSTM(5, stateful=True, return_sequences=True)(x))
    model.export(f"{OUT}/stateful")
    run = tf.saved_model.load(f"{OUT}/stateful").signatures["serving_default"]
    value = uniform(2, 4, 3)
    outputs = [list(run(tf.constant(value)).values())[0].numpy() for _ in range(2)]
    golden = {"r0.in.0": value, "r0.out.0": outputs[0], "r1+.in.0": value, "r1+.out.0": outputs[1]}
    np.savez(f"{OUT}/stateful.npz", **golden)


if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    if STATEFUL:
        stateful()
        states()
    for case, feeds in [] if STATEFUL else CASES:
        for v2 in (False, True):
            save(case.__name__, case, feeds, v2)
