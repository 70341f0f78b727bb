"""Sweeps through a detection package: read, fitted to its profiles, run, boxes; no framework is needed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from edgetx.core import Processor, Session
from edgetx.errors import InputError
from edgetx.package import Package
from edgetx.points import Cloud
from edgetx.processors import PointCloudDetection
from edgetx.profiles import Profile, limit, pick, why_none
from edgetx.runtimes.chain import Chain

__all__ = ["Sweep", "detect", "processor_of"]


@dataclass
class Sweep:
    """What was found in one sweep.

    Attributes:
        cloud: what the file holds, finite and in range.
        counts: what the model saw: `points`, `pillars` and `groups`.
        detections: see `edgetx.processors.PointCloudDetection.postprocess`; by falling score.
        seconds: that `read` and `run` took.
        stages: seconds of each stage of this run, in order; empty where the package ran whole.
        profile: number of the package's profile that holds the sweep, from 1; None where none does.
        notes: what was left out, as sentences.
    """

    cloud: Cloud
    counts: Mapping[str, int]
    detections: list[dict[str, Any]]
    seconds: Mapping[str, float]
    stages: Mapping[str, float] = field(default_factory=dict)
    profile: int | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """One line: what was read, dropped and seen."""
        counts = ", ".join(f"{number:,} {symbol}" for symbol, number in self.counts.items())
        held = "" if self.profile is None else f", which profile {self.profile} holds"
        return f"{self.cloud}; the model saw {counts}{held}"


def processor_of(package: Package) -> PointCloudDetection:
    """The processor of a package that finds boxes in sweeps.

    Raises:
        InputError: the package is for something else.
    """
    return _detecting(package.processor, package.name)


def detect(
    session: Session,
    path: str | os.PathLike[str],
    *,
    profiles: Sequence[Profile] = (),
    all_points: bool = False,
    score_threshold: float | None = None,
    warm_up: bool = False,
) -> Sweep:
    """Find boxes in one sweep.

        with edgetx.load("detector") as session:
            sweep = detect(session, "sweep.bin")

    Args:
        session: of a detection package; where it was opened with `stages=True`, every stage is timed.
        path: see `edgetx.points.read_points`.
        profiles: of the package; of a sweep that none holds the farthest points are left out.
        all_points: run a sweep whole that exceeds the largest profile.
        score_threshold: detections below it are left out.
        warm_up: run once before what is timed; the first run of a session also allocates its memory.

    Raises:
        InputError: the session finds no boxes, the sweep cannot be read, or the session does not take it.
    """
    processor = _detecting(session.processor, "the session")
    start = perf_counter()
    cloud = processor.read(os.fspath(path))
    points, notes = cloud.points, []
    if profiles and all_points:
        counts = processor.counts(points)
        notes += [] if pick(profiles, counts) else [why_none(profiles, counts)]
    elif profiles:
        limited = limit(points, processor, profiles)
        points = limited.points
        notes += [limited.message] if limited.message is not None else []
    feeds = processor.feeds(points, session.io)
    read = perf_counter() - start
    if warm_up:
        session.warm_up(feeds, runs=1)
    start = perf_counter()
    spent: dict[str, int] = {}
    if isinstance(session, Chain):
        outputs, spent = session.run_timed(feeds)
    else:
        outputs = session.run(feeds)
    ran = perf_counter() - start
    found = processor.postprocess(outputs)
    kept = found if score_threshold is None else [each for each in found if each["score"] >= score_threshold]
    if len(kept) < len(found):
        below = len(found) - len(kept)
        notes.append(
            f"{below} detection{'' if below == 1 else 's'} below the score {score_threshold:g} left out"
        )
    counts = processor.counts(points)
    held = pick(profiles, counts)
    return Sweep(
        cloud,
        counts,
        kept,
        seconds={"read": read, "run": ran},
        stages={name: nanoseconds / 1e9 for name, nanoseconds in spent.items()},
        profile=None if held is None else profiles.index(held) + 1,
        notes=notes,
    )


def _detecting(processor: Processor | None, name: str) -> PointCloudDetection:
    if not isinstance(processor, PointCloudDetection):
        raise InputError(
            f"{name} finds no boxes in sweeps; give a package of a detector such as flatformer_kitti"
        )
    return processor
