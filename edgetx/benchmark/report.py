"""What a benchmark found: JSON first, tables from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgetx.benchmark.machine import MachineRecord
from edgetx.benchmark.stats import Statistics
from edgetx.errors import InputError
from edgetx.files import write_text

SCHEMA = 1


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
        load_ns: from the start of the engine's imports to a session that is ready, in a fresh process.
        first_ns: the first inference.
        stationary: whether warm-up ended because latencies had settled, not because of its cap.
        speedup: median of the baseline / median of this engine (1 for the baseline).
        speedup_range: smallest and largest of the same ratio taken round by round.
        difference: largest absolute difference of its outputs from the baseline's, None where they cannot
            be compared (other count, shapes or element types).
        inputs: the runs by input.
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


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison of engines on one machine; `engines` in the order they were given."""

    schema: int = SCHEMA
    edgetx: str
    machine: MachineRecord
    scenario: Scenario
    baseline: str
    engines: list[EngineResult]

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
            if schema != SCHEMA:
                raise InputError(
                    f"the benchmark report has schema {schema}, this edgetx reads {SCHEMA}; "
                    "use the edgetx that wrote it or measure again"
                )
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise InputError(
                f"not a benchmark report: {error}; expected the JSON of `edgetx bench`"
            ) from error

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file, which is replaced; it appears complete or not at all.

        Raises:
            InputError: the folder or disk cannot be written.
        """
        write_text(Path(path), self.to_json() + "\n", force=True)

    def to_table(self) -> tuple[list[str], list[list[str]]]:
        """Header and one row of text per engine."""
        header = ["engine", "on", "median", "p90", "p99", "min", "first", "load", "peak memory", "file"]
        header += [f"speed vs {self.baseline}", "max abs difference"]
        rows = []
        for engine in self.engines:
            low, high = engine.speedup_range
            is_baseline = engine.name == self.baseline
            rows.append(
                [
                    engine.name,
                    engine.version,
                    *map(
                        milliseconds,
                        (engine.latency.median, engine.latency.p90, engine.latency.p99, engine.latency.min),
                    ),
                    milliseconds(engine.first_ns),
                    milliseconds(engine.load_ns),
                    size(engine.peak_bytes),
                    size(engine.file_bytes),
                    "baseline" if is_baseline else f"{engine.speedup:.2f}x ({low:.2f}-{high:.2f})",
                    ""
                    if is_baseline
                    else "not comparable"
                    if engine.difference is None
                    else f"{engine.difference:.1e}",
                ]
            )
        return header, rows

    def stages_table(self, engine: EngineResult) -> tuple[list[str], list[list[str]]]:
        """Header and one row of text per stage of an engine that runs in stages, then the sum and the whole.

        The whole is the same package in one session, where that was measured too.
        """
        rows = [[stage.name, *_percentiles(stage.latency), f"{stage.share:.1%}"] for stage in engine.stages]
        each_run = zip(*(joined(stage.rounds_ns) for stage in engine.stages), strict=True)
        rows.append(["sum of the stages", *_percentiles(Statistics.of([sum(run) for run in each_run])), ""])
        rows += [
            ["whole, in one session", *_percentiles(other.latency), ""]
            for other in self.engines
            if other.path == engine.path and not other.stages and other.kind == engine.kind
        ]
        return ["stage", "median", "p90", "p99", "share"], rows

    def inputs_table(self) -> tuple[list[str], list[list[str]]]:
        """Header and one row of text per input: its sizes, every engine's median and every stage's."""
        first = self.engines[0]
        header = ["input", "sizes", *(engine.name for engine in self.engines)]
        header += [stage.name for engine in self.engines for stage in engine.stages]
        rows = []
        for index, each in enumerate(first.inputs):
            shapes = " ".join(f"{name}[{','.join(map(str, dims))}]" for name, dims in each.shapes.items())
            medians = [engine.inputs[index].latency.median for engine in self.engines]
            medians += [
                Statistics.of(part(stage.rounds_ns, index, len(first.inputs))).median
                for engine in self.engines
                for stage in engine.stages
            ]
            rows.append([Path(each.name).name, shapes, *map(milliseconds, medians)])
        return header, rows

    def to_markdown(self) -> str:
        """The table as Markdown, followed by one line on the machine and the scenario."""
        header, rows = self.to_table()
        lines = [header, ["---"] * len(header), *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{self.conditions()}\n"

    def conditions(self) -> str:
        """One line: on what and how this was measured."""
        machine, scenario = self.machine, self.scenario
        load = "" if machine.load_before is None else f", load {machine.load_before:.1f} before"
        load += "" if machine.load_after is None else f" and {machine.load_after:.1f} after"
        inputs = " ".join(f"{name}={text}" for name, text in scenario.inputs.items())
        count = len(self.engines[0].inputs)
        each = f" on each of {count} inputs" if count > 1 else ""
        return (
            f"{machine.cpu}, {machine.cores_physical} cores, {scenario.threads} threads, {machine.os}{load}; "
            f"{scenario.runs} runs{each} in {scenario.rounds} alternating rounds, {inputs}, "
            f"{machine.time_utc}."
        )


class _Version(msgspec.Struct):
    schema: int


def joined(rounds_ns: Sequence[Sequence[int]]) -> list[int]:
    """The runs of all rounds."""
    return [ns for each in rounds_ns for ns in each]


def part(rounds_ns: Sequence[Sequence[int]], index: int, count: int) -> list[int]:
    """The runs of the `index`-th of `count` inputs, of which every round has equally many."""
    runs: list[int] = []
    for each in rounds_ns:
        size = len(each) // count
        runs += each[index * size : (index + 1) * size]
    return runs


def _percentiles(latency: Statistics) -> list[str]:
    return [milliseconds(value) for value in (latency.median, latency.p90, latency.p99)]


def milliseconds(nanoseconds: float) -> str:
    """Nanoseconds as text in milliseconds, three significant digits or better."""
    value = nanoseconds / 1e6
    return f"{value:.3f} ms" if value < 1 else f"{value:.2f} ms" if value < 100 else f"{value:.0f} ms"


def size(count: int | None) -> str:
    """Bytes as text in decimal units, or `unknown`."""
    if count is None:
        return "unknown"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"
