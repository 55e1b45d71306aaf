"""Builds random Keras 3 and tf_keras models, asks the framework for the answer, and cross-checks.

    python tests/tools/random_keras.py SEED COUNT [--binary target/debug/fuselstm] [--keep DIR]

needs tensorflow and tf_keras. Model `i` of a seed is the same on every run. A model that is wrong, that
ends in an internal error, or that is called malformed although the framework loads it, is kept under
`--keep` as a case: the model, `golden.npz` and `case.json`. Refusals are counted by their reason. The
exit status is 1 when anything was kept.
"""

import argparse
import collections
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import logging  # noqa: E402
import warnings  # noqa: E402

import numpy as np  # noqa: E402

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

BATCH = 3
ATOL = 2e-5  # float32 of the framework against float32 and float64 here, a few layers deep
ACTIVATIONS = [
    "relu", "tanh", "sigmoid", "hard_sigmoid", "elu", "selu", "softplus", "softsign", "swish",
    "gelu", "exponential", "linear", "softmax", None,
]
KERAS3_ACTIVATIONS = [
    "mish", "log_sigmoid", "celu", "hard_tanh", "leaky_relu", "relu6", "silu", "hard_swish",
    "soft_shrink", "hard_shrink", "tanh_shrink", "squareplus", "sparse_plus", "log_softmax", "glu",
]


class Unbuildable(Exception):
    """The framework itself refuses this combination."""


