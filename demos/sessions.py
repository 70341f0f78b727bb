"""Sessions that stay open between requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import edgetx
from edgetx.core import Session
from edgetx.package import Package

MOST = 2
"""Sessions that are kept; the one that was not used for the longest time goes."""


@dataclass
class _Held:
    package: Package
    session: Session
    users: int = 0
    dropped: bool = False


class Sessions:
    """The open session of each package that was used last; safe to use from several threads.

    A session whose turn it is to go while it runs is closed by the last one who uses it.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._held: dict[Path, _Held] = {}

    @contextmanager
    def of(self, package: Package) -> Iterator[Session]:
        """The session of a package for the block, opened if need be; its folder may hold another one by now.

        Raises:
            UnavailableError: no runtime runs the package here.
        """
        with self._lock:
            held = self._held.pop(package.path, None)
            if held is not None and held.package != package:
                self._drop(held)
                held = None
            if held is None:
                held = _Held(package, edgetx.load(package))
            self._held[package.path] = held
            held.users += 1
            for path in list(self._held)[: -self._most]:
                self._drop(self._held.pop(path))
        try:
            yield held.session
        finally:
            with self._lock:
                held.users -= 1
                if held.dropped and not held.users:
                    held.session.close()

    def forget(self, folder: Path) -> None:
        """Close the session of a folder that will be removed; there need not be one."""
        with self._lock:
            if (held := self._held.pop(folder, None)) is not None:
                self._drop(held)

    def close(self) -> None:
        """Close all."""
        for folder in list(self._held):
            self.forget(folder)

    def _drop(self, held: _Held) -> None:
        held.dropped = True
        if not held.users:
            held.session.close()
