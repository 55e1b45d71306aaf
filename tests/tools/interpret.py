"""Runs .tflite files in the real interpreter and holds them against golden files.

Argument: a JSON list of {"name", "file", "golden", "runs", "stateless", "atol"}; prints one JSON object a line:
{"name", "resolver", "max_abs"} or {"name", "resolver", "error"}.
"""
import json
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

RESOLVERS = {
    "reference": OpResolverType.BUILTIN_REF,
    "default": OpResolverType.AUTO,
}


def run(entry, resolver):
    golden = np.load(entry["golden"])
    interpreter = Interpreter(model_path=entry["file"], experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()

    def find(details, name):
        named = [d for d in details if d["name"] == name]
        return named[0] if named else details[int(name)]

    worst = 0.0
    for tag in entry["runs"]:
        # A stateless model needs no reset: nothing of a run may reach the next one.
        if not tag.endswith("+") and not entry["stateless"]:
            interpreter.reset_all_variables()
        given = {k.split(".in.", 1)[1]: golden[k] for k in golden.files if k.startswith(tag + ".in.")}
        resized = False
        for name, value in given.items():
            detail = find(inputs, name)
            if list(detail["shape"]) != list(value.shape):
                interpreter.resize_tensor_input(detail["index"], value.shape)
                resized = True
        if resized:
            interpreter.allocate_tensors()
            inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        for name, value in given.items():
            interpreter.set_tensor(find(inputs, name)["index"], value)
        interpreter.invoke()
        for key in golden.files:
            if key.startswith(tag + ".out."):
                detail = find(outputs, key.split(".out.", 1)[1])
                found, expected = interpreter.get_tensor(detail["index"]), golden[key]
                if found.shape != expected.shape:
                    raise ValueError(f"{key}: shape {found.shape}, expected {expected.shape}")
                if found.size:
                    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64)).max()
                    worst = max(worst, float("inf") if np.isnan(difference) else float(difference))
    return worst


for entry in json.load(open(sys.argv[1])):
    for name, resolver in RESOLVERS.items():
        line = {"name": entry["name"], "resolver": name}
        try:
            line["max_abs"] = run(entry, resolver)
        except Exception as error:  # every failure is a finding
            line["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(line), flush=True)