class Builder:
    """One random functional model; `notes` says in words what was built."""

    def __init__(self, keras, rng, is_keras3):
        self.k, self.rng, self.is_keras3 = keras, rng, is_keras3
        self.layers = keras.layers
        self.notes, self.inputs, self.tokens = [], [], []
        # T is fixed in most models; an open length forbids what needs a size.
        self.time = rng.choice([4, 5, 7])
        self.open_time = rng.random() < 0.2
        self.sequences, self.vectors = [], []

    def note(self, text, *tensors):
        shapes = " ".join(str(tuple(t.shape)) for t in tensors)
        self.notes.append(f"{text} {shapes}".strip())

    def activation(self, objects=True):
        names = ACTIVATIONS + (KERAS3_ACTIVATIONS[:9] if self.is_keras3 else [])
        if objects and self.rng.random() < 0.2:
            layers = self.layers
            return self.rng.choice([
                lambda: layers.ReLU(max_value=0.5),
                lambda: layers.ReLU(max_value=1.5, negative_slope=0.1, threshold=0.2),
                lambda: layers.LeakyReLU(0.1),
                lambda: layers.ELU(0.7),
                lambda: layers.Softmax(),
                lambda: layers.Activation("tanh"),
            ])()
        return self.rng.choice(names)

    # --- inputs

    def add_input(self):
        name = f"in{len(self.inputs)}"
        time = None if self.open_time else self.time
        if self.rng.random() < 0.45:
            x = self.layers.Input((time,), dtype="int32", name=name)
            self.inputs.append((name, "tokens", None))
            masked = self.rng.random() < 0.7
            width = self.rng.choice([3, 4])
            y = self.layers.Embedding(9, width, mask_zero=masked)(x)
            self.note(f"Embedding(mask_zero={masked})", y)
        else:
            width = self.rng.choice([2, 3, 4])
            x = self.layers.Input((time, width), name=name)
            self.inputs.append((name, "floats", width))
            y = x
            if self.rng.random() < 0.3:
                y = self.layers.Masking(0.0)(y)
                self.note("Masking", y)
        self.tokens.append(x)
        self.sequences.append(y)

    # --- recurrent layers

    def cell_options(self, kind):
        rng, options = self.rng, {}
        if rng.random() < 0.3:
            options["activation"] = self.activation()
        if kind != "SimpleRNN" and rng.random() < 0.3:
            options["recurrent_activation"] = rng.choice(["sigmoid", "hard_sigmoid", "tanh"])
        if kind == "GRU":
            options["reset_after"] = rng.random() < 0.6
        options["use_bias"] = rng.random() < 0.85
        if rng.random() < 0.15:
            options["dropout"] = 0.2
        return options

    def recurrent(self, x, sequences, reuse=None):
        rng = self.rng
        kind = rng.choice(["LSTM", "LSTM", "GRU", "GRU", "SimpleRNN"])
        units = rng.choice([2, 3, 4])
        options = self.cell_options(kind)
        form = rng.random()
        if form < 0.12:
            cell = getattr(self.layers, f"{kind}Cell")
            cells = [cell(units, **options)]
            if rng.random() < 0.5:
                other = rng.choice(["LSTMCell", "GRUCell", "SimpleRNNCell"])
                cells.append(getattr(self.layers, other)(units))
            layer = self.layers.RNN(cells if len(cells) > 1 else cells[0],
                                    return_sequences=sequences,
                                    go_backwards=rng.random() < 0.3)
            y = layer(x)
            self.note(f"RNN({[type(c).__name__ for c in cells]}, seq={sequences})", y)
            return y
        options["return_sequences"] = sequences
        if rng.random() < 0.25:
            options["go_backwards"] = True
        if rng.random() < 0.15 and not self.open_time:
            options["unroll"] = True
        layer_class = getattr(self.layers, kind)
        if form < 0.45:
            merge = rng.choice(["concat", "sum", "mul", "ave"])
            backward = None
            if rng.random() < 0.2:
                other = dict(options, go_backwards=not options.get("go_backwards", False))
                backward = getattr(self.layers, rng.choice([kind, "GRU"]))(
                    units, **{k: v for k, v in other.items()
                              if k in ("return_sequences", "go_backwards", "unroll")})
            layer = self.layers.Bidirectional(layer_class(units, **options), merge_mode=merge,
                                              backward_layer=backward)
            y = layer(x)
            self.note(f"Bidirectional({kind}({options}), {merge}, {backward is not None})", y)
            return y
        if form < 0.6:
            return self.with_states(x, kind, units, options)
        layer = layer_class(units, **options)
        y = layer(x)
        self.note(f"{kind}({options})", y)
        return y

    def with_states(self, x, kind, units, options):
        """The states of one layer start another."""
        layer_class = getattr(self.layers, kind)
        encoder = layer_class(units, return_state=True)
        y, *states = encoder(x)
        decoder = layer_class(units, **options)
        target = self.rng.choice(self.sequences)
        y = decoder(target, initial_state=states if len(states) > 1 else states[0])
        self.note(f"{kind} with initial_state ({options})", y)
        return y

    # --- steps

    def sequence_layer(self, x):
        """A layer from a sequence to a sequence."""
        rng, layers = self.rng, self.layers
        width = x.shape[-1]
        choices = [
            lambda: layers.Dense(rng.choice([2, 4]), activation=self.activation()),
            lambda: layers.TimeDistributed(layers.Dense(3, activation=self.activation())),
            lambda: layers.Conv1D(3, rng.choice([1, 2, 3]), activation=self.activation(),
                                  padding=rng.choice(["same", "causal"]),
                                  dilation_rate=rng.choice([1, 2])),
            lambda: layers.DepthwiseConv1D(2, padding="same"),
            lambda: layers.SeparableConv1D(3, 2, padding="same"),
            lambda: layers.Dropout(0.3),
            lambda: layers.SpatialDropout1D(0.3),
            lambda: layers.GaussianNoise(0.1),
            lambda: layers.LayerNormalization(axis=rng.choice([-1, -1, [1, 2]])),
            lambda: layers.BatchNormalization(scale=rng.random() < 0.8),
            lambda: layers.Activation(self.activation(objects=False) or "linear"),
            lambda: layers.LeakyReLU(0.2),
            lambda: layers.ReLU(max_value=1.0, negative_slope=0.1),
            lambda: layers.PReLU(shared_axes=[1]),
            lambda: layers.Softmax(axis=rng.choice([-1, 1])),
            lambda: layers.Rescaling(0.5, offset=0.1),
            lambda: layers.Normalization(mean=0.2, variance=0.7),
        ]
        if not self.open_time and x.shape[1] is not None and x.shape[1] > 3:
            choices += [
                lambda: layers.MaxPooling1D(2, padding=rng.choice(["valid", "same"])),
                lambda: layers.AveragePooling1D(2, strides=1, padding="same"),
                lambda: layers.ZeroPadding1D((1, 0)),
                lambda: layers.Cropping1D((1, 1)),
                lambda: layers.UpSampling1D(2),
                lambda: layers.Permute((2, 1)),
                lambda: layers.Reshape((-1, width)),
                lambda: layers.Reshape((width, x.shape[1])),
            ]
        layer = rng.choice(choices)()
        y = layer(x)
        self.note(type(layer).__name__, y)
        return y

    def operator(self, x):
        """Arithmetic with operators and functions instead of layers."""
        import tensorflow as tf
        rng = self.rng
        choices = [
            lambda: x * 0.5 + 1.0, lambda: 1.0 - x, lambda: x / 2.0, lambda: -x, lambda: x ** 2,
            lambda: x - np.linspace(0, 1, x.shape[-1]).astype("float32"), lambda: x[:, ::-1],
            lambda: x[..., :2], lambda: x[:, 1:],
        ]
        if self.is_keras3:
            ops = self.k.ops
            choices += [
                lambda: ops.maximum(x, 0.1), lambda: ops.minimum(0.2, x), lambda: ops.exp(x),
                lambda: ops.clip(x, -0.3, 0.4), lambda: ops.abs(x), lambda: ops.square(x),
                lambda: ops.concatenate([x, x * 2.0], axis=-1), lambda: ops.tanh(x),
                lambda: ops.where(x > 0.0, x, 0.5 * x), lambda: ops.flip(x, axis=1),
                lambda: ops.softmax(x, axis=1), lambda: ops.relu(x),
                lambda: x - ops.mean(x, axis=-1, keepdims=True), lambda: ops.add(x, 1.5),
            ]
        else:
            choices += [
                lambda: tf.maximum(x, 0.1), lambda: tf.exp(x), lambda: tf.abs(x),
                lambda: tf.clip_by_value(x, -0.3, 0.4), lambda: tf.square(x), lambda: tf.nn.relu(x),
                lambda: tf.concat([x, x * 2.0], axis=-1), lambda: tf.math.tanh(x),
                lambda: x - tf.reduce_mean(x, axis=-1, keepdims=True), lambda: tf.add(x, 1.5),
            ]
        y = rng.choice(choices)()
        self.note("operator", y)
        return y

    def merge(self, pool):
        """A merge layer over two tensors of one pool whose shapes fit."""
        rng, layers = self.rng, self.layers
        a = rng.choice(pool)
        same = [t for t in pool if tuple(t.shape) == tuple(a.shape)]
        b = rng.choice(same)
        kind = rng.choice(["Add", "Multiply", "Average", "Maximum", "Minimum", "Subtract",
                           "Concatenate", "Concatenate"])
        if kind == "Concatenate":
            axis = rng.choice([-1, -1, 1]) if len(a.shape) == 3 else -1
            lead = [t for t in pool if tuple(t.shape)[:-1] == tuple(a.shape)[:-1]]
            y = layers.Concatenate(axis=axis)([a, rng.choice(lead if axis == -1 else same)])
        else:
            y = getattr(layers, kind)()([a, b])
        self.note(kind, y)
        return y

    def attention(self, x):
        rng, layers = self.rng, self.layers
        same = [t for t in self.sequences if t.shape[-1] == x.shape[-1]]
        other = rng.choice(same)
        kind = rng.choice(["Attention", "AdditiveAttention", "MultiHeadAttention"])
        if kind == "MultiHeadAttention":
            y = layers.MultiHeadAttention(2, 3)(x, other)
        elif kind == "Attention":
            y = layers.Attention(use_scale=rng.random() < 0.5)([x, other])
        else:
            y = layers.AdditiveAttention()([x, other])
        self.note(kind, y)
        return y

    def nested(self, x):
        """A model used as a layer, once or twice, some of its layers frozen."""
        rng, layers = self.rng, self.layers
        width = x.shape[-1]
        inner = layers.Input((x.shape[1], width))
        y = inner
        for _ in range(rng.choice([1, 2])):
            kind = rng.choice(["LSTM", "GRU", "Dense", "BatchNormalization", "Bidirectional"])
            if kind == "Bidirectional":
                layer = layers.Bidirectional(layers.LSTM(2, return_sequences=True))
            elif kind == "Dense":
                layer = layers.Dense(4)
            elif kind == "BatchNormalization":
                layer = layers.BatchNormalization()
            else:
                layer = getattr(layers, kind)(3, return_sequences=True)
            layer.trainable = rng.random() < 0.7
            y = layer(y)
        model = self.k.Model(inner, y, name=f"nested{len(self.notes)}")
        out = model(x)
        if rng.random() < 0.3:
            out = layers.Add()([out, model(x)])
        self.note(f"nested {[type(l).__name__ for l in model.layers]}", out)
        return out

    def reduce(self, x):
        """From a sequence to a vector."""
        rng, layers = self.rng, self.layers
        choice = rng.random()
        if choice < 0.5:
            return self.recurrent(x, sequences=False)
        options = [lambda: layers.GlobalAveragePooling1D()(x), lambda: layers.GlobalMaxPooling1D()(x),
                   lambda: x[:, -1, :], lambda: x[:, 0]]
        if not self.open_time and x.shape[1] is not None:
            options.append(lambda: layers.Flatten()(x))
        if self.is_keras3:
            options += [lambda: self.k.ops.sum(x, axis=1), lambda: self.k.ops.max(x, axis=1),
                        lambda: self.k.ops.average(x, axis=1)]
        y = rng.choice(options)()
        self.note("reduce", y)
        return y

    def step(self):
        rng = self.rng
        x = rng.choice(self.sequences)
        choice = rng.random()
        if choice < 0.38:
            self.sequences.append(self.recurrent(x, sequences=True))
        elif choice < 0.60:
            self.sequences.append(self.sequence_layer(x))
        elif choice < 0.70:
            self.sequences.append(self.operator(x))
        elif choice < 0.84:
            self.sequences.append(self.merge(self.sequences))
        elif choice < 0.89:
            self.sequences.append(self.attention(x))
        elif choice < 0.94:
            self.sequences.append(self.nested(x))
        else:
            vector = self.reduce(x)
            count = x.shape[1] or 4
            self.sequences.append(self.layers.RepeatVector(count)(vector))
            self.note("RepeatVector")

    def model(self):
        rng, layers = self.rng, self.layers
        for _ in range(rng.choice([1, 1, 2])):
            self.add_input()
        for _ in range(rng.choice([1, 2, 2, 3, 4])):
            self.step()
        self.sequences = [s for s in self.sequences if len(s.shape) == 3]
        outputs = [self.sequences[-1]]
        if rng.random() < 0.6:
            vector = self.reduce(self.sequences[-1])
            if rng.random() < 0.5:
                vector = layers.Dense(3, activation=self.activation())(vector)
                self.note("Dense", vector)
            outputs = [vector] + (outputs if rng.random() < 0.2 else [])
        return self.k.Model(self.tokens, outputs if len(outputs) > 1 else outputs[0])


