"""FLOPs and bytes of a graph's nodes, to hold against the machine's rates (`edgetx.benchmark.rates`).

Williams, Waterman and Patterson 2009: a node can take no less than its FLOPs at the machine's matrix rate,
and no less than its bytes at the machine's memory bandwidth.
"""

from __future__ import annotations

import importlib
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgetx.benchmark.flops import flops
from edgetx.benchmark.graph import Graph, Node
from edgetx.benchmark.profiles import Part
from edgetx.errors import UnavailableError

SIZES = {
    "float": 4, "double": 8, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "bool": 1, "int16": 2,
    "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
}  # fmt: skip
"""Bytes per element, by ONNX Runtime's names of element types."""

VIEWS = frozenset(("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Size"))
"""What engines do without touching the data."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """One node of a package's graph; `flops` is None for an operator that is not counted.

    `bytes` are its inputs (weights too) and outputs, each once: what it moves if nothing stays in a cache.
    """

    operator: str
    flops: float | None
    bytes: float


def costs_of(graph: Graph, model: Path, feeds: Mapping[str, Any]) -> dict[str, Cost]:
    """Cost by node name, at the shapes that `feeds` give: ONNX Runtime runs the graph once, as it is written.

    Raises:
        UnavailableError: ONNX Runtime is not installed.
    """
    shapes = _shapes(model, feeds)
    found = {}
    for node in graph.nodes:
        if node.name not in shapes:
            continue
        inputs, outputs = shapes[node.name]
        inputs = _with_constants(node, inputs, graph)
        count = flops(
            node.domain,
            node.op_type,
            node.attributes,
            [dims for _, dims in inputs],
            [dims for _, dims in outputs],
        )
        views = node.op_type in VIEWS
        moved = (
            0 if views else sum(SIZES.get(kind, 0) * math.prod(dims) for kind, dims in (*inputs, *outputs))
        )
        found[node.name] = Cost(operator=node.operator, flops=count, bytes=float(moved))
    return found


Tensors = list[tuple[str, list[int]]]


def _with_constants(node: Node, computed: Tensors, graph: Graph) -> Tensors:
    """All inputs of a node in their order: ONNX Runtime's profile tells those that are no constants."""
    if len(computed) == len(node.inputs):
        return computed
    rest = iter(computed)
    return [graph.constants[name] if name in graph.constants else next(rest) for name in node.inputs]


def _shapes(model: Path, feeds: Mapping[str, Any]) -> dict[str, tuple[Tensors, Tensors]]:
    try:
        ort = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise UnavailableError(f"shapes need ONNX Runtime ({error}); pip install 'edgetx[ort]'") from error
    from edgetx.ops import library

    with tempfile.TemporaryDirectory(prefix="edgetx-shapes-") as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "shapes")
        options.log_severity_level = 4
        if library.why_not() is None:
            options.register_custom_ops_library(str(library.path()))
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            arguments = event["args"]
            found[event["name"].removesuffix("_kernel_time")] = (
                _tensors(arguments["input_type_shape"]),
                _tensors(arguments["output_type_shape"]),
            )
    return found


def _tensors(listed: Sequence[Mapping[str, list[int]]]) -> Tensors:
    return [(kind, dims) for each in listed for kind, dims in each.items()]


def with_costs(parts: Sequence[Part], costs: Mapping[str, Cost]) -> list[Part]:
    """The parts with what their nodes compute and move; a fused part moves less than that."""
    found = []
    for part in parts:
        behind = [costs[name] for name in part.nodes if name in costs]
        if behind:
            part = msgspec.structs.replace(
                part,
                flops=sum(cost.flops or 0.0 for cost in behind),
                bytes=sum(cost.bytes for cost in behind),
            )
        found.append(part)
    return found
