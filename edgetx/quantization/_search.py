"""Which layers are quantised: each alone first, then as many as the budget allows."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgetx.precision._observe import open_graph
from edgetx.quantization._budget import Budget
from edgetx.quantization._graph import SWITCHES
from edgetx.quantization._judge import Judge, Score
from edgetx.quantization._layers import Layer

SENSITIVITY_SAMPLES = 4
"""Deciding samples on which every layer is tried alone."""
TIMED_RUNS = 5
LEAST_GAIN = 0.05
"""Of a layer's time, where less was saved here: its weights are smaller anyway, and other engines gain."""
SHARE = 0.75
"""Of the accepted loss that the search uses up on the data that decide, so that other data have room."""


@dataclass(frozen=True)
class Effect:
    """What quantising one layer alone does; see `LayerEntry`."""

    layer: Layer
    sqnr: float
    change: float
    seconds: tuple[float, float] | None

    @property
    def saved_seconds(self) -> float | None:
        """Of time in float32, less time in 8 bits."""
        return None if self.seconds is None else self.seconds[0] - self.seconds[1]

    @property
    def saved_bytes(self) -> int:
        """Weights of one byte instead of four, less a scale per output channel."""
        k, n = self.layer.weights.shape
        return int(3 * k * n - 4 * n)

    @property
    def cost(self) -> float:
        """Noise power per gain: per second where it was timed, else per byte."""
        noise = 10 ** (-self.sqnr / 10)
        if self.seconds is None:
            return noise / self.saved_bytes
        full, eight = self.seconds
        return noise / max(full - eight, LEAST_GAIN * full)


class Switched:
    """The switchable graph in ONNX Runtime."""

    def __init__(self, model: ir.Model, layers: Sequence[Layer], kernels: str | None) -> None:
        self.layers = layers
        self._model, self._kernels = model, kernels
        self._session = open_graph(model, kernels)
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, chosen: Sequence[bool]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """A function from feeds to outputs with the chosen layers quantised."""
        switches = np.array(chosen, bool)

        def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
            results = self._session.run(self._names, {**feeds, SWITCHES: switches})
            return dict(zip(self._names, results, strict=True))

        return run

    def seconds(self, feeds: Mapping[str, Any]) -> list[tuple[float, float]]:
        """The time of every layer in float32 and in 8 bits, with its Quantize: the fastest of some runs."""
        with tempfile.TemporaryDirectory(prefix="edgetx-") as folder:
            session = open_graph(self._model, self._kernels, profile=str(Path(folder) / "times"))
            for _ in range(1 + TIMED_RUNS):
                for on in (False, True):
                    session.run(self._names, {**feeds, SWITCHES: np.full(len(self.layers), on)})
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        found: dict[str, list[float]] = {}
        for event in events:
            name, _, what = event["name"].rpartition("_kernel_time")
            if not what and event.get("cat") == "Node" and event["args"].get("op_name") == "If":
                found.setdefault(name, []).append(event["dur"] / 1e6)
        times = [found[layer.node][2:] for layer in self.layers]
        return [(min(each[0::2]), min(each[1::2])) for each in times]


def effects(
    switched: Switched,
    judge: Judge,
    seconds: Sequence[tuple[float, float]] | None,
    progress: Callable[[str], None],
) -> list[Effect]:
    """Quantise every layer alone on some deciding samples."""
    found = []
    baseline = judge.score(switched.run([False] * len(switched.layers)), SENSITIVITY_SAMPLES)
    for index, layer in enumerate(switched.layers):
        progress(f"layer {index + 1} of {len(switched.layers)} alone: {layer.module or layer.node}")
        score = judge.score(
            switched.run([other == index for other in range(len(switched.layers))]), SENSITIVITY_SAMPLES
        )
        change = score.sqnr if score.task is None or baseline.task is None else score.task - baseline.task
        found.append(Effect(layer, score.sqnr, change, None if seconds is None else seconds[index]))
    return found


@dataclass(frozen=True)
class Choice:
    """Which layers are quantised, and how the deciding data find that."""

    chosen: tuple[bool, ...]
    score: Score
    change: float
    holds: bool


def search(
    switched: Switched, judge: Judge, found: Sequence[Effect], budget: Budget, progress: Callable[[str], None]
) -> Choice:
    """As many layers as the budget allows, in the order of their noise per gain.

    All first; where that is too many, their number is bisected.

    Returns:
        The choice; without any layer that holds, the best single one, with `holds` False.
    """
    order = sorted(range(len(found)), key=lambda index: found[index].cost)

    def attempt(count: int) -> Choice:
        chosen = tuple(index in order[:count] for index in range(len(found)))
        progress(f"trying {count} of {len(found)} layers together")
        score = judge.score(switched.run(chosen))
        change = judge.change(score)
        return Choice(chosen, score, change, budget.holds(change, share=SHARE))

    best = attempt(len(order))
    if best.holds:
        return best
    low, high = 0, len(order)  # low holds (trivially at 0), high does not
    while high - low > 1:
        middle = (low + high) // 2
        tried = attempt(middle)
        if tried.holds:
            low, best = middle, tried
        else:
            high = middle
    return best if low or len(order) == 1 else attempt(1)
