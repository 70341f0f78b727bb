"""The child process that parses a package's graph and builds an engine from it.

A request with `check` gives, per graph, what TensorRT-RTX does not take. Another one gives the sizes of the
built network; the plan is written to `plan`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorrt_rtx as trt

from edgetx.engines import child, graph
from edgetx.errors import EdgetxError, PackageError, UnavailableError
from edgetx.runtimes.tensorrt_rtx import LARGEST_TOPK
from edgetx.runtimes.tensorrt_rtx.log import Log

if TYPE_CHECKING:
    import onnx_ir as ir

REFUSED = {
    "NonZero": "its parser has no NonZero: the number of outputs depends on the data",
    "NonMaxSuppression": "it parses and has no implementation",
}
"""Operators that TensorRT-RTX 1.7 parses badly or not at all, in words."""
DEPTH = 3
"""Phases inside phases that are reported."""
SCATTERS = ("ScatterElements", "ScatterND")

MEMORY = ("out of memory", "outofmemory", "bad_alloc", "insufficient memory")


def handle(request: dict[str, Any], report: Callable[[str], None]) -> dict[str, Any]:
    """One request, see above."""
    if "check" in request:
        return {"problems": [_problems(Path(each["model"]), each["bodies"]) for each in request["check"]]}
    return _build(request, report)


def _why_not(node: ir.Node) -> str | None:
    """Why TensorRT-RTX does not take a node of standard ONNX, as far as we know without asking it."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in REFUSED:
        return REFUSED[node.op_type]
    if node.op_type in SCATTERS:
        reduction = node.attributes.get_string("reduction", "none")
        return f"reduction {reduction!r} is not supported" if reduction != "none" else None
    if node.op_type == "TopK":
        k = graph.constant(node.inputs[1])
        if k is not None and k > LARGEST_TOPK:
            return f"k is {k}, at most {LARGEST_TOPK} is supported"
    return None


def _problems(model_path: Path, bodies: Any) -> list[str]:
    model = graph.standard(model_path, bodies)
    known = graph.refusals(model, _why_not)
    problems = [str(each) for each in known]
    log = Log()
    network = trt.Builder(log).create_network(_STRONGLY_TYPED)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph.serialize(model), str(model_path)):
        said = _parser_problem(model, parser)
        if not any(said.startswith(f"{each.operator} ") for each in known):
            problems.append(said)
    return problems


_STRONGLY_TYPED = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _parser_problem(model: ir.Model, parser: Any) -> str:
    """What the parser stopped at: operator, reason, node and module."""
    if not parser.num_errors:
        return "the graph, without a reason"
    error = parser.get_error(0)
    reason = " ".join(error.desc().split())[:300]
    node = next((each for each in model.graph if each.name == error.node_name()), None)
    where = graph.place(node) if node is not None else error.node_name() or f"node {error.node()}"
    return str(graph.Refusal(error.node_operator() or "the graph", reason, (where,)))


def _build(request: Mapping[str, Any], report: Callable[[str], None]) -> dict[str, Any]:
    path = Path(request["model"])
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(_STRONGLY_TYPED)
    parser = trt.OnnxParser(network, log)
    report("parsing the graph")
    model = graph.standard(path, request["bodies"])
    if not parser.parse(graph.serialize(model), str(path)):
        known = [str(each) for each in graph.refusals(model, _why_not)] or [_parser_problem(model, parser)]
        raise UnavailableError(
            f"TensorRT-RTX does not take {request['name']}: {'; '.join(known)}; run it on ONNX Runtime "
            "(--runtime ort); stages that it takes, of a split model, can be built with --stage"
        )
    _let_attention_decompose(network)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.progress_monitor = Monitor(report)
    config.num_compute_capabilities = len(request["compute"])
    for index, compute in enumerate(request["compute"]):
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{compute.replace('.', '')}"), index)
    for shapes in request["profiles"]:
        profile = builder.create_optimization_profile()
        for name, (least, best, most) in shapes.items():
            profile.set_shape(name, least, best, most)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _failure(request["name"], log.cause(), model)
    report("writing the engine")
    try:
        Path(request["plan"]).write_bytes(plan)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise PackageError(
            f"the disk is full ({error.strerror}): the engine has {plan.nbytes} bytes; nothing was written; "
            "free some space, or remove engines: edgetx build --prune"
        ) from error
    return {"layers": network.num_layers}


def _let_attention_decompose(network: Any) -> None:
    """Where no fused kernel takes an `Attention` (float32, odd head sizes), plain layers may."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_OUTPUT:
            layer.__class__ = trt.IAttentionOutputLayer  # the bindings give the base class
            layer.attention.decomposable = True


def _failure(name: str, cause: str, model: ir.Model) -> EdgetxError:
    if any(word in cause.lower() for word in MEMORY):
        return EdgetxError(
            f"not enough memory to build {name} ({cause[:200]}), nothing was written; {child.LOWER}"
        )
    known = [str(each) for each in graph.refusals(model, _why_not)]
    node = next(graph.mentioned(model, cause), None)
    where = [] if node is None else [f"{node.op_type} at {graph.place(node)}"]
    reasons = "; ".join([*known, *where, cause[:400]])
    return UnavailableError(
        f"TensorRT-RTX cannot build {name}: {reasons}; run it on ONNX Runtime (--runtime ort)"
    )


class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
    """Reports the outer phases of a build."""

    def __init__(self, report: Callable[[str], None]) -> None:
        trt.IProgressMonitor.__init__(self)
        self._report = report
        self._depths: dict[str | None, int] = {None: 0}

    def phase_start(self, name: str, parent: str | None, steps: int) -> None:
        """Called by TensorRT-RTX; a phase's parent is named."""
        depth = self._depths[name] = self._depths.get(parent, DEPTH) + 1
        if depth <= DEPTH:
            self._report(name[:1].lower() + name[1:])

    def step_complete(self, name: str, step: int) -> bool:
        """Go on: whoever wants to stop ends the process."""
        return True

    def phase_finish(self, name: str) -> None:
        """Nothing to tell."""


if __name__ == "__main__":
    child.serve(handle)