def sequential(keras, rng, builder):
    """A Sequential model of a few layers."""
    layers = keras.layers
    width = rng.choice([2, 3])
    model = keras.Sequential([layers.Input((builder.time, width))])
    builder.inputs.append(("in0", "floats", width))
    for _ in range(rng.choice([1, 2, 3])):
        kind = rng.choice(["LSTM", "GRU", "SimpleRNN"])
        options = dict(builder.cell_options(kind), return_sequences=True)
        layer = getattr(layers, kind)(rng.choice([2, 3]), **options)
        if rng.random() < 0.4:
            layer = layers.Bidirectional(layer, merge_mode=rng.choice(["concat", "sum", "ave"]))
        model.add(layer)
        builder.note(f"{kind}({options})")
    model.add(rng.choice([layers.Dense(3), layers.LSTM(2), layers.Flatten(), layers.ReLU(0.7)]))
    builder.note(type(model.layers[-1]).__name__)
    return model


def randomize(model, seed):
    """Weights that are all different from their initial values; variances stay positive."""
    noise = np.random.default_rng(seed)
    for weight in model.weights:
        if "float" not in str(weight.dtype):
            continue
        path = getattr(weight, "path", weight.name)
        value = noise.normal(0.0, 0.4, weight.shape)
        if "variance" in path:
            value = np.abs(value) + 0.3
        if "gamma" in path:
            value = value + 1.0
        weight.assign(value.astype("float32"))


