"""TensorRT's profiler: the time of every layer, told by the nodes of the graph behind the engine.

The parser writes the names of its nodes into the metadata of each layer, and the builder joins them where it
fuses layers, so that the engine's inspector tells what a layer was made of.
"""

from __future__ import annotations

import importlib
import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgetx.benchmark import roofline
from edgetx.benchmark.engines import KINDS, WARM, first_run, timed
from edgetx.benchmark.graph import Graph
from edgetx.benchmark.profiles import Part, Profile
from edgetx.benchmark.specs import EngineSpec
from edgetx.engines import fused
from edgetx.errors import BenchmarkError
from edgetx.runtimes.nvidia import bodies
from edgetx.runtimes.nvidia.layer_times import Layer, LayerTimes

Places = Mapping[str, tuple[str | None, str]]
"""Name of a node -> PyTorch module and kind of operator."""

KINDS_NAMED = 3
"""Kinds of operators that a fused layer's own kind names."""


def run(spec: EngineSpec, runs: int, folder: Path) -> Profile:
    """Profile a package on TensorRT or TensorRT-RTX.

    Raises:
        UnavailableError: the package runs on an engine without such a profiler.
    """
    engine = KINDS[spec.kind](msgspec.structs.replace(spec, profile=str(folder)), spec.threads or 0)
    once = first_run(engine)
    timed(once, WARM)
    wall = timed(once, runs)
    times = LayerTimes.read(engine.end_profiling())
    profile = read(times, runs, statistics.fmean(wall))
    feeds = next(iter(engine.inputs().values()))
    return explained(profile, times, Path(spec.path) / "model.onnx", feeds, folder)


def read(times: LayerTimes, runs: int, wall_ns: float) -> Profile:
    """Layer times of the last `runs` runs.

    Raises:
        BenchmarkError: there are fewer runs, or the engine reported no layer.
    """
    last = times.runs[-runs:]
    if len(last) < runs:
        raise BenchmarkError(f"the profile of {times.engine} holds {len(last)} of {runs} runs")
    spent: dict[str, float] = {}
    for each in last:
        for name, milliseconds in each.layers.items():
            spent[name] = spent.get(name, 0.0) + milliseconds * 1e6 / runs
    if not spent:
        raise BenchmarkError(f"{times.engine} reported no layer to its profiler")
    engine_ns = statistics.fmean(each.engine_ns for each in last)
    whole_ns = statistics.fmean(each.whole_ns for each in last)
    kinds = {layer.name: layer.kind for layer in times.layers}
    return Profile(
        profiler=f"{times.engine}'s profiler",
        runs=runs,
        total_ns=wall_ns,
        parts=[Part(name=name, operator=kinds.get(name, "") or "layer", ns=ns) for name, ns in spent.items()],
        around={
            "launching and waiting between layers": engine_ns - sum(spent.values()),
            "checks and copies of inputs and outputs": whole_ns - engine_ns,
        },
        notes=list(times.notes),
    )


def explained(
    profile: Profile, times: LayerTimes, model: Path, feeds: Mapping[str, Any], folder: Path
) -> Profile:
    """The profile with modules, operators and costs, as far as they can be told; the notes say the rest."""

    def noted(profile: Profile, note: str) -> Profile:
        return msgspec.structs.replace(profile, notes=[*profile.notes, note])

    try:
        graphs = importlib.import_module("edgetx.engines.graph")
    except ImportError as error:
        return noted(profile, f"no modules: reading a graph needs onnx_ir ({error}); pip install onnx_ir")
    made = bodies.of_key(times.key)
    standard = graphs.standard(model, made.variant, made.nodes)
    parts = attribute(profile.parts, times.layers, graphs.made_for(standard))
    profile = msgspec.structs.replace(profile, parts=parts)
    if not any(part.nodes for part in parts):
        return noted(profile, "no modules: no layer names the nodes that it was made of")
    path = folder / "standard.onnx"
    try:
        graphs.save(standard, path)
        costs = roofline.costs_of(Graph.read(path), path, feeds)
    except Exception as error:  # the engine's own exceptions have no common base
        return noted(profile, f"no FLOPs and bytes: {str(error).splitlines()[0]}")
    profile = msgspec.structs.replace(profile, parts=roofline.with_costs(parts, costs))
    uncounted = sorted({cost.operator for cost in costs.values() if cost.flops is None})
    return noted(profile, f"FLOPs are not counted for {', '.join(uncounted)}") if uncounted else profile


def attribute(parts: Sequence[Part], layers: Sequence[Layer], places: Places) -> list[Part]:
    """The parts with the modules and the nodes that they stand for.

    A layer that was made of the nodes of several modules belongs to the innermost one around them all. Layers
    that the engine put in (reformats, copies of shapes) keep their own kind and belong to no module. A node
    that was spread over several layers is one of the slowest's, so that its FLOPs are counted once.
    """
    metadata = {layer.name: layer.metadata for layer in layers}
    taken: set[str] = set()
    found: dict[str, Part] = {}
    for part in sorted(parts, key=lambda part: -part.ns):
        named = dict.fromkeys(fused.nodes_of(metadata.get(part.name, "")) or [part.name])
        nodes = [name for name in named if name in places]
        if nodes:
            modules = {module for name in nodes if (module := places[name][0]) is not None}
            part = msgspec.structs.replace(
                part,
                operator=_kind([places[name][1] for name in nodes]),
                module=_around(modules) if modules else None,
                nodes=tuple(name for name in nodes if name not in taken),
            )
            taken.update(nodes)
        found[part.name] = part
    return [found[part.name] for part in parts]


def _kind(kinds: Sequence[str]) -> str:
    """`MatMul`, `MatMul+Add`, or the first three and how many more."""
    each = list(dict.fromkeys(kinds))
    more = f"+{len(each) - KINDS_NAMED} more" if len(each) > KINDS_NAMED else ""
    return "+".join(each[:KINDS_NAMED]) + more


def _around(modules: set[str]) -> str:
    """The innermost module around all of these; "" is the model itself."""
    levels = zip(*(module.split(".") for module in modules), strict=False)
    shared = itertools.takewhile(lambda names: len(set(names)) == 1, levels)
    return ".".join(names[0] for names in shared)
