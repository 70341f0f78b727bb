"""swin_tiny in float16: `edgetx convert` beside AutoCast of NVIDIA's ModelOpt, on the same golden inputs.

ModelOpt pins other versions of onnx and ONNX Runtime, so it runs in an environment of its own, whose
Python EDGETX_AUTOCAST_PYTHON names. `pip install nvidia-modelopt[onnx]` takes PyTorch for CUDA, CuPy and
onnxruntime-gpu along; AutoCast on the CPU needs none of them. In an environment with PyTorch's CPU build:

    pip install numpy protobuf flatbuffers tqdm scipy pydantic omegaconf regex safetensors cppimport pulp
    pip install nvidia-ml-py ml_dtypes sympy rich
    pip install --no-deps nvidia-modelopt==0.47.0 onnx==1.21.0 onnxruntime==1.24.4 onnx-graphsurgeon onnxslim
    pip install --no-deps polygraphy lief onnxconverter-common onnxscript onnx-ir
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import Goal, Progress, Record
from edgetx import pipeline, precision
from edgetx.errors import UnavailableError
from edgetx.package import Case

TITLE = "Half precision: edgetx convert and ModelOpt's AutoCast"
VARIABLE = "EDGETX_AUTOCAST_PYTHON"
LARGEST_ERROR = 1e-2


def run(folder: Path, *, threads: int, runs: int, rounds: int, progress: Progress) -> Record:
    """The largest errors against PyTorch, and how many nodes stay in float32; nothing is timed."""
    python = os.environ.get(VARIABLE)
    if not python:
        raise UnavailableError(
            f"AutoCast runs in an environment of its own; set {VARIABLE} to the Python of one with "
            "nvidia-modelopt[onnx] (benchmarks/autocast.py says how to make it)"
        )
    progress("exporting swin_tiny")
    package = pipeline.export("swin_tiny", pretrained=False, output=folder / "swin_tiny.edgetx")
    half = precision.convert(package, progress=progress)
    cases = package.golden()
    inlined = folder / "inlined.onnx"
    _inline(package.model_path, inlined)
    ours = folder / "ours.onnx"
    _inline(half.model_path, ours)
    progress("AutoCast")
    theirs = folder / "theirs.onnx"
    version, converted = _autocast(python, inlined, theirs, cases, folder / "inputs")
    progress("running both")
    goals = []
    for name, path in (("edgetx convert", ours), ("AutoCast", theirs)):
        nodes = _nodes(path)
        bounds = {"at_most": LARGEST_ERROR} if name == "edgetx convert" else {}
        goals += [
            Goal(what=f"{name}: max abs error of the logits", measured=_error(path, cases), **bounds),
            Goal(
                what=f"{name}: nodes that compute in float32, of {sum(nodes.values())}",
                measured=nodes["float32"],
            ),
            Goal(what=f"{name}: casts", measured=_casts(path)),
        ]
    conversion = half.manifest.conversion
    assert conversion is not None and conversion.rounded is not None
    goals.append(
        Goal(
            what="edgetx convert: max abs error, kernels, every float16 value rounded",
            measured=conversion.rounded.to_core().max_abs,
            at_most=LARGEST_ERROR,
        )
    )
    return Record(
        title=TITLE,
        reports={},
        goals=goals,
        notes=[
            f"ModelOpt {version}: {converted}; it took the inlined float32 graph and the {len(cases)} golden "
            "inputs.",
            "Both graphs ran with standard operators on ONNX Runtime's CPU provider, which computes float16 "
            "operators that it has no kernel for in float32 without rounding between them.",
            "Nodes are counted in the inlined graphs by the type of their output, without Cast and without "
            "what only moves data.",
            "Random weights, seeded.",
        ],
    )


def _inline(model: Path, to: Path) -> None:
    """The model with every operator's body in its place, weights beside it."""
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    from edgetx import ops

    graph = ir.load(model)
    passes.InlinePass()(graph)
    graph.opset_imports.pop(ops.DOMAIN, None)
    passes.ShapeInferencePass()(graph)
    ir.save(graph, to, external_data=f"{to.name}.data", size_threshold_bytes=1024)


def _autocast(python: str, model: Path, to: Path, cases: Sequence[Case], inputs: Path) -> tuple[str, str]:
    """ModelOpt's version, and its line on how many nodes it converted."""
    import numpy as np

    inputs.mkdir()
    for index, case in enumerate(cases):
        np.savez(inputs / f"{index}.npz", **case.inputs)  # type: ignore[arg-type]
    command = [python, "-m", "modelopt.onnx.autocast", "--onnx_path", str(model), "--output_path", str(to)]
    command += ["--low_precision_type", "fp16", "--calibration_data", str(inputs), "--keep_io_types"]
    done = subprocess.run([*command, "--providers", "cpu"], capture_output=True, text=True, check=False)
    if done.returncode:
        tail = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise UnavailableError(f"AutoCast failed in {python}: {' '.join(tail)}")
    asked = "import importlib.metadata as m; print(m.version('nvidia-modelopt'))"
    version = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    said = re.search(r"Converted \d+/\d+ nodes[^\n]*", done.stdout + done.stderr)
    return version, said[0] if said else "it did not say how many nodes it converted"


def _nodes(path: Path) -> Mapping[str, int]:
    """How many nodes give float32 and float16."""
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    from edgetx.precision._slots import FLOAT, HALF, MOVES

    model = ir.load(path)
    passes.ShapeInferencePass()(model)
    found = Counter({"float32": 0, "float16": 0})
    for node in model.graph:
        if node.op_type in MOVES or node.op_type in ("Cast", "Constant"):
            continue
        kinds = {value.dtype for value in node.outputs}
        if HALF in kinds:
            found["float16"] += 1
        elif FLOAT in kinds:
            found["float32"] += 1
    return found


def _casts(path: Path) -> int:
    import onnx_ir as ir

    return sum(node.op_type == "Cast" for node in ir.load(path).graph)


def _error(path: Path, cases: Sequence[Case]) -> float:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for case in cases:
        (name,) = case.outputs
        (got,) = session.run([name], dict(case.inputs))
        worst = max(worst, float(np.abs(got - case.outputs[name]).max()))
    return worst