def arrays(builder, seed):
    """Inputs with padding at the end of some rows: tokens of 0, frames of zeros."""
    noise = np.random.default_rng(seed)
    out = []
    for _, kind, width in builder.inputs:
        lengths = noise.integers(1, builder.time + 1, BATCH)
        lengths[0] = builder.time
        if kind == "tokens":
            x = noise.integers(1, 9, (BATCH, builder.time)).astype("int32")
        else:
            x = noise.normal(0.0, 1.0, (BATCH, builder.time, width)).astype("float32")
        for row, length in enumerate(lengths):
            x[row, length:] = 0
            if length > 2 and noise.random() < 0.3:
                x[row, 1] = 0
        out.append(x)
    return out


def save(model, form, folder, is_keras3, builder):
    """Writes the model; returns its path."""
    import tensorflow as tf
    if form in (".keras", ".h5"):
        path = os.path.join(folder, "model" + form)
        model.save(path)
        return path
    if form == ".tflite":
        # The batch is fixed: the converter lowers no loop of an open batch.
        specs = [tf.TensorSpec((BATCH,) + tuple(builder.time if d is None else d for d in t.shape[1:]),
                               t.dtype if isinstance(t.dtype, str) else t.dtype.name, name=name)
                 for t, (name, _, _) in zip(model.inputs, builder.inputs)]

        def call(*xs):
            return model(list(xs) if len(xs) > 1 else xs[0], training=False)

        concrete = tf.function(call, input_signature=specs).get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], model)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        path = os.path.join(folder, "model.tflite")
        with open(path, "wb") as file:
            file.write(converter.convert())
        return path
    path = os.path.join(folder, "saved_model")
    if is_keras3:
        model.export(path, verbose=False)
    else:
        model.save(path, save_format="tf")
    return path


