"""A build in a process of its own: it can be interrupted, limited in time, and die without us.

The parent writes the request as one line of JSON and keeps the pipe open; a child whose pipe closes has
lost its parent, removes what it was writing and ends. The child answers in lines of JSON.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import IO, Any, NoReturn

import msgspec

from edgetx import errors
from edgetx.errors import EdgetxError

LOWER = (
    "lower the largest sizes with --range (height, width, batch), build fewer profiles, or one stage at a "
    "time with --stage"
)
"""What to do where a build has not enough memory."""

_MEMORY = ("out of memory", "cannot allocate memory", "bad_alloc")
"""What a process says that dies for lack of it."""

MOST = 0.75
"""Share of its limit above which a build that fails lacked memory: it asks for large blocks."""

Report = Callable[[str], None]


def run(
    module: str,
    request: Mapping[str, Any],
    *,
    seconds: float,
    progress: Report = lambda line: None,
) -> dict[str, Any]:
    """Let `python -m module`, which calls `serve`, handle `request`, and return its answer.

    Args:
        seconds: the child is ended after so many.
        progress: gets what the child reports.

    Raises:
        EdgetxError: what the child raised, or that it took too long or died, and what to do.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "PYTHONSAFEPATH": "1",
    }
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            # Ctrl-C in a terminal reaches the parent alone, which then ends the child.
            start_new_session=True,
        )
        try:
            return _talk(process, request, monotonic() + seconds, seconds, progress, log)
        finally:
            _end(process)


def _talk(
    process: subprocess.Popen[bytes],
    request: Mapping[str, Any],
    end: float,
    seconds: float,
    progress: Report,
    log: IO[bytes],
) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None
    lines: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(msgspec.json.encode(request) + b"\n")
        process.stdin.flush()
    while True:
        try:
            line = lines.get(timeout=max(0.0, end - monotonic()))
        except queue.Empty:
            raise EdgetxError(
                f"the build was stopped after {seconds:g} s, nothing was written; give it more time with "
                "--limit, or build fewer profiles or one stage at a time"
            ) from None
        if not line:
            raise EdgetxError(_obituary(process.wait(), log))
        answer: dict[str, Any] = msgspec.json.decode(line)
        if "progress" in answer:
            progress(answer["progress"])
        elif "error" in answer:
            raise getattr(errors, answer["kind"], EdgetxError)(answer["error"])
        else:
            done: dict[str, Any] = answer["done"]
            return done


def _read(stream: IO[bytes], lines: queue.Queue[bytes]) -> None:
    with contextlib.suppress(ValueError, OSError):  # closed by the parent
        for line in stream:
            lines.put(line)
    lines.put(b"")


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        if sys.platform != "win32":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def _obituary(code: int, log: IO[bytes]) -> str:
    log.seek(0)
    text = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    if code == -9 or any(word in line.lower() for line in text[-5:] for word in _MEMORY):
        return f"the build ended for lack of memory (exit code {code}), nothing was written; {LOWER}"
    said = f"the end of what it said: {' / '.join(text[-3:])}" if text else "it said nothing"
    return f"the build ended with exit code {code}, nothing was written; {said}"


def serve(handle: Callable[[dict[str, Any], Report], dict[str, Any]]) -> None:
    """The child's side: handle one request and end.

    What libraries print goes to stderr. The request's `draft` is removed if the parent is gone.

    Args:
        handle: given the request and where to report progress, returns the answer.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    request = msgspec.json.decode(sys.stdin.buffer.readline())
    draft = request.get("draft")

    def send(**message: Any) -> None:
        try:
            answers.write(msgspec.json.encode(message) + b"\n")
            answers.flush()
        except BrokenPipeError:
            _leave(draft)

    threading.Thread(target=_watch, args=(draft,), daemon=True).start()
    try:
        done = handle(request, lambda line: send(progress=line))
    except EdgetxError as error:
        if (short := _short_of_memory()) is None or LOWER in str(error):
            send(error=str(error), kind=type(error).__name__)
        else:  # whatever the builder said of it: some die of an assertion of their own
            text = f"not enough memory to build the engine ({short}), nothing was written; {LOWER}; {error}"
            send(error=text, kind="EdgetxError")
    except MemoryError:
        send(error=f"not enough memory to build the engine, nothing was written; {LOWER}", kind="EdgetxError")
    except Exception as error:
        send(error=f"unexpected {type(error).__name__} while building: {error}", kind="EdgetxError")
    else:
        send(done=done)
    # What a builder leaves behind is the operating system's to tidy up, and does that sooner.
    os._exit(0)


def _short_of_memory() -> str | None:
    """What this process took of the address space that it may have, where that is most of it."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except (ImportError, OSError):  # not a POSIX system, or not Linux
        return None
    match = re.search(r"^VmPeak:\s*(\d+) kB", status, re.MULTILINE)
    if match is None or limit == resource.RLIM_INFINITY or int(match[1]) * 1024 < MOST * limit:
        return None
    return f"it took {int(match[1]) * 1024 / 1e6:.0f} MB of the {limit / 1e6:.0f} MB that it may have"


def _watch(draft: str | None) -> None:
    sys.stdin.buffer.read()
    _leave(draft)


def _leave(draft: str | None) -> NoReturn:
    """The parent is gone, and with it whoever would tidy up."""
    if draft is not None:
        shutil.rmtree(draft, ignore_errors=True)
    os._exit(1)
