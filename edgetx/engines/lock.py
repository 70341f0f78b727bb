"""One process builds an engine at a time; the others wait."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

from edgetx.errors import PackageError

if sys.platform == "win32":
    import msvcrt

    _FAR = 1 << 30  # beyond the text, which others read

    def _try(handle: int) -> bool:
        os.lseek(handle, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        os.lseek(handle, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _try(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextlib.contextmanager
def lock(file: Path, *, seconds: float, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold `file`, which names its owner, until the block is left.

    The operating system's lock decides, so that of a process that died is free at once.

    Args:
        seconds: how long to wait for another owner.
        waiting: is told once who the owner is.

    Raises:
        PackageError: the owner holds it for longer.
    """
    started = monotonic()
    told = False
    while (handle := _acquire(file)) is None:
        owner = _owner(file)
        if monotonic() - started > seconds:
            raise PackageError(
                f"{owner} builds the same engine for more than {seconds:g} s; wait for it, give more time "
                "with --limit, or end that process"
            )
        if not told:
            told = True
            waiting(f"waiting for {owner}, which builds the same engine")
        sleep(0.1)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no open file; an empty lock harms nobody
            file.unlink()
        os.close(handle)


def _acquire(file: Path) -> int | None:
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    # The owner before may have removed the file between our opening and locking it.
    if _try(handle) and _is(handle, file):
        return handle
    os.close(handle)
    return None


def _is(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(file))
    except OSError:
        return False


def _owner(file: Path) -> str:
    try:
        owner = json.loads(file.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