def golden_of(path, form, model, xs, is_keras3):
    """The answers of the framework, keyed as the model names its tensors."""
    import tensorflow as tf
    if form == "saved_model":
        signature = tf.saved_model.load(path).signatures["serving_default"]
        names = list(signature.structured_input_signature[1])
        by_name = match_inputs(names, [getattr(t, "name", "") for t in model.inputs], xs)
        result = signature(**{n: tf.constant(x) for n, x in by_name.items()})
        return by_name, {n: v.numpy() for n, v in result.items()}
    if form == ".tflite":
        interpreter = tf.lite.Interpreter(path)
        details = interpreter.get_input_details()
        names = [d["name"] for d in details]
        by_name = match_inputs(names, [getattr(t, "name", "") for t in model.inputs], xs)
        for d in details:
            interpreter.resize_tensor_input(d["index"], by_name[d["name"]].shape)
        interpreter.allocate_tensors()
        for d in details:
            interpreter.set_tensor(d["index"], by_name[d["name"]].astype(d["dtype"]))
        interpreter.invoke()
        outs = {d["name"]: interpreter.get_tensor(d["index"])
                for d in interpreter.get_output_details()}
        return {d["name"]: by_name[d["name"]].astype(d["dtype"]) for d in details}, outs
    result = model(xs if len(xs) > 1 else xs[0], training=False)
    results = result if isinstance(result, (list, tuple)) else [result]
    return ({str(i): x for i, x in enumerate(xs)},
            {str(i): np.asarray(y) for i, y in enumerate(results)})


def match_inputs(names, model_names, xs):
    """Assigns arrays to the names of a signature, which may be sorted or decorated."""
    if len(names) == 1:
        return {names[0]: xs[0]}
    out = {}
    for name in names:
        bare = name.split("serving_default_")[-1].split(":")[0]
        found = [x for m, x in zip(model_names, xs) if m.split(":")[0] == bare]
        if len(found) != 1:
            raise Unbuildable(f"input {name} is none of {model_names}")
        out[name] = found[0]
    return out


