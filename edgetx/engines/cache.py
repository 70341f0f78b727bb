"""The engines in a package's folder: found by key, checked, listed, pruned, and put there in one step."""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Literal

import msgspec

from edgetx import __version__, files
from edgetx.engines.lock import lock
from edgetx.engines.ranges import Ranges
from edgetx.errors import PackageError
from edgetx.package import ProfileEntry
from edgetx.package.digests import sha256
from edgetx.profiles import Profile

if TYPE_CHECKING:
    from edgetx.package import Package

FOLDER = "engines"
PLAN = "engine.plan"
RECORD = "engine.json"

Key = Mapping[str, str]
"""What an engine depends on, by name; two engines are the same if all of it is equal."""


class Record(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """`engine.json`.

    Attributes:
        runtime: that built it and runs it.
        graph: the ONNX file in the package that it was built from.
        key: see `Key`.
        profiles: the optimisation profiles, in the engine's order.
        size, sha256: of `engine.plan`.
        seconds: that the build took.
        tuned: milliseconds of one run with each choice of bodies that was measured (`--tune`), or why that
            choice was not measured; empty where nothing was.
        edgetx_version, created: of the build; UTC, ISO 8601.
    """

    schema_version: Literal[1] = 1
    runtime: str
    graph: str
    key: dict[str, str]
    profiles: tuple[ProfileEntry, ...]
    size: int
    sha256: str
    seconds: float
    edgetx_version: str
    created: str
    tuned: dict[str, float | str] = {}


@dataclass(frozen=True)
class Engine:
    """A folder of the cache; `problem` says why it is never loaded, None if nothing is wrong with it."""

    path: Path
    record: Record | None
    problem: str | None = None

    @property
    def plan(self) -> Path:
        """The engine's file."""
        return self.path / PLAN

    @property
    def profiles(self) -> tuple[Ranges, ...]:
        """The optimisation profiles, in the engine's order."""
        return () if self.record is None else tuple(each.to_core().ranges for each in self.record.profiles)


def model_digest(package: Package) -> str:
    """A hash over the ONNX file that `package` is about and its weights."""
    names = (package.graph, f"{package.graph}.data")
    known = [package.manifest.files[name].sha256 for name in names if name in package.manifest.files]
    return hashlib.sha256("".join(known).encode()).hexdigest()[:16]


def identity(runtime: str, graph: str, key: Key) -> str:
    """The folder's name: `<runtime>-<12 hex digits>`."""
    text = json.dumps([runtime, graph, dict(key)], sort_keys=True)
    return f"{runtime}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


class Cache:
    """The engines of one package, in `PKG/engines`."""

    def __init__(self, package: Package) -> None:
        self._package = package
        self.folder = package.path / FOLDER

    def engines(self) -> list[Engine]:
        """Every finished engine, newest last; other folders of the cache are not engines."""
        if not self.folder.is_dir():
            return []
        folders = [
            each
            for each in self.folder.iterdir()
            if not each.name.startswith(".") and ((each / RECORD).exists() or (each / PLAN).exists())
        ]
        found = [read(each) for each in sorted(folders)]
        return sorted(found, key=lambda each: "" if each.record is None else each.record.created)

    def find(self, runtime: str, key: Key) -> Engine | None:
        """The engine of this key, whole or damaged, or None."""
        folder = self.folder / identity(runtime, self._package.graph, key)
        return read(folder) if folder.is_dir() else None

    def why_none(self, runtime: str, key: Key) -> str | None:
        """How the most similar engine differs from `key`; None if there is no engine for this graph."""
        others = [
            (each.path.name, differences(each.record.key, key))
            for each in self.engines()
            if each.record is not None
            and (each.record.runtime, each.record.graph) == (runtime, self._package.graph)
        ]
        if not others:
            return None
        name, reasons = min(others, key=lambda each: len(each[1]))
        return f"the engine {name} is for another " + ", another ".join(reasons)

    def ensure(
        self,
        runtime: str,
        key: Key,
        profiles: tuple[Ranges, ...],
        produce: Callable[[Path], None],
        *,
        seconds: float,
        force: bool = False,
        progress: Callable[[str], None] = lambda line: None,
    ) -> tuple[Engine, bool]:
        """The engine of this key: the cached one, or one that `produce` writes to the path it is given.

        Args:
            seconds: how long to wait for another process that builds the same.

        Returns:
            The engine, and whether it was built by this call.

        Raises:
            PackageError: the cache cannot be written, or another process builds for too long.
        """
        name = identity(runtime, self._package.graph, key)
        try:
            self.folder.mkdir(exist_ok=True)
            with lock(self.folder / f".{name}.lock", seconds=seconds, waiting=progress):
                cached = self.find(runtime, key)
                if cached is not None and cached.problem is None and not force:
                    return cached, False
                if cached is not None and cached.problem is not None:
                    progress(f"building again: {cached.problem}")
                elif cached is None and (reason := self.why_none(runtime, key)) is not None:
                    progress(f"building: {reason}")
                with self._draft(name) as draft:
                    started = monotonic()
                    produce(draft / PLAN)
                    record = Record(
                        runtime=runtime,
                        graph=self._package.graph,
                        key=dict(key),
                        profiles=tuple(ProfileEntry.of(Profile(ranges, 0.0)) for ranges in profiles),
                        size=(draft / PLAN).stat().st_size,
                        sha256=sha256(draft / PLAN),
                        seconds=round(monotonic() - started, 3),
                        edgetx_version=__version__,
                        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                    )
                    _write(draft / RECORD, record)
                    return self._publish(draft, name), True
        except OSError as error:
            raise self._translate(error) from error

    def note(self, engine: Engine, tuned: Mapping[str, float | str]) -> Engine:
        """Write into an engine's record what was measured to choose it.

        Raises:
            PackageError: the record cannot be written; it is as it was.
        """
        assert engine.record is not None
        record = msgspec.structs.replace(engine.record, tuned=dict(tuned))
        draft = engine.path / f".{RECORD}.{secrets.token_hex(4)}"
        try:
            _write(draft, record)
            draft.replace(engine.path / RECORD)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise self._translate(error) from error
        return read(engine.path)

    def remove(self, engine: Engine) -> None:
        """Delete a finished engine.

        Raises:
            PackageError: it cannot be deleted.
        """
        try:
            hidden = self.folder / f".{engine.path.name}.{secrets.token_hex(4)}.old"
            engine.path.rename(hidden)
            shutil.rmtree(hidden)
        except OSError as error:
            raise PackageError(f"cannot remove {engine.path}: {error.strerror}") from error

    def leftovers(self) -> list[Path]:
        """Hidden folders of builds that nobody is working on."""
        if not self.folder.is_dir():
            return []
        free = []
        for each in self.folder.glob(".*.*"):
            if each.is_dir() and each.suffix in (".draft", ".old"):
                name = each.name[1:].partition(".")[0]
                unused = lock(self.folder / f".{name}.lock", seconds=0, waiting=lambda line: None)
                with contextlib.suppress(PackageError, OSError), unused:
                    free.append(each)
        return free

    @contextlib.contextmanager
    def _draft(self, name: str) -> Iterator[Path]:
        for left in (*self.folder.glob(f".{name}.*.draft"), *self.folder.glob(f".{name}.*.old")):
            shutil.rmtree(left, ignore_errors=True)  # of a process that died: we hold the lock
        draft = self.folder / f".{name}.{secrets.token_hex(4)}.draft"
        draft.mkdir()
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _publish(self, draft: Path, name: str) -> Engine:
        final = self.folder / name
        files.replace_folder(draft, final)
        return read(final, hashes=False)

    def _translate(self, error: OSError) -> PackageError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            reason = "the disk is full; free some space, or remove engines: edgetx build --prune"
        else:
            reason = "copy the package to a folder that you may write to"
        return PackageError(
            f"cannot write an engine to {self.folder} ({error.strerror}): {reason}; nothing was written"
        )


def read(folder: Path, *, hashes: bool = True) -> Engine:
    """One folder of the cache; a damaged engine says so in `problem`."""
    plan = folder / PLAN
    try:
        record = msgspec.json.decode((folder / RECORD).read_bytes(), type=Record)
    except OSError as error:
        return Engine(folder, None, f"{folder.name}/{RECORD} cannot be read ({error.strerror})")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Engine(folder, None, f"{folder.name}/{RECORD} is damaged ({error})")
    if identity(record.runtime, record.graph, record.key) != folder.name:
        return Engine(
            folder, record, f"{folder.name}/{RECORD} was changed: the folder's name is another key's"
        )
    try:
        size = plan.stat().st_size
        if size != record.size:
            problem = f"{folder.name}/{PLAN} has {size} bytes, {record.size} were written"
            return Engine(
                folder, record, f"{problem}: it is {'truncated' if size < record.size else 'changed'}"
            )
        if hashes and sha256(plan) != record.sha256:
            return Engine(folder, record, f"{folder.name}/{PLAN} has changed since it was written")
    except OSError as error:
        return Engine(folder, record, f"{folder.name}/{PLAN} cannot be read ({error.strerror})")
    return Engine(folder, record)


def differences(built: Key, wanted: Key) -> list[str]:
    """`model (1a2b, wanted 3c4d)` for every field that differs."""
    return [
        f"{name} ({built.get(name, 'none')}, wanted {wanted.get(name, 'none')})"
        for name in dict.fromkeys((*wanted, *built))
        if built.get(name) != wanted.get(name)
    ]


def _write(file: Path, record: Record) -> None:
    with file.open("wb") as stream:
        stream.write(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
