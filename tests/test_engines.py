"""The engine cache, its lock, its child processes and the choice of profiles, without any engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgetx import building, engines
from edgetx.core import IOSpec, SymbolRange, TensorSpec
from edgetx.engines import Cache, Engine, Request, child
from edgetx.engines.lock import lock
from edgetx.errors import EdgetxError, InputError, PackageError, UnavailableError
from edgetx.package import FileEntry, IOEntry, Package, ProfileEntry
from edgetx.profiles import Profile, Range
from tests.processes import running

KEY = {"model": "1", "compute": "8.6", "engine": "Toy 1"}


@pytest.fixture
def package(classifier: Path) -> Package:
    return Package.open(classifier)


def ensure(package: Package, key: dict[str, str] = KEY, **settings: Any) -> tuple[Engine, bool, list[str]]:
    lines: list[str] = []
    produce: Callable[[Path], None] = settings.pop("produce", lambda plan: _put(plan, b"plan"))
    profiles = ({"batch": Range(1, 1, 8)},)
    cache = Cache(package)
    engine, built = cache.ensure(
        "toy", key, profiles, produce, **{"seconds": 10, "progress": lines.append, **settings}
    )
    return engine, built, lines


def _put(plan: Path, content: bytes) -> None:
    plan.write_bytes(content)


def files(package: Package) -> list[str]:
    return sorted(
        path.relative_to(package.path / "engines").as_posix() for path in package.path.glob("engines/**/*")
    )


def test_an_engine_is_built_once_and_its_record_says_what_it_is(package: Package) -> None:
    engine, built, lines = ensure(package)
    assert (built, lines) == (True, [])
    assert engine.plan.read_bytes() == b"plan"  # nothing before or after
    assert engine.profiles == ({"batch": Range(1, 1, 8)},)
    record = json.loads((engine.path / "engine.json").read_text())
    assert record["key"] == KEY
    assert (record["runtime"], record["graph"], record["size"]) == ("toy", "model.onnx", 4)
    assert files(package) == [
        engine.path.name,
        *(f"{engine.path.name}/engine.{end}" for end in ("json", "plan")),
    ]

    again, built, _ = ensure(package)
    assert (again.path, built) == (engine.path, False)
    assert ensure(package, force=True)[1]
    Package.open(package.path)  # engines are no part of the package's hashes


def test_the_field_of_the_key_that_differs_is_named(package: Package) -> None:
    first, _, _ = ensure(package)
    second, built, lines = ensure(package, {**KEY, "engine": "Toy 2"})
    assert built
    assert second.path != first.path
    assert lines == [f"building: the engine {first.path.name} is for another engine (Toy 1, wanted Toy 2)"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda path: (path / "engine.plan").write_bytes(b"pl"),
            "has 2 bytes, 4 were written: it is truncated",
        ),
        (lambda path: (path / "engine.plan").write_bytes(b"plam"), "has changed since it was written"),
        (lambda path: (path / "engine.plan").unlink(), "engine.plan cannot be read"),
        (lambda path: (path / "engine.json").write_bytes(b"{"), "engine.json is damaged"),
        (lambda path: (path / "engine.json").unlink(), "engine.json cannot be read"),
        (
            lambda path: (path / "engine.json").write_text(
                (path / "engine.json").read_text().replace('"8.6"', '"8.9"')
            ),
            "the folder's name is another key's",
        ),
    ],
)
def test_a_damaged_engine_is_built_again(
    package: Package, damage: Callable[[Path], Any], reason: str
) -> None:
    engine, _, _ = ensure(package)
    damage(engine.path)
    (found,) = Cache(package).engines()
    assert found.problem is not None
    assert reason in found.problem
    again, built, lines = ensure(package)
    assert built
    assert again.problem is None
    assert lines[0].startswith("building again: ")
    assert again.plan.read_bytes() == b"plan"


def test_a_failed_build_leaves_what_was_there(package: Package) -> None:
    engine, _, _ = ensure(package)
    before = files(package)

    def fail(plan: Path) -> None:
        plan.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(package, force=True, produce=fail)
    assert files(package) == before
    assert engine.plan.read_bytes() == b"plan"


def test_a_full_disk_says_what_to_do(package: Package) -> None:
    def fail(plan: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(PackageError, match=r"the disk is full; .* --prune; nothing was written"):
        ensure(package, produce=fail)
    assert files(package) == []


HOLD = """
import sys, time
from pathlib import Path
from edgetx.engines import Cache
from edgetx.package import Package

def produce(plan):
    print("building", flush=True)
    if sys.argv[2] == "wait":
        sys.stdin.readline()
    plan.write_bytes(b"theirs")

