"""The engines that run packages; ships as `edgetx.runtimes`.

A new engine is one folder with a `Runtime` and one line in `_TABLE`, which is also the order of preference.
Importing this imports no engine.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from edgetx.core import Runtime, Session, Target
from edgetx.errors import InputError, PackageError, UnavailableError
from edgetx.package import Package
from edgetx.runtimes.chain import Chain
from edgetx.runtimes.ort import OrtRuntime
from edgetx.runtimes.tensorrt import TensorRTRuntime
from edgetx.runtimes.tensorrt_rtx import TensorRTRTXRuntime

__all__ = ["Chain", "get", "load", "runtimes"]

logger = logging.getLogger(__name__)

_TABLE: tuple[Runtime, ...] = (OrtRuntime(), TensorRTRuntime(), TensorRTRTXRuntime())


def runtimes() -> dict[str, Runtime]:
    """Every runtime by id, in order of preference, whether or not it is available here."""
    return {runtime.id: runtime for runtime in _TABLE}


def get(runtime: str) -> Runtime:
    """The runtime of that id.

    Raises:
        InputError: there is none.
    """
    table = runtimes()
    if runtime not in table:
        raise InputError(f"unknown runtime {runtime!r}; accepted: {', '.join(table)}")
    return table[runtime]


def load(
    package: Package | str | os.PathLike[str],
    *,
    runtime: str | None = None,
    target: Target | None = None,
    stages: bool = False,
    check: bool = True,
) -> Session:
    """Open a package on a runtime; needs no torch.

        with edgetx.load("swin_tiny") as session:
            outputs = session.run({"image": pixels})

    Args:
        package: a package or its folder.
        runtime: a runtime's id; None takes the first one that can run the package here.
        target: device, threads and the like; None is the CPU with the engine's defaults.
        stages: open the package's stages one by one, each on the first runtime that can run it (or all
            on `runtime`), instead of the whole; gives a `Chain`.
        check: for a folder, compare the hash of every file with the manifest, while the engine opens the
            model; a session is only handed out once they agree.

    Raises:
        PackageError: the folder is no package, or a file has changed.
        UnavailableError: the runtime asked for, or every runtime, cannot run the package; says why.
        InputError: an unknown runtime; or `stages`, and the package has none.
    """
    chosen = None if runtime is None else get(runtime)
    wanted = target if target is not None else Target()
    if isinstance(package, Package):
        return _open_whole_or_stages(package, chosen, wanted, stages)
    opened = Package.open(package, check=False)
    if not check:
        return _open_whole_or_stages(opened, chosen, wanted, stages)
    return _open_checked(opened, lambda: _open_whole_or_stages(opened, chosen, wanted, stages))


def _open_checked(opened: Package, open_it: Callable[[], Session]) -> Session:
    """Open while the files are hashed, which takes as long; a changed file is told, whatever it broke."""
    problems: list[PackageError] = []

    def check() -> None:
        try:
            opened.check()
        except PackageError as error:
            problems.append(error)

    thread = threading.Thread(target=check, name="edgetx-check")
    thread.start()
    session: Session | None = None
    try:
        session = open_it()
    finally:
        thread.join()
        if problems:
            if session is not None:
                session.close()
            raise problems[0]
    return session


def _open_whole_or_stages(opened: Package, chosen: Runtime | None, wanted: Target, stages: bool) -> Session:
    if not stages:
        return _open(opened, chosen, wanted)
    if not opened.stages:
        raise InputError(f"package {opened.path} has no stages; export the model again with --split")
    return Chain(opened, lambda stage: _open(stage, chosen, wanted))


def _open(opened: Package, chosen: Runtime | None, target: Target) -> Session:
    if chosen is not None:
        return chosen.open(opened, target)
    reasons = []
    for candidate in _TABLE:
        reason = candidate.why_not(opened, target)
        if reason is None:
            return candidate.open(opened, target)
        logger.info("runtime %s is skipped: %s", candidate.id, reason)
        reasons.append(f"{candidate.id}: {reason}")
    raise UnavailableError(f"no runtime can run {opened.model_path} on {target.device}: {'; '.join(reasons)}")
