"""Accuracy of .tflite digit models in the real interpreter on the test images of a folder of IDX files.

Arguments: the folder, then the files. Prints one JSON object a line: {"file", "resolver", "accuracy"}.
"""
import gzip
import json
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

folder, files = sys.argv[1], sys.argv[2:]
images = np.frombuffer(gzip.open(f"{folder}/t10k-images-idx3-ubyte.gz").read(), np.uint8, offset=16).reshape(-1, 28, 28)
labels = np.frombuffer(gzip.open(f"{folder}/t10k-labels-idx1-ubyte.gz").read(), np.uint8, offset=8)
for file in files:
    for name, resolver in (("reference", OpResolverType.BUILTIN_REF), ("default", OpResolverType.AUTO)):
        interpreter = Interpreter(model_path=file, experimental_op_resolver_type=resolver)
        interpreter.allocate_tensors()
        given, found = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
        right = 0
        for image, label in zip(images, labels):
            interpreter.reset_all_variables()
            interpreter.set_tensor(given, (image / np.float32(255)).astype(np.float32)[None])
            interpreter.invoke()
            right += int(interpreter.get_tensor(found).argmax() == label)
        print(json.dumps({"file": file, "resolver": name, "accuracy": right / len(labels)}), flush=True)
