"""Tuning: what is measured, kept and recorded. A runtime of sleeping engines stands for one with a GPU."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgetx import building, runtimes
from edgetx.building import _tune
from edgetx.core import Runtime, Session, Target
from edgetx.engines import Cache, Engine, Request
from edgetx.errors import EdgetxError, InputError, UnavailableError
from edgetx.package import Package

MILLISECONDS = {"primitive": 20.0, "attention": 2.0, "plugin": 8.0}


class Sleeper(Session):
    """Takes as long as its bodies."""

    def __init__(self, package: Package, bodies: str) -> None:
        self.io, self.processor = package.io, None
        self._bodies = bodies

    def run(self, feeds: Any) -> dict[str, Any]:
        if self._bodies == "broken":
            raise EdgetxError("the engine failed")
        time.sleep(MILLISECONDS[self._bodies] / 1e3)
        return {}

    def describe(self) -> dict[str, str]:
        return {}


class Toy(Runtime):
    id = "toy"
    title = "Toy"

    def __init__(self, **choices: str | None) -> None:
        self._choices = choices

    def why_not(self, package: Package | None = None, target: Target | None = None) -> str | None:
        return None if target is None or target.device == "cuda:0" else f"there is no {target.device}"

    def open(self, package: Package, target: Target) -> Session:
        raise NotImplementedError

    def choices(self, package: Package) -> Mapping[str, str | None]:
        return self._choices

    def build(self, package: Package, request: Request, progress: Any = None) -> tuple[Engine, bool]:
        if request.bodies == "refused":
            raise UnavailableError("the parser refuses it")
        key = {"model": "1", "bodies": request.bodies}
        return Cache(package).ensure("toy", key, (), lambda plan: _put(plan), seconds=5, force=request.force)

    def session(self, package: Package, engine: Engine, device: int = 0) -> Session:
        assert engine.record is not None
        return Sleeper(package, engine.record.key["bodies"])


def _put(plan: Path) -> None:
    plan.write_bytes(b"plan")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tune, "RUNS", 3)


def tune(monkeypatch: pytest.MonkeyPatch, package: Package, toy: Toy, **settings: Any) -> Engine:
    monkeypatch.setattr(runtimes, "get", lambda name: toy)
    return building.tune(package, runtime="toy", **settings)


def test_the_fastest_stays_and_all_are_recorded(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Package.open(classifier)
    toy = Toy(primitive=None, attention=None, plugin="the library is missing", refused=None, broken=None)
    engine = tune(monkeypatch, package, toy)
    record = engine.record
    assert record is not None
    assert record.key["bodies"] == "attention"
    assert list(record.tuned) == ["primitive", "attention", "plugin", "refused", "broken"]
    assert 2 <= float(record.tuned["attention"]) < float(record.tuned["primitive"])
    assert record.tuned["plugin"] == "the library is missing"
    assert record.tuned["refused"] == "the parser refuses it"
    assert record.tuned["broken"] == "the engine failed"
    (kept,) = Cache(package).engines()  # whole, and the others are gone
    assert (kept.path, kept.problem) == (engine.path, None)


def test_engines_that_were_there_stay(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Package.open(classifier)
    toy = Toy(primitive=None, plugin=None)
    before, _ = toy.build(package, Request(bodies="primitive"))
    engine = tune(monkeypatch, package, toy)
    assert engine.record is not None and engine.record.key["bodies"] == "plugin"
    assert {each.path for each in Cache(package).engines()} == {before.path, engine.path}


def test_nothing_to_measure(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Package.open(classifier)
    with pytest.raises(UnavailableError, match="primitive: too old; refused: the parser refuses"):
        tune(monkeypatch, package, Toy(primitive="too old", refused=None))
    with pytest.raises(InputError, match="there is nothing to tune"):
        tune(monkeypatch, package, Toy())
    with pytest.raises(UnavailableError, match="there is no cuda:1"):
        tune(monkeypatch, package, Toy(primitive=None), request=Request(device=1))
    assert not Cache(package).engines()
