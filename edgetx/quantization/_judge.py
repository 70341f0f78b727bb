"""How good outputs are: against the truth where there is one, and against the float32 package's outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgetx.core import IOSpec
from edgetx.dataset import classification, restoration
from edgetx.errors import EdgetxError, InputError
from edgetx.processors import ImageClassification, ImageRestoration
from edgetx.quantization._budget import Budget, Metric
from edgetx.quantization._data import Data, Sample

if TYPE_CHECKING:
    import numpy as np

Run = Callable[[Mapping[str, Any]], dict[str, Any]]

DEFAULTS: dict[str, str] = {
    "pairs": "psnr>=-0.1",
    "labelled": "top1>=-0.5",
    "pictures": "sqnr>=20",
    "arrays": "sqnr>=20",
}
"""The budget where none is given, by what the calibration data are."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a run over samples gave.

    Attributes:
        task: PSNR in dB, or top-1 or top-5 in percent; None without truth.
        sqnr: dB, the lowest over samples and outputs; infinite where all are equal.
    """

    task: float | None
    sqnr: float


def budget_for(data: Data, budget: str | None, *, random: bool) -> Budget:
    """Read the budget, and see whether the data can judge it.

    Raises:
        InputError: see `Budget.parse`; or no truth for its metric, or random weights, which have no accuracy.
    """
    chosen = Budget.parse(budget if budget is not None else DEFAULTS["pictures" if random else data.kind])
    needs = {"psnr": "pairs", "top1": "labelled", "top5": "labelled"}.get(chosen.metric)
    if needs is None:
        return chosen
    if random:
        raise InputError(
            f"the package's weights are random, so that {chosen.metric} means nothing; give --budget "
            "sqnr>=20, or export trained weights"
        )
    kind = data.processor.kind
    if (chosen.metric == "psnr") != (kind == ImageRestoration.kind) or kind not in (
        ImageRestoration.kind,
        ImageClassification.kind,
    ):
        raise InputError(
            f"the budget {chosen} is for another task than the package's ({kind}); accepted: "
            + {
                ImageRestoration.kind: "psnr>=-0.1 (with pairs) or sqnr>=20",
                ImageClassification.kind: "top1>=-0.5, top5>=-0.5 (with a folder per class) or sqnr>=20",
            }.get(kind, "sqnr>=20")
        )
    if data.kind != needs:
        layout = (
            "pairs in HR and LR"
            if needs == "pairs"
            else "a folder per class, named after the label or its index"
        )
        raise InputError(
            f"the budget {chosen} needs the truth: {layout}; the calibration data are {data.kind} without "
            "one, so arrange them so or give --budget sqnr>=20"
        )
    return chosen


class Judge:
    """Samples with the float32 package's outputs, which are computed once."""

    def __init__(self, data: Data, samples: Sequence[Sample], metric: Metric, io: IOSpec, run: Run) -> None:
        self._data, self._samples, self._metric, self._io = data, samples, metric, io
        self.expected: list[dict[str, Any]] = []
        self.before = self._score(run, self.expected, compared=False)

    def score(self, run: Run, limit: int | None = None) -> Score:
        """Run the samples, or the first so many."""
        return self._score(run, [], compared=True, limit=limit)

    def change(self, score: Score) -> float:
        """The number that a budget bounds."""
        if self._metric == "sqnr":
            return score.sqnr
        assert score.task is not None and self.before.task is not None
        return 0.0 if score.task == self.before.task else score.task - self.before.task

    def _score(
        self, run: Run, outputs: list[dict[str, Any]], *, compared: bool, limit: int | None = None
    ) -> Score:
        def kept(feeds: Mapping[str, Any]) -> dict[str, Any]:
            outputs.append(run(feeds))
            return outputs[-1]

        chosen = self._samples[:limit]
        numbers = [self._measure(sample, kept, compared=compared) for sample in chosen]
        noise = math.inf
        if compared:
            noise = min(
                signal_to_noise(wanted, got)
                for wanted, got in zip(self.expected[: len(chosen)], outputs, strict=True)
            )
        known = [number for number in numbers if number is not None]
        return Score(math.fsum(known) / len(known) if known else None, noise)

    def _measure(self, sample: Sample, run: Run, *, compared: bool) -> float | None:
        """One sample; what cannot be measured counts as the worst, of the float32 package it is an error."""
        from edgetx.dataset.folders import Labelled, Pair

        processor, truth = self._data.processor, sample.truth
        if self._metric == "sqnr" or truth is None:
            run(processor.preprocess(str(sample.path), self._io))
            return None
        number, error = None, None
        if isinstance(processor, ImageRestoration) and isinstance(truth, Pair):
            picture = restoration.Bench(processor, self._io, run, None).measure(truth)
            number, error = None if picture.package is None else picture.package.psnr, picture.error
        elif isinstance(processor, ImageClassification) and isinstance(truth, Labelled):
            item = classification.Bench(processor, self._io, run, None).measure(truth)
            places = 5 if self._metric == "top5" else 1
            number = None if item.package is None else 100.0 * (item.package.rank <= places)
            error = item.error
        if number is None and not compared:
            raise InputError(f"calibration file {sample.path}: {error}; take it out of the folder")
        return -math.inf if number is None else number


def signal_to_noise(wanted: Mapping[str, Any], got: Mapping[str, Any]) -> float:
    """DB from the energy of an output to that of its error, the lowest over the float outputs.

    NaN and infinity give minus infinity; an output that is equal gives infinity.

    Raises:
        EdgetxError: an output has another shape: it is a set whose size depends on the numbers.
    """
    import numpy as np

    lowest = math.inf
    for name, reference in wanted.items():
        if reference.dtype.kind != "f" or not reference.size:
            continue
        actual = np.asarray(got[name])
        if actual.shape != reference.shape:
            raise EdgetxError(
                f"output {name!r} has shape {list(actual.shape)} when quantised and "
                f"{list(reference.shape)} in float32; outputs whose size depends on the numbers cannot be "
                "compared"
            )
        lowest = min(lowest, _decibels(reference.astype(np.float64), actual.astype(np.float64)))
    return lowest


def _decibels(reference: np.ndarray[Any, Any], actual: np.ndarray[Any, Any]) -> float:
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):
        noise, signal = float(np.sum((reference - actual) ** 2)), float(np.sum(reference**2))
    if not math.isfinite(noise) or not signal:
        return math.inf if noise == 0 else -math.inf
    return math.inf if noise == 0 else 10 * math.log10(signal / noise)
