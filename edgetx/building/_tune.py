"""Which bodies are fastest is measured, on the device that runs them."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any

from edgetx import runtimes
from edgetx.core import Session, Target
from edgetx.engines import Cache, Engine, Request
from edgetx.errors import EdgetxError, InputError, UnavailableError
from edgetx.package import Package

WARM_UP, RUNS, ROUNDS = 5, 20, 5
"""Runs before anything is timed; timed runs of an engine in a round; rounds, in which engines take turns."""


def tune(
    package: Package | str | os.PathLike[str],
    *,
    runtime: str,
    stage: str | None = None,
    request: Request | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Engine:
    """Build an engine with every choice of bodies, time them on the GPU here, and keep the fastest.

    All are fed the first golden input of the package and take turns, so that a GPU which slows down slows
    all; engines that this call built and that are slower are removed. The engine's record
    (`engine.record.tuned`) holds the median of each in milliseconds, or why a choice was not measured.

    Raises:
        InputError: the runtime has nothing to choose; or the package is a stage, which has no golden input.
        UnavailableError: no choice can be built and run here; says why for each.
    """
    chosen = runtimes.get(runtime)
    opened = package if isinstance(package, Package) else Package.open(package)
    if stage is not None:
        raise InputError("stages have no golden inputs to time; tune the whole package, or give --bodies")
    wanted = request if request is not None else Request()
    choices = chosen.choices(opened)
    if not choices:
        raise InputError(f"{chosen.title} runs packages as they are: there is nothing to tune")
    if wanted.bodies:
        raise InputError(f"--tune tries every choice of bodies; leave out --bodies {wanted.bodies}")
    if (reason := chosen.why_not(None, Target(device=f"cuda:{wanted.device}"))) is not None:
        raise UnavailableError(f"tuning measures on the GPU, and there is none to use: {reason}")
    cache = Cache(opened)
    tried: dict[str, float | str] = {}
    built: dict[str, tuple[Engine, bool]] = {}
    for choice, why in choices.items():
        if why is not None:
            tried[choice] = why
            continue
        progress(f"building with {choice}")
        try:
            built[choice] = chosen.build(opened, replace(wanted, bodies=choice), progress)
        except EdgetxError as error:
            tried[choice] = str(error)
    feeds = dict(opened.golden()[0].inputs)
    sessions: dict[str, Session] = {}
    try:
        for choice, (engine, _) in built.items():
            try:
                sessions[choice] = chosen.session(opened, engine, wanted.device)
                sessions[choice].run(feeds)
            except EdgetxError as error:
                tried[choice] = str(error)
        alive = {choice: each for choice, each in sessions.items() if choice not in tried}
        progress(f"timing {', '.join(alive)}")
        times = measure({choice: _runner(each, feeds) for choice, each in alive.items()})
    finally:
        for session in sessions.values():
            session.close()
    tried |= times
    if not times:
        raise UnavailableError(
            "no choice of bodies was measured: " + "; ".join(f"{key}: {why}" for key, why in tried.items())
        )
    best = min(times, key=lambda choice: times[choice])
    kept = built[best][0]
    for engine, new in built.values():
        if new and engine.path != kept.path:
            cache.remove(engine)
    return cache.note(kept, {choice: tried[choice] for choice in choices})


def measure(runs: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """The median milliseconds of each, which take turns."""
    for run in runs.values():
        for _ in range(WARM_UP):
            run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            for _ in range(RUNS):
                start = perf_counter()
                run()
                taken[name].append(1e3 * (perf_counter() - start))
    return {name: statistics.median(each) for name, each in taken.items()}


def _runner(session: Any, feeds: Mapping[str, Any]) -> Callable[[], Any]:
    return lambda: session.run(feeds)
