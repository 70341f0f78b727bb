"""What a benchmark found: JSON first, tables from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgetx.benchmark import tables
from edgetx.benchmark.loads import LoadResult
from edgetx.benchmark.machine import MachineRecord
from edgetx.benchmark.profiles import Profile
from edgetx.benchmark.state import StateLog
from edgetx.benchmark.stats import WARMUP_RULE, Statistics, joined, part
from edgetx.benchmark.tables import milliseconds as milliseconds
from edgetx.benchmark.tables import size as size
from edgetx.errors import InputError
from edgetx.files import write_text

SCHEMA = 2
"""2 added p95, p99.9, intervals, scenarios, the state of the machine, energy, profiles and failures."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """How it was measured.

    `runs` are timed runs per engine and input, in `rounds` alternating rounds; `seconds` is the wall-clock
    budget per engine that replaced `runs`, or None. `inputs` are tensors; a size that varies between the
    inputs is written as `smallest..largest`.
    """

    threads: int
    runs: int
    rounds: int
    seconds: float | None
    warmup: int
    inputs: dict[str, str]
    warmup_rule: str = WARMUP_RULE


class InputResult(msgspec.Struct, frozen=True, kw_only=True):
    """The runs of one engine on one input; times in nanoseconds."""

    name: str
    shapes: dict[str, list[int]]
    latency: Statistics


class StageResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one stage took in the runs of an engine that runs a package in stages; times in nanoseconds.

    `share` is its median over the sum of the stages' medians; `rounds_ns` as in `EngineResult`.
    """

    name: str
    latency: Statistics
    share: float
    rounds_ns: list[list[int]]


class EngineResult(msgspec.Struct, frozen=True, kw_only=True):
    """One engine. Times in nanoseconds, sizes in bytes.

    Attributes:
        rounds_ns: every timed run, grouped by round; inside a round, input after input.
        model: what was measured, whatever engine ran it.
        import_ns: importing the engine's libraries, in a fresh process.
        load_ns: from the start of those imports to a session that is ready.
        first_ns: the first inference.
        stationary: whether warm-up ended because latencies had settled, not because of its cap.
        speedup: median of the baseline / median of this engine (1 for the baseline).
        speedup_range: smallest and largest of the same ratio taken round by round.
        device_peak_bytes: memory of the GPU that the process held at most, where the driver tells.
        energy: joules per run by power rail, the whole machine's over the rounds; empty without a meter.
        difference: largest absolute difference of its outputs from the baseline's, None where they cannot
            be compared (other count, shapes or element types).
        inputs: the runs by input.
        loads: what MLPerf LoadGen's scenarios found.
        profile: where the time goes, from the engine's own profiler.
        stages: the runs by stage, in the order in which they run; empty for a model that runs whole.
    """

    name: str
    kind: str
    path: str
    version: str
    ran_on: dict[str, str]
    latency: Statistics
    rounds_ns: list[list[int]]
    load_ns: int
    first_ns: int
    warmup_runs: int
    stationary: bool
    peak_bytes: int | None
    file_bytes: int | None
    speedup: float
    speedup_range: tuple[float, float]
    difference: float | None
    inputs: list[InputResult] = []
    stages: list[StageResult] = []
    model: str = ""
    threads: int = 0
    precision: str = ""
    import_ns: int | None = None
    device_peak_bytes: int | None = None
    energy: dict[str, float] = {}
    loads: list[LoadResult] = []
    profile: Profile | None = None


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that could not be measured: it failed, crashed or ran past the time limit."""

    name: str
    path: str
    error: str


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison of engines on one machine; `engines` in the order they were given."""

    schema: int = SCHEMA
    edgetx: str
    machine: MachineRecord
    scenario: Scenario
    baseline: str
    engines: list[EngineResult]
    failures: list[Failure] = []
    state: StateLog | None = None
    notes: list[str] = []

    def __getitem__(self, name: str) -> EngineResult:
        for engine in self.engines:
            if engine.name == name:
                return engine
        raise KeyError(
            f"no engine {name!r} in this report; it has {[engine.name for engine in self.engines]}"
        )

    def to_json(self) -> str:
        """The whole report as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> BenchReport:
        """Read `to_json`'s text; raises `InputError` that names the wrong field or the newer schema."""
        try:
            schema = msgspec.json.decode(text, type=_Version).schema
            if schema not in (1, SCHEMA):
                raise InputError(
                    f"the benchmark report has schema {schema}, this edgetx reads 1 to {SCHEMA}; "
                    "use the edgetx that wrote it or measure again"
                )
            if schema == SCHEMA:
                return msgspec.json.decode(text, type=cls)
            return msgspec.convert(upgraded(msgspec.json.decode(text)), cls)
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise InputError(
                f"not a benchmark report: {error}; expected the JSON of `edgetx bench`"
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> BenchReport:
        """Read a file; raises `InputError` that names it, see `from_json`."""
        try:
            return cls.from_json(Path(path).read_bytes())
        except OSError as error:
            raise InputError(f"cannot read the benchmark report {path}: {error.strerror}") from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write a file whose suffix says what: `.csv`, `.md`, `.html`, or the whole as JSON.

        It is replaced, and appears complete or not at all.

        Raises:
            InputError: the folder or disk cannot be written.
        """
        path = Path(path)
        write = {".csv": self.to_csv, ".md": self.to_markdown, ".html": self.to_html}
        text = write.get(path.suffix.lower(), self.to_json)()
        write_text(path, text.rstrip("\n") + "\n", force=True)

    def to_table(self) -> tuple[list[str], list[list[str]]]:
        """Header and one row of text per engine; see `edgetx.benchmark.tables` for the others."""
        return tables.engines(self)

    def stages_table(self, engine: EngineResult) -> tuple[list[str], list[list[str]]]:
        """One row per stage of an engine that runs in stages, then the sum and the whole."""
        return tables.stages(self, engine)

    def inputs_table(self) -> tuple[list[str], list[list[str]]]:
        """One row per input: its sizes, every engine's median and every stage's."""
        return tables.inputs(self)

    def to_csv(self) -> str:
        """Every figure of every engine, one row each, times in milliseconds."""
        return tables.csv(self)

    def to_markdown(self) -> str:
        """The table as Markdown, followed by one line on the machine and the scenario."""
        return tables.markdown(self)

    def to_html(self) -> str:
        """A page that needs nothing else and no network; needs plotly."""
        from edgetx.benchmark.page import of_report

        return of_report(self)

    def conditions(self) -> str:
        """One line: on what and how this was measured."""
        return tables.conditions(self)


class _Version(msgspec.Struct):
    schema: int


def upgraded(raw: dict[str, Any]) -> dict[str, Any]:
    """A report of schema 1 as one of schema 2: figures that it lacked are computed from its runs."""
    for engine in raw["engines"]:
        rounds = engine["rounds_ns"]
        count = len(engine.get("inputs", [])) or 1
        engine["latency"] = Statistics.of(joined(rounds))
        for index, each in enumerate(engine.get("inputs", [])):
            each["latency"] = Statistics.of(part(rounds, index, count))
        for stage in engine.get("stages", []):
            stage["latency"] = Statistics.of(joined(stage["rounds_ns"]))
        engine["threads"] = raw["scenario"]["threads"]
    return raw | {"schema": SCHEMA}
