"""What runs on a device besides the jobs: one verb per call, standard library only, Python 3.7 or newer.

`python agent.py VERB` reads a line of JSON from stdin, then bytes if the verb takes them, and writes lines of
JSON; the last one has `ok` or `error`. Every verb may be called again after a lost connection. The folder
that this file lies in holds

    .edgetx-device       the mark without which nothing is ever removed
    objects/<sha256>     files by content; <sha256>.part is one that is on its way
    packages/<key>/NAME  packages, linked from objects; engines that are built there stay
    env/<key>            virtual environments, `.ready` once complete
    jobs/<id>            request.json, events.jsonl, log, result.json, process.json
    tmp/                 temporary files of jobs and installations
    lock.json            who uses the device
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

MARK = ".edgetx-device"
FOLDER = os.path.dirname(os.path.abspath(__file__))


class RefusedError(Exception):
    """Told to the caller as it is."""


def say(**answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def read_json(*path: str) -> dict | None:  # type: ignore[type-arg]
    try:
        with open(os.path.join(*path)) as stream:
            return json.load(stream)  # type: ignore[no-any-return]
    except (OSError, ValueError):
        return None


def write_json(value: object, *path: str) -> None:
    final = os.path.join(*path)
    with open(final + ".new", "w") as stream:
        json.dump(value, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(final + ".new", final)


def started(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; tells it from a later one with the same number."""
    try:
        with open(f"/proc/{pid}/stat") as stream:
            fields = stream.read().rpartition(")")[2].split()
            return None if fields[0] == "Z" else fields[19]
    except OSError:
        return None


def is_running(job: str) -> bool:
    process = read_json("jobs", job, "process.json")
    if process is None:
        return False
    if os.path.isdir("/proc/self"):
        return bool(started(process["pid"]) == process["started"])
    try:
        os.kill(process["pid"], 0)
    except OSError:
        return False
    return True


def environments() -> list[str]:
    """Interpreters of the complete virtual environments, newest last."""
    ready = [
        os.path.join("env", each, ".ready") for each in (os.listdir("env") if os.path.isdir("env") else ())
    ]
    ready = sorted(filter(os.path.exists, ready), key=os.path.getmtime)
    return [os.path.abspath(os.path.join(os.path.dirname(each), "bin", "python")) for each in ready]


def jobs() -> list[str]:
    return sorted(os.listdir("jobs")) if os.path.isdir("jobs") else []


def running() -> list[str]:
    return [job for job in jobs() if is_running(job)]


def digest(path: str) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            found.update(block)
    return found.hexdigest()


def size_of(folder: str) -> int:
    seen = {}
    for at, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):
                entry = os.lstat(os.path.join(at, file))
                seen[entry.st_ino] = entry.st_size  # packages are links to objects
    return sum(seen.values())


def beat() -> None:
    """Whoever holds the lock is alive."""
    with contextlib.suppress(OSError):
        os.utime("lock.json")


def check_owner(token: str) -> None:
    held = read_json("lock.json")
    if held is None or held["token"] != token:
        who = "somebody" if held is None else f"{held['user']} on {held['host']}"
        raise RefusedError(f"the lock on the device was broken by {who}; run the command again")
    beat()


