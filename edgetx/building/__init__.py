"""Engines of a package: built, listed and pruned, whatever the runtime."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from edgetx import runtimes
from edgetx.building._tune import tune
from edgetx.engines import Cache, Engine, Ranges, Request, model_digest
from edgetx.engines.ranges import SECONDS
from edgetx.errors import InputError
from edgetx.package import Package

__all__ = ["Listed", "build", "ensure", "listed", "prune", "tune"]


def build(
    package: Package | str | os.PathLike[str],
    *,
    runtime: str = "tensorrt_rtx",
    stage: str | None = None,
    compute: Sequence[str] = (),
    profiles: Sequence[Ranges] = (),
    ranges: Ranges | None = None,
    bodies: str = "",
    seconds: float = SECONDS,
    force: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Engine:
    """Build an engine of a package into the package's cache, or find it there.

        engine = edgetx.build("swin_tiny.edgetx", compute=["8.6", "8.9"])

    Args:
        package: a package or its folder.
        runtime: that runs the engine.
        stage: build this stage instead of the whole.
        compute, profiles, ranges, bodies, seconds, force: see `edgetx.engines.Request`.
        progress: called with one line per step.

    Returns:
        The engine; `engine.plan` is its file, `engine.record` says what it is for.

    Raises:
        PackageError: the folder is no package, a file has changed, or the cache cannot be written.
        InputError: an unknown runtime, stage, symbol, body or compute capability; a range the model does not
            take.
        UnavailableError: the runtime or its plugins are not installed, or it does not take the model; names
            the operators.
        EdgetxError: the build ran out of time or memory.
    """
    request = Request(compute, profiles, ranges or {}, seconds, force, bodies)
    return ensure(package, runtime=runtime, stage=stage, request=request, progress=progress)[0]


def ensure(
    package: Package | str | os.PathLike[str],
    *,
    runtime: str,
    stage: str | None,
    request: Request,
    progress: Callable[[str], None],
) -> tuple[Engine, bool]:
    """`build`, and whether the engine was built by this call."""
    if request.seconds <= 0:
        raise InputError(f"the time limit is {request.seconds:g} s; give more than 0")
    return runtimes.get(runtime).build(_part(package, stage), request, progress)


def _part(package: Package | str | os.PathLike[str], stage: str | None) -> Package:
    opened = package if isinstance(package, Package) else Package.open(package)
    return opened if stage is None else opened.stage(stage)


class Listed(NamedTuple):
    """An engine of the cache and why it is never loaded; None if it is."""

    engine: Engine
    problem: str | None


def listed(package: Package) -> list[Listed]:
    """Every engine of a package, oldest first, and what is wrong with it."""
    digests = {package.graph: model_digest(package)}
    digests |= {part.graph: model_digest(part) for part in map(package.stage, package.stages)}
    versions = {name: each.version() for name, each in runtimes.runtimes().items()}
    return [
        Listed(each, each.problem or _stale(each, digests, versions)) for each in Cache(package).engines()
    ]


def _stale(engine: Engine, digests: Mapping[str, str], versions: Mapping[str, str | None]) -> str | None:
    record = engine.record
    assert record is not None  # otherwise it is damaged
    if record.graph not in digests:
        return f"stale: the package has no {record.graph} any more"
    if record.key.get("model") != digests[record.graph]:
        return f"stale: model is {digests[record.graph]}, the engine was built from {record.key.get('model')}"
    version = versions.get(record.runtime)
    if version is not None and not record.key.get("engine", "").endswith(f" {version}"):
        return f"stale: engine is {version}, the engine was built by {record.key.get('engine')}"
    return None


def prune(package: Package) -> list[Listed]:
    """Remove the engines that are never loaded, and what interrupted builds left; returns the engines.

    Raises:
        PackageError: one cannot be removed.
    """
    cache = Cache(package)
    gone = [each for each in listed(package) if each.problem is not None]
    for each in gone:
        cache.remove(each.engine)
    for folder in cache.leftovers():
        shutil.rmtree(folder, ignore_errors=True)
    return gone
