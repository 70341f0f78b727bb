"""ONNX Runtime's profiler: the time of every node, told by the nodes of the package's own graph.

ONNX Runtime optimizes the graph before it runs it and writes the optimized one to a file on request. A fused
node keeps the name of the value that it computes last, so the package's nodes behind it are those between
that value and the fused node's inputs.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgetx.benchmark import roofline
from edgetx.benchmark.engines import KINDS, WARM, first_run, timed
from edgetx.benchmark.graph import Graph, Node
from edgetx.benchmark.profiles import Part, Profile
from edgetx.benchmark.specs import EngineSpec
from edgetx.errors import BenchmarkError, UnavailableError


def run(spec: EngineSpec, runs: int, folder: Path) -> Profile:
    """Profile a package, or a bare ONNX file, on ONNX Runtime."""
    spec = msgspec.structs.replace(spec, profile=str(folder))
    engine = KINDS[spec.kind](spec, spec.threads or 0)
    once = first_run(engine)
    timed(once, WARM)
    wall = timed(once, runs)
    path = engine.end_profiling()
    events = json.loads(Path(path).read_text(encoding="utf-8"))
    profile = read(events, runs, statistics.fmean(wall))
    model = Path(spec.path) / "model.onnx" if spec.kind == "package" else Path(spec.path)
    try:
        original, optimized = Graph.read(model), Graph.read(folder / "optimized.onnx")
    except UnavailableError as error:
        return msgspec.structs.replace(profile, notes=[*profile.notes, f"no modules: {error}"])
    parts = attribute(profile.parts, original, optimized)
    feeds = next(iter(engine.inputs().values()))
    try:
        costs = roofline.costs_of(original, model, feeds)
    except Exception as error:  # the engine's own exceptions have no common base
        note = f"no FLOPs and bytes: {str(error).splitlines()[0]}"
        return msgspec.structs.replace(profile, parts=parts, notes=[*profile.notes, note])
    uncounted = sorted({cost.operator for cost in costs.values() if cost.flops is None})
    notes = [f"FLOPs are not counted for {', '.join(uncounted)}"] if uncounted else []
    return msgspec.structs.replace(
        profile, parts=roofline.with_costs(parts, costs), notes=[*profile.notes, *notes]
    )


def read(events: Sequence[Mapping[str, Any]], runs: int, wall_ns: float) -> Profile:
    """Node times of the last `runs` runs in ONNX Runtime's trace events (microseconds).

    Raises:
        BenchmarkError: the trace holds fewer runs: its profiler stops at a million events.
    """
    whole = [event for event in events if event.get("cat") == "Session" and event["name"] == "model_run"]
    if len(whole) < runs:
        raise BenchmarkError(
            f"ONNX Runtime's profile holds {len(whole)} of {runs} runs; profile fewer runs of so large "
            "a model"
        )
    whole = whole[-runs:]
    begin = whole[0]["ts"]
    executor = [
        event
        for event in events
        if event.get("cat") == "Session"
        and event["name"] == "SequentialExecutor::Execute"
        and event["ts"] >= begin
    ]
    spent: dict[str, float] = {}
    kinds: dict[str, str] = {}
    for event in events:
        if event.get("cat") != "Node" or event["ts"] < begin or not event["name"].endswith("_kernel_time"):
            continue
        name = event["name"].removesuffix("_kernel_time")
        spent[name] = spent.get(name, 0.0) + event["dur"] * 1000 / runs
        kinds[name] = event["args"]["op_name"]
    nodes_ns = sum(spent.values())
    run_ns = sum(event["dur"] for event in whole) * 1000 / runs
    around = {"binding of inputs and outputs": run_ns - nodes_ns}
    if executor:
        executor_ns = sum(event["dur"] for event in executor) * 1000 / runs
        around = {
            "scheduling between nodes": executor_ns - nodes_ns,
            "binding of inputs and outputs": run_ns - executor_ns,
        }
    return Profile(
        profiler="ONNX Runtime's profiler",
        runs=runs,
        total_ns=wall_ns,
        parts=[Part(name=name, operator=kinds[name], ns=ns) for name, ns in spent.items()],
        around=around,
    )


def attribute(parts: Sequence[Part], original: Graph, optimized: Graph) -> list[Part]:
    """The parts with the modules and the nodes of the package's graph that they stand for."""
    behind = {node.name: _behind(node, original, optimized) for node in optimized.nodes}
    by_name = {node.name: node for node in optimized.nodes}
    found = []
    for part in parts:
        node, covered = by_name.get(part.name), behind.get(part.name, [])
        if node is None:
            found.append(part)
            continue
        module = covered[0].module if covered else _neighbours(node, optimized, behind)
        found.append(
            msgspec.structs.replace(
                part,
                operator=node.operator,
                module=module,
                nodes=tuple(each.name for each in covered),
            )
        )
    return found


def _behind(node: Node, original: Graph, optimized: Graph) -> list[Node]:
    """The original nodes between a node's outputs and its inputs, the last one first."""
    if node.domain == "com.microsoft.nchwc" and node.op_type.startswith("Reorder"):
        return []  # brings a tensor into another layout, and gives it the name of what was computed before
    stop = set(node.inputs) | optimized.computed - set(node.outputs)
    waiting = [original.producer(optimized.renamed(name)) for name in node.outputs]
    found: dict[str, Node] = {}
    while waiting:
        each = waiting.pop(0)
        if each is None or each.name in found:
            continue
        found[each.name] = each
        waiting += [original.producer(name) for name in each.inputs if name not in stop]
    return list(found.values())


def _neighbours(node: Node, optimized: Graph, behind: Mapping[str, list[Node]]) -> str | None:
    """The module of the first neighbour that has one, for nodes that the engine put in."""
    users = [user for name in node.outputs for user in optimized.users(name)]
    producers = [optimized.producer(name) for name in node.inputs]
    for each in (*producers, *users):
        if each is not None and behind[each.name]:
            return behind[each.name][0].module
    return None