def run_one(arguments, seed, index):
    """One model: (verdict, reason, folder or None)."""
    rng = random.Random(f"{seed}/{index}")
    is_keras3 = rng.random() < 0.55
    if is_keras3:
        import keras
    else:
        import tf_keras as keras
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    form = rng.choice([".keras", ".keras", ".h5", ".h5", "saved_model", ".tflite"])
    builder = Builder(keras, rng, is_keras3)
    folder = tempfile.mkdtemp(prefix="random_keras_")
    try:
        if rng.random() < 0.15:
            model = sequential(keras, rng, builder)
        else:
            model = builder.model()
        randomize(model, index)
        xs = arrays(builder, index)
        path = save(model, form, folder, is_keras3, builder)
        if form in (".keras", ".h5"):
            model = keras.models.load_model(path)
        inputs, outputs = golden_of(path, form, model, xs, is_keras3)
    except Exception as error:  # the framework refuses it: not our matter
        shutil.rmtree(folder)
        return "unbuildable", f"{type(error).__name__}: {str(error).splitlines()[0][:100]}", None
    if not all(np.isfinite(y).all() and np.abs(y).max(initial=0) < 1e4 for y in outputs.values()):
        shutil.rmtree(folder)
        return "unbuildable", "the answer is not finite, or very large", None
    golden = os.path.join(folder, "golden.npz")
    np.savez(golden, **{f"r0.in.{n}": x for n, x in inputs.items()},
             **{f"r0.out.{n}": y for n, y in outputs.items()})
    scale = max(1.0, max(float(np.abs(y).max(initial=0.0)) for y in outputs.values()))
    command = [arguments.binary, "crosscheck", path, "--golden", golden, "--device",
               arguments.device, "--atol", str(ATOL * scale), "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        status, text = done.returncode, done.stderr.strip().splitlines()[-1:] or [""]
    except subprocess.TimeoutExpired:
        status, text, done = -1, ["no answer in 120 s"], None
    reason = text[0].replace(folder, "")
    if status == 0:
        shutil.rmtree(folder)
        return "held", "", None
    refused = status == 2 and not any(w in reason for w in ("internal", "broke", "malformed"))
    if refused and arguments.keep_refused is None:
        shutil.rmtree(folder)
        return "refused", reason, None
    verdict = "refused" if refused else ("wrong" if status == 1 else "defect")
    if verdict == "wrong" and done is not None:
        checks = json.loads(done.stdout or "{}").get("checks", [])
        reason = f"max_abs {[c.get('max_abs') for c in checks]} {reason}"
    base = arguments.keep_refused if refused else arguments.keep
    kept = os.path.join(base, f"{seed}_{index}_{verdict}")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.move(folder, kept)
    with open(os.path.join(kept, "case.json"), "w") as file:
        json.dump({"seed": seed, "index": index, "keras": 3 if is_keras3 else 2, "form": form,
                   "layers": builder.notes, "verdict": verdict, "reason": reason}, file, indent=1)
    return verdict, reason, kept


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seed", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0, help="index of the first model")
    parser.add_argument("--binary", default="target/debug/fuselstm")
    parser.add_argument("--device", default="reference,cpu")
    parser.add_argument("--keep", default="target/random_keras")
    parser.add_argument("--keep-refused", default=None, help="keep refused models there too")
    arguments = parser.parse_args()
    counts, reasons = collections.Counter(), collections.Counter()
    for index in range(arguments.first, arguments.first + arguments.count):
        verdict, reason, kept = run_one(arguments, arguments.seed, index)
        counts[verdict] += 1
        if verdict in ("refused", "unbuildable"):
            reasons[f"{verdict}: {reason.split(': ', 2)[-1][:110]}"] += 1
        elif verdict != "held":
            print(f"{arguments.seed}/{index} {verdict}: {reason} {kept}", flush=True)
        if index % 50 == 49:
            print(f"# {index + 1}: {dict(counts)}", flush=True)
    for reason, times in reasons.most_common(40):
        print(f"{times:5} {reason}")
    built = sum(counts.values()) - counts["unbuildable"]
    print(f"{built} models: {dict(counts)}, refused {100 * counts['refused'] / max(built, 1):.1f} %")
    return 1 if counts["wrong"] + counts["defect"] else 0


if __name__ == "__main__":
    sys.exit(main())
