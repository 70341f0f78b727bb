"""The child process that parses a package's graph and builds an engine from it.

A request with `check` gives, per graph, what the library does not take. Another one gives the sizes of the
built network; the plan is written to `plan`, and what became of the layers to `layers.json` beside it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetx.engines import child, fused, graph
from edgetx.errors import EdgetxError, PackageError, UnavailableError
from edgetx.runtimes.nvidia import library as libraries
from edgetx.runtimes.nvidia import log as logs
from edgetx.runtimes.nvidia.cuda import Device
from edgetx.runtimes.nvidia.library import LARGEST_TOPK, Library

if TYPE_CHECKING:
    import onnx_ir as ir

DEPTH = 3
"""Phases inside phases that are reported."""
SCATTERS = ("ScatterElements", "ScatterND")
MEMORY = ("out of memory", "outofmemory", "bad_alloc", "insufficient memory")


def handle(request: dict[str, Any], report: Callable[[str], None]) -> dict[str, Any]:
    """One request, see above."""
    library = libraries.find(request["library"])
    if "check" in request:
        return {"problems": [_problems(library, each) for each in request["check"]]}
    with _gpu(library, request):
        return _build(library, request, report)


@contextlib.contextmanager
def _gpu(library: Library, request: Mapping[str, Any]) -> Iterator[None]:
    """The GPU that kernels are timed on; nothing where none are."""
    if not library.times:
        yield
        return
    device = Device(request["device"])
    with device.current():
        yield


def why_not(library: Library, node: ir.Node) -> str | None:
    """Why a library does not take a node of standard ONNX, as far as we know without asking it."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in library.refused:
        return library.refused[node.op_type]
    if node.op_type in SCATTERS:
        reduction = node.attributes.get_string("reduction", "none")
        return f"reduction {reduction!r} is not supported" if reduction != "none" else None
    if node.op_type == "TopK":
        k = graph.constant(node.inputs[1])
        if k is not None and k > LARGEST_TOPK:
            return f"k is {k}, at most {LARGEST_TOPK} is supported"
    return None


def oldest(compute: Sequence[str]) -> str:
    """The compute capability that kernels are compiled for; a portable engine begins with Ampere."""
    return min((each for each in compute if each[0].isdigit()), key=float, default="8.0")


class Parsed:
    """A graph, the network that the parser made of it, and the objects that must outlive it."""

    def __init__(self, library: Library, request: Mapping[str, Any]) -> None:
        """Prepare and parse; `ok` says whether the parser took the graph.

        Raises:
            UnavailableError: the plugins that `request` asks for cannot be loaded.
        """
        trt = self.trt = library.load()
        self.path = Path(request["model"])
        self.library = library
        self.plugins = bool(request["plugins"])
        self.log = logs.make(trt)
        self.builder = trt.Builder(self.log)
        if self.plugins:
            from edgetx.ops import plugin

            plugin.load(trt, self.builder.get_plugin_registry())
        self.model = graph.standard(self.path, request["bodies"], [*request["plugins"], *request["quick"]])
        if request["quick"]:
            from edgetx.ops import quick

            quick.register(trt, oldest(request["compute"]))
            quick.rename(self.model)
        self.network = self.builder.create_network(library.network_flags(trt))
        self.parser = trt.OnnxParser(self.network, self.log)
        self.ok = bool(self.parser.parse(graph.serialize(self.model), str(self.path)))

    def refusals(self) -> list[graph.Refusal]:
        """What we know that the library does not take."""
        return graph.refusals(self.model, lambda node: why_not(self.library, node))

    def stopped_at(self) -> str:
        """What the parser stopped at: operator, reason, node and module."""
        if not self.parser.num_errors:
            return "the graph, without a reason"
        error = self.parser.get_error(0)
        reason = " ".join(error.desc().split())[:300]
        node = next((each for each in self.model.graph if each.name == error.node_name()), None)
        where = graph.place(node) if node is not None else error.node_name() or f"node {error.node()}"
        return str(graph.Refusal(error.node_operator() or "the graph", reason, (where,)))

    def layers(self) -> list[Any]:
        """The network's layers."""
        return [self.network.get_layer(index) for index in range(self.network.num_layers)]


def _problems(library: Library, request: Mapping[str, Any]) -> list[str]:
    parsed = Parsed(library, request)
    known = parsed.refusals()
    problems = [str(each) for each in known]
    if not parsed.ok:
        said = parsed.stopped_at()
        if not any(said.startswith(f"{each.operator} ") for each in known):
            problems.append(said)
    return problems


