"""The engines that run packages; ships as `edgetx.runtimes`.

A new engine is one folder with a `Runtime` and one line in `_TABLE`, which is also the order of preference.
Importing this imports no engine, and opening a package only the runtimes that are asked before one takes it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cache
from importlib import import_module

from edgetx.core import Runtime, Session, Target
from edgetx.errors import InputError, UnavailableError
from edgetx.package import Package

__all__ = ["get", "load", "runtimes"]

_TABLE = {
    "ort": "edgetx.runtimes.ort:OrtRuntime",
    "tensorrt": "edgetx.runtimes.tensorrt:TensorRTRuntime",
    "tensorrt_rtx": "edgetx.runtimes.tensorrt_rtx:TensorRTRTXRuntime",
}


def runtimes() -> dict[str, Runtime]:
    """Every runtime by id, in order of preference, whether or not it is available here."""
    return {id: get(id) for id in _TABLE}


@cache
def get(runtime: str) -> Runtime:
    """The runtime of that id.

    Raises:
        InputError: there is none.
    """
    if runtime not in _TABLE:
        raise InputError(f"unknown runtime {runtime!r}; accepted: {', '.join(_TABLE)}")
    module, name = _TABLE[runtime].split(":")
    made: Runtime = getattr(import_module(module), name)()
    return made


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
            on `runtime`), instead of the whole; gives an `edgetx.runtimes.chain.Chain`.
        check: for a folder, compare the CRC-32 of every file with the manifest, while the engine opens the
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
    """Open while the files are read and checked; a changed file is told, whatever it broke."""
    problems: list[BaseException] = []

    def check() -> None:
        try:
            opened.check()
        except BaseException as error:  # any: a session that was not checked is never handed out
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
    from edgetx.runtimes.chain import Chain

    return Chain(opened, lambda stage: _open(stage, chosen, wanted))


def _open(opened: Package, chosen: Runtime | None, target: Target) -> Session:
    if chosen is not None:
        return chosen.open(opened, target)
    reasons = []
    for candidate in map(get, _TABLE):
        reason = candidate.why_not(opened, target)
        if reason is None:
            return candidate.open(opened, target)
        _tell_skipped(candidate, reason)
        reasons.append(f"{candidate.id}: {reason}")
    raise UnavailableError(f"no runtime can run {opened.model_path} on {target.device}: {'; '.join(reasons)}")


def _tell_skipped(runtime: Runtime, reason: str) -> None:
    import logging  # here, since it takes 4 ms of a start-up that skips none

    logging.getLogger(__name__).info("runtime %s is skipped: %s", runtime.id, reason)
