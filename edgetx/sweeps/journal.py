"""What a sweep has done: one line of JSON per step, on disk before the next begins."""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Literal

import msgspec

from edgetx.errors import InputError

Status = Literal["done", "failed", "crashed", "timeout"]


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a cell found; None where it was not measured.

    Attributes:
        median_ns, p90_ns: latency.
        error: the largest absolute difference of an output from PyTorch's on the golden inputs.
        metric: task accuracy on the sweep's data set (top-1 in percent, PSNR in dB): more is better.
        size: bytes of the model's file and weights.
        joules: energy of one run of the whole machine, as far as it could be read.
        machine: the processor of the machine that it ran on.
        report: the whole report, relative to the sweep's folder.
    """

    median_ns: float
    p90_ns: float
    error: float | None = None
    metric: float | None = None
    size: int | None = None
    joules: float | None = None
    machine: str = ""
    report: str = ""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line: a cell begins, or ends with a status, and figures if it is `done`."""

    event: Literal["start", "end"]
    cell: str
    at: str
    name: str = ""
    status: Status | None = None
    seconds: float | None = None
    error: str | None = None
    figures: Figures | None = None


class Journal:
    """Append-only; one process writes at a time. A context manager."""

    def __init__(self, file: Path) -> None:
        """Read what is there, and take the right to write.

        Raises:
            InputError: another process works on the sweep, or a line (not the last) is damaged.
        """
        self.file = file
        self.notes: list[str] = []
        self._stream = file.open("a+b")
        if not _try_lock(self._stream.fileno()):
            self._stream.close()
            raise InputError(f"another process works on the sweep in {file.parent}; wait for it, or end it")
        self.entries, whole = parse(file)
        if whole < file.stat().st_size:
            self.notes.append("the last line of the journal was not complete and is dropped")
            self._stream.truncate(whole)

    def append(self, entry: Entry) -> None:
        """Write a line; it is on disk when this returns."""
        self._stream.write(msgspec.json.encode(entry) + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.entries.append(entry)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def parse(file: Path) -> tuple[list[Entry], int]:
    """The complete lines of a journal, and the bytes they take.

    Raises:
        InputError: a complete line is damaged; it is named.
    """
    data = file.read_bytes() if file.is_file() else b""
    *lines, _ = data.split(b"\n")
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(msgspec.json.decode(line, type=Entry))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(
                f"{file}, line {number} is damaged ({error}); remove that line, its cell is measured again"
            ) from error
    return entries, sum(len(line) + 1 for line in lines)


def ends(entries: list[Entry]) -> dict[str, Entry]:
    """The outcome of every cell that ended; the latest, where a failed one was tried again."""
    return {entry.cell: entry for entry in entries if entry.event == "end"}


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


if sys.platform == "win32":

    def _try_lock(handle: int) -> bool:
        import msvcrt

        os.lseek(handle, 1 << 30, os.SEEK_SET)  # beyond the text, which others read
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        os.lseek(handle, 0, os.SEEK_END)
        return True

else:

    def _try_lock(handle: int) -> bool:
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
