#!/usr/bin/env python3
"""The cpu backend beside other engines, taking turns, and tables of lines of any of them.

  peers.py --peers DIR --ours PROGRAM [--python PYTHON] [--torch-python PYTHON] [--threads 1,2] [--rounds 3]
           [--budget S] [--precision full] [--with ort,torch,tflite] [--out FILE] [case ...]
  peers.py --table FILE.jsonl ...

DIR is the folder of the peers' scripts (make_cases.py, external.py, peer_ort.py, peer_torch_cpu.py, peer_tf.py); the cases
are built there when they are missing (PEERS_WORK names another place). PROGRAM is the bench `peer`:

  cargo bench --no-default-features --bench peer --no-run        # prints its place

--python has numpy and onnxruntime (and for tflite ai_edge_litert), --torch-python has torch; an engine that
cannot be imported fails loudly. Each round runs every engine once on a case before the next case, so that
what else the machine does meets all alike. The table has medians of the rounds' medians, and of the ratios
round by round: this / the fastest other.

--table takes lines of `fuselstm bench --format jsonl` too; it needs nothing but Python.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys

OURS = "fuselstm"


def keyed(line):
    """(case, threads, dtype), engine, line; of a row of `fuselstm bench` as well."""
    if "peer" in line:
        shape = tuple(line.get(k) for k in ("T", "B", "I", "H", "layers")) + (bool(line.get("bidir")),)
        engine, dtype = line["peer"], line.get("dtype", "f32")
    else:
        shape = tuple(line.get(k) for k in ("time", "batch", "input", "hidden", "layers")) + (bool(line.get("bidirectional")),)
        engine = OURS if line["device"] == "cpu" else f"{OURS} {line['device']}"
        dtype = {"full": "f32", "int8": "int8w"}.get(line["precision"], line["precision"])
    # Of a GPU the host's threads tell nothing.
    on_gpu = any(word in engine for word in ("gpu", "cuda", "cudnn", "jax"))
    return (shape, 0 if on_gpu else line.get("threads") or 0, dtype), engine, line


def read(files):
    for file in files:
        with open(file) as lines:
            for text in lines:
                line = json.loads(text)
                if "median_ms" in line and ("peer" in line or "device" in line):
                    yield keyed(line)


def name(shape):
    t, b, i, h, layers, both = shape
    return f"{t}, {b}, {i}, {h}" + (f" x{layers}" if (layers or 1) > 1 else "") + (" bi" if both else "")


def table(entries):
    """Prints a Markdown table and returns the geometric mean of this / the fastest other."""
    rows, engines = {}, []
    for key, engine, line in entries:
        rows.setdefault(key, {}).setdefault(engine, []).append(line)
        if engine not in engines:
            engines.append(engine)
    engines.sort(key=lambda engine: not engine.startswith(OURS))
    head = ["T, B, I, H", "threads", "type", *engines, "ratio", "error"]
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    ratios = []
    for (shape, threads, dtype), found in rows.items():
        cells = [name(shape), str(threads or "-"), dtype]
        median = lambda lines: statistics.median(line["median_ms"] for line in lines)
        cells += [f"{median(found[e]):.4g}" if e in found else "-" for e in engines]
        ours = [lines for e, lines in found.items() if e.startswith(OURS)]
        others = [lines for e, lines in found.items() if not e.startswith(OURS)]
        ratio = "-"
        if ours and others:
            # Round by round where there are as many of each, so that a slow minute falls out.
            mine, fastest = ours[0], min(others, key=median)
            pairs = zip(mine, fastest) if len(mine) == len(fastest) else [(m, {"median_ms": median(fastest)}) for m in mine]
            value = statistics.median(m["median_ms"] / f["median_ms"] for m, f in pairs)
            ratios.append(value)
            ratio = f"{value:.2f}"
        errors = [line.get("max_abs_err") for lines in ours for line in lines if line.get("max_abs_err") is not None]
        print("| " + " | ".join(cells + [ratio, f"{max(errors):.1e}" if errors else "-"]) + " |")
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"\nmilliseconds, medians; ratio: {OURS} / the fastest other of the row; geometric mean of {len(ratios)}: {mean:.3f}")
    return ratios


def engine_command(engine, a, threads):
    """Command and working folder of one engine for one case, the case to be added at the end."""
    common = ["--threads", str(threads)]
    if engine == OURS:
        program = f"{a.ours} {{dir}} {{y}} {{threads}} {a.precision} {a.budget}"
        dtype = {"full": "f32", "int8": "int8w"}.get(a.precision, a.precision)
        return [a.python, "external.py", "--name", OURS, "--dtype", dtype, "--cmd", program, *common]
    common += ["--budget", str(a.budget)]
    int8 = a.precision == "int8"
    if engine == "ort":
        return [a.python, "peer_ort.py", *common, *(["--int8"] if int8 else [])]
    if engine == "torch":
        dtype = {"full": "f32", "f16": "f32"}.get(a.precision, a.precision)
        return [a.torch_python, "peer_torch_cpu.py", *common, "--dtype", dtype]
    if engine == "tflite":
        return [a.python, "peer_tf.py", *common, "--what", "tflite-int8w" if int8 else "tflite"]
    sys.exit(f"no engine {engine}: ort, torch and tflite are known")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--table", nargs="+", metavar="FILE.jsonl")
    p.add_argument("--peers", metavar="DIR")
    p.add_argument("--ours", metavar="PROGRAM")
    p.add_argument("--python", default=sys.executable)
    p.add_argument("--torch-python", default=sys.executable)
    p.add_argument("--threads", default="1,2")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--budget", type=float, default=0.5, help="measuring seconds of an engine, case and round")
    p.add_argument("--precision", default="full", choices=["full", "f16", "bf16", "int8"])
    p.add_argument("--with", dest="engines", default="ort,torch")
    p.add_argument("--out", metavar="FILE.jsonl", help="the lines")
    p.add_argument("cases", nargs="*")
    a = p.parse_args()
    if a.table:
        table(read(a.table))
        return 0
    if not a.peers or not a.ours:
        p.error("--peers and --ours are needed (or --table)")
    a.ours = os.path.abspath(a.ours)
    environment = dict(os.environ, PEERS_WORK=os.path.abspath(os.environ.get("PEERS_WORK", os.path.join(a.peers, "build"))))
    run = lambda command: subprocess.run(command, cwd=a.peers, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    made = run([a.python, "make_cases.py", *a.cases])
    if made.returncode:
        sys.exit(made.stderr.decode()[-800:])
    listed = run([a.python, "-c", "import common, sys; print(*[c['name'] for c in common.select(sys.argv[1:])])", *a.cases])
    # A case that is given as numbers is passed on as they are: its name is no argument.
    cases = a.cases or listed.stdout.decode().split()
    entries, failures = [], 0
    for threads in map(int, a.threads.split(",")):
        for case in cases:
            for _ in range(a.rounds):
                for engine in [OURS, *filter(None, a.engines.split(","))]:
                    done = run([*engine_command(engine, a, threads), case])
                    lines = [json.loads(l) for l in done.stdout.decode().splitlines() if l.startswith("{")]
                    for line in lines:
                        if "median_ms" not in line:
                            failures += 1
                            print(f"FAILED: {engine} on {case}: {line.get('error')}", file=sys.stderr)
                            continue
                        entries.append(keyed(line))
                        if a.out:
                            with open(a.out, "a") as out:
                                out.write(json.dumps(line) + "\n")
                    if not lines:
                        failures += 1
                        print(f"FAILED: {engine} on {case}: {done.stderr.decode()[-400:]}", file=sys.stderr)
    table(entries)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