key = {"model": "1", "compute": "8.6", "engine": "Toy 1"}
Cache(Package.open(sys.argv[1])).ensure("toy", key, (), produce, seconds=10)
"""


def other_process(package: Package) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(package.path), "wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"building\n"
    return process


def test_of_two_processes_one_builds_and_the_other_waits(package: Package) -> None:
    process = other_process(package)
    lines: list[str] = []

    def progress(line: str) -> None:
        lines.append(line)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()

    engine, built, _ = ensure(package, progress=progress)
    process.communicate()
    assert not built
    assert engine.plan.read_bytes() == b"theirs"
    assert len(lines) == 1
    assert lines[0].startswith(f"waiting for process {process.pid} on ")
    assert not list(package.path.glob("engines/.*"))


def test_waiting_ends(package: Package) -> None:
    process = other_process(package)
    with pytest.raises(PackageError, match=rf"process {process.pid} on .* for more than 0.3 s"):
        ensure(package, seconds=0.3)
    process.communicate(b"\n")


def test_what_a_killed_process_held_is_free(package: Package) -> None:
    process = other_process(package)
    process.kill()
    process.communicate()
    assert len(list(package.path.glob("engines/.*"))) == 2  # its lock and its unfinished folder
    assert Cache(package).engines() == []
    assert len(Cache(package).leftovers()) == 1
    _, built, lines = ensure(package)
    assert (built, lines) == (True, [])
    assert not list(package.path.glob("engines/.*"))


def test_threads_wait_for_each_other(tmp_path: Path) -> None:
    order: list[str] = []
    inside = threading.Event()

    def first() -> None:
        with lock(tmp_path / "lock", seconds=5, waiting=order.append):
            inside.set()
            time.sleep(0.2)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with lock(tmp_path / "lock", seconds=5, waiting=lambda line: order.append("waiting")):
        order.append("second")
    thread.join()
    assert order == ["waiting", "first", "second"]
    assert not (tmp_path / "lock").exists()


def test_list_and_prune(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    class Toy:
        def version(self) -> str:
            return "1"

    monkeypatch.setattr(building.runtimes, "runtimes", lambda: {"toy": Toy()})
    good = {**KEY, "model": engines.model_digest(package)}
    ready, _, _ = ensure(package, good)
    ensure(package, KEY)
    ensure(package, {**good, "engine": "Toy 0"})
    damaged, _, _ = ensure(package, {**good, "compute": "8.9"})
    damaged.plan.write_bytes(b"")
    memory = package.path / "engines" / "ort-0123456789ab"
    memory.mkdir()
    (memory / "memory.json").write_text("{}")
    (package.path / "engines" / ".toy-0.abcd.draft").mkdir()

    found = building.listed(package)
    assert len(found) == 4
    problems = [each.problem for each in found if each.problem is not None]
    for part in ("stale: model is", "stale: engine is 1, the engine was built by Toy 0", "truncated"):
        assert sum(part in problem for problem in problems) == 1
    assert len(building.prune(package)) == 3
    assert [each.engine.path for each in building.listed(package)] == [ready.path]
    assert sorted(path.name for path in (package.path / "engines").iterdir()) == sorted(
        [ready.path.name, memory.name]
    )


def test_engines_of_a_changed_model_are_stale(package: Package) -> None:
    digest = engines.model_digest(package)
    changed = msgspec.structs.replace(
        package.manifest, files={**package.manifest.files, "model.onnx": FileEntry(sha256="0" * 64, size=1)}
    )
    assert engines.model_digest(Package(package.folder, changed)) != digest


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Makes an importable module of a child process out of the body of its handler."""

    def make(body: str) -> str:
        text = "import os, sys, time, signal\nfrom pathlib import Path\nfrom edgetx import errors\n"
        text += "from edgetx.engines import child\ndef handle(request, report):\n"
        text += textwrap.indent(textwrap.dedent(body), "    ") + "\nchild.serve(handle)\n"
        (tmp_path / "a_child.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        return "a_child"

    return make


def test_a_child_reports_and_answers(module: Callable[[str], str]) -> None:
    name = module(
        'report("half"); print("noise"); os.write(1, b"more noise\\n"); return {"twice": 2 * request["n"]}'
    )
    lines: list[str] = []
    assert child.run(name, {"n": 4}, seconds=10, progress=lines.append) == {"twice": 8}
    assert lines == ["half"]


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ('raise errors.UnavailableError("not here")', UnavailableError, "not here"),
        ("raise ValueError(3)", EdgetxError, "unexpected ValueError while building: 3"),
        ("raise MemoryError", EdgetxError, "not enough memory .* lower the largest sizes with --range"),
        ("os.kill(os.getpid(), signal.SIGKILL)", EdgetxError, "lack of memory .* lower the largest sizes"),
        (
            'sys.stderr.write("std::bad_alloc"); sys.stderr.flush(); os._exit(3)',
            EdgetxError,
            r"lack of memory \(exit code 3\), nothing was written; lower the largest sizes",
        ),
        (
            'sys.stderr.write("illegal"); sys.stderr.flush(); os._exit(3)',
            EdgetxError,
            "exit code 3, nothing was written; the end of what it said: illegal",
        ),
        (
            "time.sleep(60)",
            EdgetxError,
            "stopped after 1 s, nothing was written; give it more time with --limit",
        ),
    ],
)
def test_a_childs_end_is_told(
    module: Callable[[str], str], body: str, kind: type[EdgetxError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        child.run(module(body), {}, seconds=1 if "sleep" in body else 20)


def test_a_child_ends_with_an_interrupt(module: Callable[[str], str], tmp_path: Path) -> None:
    name = module('Path(request["file"]).write_text(str(os.getpid())); report("on"); time.sleep(60)')

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        child.run(name, {"file": str(tmp_path / "pid")}, seconds=20, progress=interrupt)
    assert not running(int((tmp_path / "pid").read_text()))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_child_whose_parent_is_killed_removes_its_draft(
    module: Callable[[str], str], tmp_path: Path
) -> None:
    draft = tmp_path / "draft"
    draft.mkdir()
    (draft / "engine.plan").write_bytes(b"half")
    name = module("report(str(os.getpid())); time.sleep(60)")
    code = (
        "import sys\nfrom edgetx.engines import child\n"
        f"child.run({name!r}, {{'draft': {str(draft)!r}}}, seconds=60, "
        "progress=lambda line: print(line, flush=True))"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    end = time.monotonic() + 10
    while (running(pid) or draft.exists()) and time.monotonic() < end:
        time.sleep(0.05)
    assert not running(pid)
    assert not draft.exists()


def _pictures(package: Package, **changes: Any) -> Package:
    io = IOSpec(
        inputs=(TensorSpec("image", "float32", ("batch", 3, "height", 8)),),
        outputs=package.io.outputs,
        symbols={"batch": SymbolRange(), "height": SymbolRange(min=4, max=12, step=4)},
    )
    manifest = msgspec.structs.replace(package.manifest, io=IOEntry.of(io), **changes)
    return Package(package.folder, manifest)


def test_usual_profiles_come_from_the_model_and_the_golden_input(package: Package) -> None:
    assert engines.choose(_pictures(package), Request()) == (
        {"batch": Range(1, 1, 8), "height": Range(4, 8, 12)},
    )
    (chosen,) = engines.choose(_pictures(package), Request(ranges={"height": Range(4, 4, 8)}))
    assert chosen["height"] == Range(4, 4, 8)


def test_profiles_of_the_package_and_of_the_request(package: Package) -> None:
    own = tuple(
        ProfileEntry.of(Profile({"height": Range(4, size, size), "points": Range(1, 2, 3)}, 1.0))
        for size in (4, 8)
    )
    pictures = _pictures(package, profiles=own)
    assert [each["height"].max for each in engines.choose(pictures, Request())] == [4, 8]
    fixed = Request(ranges={"height": Range(8, 8, 8)})
    assert engines.choose(pictures, fixed) == ({"batch": Range(1, 1, 8), "height": Range(8, 8, 8)},)
    given = Request(profiles=[{"batch": Range(2, 2, 2)}])
    assert engines.choose(pictures, given) == ({"batch": Range(2, 2, 2), "height": Range(4, 8, 12)},)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"width": Range(1, 1, 1)}, "no symbol 'width'; its inputs have batch, height"),
        ({"height": Range(4, 6, 8)}, "range height=4:6:8: 6 is outside 4 to 12, a multiple of 4"),
        ({"height": Range(4, 8, 16)}, "16 is outside"),
    ],
)
def test_ranges_that_do_not_fit(package: Package, ranges: dict[str, Range], message: str) -> None:
    with pytest.raises(InputError, match=message):
        engines.choose(_pictures(package), Request(ranges=ranges))


def test_a_size_that_nothing_is_known_of(package: Package) -> None:
    io = IOSpec((TensorSpec("x", "float32", ("pillars", 4)),), package.io.outputs)
    manifest = msgspec.structs.replace(package.manifest, io=IOEntry.of(io), files={})
    with pytest.raises(InputError, match=r"which sizes pillars .* --range pillars=MIN:BEST:MAX"):
        engines.choose(Package(package.folder, manifest), Request())


@pytest.mark.parametrize(("text", "expected"), [("a=1:2:3", Range(1, 2, 3)), ("a = 5", Range(5, 5, 5))])
def test_a_range_is_read(text: str, expected: Range) -> None:
    assert engines.parse_range(text) == ("a", expected)


@pytest.mark.parametrize("text", ["a", "a=1:2", "a=x", "1=1", "a=-1"])
def test_a_range_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InputError, match=r"expected SYMBOL=MIN:BEST:MAX"):
        engines.parse_range(text)
