"""A benchmark report as text: tables, CSV, Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgetx.benchmark.sensors import whole
from edgetx.benchmark.stats import Statistics, joined, part

if TYPE_CHECKING:
    from edgetx.benchmark.profiles import Profile, Share
    from edgetx.benchmark.report import BenchReport, EngineResult

Table = tuple[list[str], list[list[str]]]
"""A header, and rows of text of the same length."""


def engines(report: BenchReport) -> Table:
    """One row per engine."""
    header = ["engine", "on", "median", "p90", "p99", "min", "first", "load", "peak memory", "file"]
    header += [f"speed vs {report.baseline}", "max abs difference"]
    rows = []
    for engine in report.engines:
        low, high = engine.speedup_range
        is_baseline = engine.name == report.baseline
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


def latencies(report: BenchReport) -> Table:
    """Every percentile with its confidence interval, one row per engine."""
    names = ("median", "p90", "p95", "p99", "p999")
    header = ["engine", "runs", "min", *("p99.9" if name == "p999" else name for name in names)]
    header += ["max", "outliers"]
    rows = []
    for engine in report.engines:
        latency = engine.latency
        cells = []
        for name in names:
            text = milliseconds(getattr(latency, name))
            if name in latency.intervals:
                low, high = latency.intervals[name]
                text += f" ({low / 1e6:.4g}-{high / 1e6:.4g})"
            cells.append(text)
        rows.append(
            [
                engine.name,
                str(latency.count),
                milliseconds(latency.min),
                *cells,
                milliseconds(latency.max),
                str(latency.outliers),
            ]
        )
    return header, rows


def cold_start(report: BenchReport) -> Table:
    """What a fresh process pays before it is warm, memory and energy; one row per engine."""
    rails = list(dict.fromkeys(rail for engine in report.engines for rail in engine.energy))
    header = ["engine", "import", "load", "first inference", "warm-up runs", "host memory", "device memory"]
    header += [f"energy per run, {rail}" for rail in rails]
    rows = []
    for engine in report.engines:
        settled = "" if engine.stationary else " (not settled)"
        imported = engine.import_ns
        rows.append(
            [
                engine.name,
                "unknown" if imported is None else milliseconds(imported),
                milliseconds(engine.load_ns - (imported or 0)),
                milliseconds(engine.first_ns),
                f"{engine.warmup_runs}{settled}",
                size(engine.peak_bytes),
                size(engine.device_peak_bytes),
                *(joules(engine.energy, rail) for rail in rails),
            ]
        )
    return header, rows


def joules(energy: dict[str, float], rail: str) -> str:
    """The energy of one rail in words."""
    return f"{energy[rail]:.3g} J" if rail in energy else "unknown"


def loads(report: BenchReport) -> Table:
    """The scenarios of MLPerf LoadGen, one row per engine and scenario."""
    rails = list(
        dict.fromkeys(rail for engine in report.engines for each in engine.loads for rail in each.energy)
    )
    header = ["engine", "scenario", "score", "median", "p90", "p99", "samples", "samples/s"]
    header += [*(f"energy per sample, {rail}" for rail in rails), "validity"]
    rows = []
    for engine in report.engines:
        for result in engine.loads:
            load = result.load
            if result.score_unit == "ns":
                score = milliseconds(result.score)
            else:
                score = f"{result.score:.4g} {result.score_unit}"
            if result.within_bound is not None:
                kept = "kept" if result.within_bound else "NOT kept"
                score += f", bound of {load.bound_ms:.4g} ms {kept}"
            validity = {True: "VALID", False: "INVALID", None: "short run, not judged"}[result.valid]
            latency = result.latency
            rows.append(
                [
                    engine.name,
                    load.scenario,
                    score,
                    *map(milliseconds, (latency.median, latency.p90, latency.p99)),
                    str(result.samples or len(result.latencies_ns)),
                    f"{result.samples_per_s:.4g}",
                    *(joules(result.energy, rail) for rail in rails),
                    ": ".join(filter(None, [validity, "; ".join(result.reasons)])),
                ]
            )
    return header, rows


def stages(report: BenchReport, engine: EngineResult) -> Table:
    """One row per stage of an engine that runs in stages, then the sum and the whole.

    The whole is the same package in one session, where that was measured too.
    """
    rows = [[stage.name, *_percentiles(stage.latency), f"{stage.share:.1%}"] for stage in engine.stages]
    each_run = zip(*(joined(stage.rounds_ns) for stage in engine.stages), strict=True)
    rows.append(["sum of the stages", *_percentiles(Statistics.of([sum(run) for run in each_run])), ""])
    rows += [
        ["whole, in one session", *_percentiles(other.latency), ""]
        for other in report.engines
        if other.path == engine.path and not other.stages and other.kind == engine.kind
    ]
    return ["stage", "median", "p90", "p99", "share"], rows


def inputs(report: BenchReport) -> Table:
    """One row per input: its sizes, every engine's median and every stage's."""
    first = report.engines[0]
    header = ["input", "sizes", *(engine.name for engine in report.engines)]
    header += [stage.name for engine in report.engines for stage in engine.stages]
    rows = []
    for index, each in enumerate(first.inputs):
        medians = [engine.inputs[index].latency.median for engine in report.engines]
        medians += [
            Statistics.of(part(stage.rounds_ns, index, len(first.inputs))).median
            for engine in report.engines
            for stage in engine.stages
        ]
        rows.append([Path(each.name).name, shapes_text(each.shapes), *map(milliseconds, medians)])
    return header, rows


def shapes(report: BenchReport) -> Table:
    """One row per engine and shape of the inputs, over all inputs of that shape."""
    rows = []
    for engine in report.engines:
        count = len(engine.inputs)
        runs: dict[str, list[int]] = {}
        for index, each in enumerate(engine.inputs):
            runs.setdefault(shapes_text(each.shapes), []).extend(part(engine.rounds_ns, index, count))
        for text, values in runs.items():
            latency = Statistics.of(values)
            rows.append([engine.name, text, str(latency.count), *_percentiles(latency)])
    return ["engine", "shape", "runs", "median", "p90", "p99"], rows


def profile_shares(profile: Profile, shares: list[Share], what: str, limit: int = 20) -> Table:
    """The most expensive modules or operators, then the rest, the engine's own time and the remainder.

    `roofline` is the least time that the machine's rates allow, as a share of the time it took, and which
    of the two rates sets it.
    """
    total = profile.total_ns
    rows = []
    for share in shares[:limit]:
        cells = [share.name, str(share.parts), milliseconds(share.ns), f"{share.share:.1%}"]
        cells += _work(profile, share.flops, share.bytes, share.ns)
        rows.append(cells)
    if rest := shares[limit:]:
        together = sum(share.ns for share in rest)
        work = _work(profile, sum(each.flops for each in rest), sum(each.bytes for each in rest), together)
        parts = str(sum(share.parts for share in rest))
        rows.append([f"{len(rest)} others", parts, milliseconds(together), f"{together / total:.1%}", *work])
    for name, ns in (*profile.around.items(), ("remainder", profile.remainder_ns)):
        rows.append([f"({name})", "", milliseconds(ns), f"{ns / total:.1%}", "", "", ""])
    flops = sum(share.flops for share in shares)
    moved = sum(share.bytes for share in shares)
    rows.append(["total", "", milliseconds(total), "100.0%", *_work(profile, flops, moved, total)])
    return [what, "nodes", "time", "share", "MFLOP", "bytes", "roofline"], rows


def _work(profile: Profile, flops: float, moved: float, ns: float) -> list[str]:
    if not moved:
        return ["", "", ""]
    reached = ""
    if profile.rates is not None and ns:
        reached = f"{profile.rates.least_ns(flops, moved) / ns:.0%} ({profile.rates.bound(flops, moved)})"
    return [f"{flops / 1e6:.4g}" if flops >= 1000 else "0", size(round(moved)), reached]


def csv(report: BenchReport) -> str:
    """One row per engine and figure-set: the closed loop first, then the scenarios; times in milliseconds."""
    import csv as writer
    import io

    columns = ("min", "median", "mean", "p90", "p95", "p99", "p999", "max")
    header = ["model", "engine", "kind", "version", "threads", "precision", "scenario", "runs"]
    header += [f"{name}_ms" for name in columns] + [
        "median_low_ms",
        "median_high_ms",
        "samples_per_s",
        "valid",
    ]
    header += ["import_ms", "load_ms", "first_ms", "peak_bytes", "device_peak_bytes", "file_bytes", "joules"]
    header += ["speedup", "cpu", "time_utc"]
    out = io.StringIO()
    rows = writer.writer(out, lineterminator="\n")
    rows.writerow(header)
    for engine in report.engines:
        found: list[tuple[str, Statistics, float | str, bool | None, dict[str, float]]] = [
            ("closed loop", engine.latency, "", None, engine.energy)
        ]
        found += [(r.load.scenario, r.latency, r.samples_per_s, r.valid, r.energy) for r in engine.loads]
        for scenario, latency, rate, valid, energy in found:
            low, high = latency.intervals.get("median", ("", ""))
            rows.writerow(
                [engine.model, engine.name, engine.kind, engine.version, engine.threads, engine.precision]
                + [scenario, latency.count]
                + [getattr(latency, name) / 1e6 for name in columns]
                + [bound / 1e6 if isinstance(bound, float) else bound for bound in (low, high)]
                + [rate, "" if valid is None else valid]
                + ["" if engine.import_ns is None else engine.import_ns / 1e6]
                + [engine.load_ns / 1e6, engine.first_ns / 1e6]
                + [
                    "" if v is None else v
                    for v in (engine.peak_bytes, engine.device_peak_bytes, engine.file_bytes)
                ]
                + ["" if (used := whole(energy)) is None else used, engine.speedup]
                + [report.machine.cpu, report.machine.time_utc]
            )
    return out.getvalue()


def as_markdown(table: Table) -> str:
    """A table in Markdown; a bar inside a cell is escaped."""
    header, rows = table
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def markdown(report: BenchReport) -> str:
    """The engines, scenarios, failures and notes; then the conditions."""
    blocks = [as_markdown(engines(report))]
    if any(engine.loads for engine in report.engines):
        blocks.append(as_markdown(loads(report)))
    blocks += [f"- FAILED: {failure.name}: {failure.error}" for failure in report.failures]
    blocks += [f"- {note}" for note in report.notes]
    return "\n\n".join([*blocks, conditions(report)]) + "\n"


def conditions(report: BenchReport) -> str:
    """One line: on what and how this was measured."""
    machine, scenario = report.machine, report.scenario
    load = "" if machine.load_before is None else f", load {machine.load_before:.1f} before"
    load += "" if machine.load_after is None else f" and {machine.load_after:.1f} after"
    tensors = " ".join(f"{name}={text}" for name, text in scenario.inputs.items())
    count = len(report.engines[0].inputs)
    each = f" on each of {count} inputs" if count > 1 else ""
    counts = sorted({engine.threads or scenario.threads for engine in report.engines})
    return (
        f"{machine.cpu}, {machine.cores_physical} cores, {' or '.join(map(str, counts))} threads, "
        f"{machine.os}{load}; {scenario.runs} runs{each} in {scenario.rounds} alternating rounds, {tensors}, "
        f"{machine.time_utc}."
    )


def shapes_text(shapes: dict[str, list[int]]) -> str:
    """`image[1,3,224,224]`, and so on for every tensor."""
    return " ".join(f"{name}[{','.join(map(str, dims))}]" for name, dims in shapes.items())


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
