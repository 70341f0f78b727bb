"""How much memory a run takes: measured in a process of its own, remembered in the package's cache.

What a run adds to a process depends on the engine, its kernels and its threads, so nothing is assumed: a
child opens the package, runs one tile and reports by how much its peak resident size grew. Between measured
sizes, growth is interpolated; a size far beyond them is measured before it is trusted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgetx import __version__
from edgetx.benchmark.machine import memory_available, peak_memory
from edgetx.core import Target
from edgetx.errors import EdgetxError, InputError, UnavailableError

FACTOR = 4
"""Measured run sizes are at most this far apart."""
REACH = 2
"""How far beyond the largest measured size a chosen one may lie without being measured itself."""

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def parse_size(text: str) -> int:
    """`512M`, `2G`, `1.5GiB` or plain bytes as bytes; units are powers of 1024.

    Raises:
        InputError: another form, or zero.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?\s*", text.lower())
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size <= 0:
        raise InputError(f"cannot read the memory size {text!r}; expected for example 512M, 2G or bytes")
    return size


def show_size(size: float) -> str:
    """Bytes in MB (2^20), or GB from 10 GB."""
    return f"{size / 2**30:.1f} GB" if size >= 10 * 2**30 else f"{size / 2**20:.0f} MB"


def resident() -> int | None:
    """Bytes of this process that are in memory now; None where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def reset_peak() -> bool:
    """Let `peak_memory` start again from now; False where the system cannot."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return False
    return True


def available() -> int | None:
    """Bytes that this process may still take: free memory, no more than its container's limit leaves."""
    free = memory_available()
    with contextlib.suppress(OSError, ValueError):
        folder = Path("/sys/fs/cgroup")
        limit = (folder / "memory.max").read_text().strip()
        if limit.isdigit():
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            used = int((folder / "memory.current").read_text()) - int(statistics.get("inactive_file", 0))
            left = max(int(limit) - used, 0)
            free = left if free is None else min(free, left)
    return free


class MemoryProfile:
    """By how many bytes one run of some input pixels raises the process's peak.

    Args:
        folder: the package's.
        runtime, target: as the package is opened.
        ran_on: `Session.describe`; with edgetx's version it names the cache.
        side: the side of a square tile that the model takes and that has about the given number of pixels.
        notify: is told before a measurement.
    """

    def __init__(
        self,
        folder: Path,
        *,
        runtime: str | None,
        target: Target,
        ran_on: Mapping[str, str],
        side: Callable[[int], int],
        notify: Callable[[str], None] | None = None,
    ) -> None:
        self._folder = folder
        self._runtime = runtime
        self._target = target
        self._side = side
        self._notify = notify or (lambda _message: None)
        identity = json.dumps([__version__, dict(ran_on)], sort_keys=True)
        key = f"{ran_on.get('runtime', 'engine')}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
        self._file = folder / "engines" / key / "memory.json"
        self._runs = self._read()

    def growth(self, pixels: int, limit: int) -> int:
        """Bytes for a run of `pixels`; measures where nothing near is known.

        Args:
            limit: measuring stops once a run is expected to take more than this many bytes.
        """
        self._approach(pixels, limit)
        largest = max(self._runs)
        expected = self._estimate(pixels)
        if pixels > REACH * largest and expected <= limit:
            self._measure(pixels)
            expected = self._estimate(pixels)
        return expected

    def pixels(self, limit: int, most: int) -> int:
        """The largest run, up to `most` pixels, that takes no more than `limit` bytes; 0 if none does."""
        if self.growth(most, limit) <= limit:
            return most
        while True:
            low, high = 0, most
            while high - low > 64:
                middle = (low + high) // 2
                low, high = (middle, high) if self._estimate(middle) <= limit else (low, middle)
            largest = max(self._runs)
            if low <= REACH * largest or self._measure(low) is None:
                return low

    def _approach(self, pixels: int, limit: int) -> None:
        """Measure from the smallest run on, in steps of `FACTOR`, up to one that is near `pixels`."""
        size = self._side(1) ** 2
        while True:
            if not any(size / 2 <= known <= size * 2 for known in self._runs):
                if self._runs and self._estimate(size) > limit:
                    return
                self._measure(size)
            if size * FACTOR > pixels or (len(self._runs) > 1 and self._estimate(size * FACTOR) > limit):
                return
            size = self._side(size * FACTOR) ** 2 if self._side(size * FACTOR) ** 2 > size else pixels + 1

    def _estimate(self, pixels: int) -> int:
        """Linear between measured sizes, and beyond them as between the last two."""
        known = sorted(self._runs.items())
        if pixels <= known[0][0] or len(known) == 1:
            (size, growth) = known[0]
            return growth if pixels <= size else growth * pixels // size
        above = next((index for index, (size, _) in enumerate(known) if pixels <= size), len(known) - 1)
        (size, growth), (larger, more) = known[above - 1], known[above]
        slope = max((more - growth) / (larger - size), 0.0)
        return int(growth + slope * (pixels - size))

    def _measure(self, pixels: int) -> int | None:
        """Run about `pixels` in a child and remember; None if that size was known already."""
        side = self._side(pixels)
        if side * side in self._runs:
            return None
        self._notify(f"measuring the memory of a {side}x{side} tile")
        growth = _probe(self._folder, self._runtime, self._target, side)
        # More pixels never take less; what contradicts that is noise of the smaller measurement.
        self._runs[side * side] = growth
        self._write()
        return growth

    def _read(self) -> dict[int, int]:
        try:
            stored = json.loads(self._file.read_text(encoding="utf-8"))
            return {int(pixels): int(growth) for pixels, growth in stored["growth"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _write(self) -> None:
        """Best effort: a package on a read-only disk is measured again next time."""
        text = json.dumps({"growth": {str(key): value for key, value in sorted(self._runs.items())}})
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self._file.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.replace(temporary, self._file)


def why_not(target: Target) -> str | None:
    """None if a run's memory can be measured for `target`, else the reason."""
    if target.device != "cpu":
        return f"memory is measured for the CPU, and this session runs on {target.device}"
    if resident() is None or peak_memory() is None:
        return "this system does not tell a process's memory"
    return None


def _probe(folder: Path, runtime: str | None, target: Target, side: int) -> int:
    request = {
        "package": str(folder),
        "runtime": runtime,
        "target": msgspec.structs.asdict(target),
        "side": side,
    }
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", "edgetx.restoration.probe", json.dumps(request)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        tail = " ".join(done.stderr.strip().splitlines()[-1:])
        raise UnavailableError(
            f"the memory of a {side}x{side} tile could not be measured "
            f"(exit code {done.returncode}; {tail}); choose --tile yourself"
        )
    answer: dict[str, Any] = json.loads(lines[-1])
    if "error" in answer:
        raise EdgetxError(answer["error"])
    return int(answer["growth"])
