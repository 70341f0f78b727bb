"""How often a classifier's best and five best answers hold the right class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgetx.dataset.folders import Labelled
from edgetx.dataset.pytorch import Run
from edgetx.errors import EdgetxError
from edgetx.processors import ImageClassification

if TYPE_CHECKING:
    from edgetx.core import IOSpec


@dataclass(frozen=True, slots=True)
class Answer:
    """The most probable class, and at which place the right one is; 1 is right."""

    label: int
    rank: int


@dataclass(frozen=True, slots=True)
class Item:
    """One picture; `error` says why an answer is missing."""

    name: str
    label: int
    package: Answer | None = None
    pytorch: Answer | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share of pictures, in percent, whose class is the best answer, or among the five best."""

    top1: float
    top5: float


@dataclass(frozen=True)
class Classification:
    """Every picture, and the accuracy over those that all sides answered."""

    task: str
    pictures: tuple[Item, ...]
    package: Accuracy | None
    pytorch: Accuracy | None
    difference: Accuracy | None
    notes: tuple[str, ...]

    @property
    def failed(self) -> tuple[Item, ...]:
        """The pictures without an answer."""
        return tuple(item for item in self.pictures if item.error is not None)

    def worse(self, max_drop: float) -> tuple[Item, ...]:
        """The pictures that only PyTorch gets right, where that costs more than `max_drop` points."""
        if self.difference is None:
            return ()
        worse: list[Item] = []
        for limit, difference in ((1, self.difference.top1), (5, self.difference.top5)):
            if difference < -max_drop:
                worse += [item for item in self.pictures if _lost(item, limit) and item not in worse]
        return tuple(worse)


def _lost(item: Item, limit: int) -> bool:
    return (
        item.error is None
        and item.package is not None
        and item.pytorch is not None
        and item.pytorch.rank <= limit < item.package.rank
    )


class Bench:
    """Measures pictures with a package's processor; `run` and `pytorch` take the same feeds."""

    def __init__(self, processor: ImageClassification, io: IOSpec, run: Run, pytorch: Run | None) -> None:
        self._processor, self._io, self._run, self._pytorch = processor, io, run, pytorch
        self._output = processor.output if processor.output is not None else io.outputs[0].name

    def measure(self, item: Labelled) -> Item:
        """One picture; what goes wrong with its file or the models becomes its `error`."""
        ours = theirs = None
        try:
            feeds = self._processor.preprocess(str(item.path), self._io)
            ours = self._answer(self._run(feeds), item.label, "package")
            if self._pytorch is not None:
                theirs = self._answer(self._pytorch(feeds), item.label, "PyTorch")
        except EdgetxError as error:
            return Item(item.name, item.label, ours, theirs, str(error))
        return Item(item.name, item.label, ours, theirs)

    def _answer(self, outputs: dict[str, Any], label: int, who: str) -> Answer:
        import numpy as np

        logits = outputs[self._output][0].astype(np.float64)
        if np.isnan(logits).any():
            raise EdgetxError(f"{who}'s output holds NaN")
        if label >= len(logits):
            raise EdgetxError(f"class {label} is none of the {len(logits)} that the model knows")
        # Among equals the lower index comes first, as in the processor's answer.
        before = int((logits > logits[label]).sum() + (logits[:label] == logits[label]).sum())
        return Answer(int(logits.argmax()), before + 1)


def summarise(items: Sequence[Item], notes: Sequence[str]) -> Classification:
    """The report on measured pictures."""
    complete = [item for item in items if item.error is None]
    ours = _accuracy([item.package for item in complete])
    theirs = _accuracy([item.pytorch for item in complete])
    difference = None
    if ours is not None and theirs is not None:
        difference = Accuracy(ours.top1 - theirs.top1, ours.top5 - theirs.top5)
    return Classification("classification", tuple(items), ours, theirs, difference, tuple(notes))


def _accuracy(answers: Sequence[Answer | None]) -> Accuracy | None:
    ranks = [answer.rank for answer in answers if answer is not None]
    if not ranks:
        return None
    return Accuracy(*(100 * sum(rank <= limit for rank in ranks) / len(ranks) for limit in (1, 5)))
