"""Files to a device by content: what is there is not sent, what was cut off goes on where it stopped."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import msgspec

from edgetx.devices.link import Link, LostError
from edgetx.errors import DeviceError
from edgetx.package.digests import sha256

BLOCK = 1 << 18
MARGIN = 16 << 20
"""Bytes that stay free on the device."""


class Item(NamedTuple):
    """A file here, its SHA-256 and its size in bytes."""

    path: Path
    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path) -> Item:
        """Read a file."""
        return cls(path, sha256(path), path.stat().st_size)


class Traffic(msgspec.Struct, kw_only=True):
    """Bytes of files: `sent` in all tries together, `kept` were on the device already."""

    sent: int = 0
    kept: int = 0


async def send(link: Link, items: Iterable[Item], traffic: Traffic, *, more: int = 0) -> None:
    """Bring files to the device's `objects`.

    Args:
        link: the device, locked.
        items: the files; equal ones are sent once.
        traffic: is counted up.
        more: bytes that will be needed besides.

    Raises:
        DeviceError: there is not enough space (then nothing is sent, or what is there stays), a file changes
            here meanwhile, or arrives damaged twice.
    """
    wanted = {item.sha256: item for item in items}
    answer = await _have(link, wanted)
    here: dict[str, int] = answer["have"]
    missing = {sha: item for sha, item in wanted.items() if here[sha] < item.size}
    traffic.kept += sum(here.values())
    needed = sum(item.size - here[sha] for sha, item in missing.items()) + more
    if needed and answer["free"] < needed + MARGIN:
        raise DeviceError(
            f"device {link.device.name} has {megabytes(answer['free'])} MB free in {link.folder}, "
            f"{megabytes(needed + MARGIN)} MB are needed; free some space, or choose another folder: "
            f"edgetx device remove {link.device.name}, then add it with --folder DIR; nothing was sent"
        )
    total = sum(item.size for item in missing.values())
    done = 0
    for sha, item in missing.items():
        shown = f"copying {item.path.name} to {link.device.name}"
        link.progress(f"{shown}, {megabytes(done)} of {megabytes(total)} MB are there")
        await _send_one(link, item, here[sha], traffic, shown)
        done += item.size


async def _have(link: Link, wanted: dict[str, Item]) -> dict[str, Any]:
    return await link.call("have", files={sha: item.size for sha, item in wanted.items()})


async def _send_one(link: Link, item: Item, offset: int, traffic: Traffic, shown: str) -> None:
    damaged = 0
    while True:
        try:
            data = _blocks(link, item, offset, traffic, shown)
            async for answer in link.lines(
                "receive", data, sha256=item.sha256, size=item.size, offset=offset
            ):
                offset = answer["ok"]["have"]
        except LostError:
            await link.reconnect()
            offset = (await _have(link, {item.sha256: item}))["have"][item.sha256]
            if offset:
                link.progress(f"{shown}: goes on at {megabytes(offset)} MB")
        else:
            damaged += offset == 0
            if damaged > 1:
                raise DeviceError(
                    f"{item.path} arrives on {link.device.name} with another hash, twice; it changes here "
                    "while it is copied, or the device's disk is damaged"
                )
        if offset == item.size:
            return


async def _blocks(link: Link, item: Item, offset: int, traffic: Traffic, shown: str) -> AsyncIterator[bytes]:
    told = monotonic()
    with item.path.open("rb") as stream:
        stream.seek(offset)
        while block := stream.read(BLOCK):
            yield block
            traffic.sent += len(block)
            if monotonic() - told > 2:
                told = monotonic()
                link.progress(f"{shown}, {megabytes(stream.tell())} of {megabytes(item.size)} MB")


def megabytes(count: int) -> str:
    """Bytes as megabytes."""
    return f"{count / 1e6:.1f}" if count < 100e6 else f"{count / 1e6:.0f}"


def key(files: Mapping[str, Item]) -> str:
    """A name for a set of files: equal names and contents give an equal key."""
    text = "".join(f"{name} {item.sha256}\n" for name, item in sorted(files.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
