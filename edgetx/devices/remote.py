"""A benchmark on a device, from the first byte to the report."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edgetx import __version__
from edgetx.devices import install, transfer
from edgetx.devices.job import Answer, Request, Result
from edgetx.devices.link import PATIENCE, Link, Progress
from edgetx.devices.locking import locked
from edgetx.devices.registry import Device
from edgetx.errors import DeviceError, InputError
from edgetx.package import Package

MANIFEST = "manifest.json"


@dataclass
class Outcome:
    """What a device found, and the bytes it took: `package` for packages and inputs, `runtime` for wheels."""

    result: Result
    package: transfer.Traffic = field(default_factory=transfer.Traffic)
    runtime: transfer.Traffic = field(default_factory=transfer.Traffic)


async def measure(
    device: Device, request: Request, progress: Progress, *, patience: float = PATIENCE
) -> Outcome:
    """Do `request`, whose paths are here, on a device.

    Raises:
        DeviceError: the device cannot be reached, trusted, locked or used, or the job failed there.
    """
    packages = [Package.open(path) for path in request.packages]
    outcome = Outcome(Result())
    progress(f"connecting to {device.name} ({device.address})")
    async with Link(device, progress, patience=patience) as link:
        await link.settle()
        async with locked(link):
            python = await install.ensure(link, request, outcome.runtime)
            there = await _copy(link, packages, request, outcome.package)
            progress(
                f"sent {transfer.megabytes(outcome.package.sent)} MB, "
                f"{transfer.megabytes(outcome.package.kept)} MB were on {device.name} already"
            )
            outcome.result = await _work(link, python, there)
    return outcome


async def _copy(
    link: Link, packages: Sequence[Package], request: Request, traffic: transfer.Traffic
) -> Request:
    """Bring everything there; the request with the device's paths."""
    folders = [_package_files(package) for package in packages]
    inputs = [_named(Path(path)) for path in _flat(request.inputs, packages)]
    single = [Path(path) for path in (request.baseline, request.feeds) if path is not None]
    others = {path: _beside(path) for path in single}
    every = [item for files in (*folders, *inputs, *others.values()) for item in files.values()]
    await transfer.send(link, every, traffic)

    async def placed(files: dict[str, transfer.Item], name: str) -> str:
        key = transfer.key(files)
        found = await link.call(
            "place",
            path=f"packages/{key}/{name}",
            files={inside: item.sha256 for inside, item in files.items()},
        )
        return str(found["path"])

    moved = {path: f"{await placed(files, 'files')}/{path.name}" for path, files in others.items()}
    return msgspec.structs.replace(
        request,
        packages=[
            await placed(files, package.path.resolve().name)
            for package, files in zip(packages, folders, strict=True)
        ],
        inputs=[f"{await placed(files, 'files')}/{next(iter(files))}" for files in inputs],
        baseline=None if request.baseline is None else moved[Path(request.baseline)],
        feeds=None if request.feeds is None else moved[Path(request.feeds)],
    )


def _package_files(package: Package) -> dict[str, transfer.Item]:
    known = package.manifest.files
    files = {
        name: transfer.Item(package.path / name, entry.sha256, entry.size) for name, entry in known.items()
    }
    return {MANIFEST: transfer.Item.of(package.path / MANIFEST), **files}


def _flat(paths: Sequence[str], packages: Sequence[Package]) -> list[Path]:
    from edgetx.benchmark import feeds

    return feeds.find(paths, packages[0].processor) if paths else []


def _named(path: Path) -> dict[str, transfer.Item]:
    return {path.name: transfer.Item.of(path)}


def _beside(path: Path) -> dict[str, transfer.Item]:
    """A file and what an ONNX file keeps beside it under the same first name."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the path of a file")
    return {each.name: transfer.Item.of(each) for each in sorted(path.parent.glob(f"{path.name}*"))}


async def _work(link: Link, python: str, request: Request) -> Result:
    job = secrets.token_hex(6)
    plain = msgspec.to_builtins(request)
    try:
        await link.call("start", job=job, python=python, module="edgetx.devices.job", request=plain)
        found = await link.follow(job, lambda step: link.progress(f"{link.device.name}: {step}"))
    finally:
        await link.call("stop", job=job)
    if "died" in found:
        raise DeviceError(f"the job on {link.device.name} died; the end of its stderr: {found['died']}")
    try:
        answer = msgspec.convert(found["result"], Answer)
    except msgspec.ValidationError as error:
        raise DeviceError(
            f"device {link.device.name} runs another edgetx {__version__} than this one: its report does not "
            f"fit ({error}); update it there"
        ) from error
    if answer.result is None:
        name = link.device.name
        hint = f"; edgetx device doctor {name} removes damaged files, which are then sent again"
        raise DeviceError(f"on {name}: {answer.error}{hint if answer.damaged else ''}")
    return answer.result
