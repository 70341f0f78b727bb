"""The range of every float32 value of a graph on real inputs, and of what its operators sum.

The graph runs in ONNX Runtime with reductions beside its values, so that only scalars leave it, some hundred
values at a time. edgetx's operators run as their standard bodies, whose inner values count for the operator.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edgetx import ops
from edgetx.errors import PackageError, UnavailableError
from edgetx.precision._slots import FLOAT, HALF, is_float

BATCH = 256
"""Values that one run observes: each may stay in memory until its reductions have run."""

_OWNER = "edgetx.precision.owner"
_NORMS = ("LayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization")
_SQUARES = (*_NORMS, "ReduceL2", "ReduceSumSquare")
_SUMS = ("ReduceMean", "ReduceSum", "GlobalAveragePool")


@dataclass(slots=True)
class Observed:
    """The largest finite magnitude of a value over all inputs, and what rounding to float16 takes from it.

    `lost` is the root mean square of the rounding error as a share of the value's own; NaN where the value
    holds NaN.
    """

    largest: float = 0.0
    lost: float = 0.0

    @classmethod
    def of(cls, array: np.ndarray[Any, Any]) -> Observed:
        """Of a constant."""
        finite = np.where(np.isinf(array), 0, array).astype(np.float64)
        with np.errstate(over="ignore"):
            error = finite - finite.astype(np.float16).astype(np.float64)
        energy = float(np.sum(finite**2))
        lost = float(np.sqrt(np.sum(error**2) / energy)) if energy else energy
        return cls(float(np.abs(finite).max(initial=0.0)), lost)


@dataclass
class Ranges:
    """What was observed.

    Attributes:
        values: by the name of a value of the graph; an empty tensor counts as zeros.
        inner: by the name of a node of an edgetx operator: the largest magnitude inside its body.
        squares: by the name of a node: the largest square that it sums.
        sums: by the name of a node: the largest sum of magnitudes.
        terms: by the name of a node: how many elements it adds up.
    """

    values: dict[str, Observed] = field(default_factory=dict)
    inner: dict[str, float] = field(default_factory=dict)
    squares: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)


def observe(
    model: ir.Model,
    feeds: Sequence[Mapping[str, np.ndarray[Any, Any]]],
    *,
    progress: Callable[[str], None],
) -> Ranges:
    """Run `model`, whose nodes and values have unique names and known types, on every input.

    Raises:
        PackageError: ONNX Runtime cannot run it.
    """
    whole = model.clone()
    outer = {value.name for value in _values(whole)}
    _inline(whole)
    masks = _masks(whole)
    wanted = [value.name for value in _values(whole) if value.name not in masks]
    ranges = Ranges()
    count = -(-len(wanted) // BATCH)
    for number in range(count):
        progress(f"observing the values of the float32 graph, part {number + 1} of {count}")
        probes = _Probes(whole.clone(), set(wanted[number * BATCH : (number + 1) * BATCH]), outer)
        for feed in feeds:
            probes.record(feed, ranges)
    return ranges


def run(
    model: ir.Model,
    feeds: Sequence[Mapping[str, np.ndarray[Any, Any]]],
    *,
    kernels: str | None = None,
) -> list[dict[str, Any]]:
    """The outputs of `model` in ONNX Runtime on the CPU, `kernels` being a library of custom operators.

    Raises:
        PackageError: ONNX Runtime cannot run it.
        UnavailableError: there is no ONNX Runtime.
    """
    session = open_graph(model, kernels)
    names = [output.name or "" for output in model.graph.outputs]
    try:
        return [dict(zip(names, session.run(names, dict(feed)), strict=True)) for feed in feeds]
    except Exception as error:  # pybind11 exceptions without a common base
        raise PackageError(f"ONNX Runtime cannot run the graph: {_first_line(error)}") from error


def open_graph(model: ir.Model, kernels: str | None = None, *, profile: str | None = None) -> Any:
    """An `onnxruntime.InferenceSession` of `model` on the CPU.

    Args:
        model: stays as it is.
        kernels: a library of custom operators.
        profile: a path without suffix, to which the times of nodes are written.

    Raises:
        PackageError: ONNX Runtime cannot load it.
        UnavailableError: there is no ONNX Runtime.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UnavailableError(
            f"converting a package needs ONNX Runtime ({error}); pip install edgetx[export,ort]"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.enable_mem_pattern = False
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    if kernels is not None:
        options.register_custom_ops_library(kernels)
    with tempfile.TemporaryDirectory(prefix="edgetx-") as folder:
        path = Path(folder) / "model.onnx"
        ir.save(model.clone(), path, external_data="model.onnx.data", size_threshold_bytes=1024)
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # pybind11 exceptions without a common base
            raise PackageError(f"ONNX Runtime cannot load the graph: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _values(model: ir.Model) -> list[ir.Value]:
    found = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    return [value for value in found if is_float(value) and value.name]


def _inline(model: ir.Model) -> None:
    """Put every operator's primitive body in its place; the nodes name the operator's node."""
    for node in model.graph.all_nodes():
        node.metadata_props.pop(_OWNER, None)
        if node.domain == ops.DOMAIN:
            node.metadata_props[_OWNER] = node.name or ""
    ops.attach_bodies(model, "primitive")
    passes.InlinePass()(model)
    passes.ShapeInferencePass()(model)


def _masks(model: ir.Model) -> set[str | None]:
    """Inner values with a mask's constants, for which a float16 body has values of its own."""
    found: set[str | None] = set()
    for node in model.graph:
        if _OWNER in node.metadata_props and node.op_type == "Where":
            found.update(value.name for value in node.outputs)
            found.update(
                value.name
                for user, _ in node.outputs[0].uses()
                if user.op_type == "Add" and _OWNER in user.metadata_props
                for value in user.outputs
            )
    return found


class _Probes:
    """A graph whose outputs are reductions of some of its values."""

    def __init__(self, model: ir.Model, wanted: set[str | None], outer: set[str | None]) -> None:
        self._outer = outer
        self._graph = model.graph
        self._outputs: list[tuple[str, str, str]] = []  # owner or "", name of value or node, what
        values = [value for value in _values(model) if value.name in wanted]
        del model.graph.outputs[:]
        for value in values:
            node = value.producer()
            owner = "" if node is None else node.metadata_props.get(_OWNER, "")
            self._observe_value(value, owner)
            if node is not None and value is node.outputs[0]:
                self._observe_node(node, owner or node.name or "")
        passes.RemoveUnusedNodesPass()(model)
        self._session = open_graph(model)

    def record(self, feed: Mapping[str, Any], ranges: Ranges) -> None:
        """Run once and merge what is seen into `ranges`."""
        kept = {each.name for each in self._session.get_inputs()}
        try:
            results = self._session.run(None, {name: array for name, array in feed.items() if name in kept})
        except Exception as error:  # pybind11 exceptions without a common base
            raise PackageError(
                f"ONNX Runtime cannot run the float32 graph on its golden inputs: {_first_line(error)}"
            ) from error
        parts: dict[tuple[str, str], dict[str, float]] = {}
        for (owner, name, what), result in zip(self._outputs, results, strict=True):
            parts.setdefault((owner, name), {})[what] = (
                max(float(result), 0.0) if what != "energy" else float(result)
            )
        for (owner, name), part in parts.items():
            if "largest" not in part:
                for what, number in part.items():
                    table: dict[str, float] = getattr(ranges, what)
                    table[name] = max(table.get(name, 0.0), number)
            elif name in self._outer:
                seen = ranges.values.setdefault(name, Observed())
                energy = part["energy"]
                lost = (part["error"] / energy) ** 0.5 if energy > 0 else energy
                seen.largest = max(seen.largest, part["largest"])
                seen.lost = lost if lost != lost else max(seen.lost, lost)
            elif owner:
                ranges.inner[owner] = max(ranges.inner.get(owner, 0.0), part["largest"])

    def _observe_value(self, value: ir.Value, owner: str) -> None:
        magnitude = self._op("Abs", value)
        infinite = self._op("IsInf", magnitude)
        finite = self._op("Where", infinite, self._constant(np.float32(0)), magnitude)
        name = value.name or ""
        self._output(owner, name, "largest", self._op("ReduceMax", finite, keepdims=0))
        if name not in self._outer:
            return
        rounded = self._op("Cast", self._op("Cast", finite, to=int(HALF)), to=int(FLOAT))
        error = self._op("Sub", finite, rounded)
        self._output(owner, name, "error", self._op("ReduceSumSquare", error, keepdims=0))
        self._output(owner, name, "energy", self._op("ReduceSumSquare", finite, keepdims=0))

    def _observe_node(self, node: ir.Node, name: str) -> None:
        if node.op_type not in (*_SQUARES, *_SUMS) or node.domain or not is_float(node.inputs[0]):
            return
        x = node.inputs[0]
        assert x is not None
        if node.op_type in _SQUARES:
            if node.metadata_props.get(_OWNER) and node.op_type == "ReduceL2":
                return  # bodies compute it in float32
            self._output("", name, "squares", self._op("ReduceMax", self._op("Mul", x, x), keepdims=0))
        if node.op_type in _NORMS:
            return
        terms = self._op(
            "Div",
            self._op("Size", x),
            self._op("Max", self._op("Size", node.outputs[0]), self._constant(np.int64(1))),
        )
        self._output("", name, "terms", terms)
        if node.op_type in _SUMS:
            twin = self._op(
                node.op_type,
                self._op("Abs", x),
                *node.inputs[1:],
                **{key: each.value for key, each in node.attributes.items()},
            )
            largest = self._op("ReduceMax", twin, keepdims=0)
            if node.op_type != "ReduceSum":
                largest = self._op("Mul", largest, self._op("Cast", terms, to=int(FLOAT)))
            self._output("", name, "sums", largest)

    def _output(self, owner: str, name: str, what: str, value: ir.Value) -> None:
        value.name = f"edgetx.probe_{len(self._outputs)}"
        self._outputs.append((owner, name, what))
        self._graph.outputs.append(value)

    def _constant(self, value: Any) -> ir.Value:
        return self._op("Constant", value=ir.tensor(value))

    def _op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        node = ir.node(op_type, inputs, attributes)
        self._graph.append(node)
        node.outputs[0].name = f"edgetx.inner_{id(node):x}"
        return node.outputs[0]
