"""Processes that a test started, looked up in /proc: other tests start the same ones at the same time."""

from __future__ import annotations

from pathlib import Path


def descendants(pid: int) -> dict[int, str]:
    """Command line by process, of everything that `pid` started and that still runs."""
    parents: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if stat[0] != "Z":
            parents[int(folder.name)] = int(stat[1]), words
    found: dict[int, str] = {}
    while more := {
        child: words
        for child, (parent, words) in parents.items()
        if child not in found and (parent == pid or parent in found)
    }:
        found |= more
    return found


def running(pid: int) -> bool:
    """Whether a process still does anything; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
