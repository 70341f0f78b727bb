"""A server's temporary folder, and the end of those whose server was killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
import time
from pathlib import Path

if sys.platform != "win32":  # there, what a killed server left stays
    import fcntl

PREFIX = "edgetx-demo-"
YOUNG = 60.0
"""Seconds for which a folder is left alone: its server may not have locked it yet."""


class Scratch:
    """A folder that is removed by `close`, or by the next server where this process was killed.

    The operating system's lock on the folder tells a server that is alive, since it ends with its process.
    """

    def __init__(self) -> None:
        remove_abandoned(Path(tempfile.gettempdir()))
        self._folder = tempfile.TemporaryDirectory(prefix=PREFIX)
        self.path = Path(self._folder.name)
        self._held = _lock(self.path)

    def close(self) -> None:
        """Remove the folder; a second call does nothing."""
        self._folder.cleanup()
        if self._held is not None:
            os.close(self._held)
            self._held = None


def remove_abandoned(where: Path) -> list[Path]:
    """Remove this user's folders below `where` that no living server holds; gives those that it removed."""
    removed: list[Path] = []
    if sys.platform == "win32":
        return removed
    for folder in where.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another server removes it too
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
            if time.time() - found.st_mtime < YOUNG:
                continue
            held = _lock(folder)
            if held is not None:
                try:
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(held)
                removed.append(folder)
    return removed


def _lock(folder: Path) -> int | None:
    """An open handle that holds the folder's lock; None if another process holds it, or there are none."""
    if sys.platform == "win32":
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
