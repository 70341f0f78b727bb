"""One user of a device at a time; the lock of a user who is gone is broken, and that is said."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from edgetx.devices.link import Link
from edgetx.errors import DeviceError

_mine: set[str] = set()
"""The locks that this process holds."""
STALE = 600.0
"""Seconds without a sign of life after which a lock from another machine counts as left behind."""


@contextlib.asynccontextmanager
async def locked(link: Link) -> AsyncIterator[None]:
    """Hold the device until the block is left; raises as `take`."""
    await take(link)
    try:
        yield
    finally:
        _mine.discard(link.token)
        await link.call("unlock")


async def take(link: Link) -> None:
    """Lock the device, until `unlock` is called or this process ends.

    Raises:
        DeviceError: somebody else uses it; says who, and since when.
    """
    link.token = secrets.token_hex(8)
    owner = {**_me(), "token": link.token}
    answer = await link.call("lock", owner=owner)
    if (held := answer["held"]) is None:
        _mine.add(link.token)
        return
    who = f"{held['user']} on {held['host']} (process {held['pid']}), since {held['since']}"
    if (why := _gone(held, answer)) is None:
        raise DeviceError(f"device {link.device.name} is in use by {who}; wait for it, or ask there")
    answer = await link.call("lock", owner=owner, instead=held["token"])
    if answer["held"] is not None:
        raise DeviceError(f"device {link.device.name} was just taken by {answer['held']['user']}; wait")
    _mine.add(link.token)
    link.progress(f"the lock of {who} is broken: {why}")


def _me() -> dict[str, Any]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"
    return {"user": user, "host": socket.gethostname(), "space": _space(), **_process(os.getpid())}


def _process(pid: int) -> dict[str, Any]:
    """A process and when it began, in ticks; None where it runs no more or /proc is not there."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return {"pid": pid, "started": None}
    return {"pid": pid, "started": None if fields[0] == "Z" else fields[19]}


def _space() -> str:
    """Where process numbers mean the same: this boot of this machine, this container."""
    parts = []
    with contextlib.suppress(OSError):
        parts = [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            os.readlink("/proc/self/ns/pid"),
        ]
    return " ".join(parts)


def _gone(held: dict[str, Any], answer: dict[str, Any]) -> str | None:
    """Why the owner of a lock is gone; None if it may still be there."""
    if sys.platform != "win32" and held["host"] == socket.gethostname() and held["space"] == _space():
        alive = held["started"] is not None and _process(held["pid"])["started"] == held["started"]
        if not alive:
            return "that process runs no more"
        ours = held["pid"] == os.getpid() and held["token"] not in _mine
        return "this process gave the device up when its connection was lost" if ours else None
    if answer["age"] > STALE and not answer["running"]:
        return f"no sign of it for {answer['age'] / 60:.0f} minutes"
    return None
