"""A task in a process of its own, with a time limit: it may hang or crash, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edgetx.sweeps.journal import Status

GRACE = 5.0
"""Seconds between the request to end and the end; a measurement ends its workers meanwhile."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """`answer` if the status is `done`, else `error`."""

    status: Status
    answer: Any = None
    error: str | None = None


def run(task: Any, seconds: float, progress: Callable[[str], None]) -> Outcome:
    """Do `task` (see `edgetx.sweeps.child`) in a child process; its lines go to `progress`."""
    with tempfile.TemporaryDirectory(prefix="edgetx-sweep-") as name:
        folder = Path(name)
        (folder / "task.json").write_bytes(msgspec.json.encode(task))
        with (folder / "log").open("w+b") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "edgetx.sweeps.child", name],
                # Its end tells the child that this process is gone.
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={
                    **os.environ,
                    # The same modules as here, and nothing else that happens to lie in the current folder.
                    "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
                    "PYTHONSAFEPATH": "1",
                },
                start_new_session=True,
            )
            reader = threading.Thread(target=_tell, args=(process.stdout, progress), daemon=True)
            reader.start()
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                return Outcome(status="timeout", error=f"not done after {seconds:g} s; it was ended")
            finally:
                _end(process)
                reader.join()
                for stream in (process.stdin, process.stdout):
                    if stream is not None:
                        stream.close()
            answer = folder / "answer.json"
            if answer.is_file():
                return msgspec.json.decode(answer.read_bytes(), type=Outcome)
            log.seek(0)
            return Outcome(status="crashed", error=_how(process.returncode, log.read()))


def _tell(lines: Any, progress: Callable[[str], None]) -> None:
    for line in lines:
        progress(line.decode(errors="replace").rstrip())


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _how(code: int, log: bytes) -> str:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    lines = [line.strip() for line in log.decode(errors="replace").splitlines() if line.strip()]
    tail = f"the end of its stderr: {' / '.join(lines[-3:])}" if lines else "it wrote nothing to stderr"
    return f"the process {how}; {tail}"
