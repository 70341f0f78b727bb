"""A task in a process of its own, with a time limit: it may hang or crash, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from edgetx.errors import EdgetxError
from edgetx.sweeps.journal import Status

GRACE = 5.0
"""Seconds between the request to end and the end; a measurement ends its workers meanwhile."""

Progress = Callable[[str], None]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """`answer` if the status is `done`, else `error`."""

    status: Status
    answer: Any = None
    error: str | None = None


def run(task: Any, seconds: float, progress: Progress) -> Outcome:
    """Do `task` (see `edgetx.sweeps.child`) in a child process; its lines go to `progress`."""
    with Child("edgetx.sweeps.child", task, progress) as child:
        return child.outcome(seconds)


class Child:
    """`python -m module FOLDER`, which calls `serve`; a context manager that ends it.

    It ends by itself when this process is gone, whatever the reason.

    Args:
        module: the other side.
        task: a structure that it takes.
        progress: gets its lines, in another thread.
        folder: its current folder.
        environment: variables beside those of this process.
    """

    def __init__(
        self,
        module: str,
        task: Any,
        progress: Progress,
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._files = tempfile.TemporaryDirectory(prefix="edgetx-task-")
        self._lock = threading.Lock()
        own = Path(self._files.name)
        (own / "task.json").write_bytes(msgspec.json.encode(task))
        self._answer = own / "answer.json"
        self._log = (own / "log").open("w+b")
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, self._files.name],
            # Its end tells the child that this process is gone.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=folder,
            env={
                **os.environ,
                # The same modules as here, and nothing else that happens to lie in the current folder.
                "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
                "PYTHONSAFEPATH": "1",
                **(environment or {}),
            },
            start_new_session=True,
        )
        self._reader = threading.Thread(target=_tell, args=(self._process.stdout, progress), daemon=True)
        self._reader.start()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of the process, which leads a process group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def outcome(self, seconds: float) -> Outcome:
        """What it answers within that time; it has ended then, or is ended."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return Outcome(status="timeout", error=f"not done after {seconds:g} s; it was ended")
        finally:
            self._end()
        if self._answer.is_file():
            return msgspec.json.decode(self._answer.read_bytes(), type=Outcome)
        self._log.seek(0)
        return Outcome(status="crashed", error=_how(self._process.returncode, self._log.read()))

    def close(self) -> None:
        """End it and everything that it started: politely, then after `GRACE` seconds."""
        self._end()
        self._log.close()
        self._files.cleanup()

    def _end(self) -> None:
        with self._lock:
            _end(self._process)
            self._reader.join()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()


def _tell(lines: Any, progress: Progress) -> None:
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


def serve(folder: Path, kind: Any, do: Callable[[Any, Progress], Any]) -> None:
    """The child's side: do the task of `folder`, of the type `kind`, and leave the answer there."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_watch, daemon=True).start()
    # What libraries print must not look like a step.
    steps, sys.stdout = sys.stdout, sys.stderr

    def tell(step: str) -> None:
        print(step, file=steps, flush=True)

    try:
        task = msgspec.json.decode((folder / "task.json").read_bytes(), type=kind)
        outcome = Outcome(status="done", answer=do(task, tell))
    except KeyboardInterrupt:
        sys.exit(130)
    except EdgetxError as error:
        outcome = Outcome(status="failed", error=str(error))
    except Exception as error:
        outcome = Outcome(status="failed", error=f"unexpected {type(error).__name__}: {error}")
    draft = folder / "answer.json.new"
    draft.write_bytes(msgspec.json.encode(outcome))
    draft.replace(folder / "answer.json")


def _watch() -> None:
    """End this process when its parent is gone: first politely, so that workers and devices are let go."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    if hasattr(os, "killpg"):
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