def _build(library: Library, request: Mapping[str, Any], report: Callable[[str], None]) -> dict[str, Any]:
    report("parsing the graph")
    parsed = Parsed(library, request)
    name, title, trt = request["name"], library.title, parsed.trt
    if not parsed.ok:
        known = [str(each) for each in parsed.refusals()] or [parsed.stopped_at()]
        raise UnavailableError(
            f"{title} does not take {name}: {'; '.join(known)}; run it on ONNX Runtime "
            "(--runtime ort); stages that it takes, of a split model, can be built with --stage"
        )
    layers = parsed.layers()
    _let_attention_decompose(trt, layers)
    config = parsed.builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.progress_monitor = monitor(trt, report)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    library.aim(trt, config, request["compute"])
    for shapes in request["profiles"]:
        profile = parsed.builder.create_optimization_profile()
        for tensor, (least, best, most) in shapes.items():
            profile.set_shape(tensor, least, best, most)
        config.add_optimization_profile(profile)
    times = None if request["times"] is None else Path(request["times"])
    if times is not None:
        read_times(config, times)
    plan = parsed.builder.build_serialized_network(parsed.network, config)
    if plan is None:
        raise _failure(parsed, name)
    if times is not None:
        write_times(config, times)
    report("writing the engine")
    file = Path(request["plan"])
    with _disk(plan.nbytes):
        file.write_bytes(plan)
        modules = fused.modules(parsed.model)
        before = fused.of_network([(each.name, each.type.name, each.metadata) for each in layers], modules)
        after = _inspected(parsed, plan, modules, report)
        (file.parent / fused.FILE).write_bytes(fused.encode(before, after))
    return {"layers": len(layers)}


@contextlib.contextmanager
def _disk(size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise PackageError(
            f"the disk is full ({error.strerror}): the engine has {size} bytes; nothing was written; "
            "free some space, or remove engines: edgetx build --prune"
        ) from error


def _inspected(
    parsed: Parsed, plan: Any, modules: fused.Places, report: Callable[[str], None]
) -> tuple[fused.Fused, ...] | None:
    """What the inspector says of a built engine; None where no GPU loads it, or its answer is another."""
    trt = parsed.trt
    runtime = trt.Runtime(parsed.log)
    if parsed.plugins:
        from edgetx.ops import plugin

        plugin.load(trt, runtime.get_plugin_registry())
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    inspector = engine.create_engine_inspector()
    said = str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    try:
        return fused.of_inspector(said, modules)
    except PackageError as error:  # the engine is good all the same
        report(f"no report of fused layers: {error}")
        return None


def read_times(config: Any, file: Path) -> bool:
    """Give a builder's configuration the times of earlier builds; False where there are none that fit."""
    known = file.read_bytes() if file.is_file() else b""
    times = config.create_timing_cache(known) if known else None
    fits = times is not None and config.set_timing_cache(times, False)
    if not fits:  # of another version or GPU, or none
        config.set_timing_cache(config.create_timing_cache(b""), False)
    return bool(fits)


def write_times(config: Any, file: Path) -> None:
    """Keep a builder's times, in one step."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        draft.write_bytes(bytes(config.get_timing_cache().serialize()))
        draft.replace(file)
    except OSError:  # the times are a convenience
        draft.unlink(missing_ok=True)


def _let_attention_decompose(trt: Any, layers: list[Any]) -> None:
    """Where no fused kernel takes an `Attention` (float32, odd head sizes), plain layers may."""
    output = getattr(trt.LayerType, "ATTENTION_OUTPUT", None)
    for layer in layers if output is not None else ():
        if layer.type == output:
            layer.__class__ = trt.IAttentionOutputLayer  # the bindings give the base class
            layer.attention.decomposable = True


def _failure(parsed: Parsed, name: str) -> EdgetxError:
    cause = parsed.log.cause()
    if any(word in cause.lower() for word in MEMORY):
        return EdgetxError(
            f"not enough memory to build {name} ({cause[:200]}), nothing was written; {child.LOWER}"
        )
    known = [str(each) for each in parsed.refusals()]
    node = next(graph.mentioned(parsed.model, cause), None)
    where = [] if node is None else [f"{node.op_type} at {graph.place(node)}"]
    reasons = "; ".join([*known, *where, cause[:400]])
    return UnavailableError(
        f"{parsed.library.title} cannot build {name}: {reasons}; run it on ONNX Runtime (--runtime ort)"
    )


def monitor(trt: Any, report: Callable[[str], None]) -> Any:
    """A progress monitor of `trt` that reports the outer phases of a build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._depths: dict[str | None, int] = {None: 0}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            """Called by the builder; a phase's parent is named."""
            depth = self._depths[name] = self._depths.get(parent, DEPTH) + 1
            if depth <= DEPTH:
                report(name[:1].lower() + name[1:])

        def step_complete(self, name: str, step: int) -> bool:
            """Go on: whoever wants to stop ends the process."""
            return True

        def phase_finish(self, name: str) -> None:
            """Nothing to tell."""

    return Monitor()


if __name__ == "__main__":
    child.serve(handle)
