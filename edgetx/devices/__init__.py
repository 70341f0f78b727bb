"""Machines over SSH: registered, checked, locked, measured on, and left as they were.

devices.add("orin", "me@orin.local", accept="SHA256:...")
report = devices.bench("orin", "swin_tiny.edgetx")
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from edgetx.core import Target
from edgetx.devices import registry
from edgetx.devices.registry import Device, devices, get
from edgetx.errors import InputError, VerificationError

if TYPE_CHECKING:
    from edgetx.benchmark import BenchReport
    from edgetx.devices.link import Progress
    from edgetx.package import Package

__all__ = ["Device", "add", "bench", "devices", "examine", "get", "remove"]

T = TypeVar("T")


def _silent(line: str) -> None: ...


def _wait(work: Coroutine[Any, Any, T]) -> T:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:  # a notebook has a loop of its own
        return thread.submit(asyncio.run, work).result()


def add(
    name: str,
    ssh: str,
    *,
    key: str | os.PathLike[str] | None = None,
    python: str = "python3",
    folder: str = registry.FOLDER,
    wheels: str | os.PathLike[str] | None = None,
    accept: str | None = None,
    replace: bool = False,
    progress: Progress = _silent,
) -> Device:
    """Register a machine, once it was reached, trusted and found able.

    Args:
        name: how to call it; not `cpu` or `cuda`.
        ssh: `[user@]host[:port]`.
        key, python, folder, wheels: see `Device`.
        accept: the fingerprint (`SHA256:...`) of its host key, if that is not known yet.
        replace: change a device that is registered already.
        progress: called with one line per step.

    Raises:
        InputError: the name or address does not fit, or the name is taken.
        DeviceError: the machine cannot be reached or used; nothing was registered.
    """
    device = msgspec.structs.replace(
        registry.parse(name, ssh),
        key=None if key is None else str(Path(key).expanduser().absolute()),
        python=python,
        folder=folder,
        wheels=None if wheels is None else str(Path(wheels).expanduser().absolute()),
    )
    if name in devices() and not replace:
        raise InputError(
            f"the device {name!r} is registered already ({devices()[name].address}); take another name, or "
            "give --replace"
        )
    _wait(_try(device, accept, progress))
    registry.store(device)
    return device


async def _try(device: Device, accept: str | None, progress: Progress) -> None:
    from edgetx.devices.link import Link

    progress(f"connecting to {device.name} ({device.address})")
    async with Link(device, progress, accept=accept) as link:
        if accept is not None:
            link.keys.remember()
        await link.settle()


def remove(name: str, *, forget: bool = False, progress: Progress = _silent) -> int:
    """Take everything of edgetx off a device, then its registration.

    Args:
        name: of a registered device.
        forget: only forget it, without connecting; what is on it stays.
        progress: called with one line per step.

    Returns:
        The bytes that were freed on it.

    Raises:
        InputError: there is no such device.
        DeviceError: it cannot be reached, or is in use; it stays registered.
    """
    device = get(name)
    freed = 0 if forget else _wait(_wipe(device, progress))
    registry.forget(name)
    return freed


async def _wipe(device: Device, progress: Progress) -> int:
    from edgetx.devices.link import Link
    from edgetx.devices.locking import take

    progress(f"connecting to {device.name} ({device.address})")
    async with Link(device, progress) as link:
        await link.settle()
        await take(link)
        progress(f"removing {link.folder} from {device.name}")
        return int((await link.call("wipe"))["freed"])


def examine(name: str, progress: Progress = _silent) -> dict[str, Any]:
    """The state of a device: interpreter, system, space in bytes, who uses it, whether edgetx can run there.

    Files that have changed since they were copied are removed and sent again by the next benchmark.

    Raises:
        InputError: there is no such device.
        DeviceError: it cannot be reached or used.
    """
    return _wait(_examine(get(name), progress))


async def _examine(device: Device, progress: Progress) -> dict[str, Any]:
    from edgetx.devices import install
    from edgetx.devices.link import Link

    progress(f"connecting to {device.name} ({device.address})")
    async with Link(device, progress) as link:
        await link.settle()
        progress("looking at its files")
        found = await link.call("facts")
        damaged = [] if found["lock"] is not None else (await link.call("scrub"))["damaged"]
        reason = await install.why_not(link, [], "cpu")
        for python in reversed(found["environments"]):
            if reason is not None:
                reason = await install.why_not(link, [], "cpu", python=python)
        return {"device": device, "facts": link.facts, **found, "damaged": damaged, "why_not": reason}


def bench(
    device: str,
    package: Package | str | os.PathLike[str] | Sequence[Package | str | os.PathLike[str]],
    *,
    baseline: str | os.PathLike[str] | None = None,
    runtime: str | Sequence[str] | None = None,
    target: Target | None = None,
    inputs: Sequence[str | os.PathLike[str]] = (),
    progress: Progress = _silent,
    **options: Any,
) -> BenchReport:
    """`edgetx.bench` on a device: copies, installs, builds, verifies and measures there.

    Args:
        device: a registered name, also with the processor there: `orin/cuda:0`; replaces `target.device`.
        package, baseline, runtime, target, inputs, progress: as in `edgetx.bench`; paths are here.
        options: further arguments of `edgetx.bench`, such as `runs`.

    Returns:
        The report, with the device's machine record.

    Raises:
        DeviceError: the device cannot be reached, trusted, locked or used, or its job failed.
        VerificationError: outputs on the device differ from PyTorch's; nothing was measured.
    """
    from edgetx import runtimes
    from edgetx.devices import remote
    from edgetx.devices.job import Request
    from edgetx.package import Package

    name, processor = registry.split(device)
    if name is None:
        raise InputError(f"{device!r} is this machine; use edgetx.bench, or give a registered device's name")
    named = [] if runtime is None else [runtime] if isinstance(runtime, str) else list(runtime)
    for each in named:
        runtimes.get(each)
    many = [package] if isinstance(package, (str, os.PathLike, Package)) else list(package)
    request = Request(
        packages=[os.fspath(each.path if isinstance(each, Package) else each) for each in many],
        runtimes=named,
        target=at(target or Target(), processor),
        inputs=[os.fspath(each) for each in inputs],
        baseline=None if baseline is None else os.fspath(baseline),
        options=options,
    )
    outcome = _wait(remote.measure(get(name), request, progress))
    if outcome.result.report is None:
        verdict = outcome.result.verdicts[-1].to_core()
        which = request.packages[(len(outcome.result.verdicts) - 1) // max(1, len(request.runtimes))]
        worst = ", ".join(f"{each.name} by {each.max_abs:.2e}" for each in verdict.outputs if not each.passed)
        raise VerificationError(
            f"on {name} the outputs of {which} differ from PyTorch's: {verdict.error or worst}; nothing was "
            "measured"
        )
    return outcome.result.report


def at(target: Target, processor: str) -> Target:
    """`target` on another processor."""
    return msgspec.structs.replace(target, device=processor)