@contextlib.contextmanager
def guard() -> Iterator[None]:
    with open(".guard", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


# --- verbs ------------------------------------------------------------------------------------------


def facts(_: dict) -> dict:  # type: ignore[type-arg]
    """State of the folder; sizes in bytes."""
    room = os.statvfs(".")
    lock = read_json("lock.json")
    return {
        "free": room.f_bavail * room.f_frsize,
        "used": size_of("."),
        "lock": lock,
        "age": None if lock is None else time.time() - os.stat("lock.json").st_mtime,
        "running": running(),
        "environments": environments(),
    }


def lock(given: dict) -> dict:  # type: ignore[type-arg]
    """Take the lock, or say who has it; `instead` is the token of a lock that may be broken."""
    with guard():
        held = read_json("lock.json")
        if held is not None and held["token"] not in (given["owner"]["token"], given.get("instead")):
            age = time.time() - os.stat("lock.json").st_mtime
            return {"held": held, "age": age, "running": running()}
        if held is None or held["token"] != given["owner"]["token"]:
            for job in jobs():  # nobody will fetch what they find
                stop({"job": job})
            since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
            write_json({**given["owner"], "since": since}, "lock.json")
        return {"held": None}


def unlock(given: dict) -> dict:  # type: ignore[type-arg]
    with guard():
        held = read_json("lock.json")
        if held is not None and held["token"] == given["token"]:
            os.unlink("lock.json")
    return {}


def have(given: dict) -> dict:  # type: ignore[type-arg]
    """Bytes that are here of every file, by SHA-256."""
    found = {}
    for sha, size in given["files"].items():
        path = os.path.join("objects", sha)
        if os.path.isfile(path) and os.path.getsize(path) == size:
            found[sha] = size
        else:
            found[sha] = min(size, os.path.getsize(path + ".part")) if os.path.isfile(path + ".part") else 0
    room = os.statvfs(".")
    return {"have": found, "free": room.f_bavail * room.f_frsize}


def receive(given: dict) -> dict:  # type: ignore[type-arg]
    """Write stdin behind the first `offset` bytes; a file that is whole and has its hash moves into place."""
    os.makedirs("objects", exist_ok=True)
    final = os.path.join("objects", given["sha256"])
    part = final + ".part"
    with open(part, "ab") as stream:
        stream.truncate(given["offset"])
        while True:
            block = sys.stdin.buffer.read1(1 << 20)  # type: ignore[union-attr]
            if not block:
                break
            stream.write(block)
            stream.flush()  # what has arrived survives a lost connection
            beat()
    if os.path.getsize(part) < given["size"]:
        return {"have": os.path.getsize(part)}
    if digest(part) != given["sha256"]:
        os.unlink(part)
        return {"have": 0}
    os.replace(part, final)
    return {"have": given["size"]}


def place(given: dict) -> dict:  # type: ignore[type-arg]
    """Put objects together as the folder `path`, which appears complete or not at all."""
    final = given["path"]
    files = given["files"]

    def fits(name: str) -> bool:
        with contextlib.suppress(OSError):
            entry = os.stat(os.path.join(final, name))
            return entry.st_size == os.path.getsize(os.path.join("objects", files[name]))
        return False

    if os.path.isdir(final):
        if all(map(fits, files)):
            return {"path": os.path.abspath(final)}
        shutil.rmtree(final)
    draft = f"{final}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    for name, sha in files.items():
        path = os.path.join(draft, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            os.link(os.path.join("objects", sha), path)
        except OSError:  # a file system without hard links
            shutil.copyfile(os.path.join("objects", sha), path)
    os.rename(draft, final)
    return {"path": os.path.abspath(final)}


def install(given: dict) -> dict:  # type: ignore[type-arg]
    """A virtual environment with `requirements` from `wheels` alone, unless it is there."""
    env = os.path.join("env", given["key"])
    python = os.path.abspath(os.path.join(env, "bin", "python"))
    if os.path.exists(os.path.join(env, ".ready")):
        return {"python": python}
    if "wheels" not in given:
        return {"python": None}
    shutil.rmtree(env, ignore_errors=True)
    wheels = place({"path": os.path.join("tmp", "wheels"), "files": given["wheels"]})["path"]
    pip = [name for name in given["wheels"] if name.startswith("pip-")]
    # Without pip: Debian's python3 has no ensurepip; pip runs from its own wheel.
    run([sys.executable, "-m", "venv", "--without-pip", env])
    run(
        [
            python,
            os.path.join(wheels, pip[0], "pip"),
            "install",
            "--quiet",
            "--no-index",
            "--no-cache-dir",
            "--no-compile",
        ]
        + ["--disable-pip-version-check", "--no-input", "--find-links", wheels]
        + given["requirements"]
    )
    shutil.rmtree(wheels)
    with open(os.path.join(env, ".ready"), "w"):
        pass
    return {"python": python}


def run(command: list[str]) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment()
    )
    if done.returncode:
        tail = " / ".join(done.stdout.decode(errors="replace").split("\n")[-8:])
        if "No space left" in tail:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), FOLDER)
        raise RefusedError(f"{' '.join(command[:4])} ended with {done.returncode}: {tail}")


def environment() -> dict[str, str]:
    """For processes here: nothing is written outside the folder."""
    temporary = os.path.join(FOLDER, "tmp")
    os.makedirs(temporary, exist_ok=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return {
        **kept,
        "TMPDIR": temporary,
        "XDG_CACHE_HOME": os.path.join(temporary, "cache"),
        "EDGETX_HOME": os.path.join(temporary, "edgetx"),
    }


def ask(given: dict) -> dict:  # type: ignore[type-arg]
    """What `code` prints in the interpreter `python`."""
    command = [given["python"] or sys.executable, "-c", given["code"]]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, env=environment())
    tail = " / ".join(done.stderr.decode(errors="replace").strip().split("\n")[-3:])
    return {"code": done.returncode, "out": done.stdout.decode(errors="replace"), "tail": tail}


def start(given: dict) -> dict:  # type: ignore[type-arg]
    """Run `module` on the job's folder, detached from this connection; once per job."""
    folder = os.path.join("jobs", given["job"])
    if read_json(folder, "process.json") is not None:
        return {}
    os.makedirs(folder, exist_ok=True)
    write_json(given["request"], folder, "request.json")
    with open(os.path.join(folder, "log"), "wb") as log:
        process = subprocess.Popen(
            [given["python"] or sys.executable, "-m", given["module"], os.path.abspath(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=os.path.abspath(folder),
            env=environment(),
            start_new_session=True,
        )
    write_json({"pid": process.pid, "started": started(process.pid)}, folder, "process.json")
    return {}


def follow(given: dict) -> dict:  # type: ignore[type-arg]
    """The job's lines from byte `offset` on, until it ends; keeps the lock fresh while somebody listens."""
    folder = os.path.join("jobs", given["job"])
    if not os.path.isdir(folder):
        raise RefusedError(
            f"the device has no job {given['job']}; it was stopped by another user of the device"
        )
    offset = given["offset"]
    pause = 0.02
    while True:
        alive = is_running(given["job"])  # before reading, so that the last lines are read
        with (
            contextlib.suppress(FileNotFoundError),
            open(os.path.join(folder, "events.jsonl"), "rb") as events,
        ):
            events.seek(offset)
            for line in events:
                if line.endswith(b"\n"):
                    offset += len(line)
                    say(event=json.loads(line), offset=offset)
        result = read_json(folder, "result.json")
        if result is not None:
            return {"result": result}
        if not alive:
            with open(os.path.join(folder, "log"), "rb") as log:
                tail = log.read()[-2000:].decode(errors="replace").strip().split("\n")[-5:]
            return {"died": " / ".join(line for line in tail if line) or "it wrote nothing to stderr"}
        beat()
        # Slower and slower, at most once per second: the device is measuring.
        pause = min(1.0, pause * 1.5)
        if select.select([sys.stdin], [], [], pause)[0] and not os.read(0, 1):
            raise RefusedError("the connection was closed")


def stop(given: dict) -> dict:  # type: ignore[type-arg]
    """End a job and remove what it left; the harness ends its workers when it is interrupted."""
    job = given["job"]
    if is_running(job):
        pid = read_json("jobs", job, "process.json")["pid"]  # type: ignore[index]
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(OSError):
                os.killpg(pid, number)
            deadline = time.time() + 5
            while is_running(job) and time.time() < deadline:
                time.sleep(0.05)
            if not is_running(job):
                break
    shutil.rmtree(os.path.join("jobs", job), ignore_errors=True)
    return {}


def scrub(_: dict) -> dict:  # type: ignore[type-arg]
    """Remove what has changed since it was copied: files whose hash is not their name, and their packages."""
    damaged = []
    for sha in os.listdir("objects") if os.path.isdir("objects") else []:
        path = os.path.join("objects", sha)
        if not sha.endswith(".part") and digest(path) != sha:
            damaged.append(sha)
            os.unlink(path)
    if damaged:
        shutil.rmtree("packages", ignore_errors=True)
    return {"damaged": damaged}


def wipe(_: dict) -> dict:  # type: ignore[type-arg]
    """Remove the folder, jobs first."""
    if not os.path.isfile(MARK):
        raise RefusedError(f"{FOLDER} has no {MARK}, so edgetx did not make it; nothing was removed")
    for job in jobs():
        stop({"job": job})
    freed = size_of(".")
    shutil.rmtree(FOLDER)
    return {"freed": freed}


LOCKED = (receive, place, install, start, follow)
VERBS = (facts, lock, unlock, have, receive, place, install, ask, start, follow, stop, scrub, wipe)


def main() -> None:
    os.chdir(FOLDER)
    # Of what is killed: the line that says so must still reach the caller, or nobody.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    verb = {each.__name__: each for each in VERBS}[sys.argv[1]]
    given = json.loads(sys.stdin.buffer.readline() or b"{}")
    try:
        if verb in LOCKED:
            check_owner(given["token"])
        say(ok=verb(given))
    except RefusedError as reason:
        say(error=str(reason))
    except OSError as error:
        say(
            error=f"{error.strerror}: {error.filename or FOLDER}", errno=errno.errorcode.get(error.errno or 0)
        )


if __name__ == "__main__":
    main()
