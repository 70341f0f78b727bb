"""`bench`: packages measured, compared with each other and with what was measured before."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from edgetx.cli import compare as comparing
from edgetx.cli import options
from edgetx.cli.console import Progress, emit_json, say, show, show_facts, show_table
from edgetx.cli.device import measurer
from edgetx.cli.files import why_not_write
from edgetx.core import Target
from edgetx.errors import InputError

if TYPE_CHECKING:
    from edgetx.benchmark import BenchReport, Load
    from edgetx.package import Package

MEASURE = "measure"


class _Measures(TyperGroup):
    """`edgetx bench PKG` is `edgetx bench measure PKG`: whatever names no command is a package or an option.

    A package in a folder called like a command is given as `./compare`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `measure` in front where no command is named."""
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = [MEASURE, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Measures,
    name="bench",
    help="Measure packages (`edgetx bench PKG...`), compare measurements, and show a package's history.",
    epilog="`edgetx bench PKG...` is `edgetx bench measure PKG...`: see `edgetx bench measure --help`.",
)


def _listed(texts: list[str] | None) -> list[str]:
    """`a,b` and repeated options as one list."""
    parts = (part.strip() for text in texts or () for part in text.split(","))
    return list(dict.fromkeys(filter(None, parts)))


def _counts(text: str) -> list[int]:
    parts = _listed([text])
    if not parts or not all(part.isdigit() for part in parts):
        raise InputError(f"--threads is {text!r}; give a number such as 2, or several: 1,2,4")
    return [int(part) for part in parts]


@app.command(MEASURE)
def measure(
    packages: Annotated[
        list[Path] | None, typer.Argument(metavar="PKG...", help="One package folder or several.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", metavar="ONNX", help="A plain ONNX file to compare with.")
    ] = None,
    stock: Annotated[
        bool, typer.Option("--stock", help="Compare with PyTorch's own export of the first package's SOURCE.")
    ] = False,
    torch: Annotated[
        bool, typer.Option("--torch", help="Compare with PyTorch eager on the first package's SOURCE.")
    ] = False,
    input_: Annotated[
        list[Path] | None,
        typer.Option(
            "--input",
            "--image",
            metavar="FILE|DIR",
            help="Measure on these photographs or sweeps, not the golden input; repeat.",
        ),
    ] = None,
    all_golden: Annotated[
        bool, typer.Option("--all-golden", help="Measure on every golden input: several shapes, if dynamic.")
    ] = False,
    stages: Annotated[
        bool, typer.Option("--stages/--no-stages", help="Time every stage of a package that has stages.")
    ] = True,
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            "--scenario",
            metavar="S,...",
            help="Also MLPerf scenarios: single-stream, multi-stream, server, offline.",
        ),
    ] = None,
    mlperf: Annotated[
        bool, typer.Option("--mlperf", help="Scenarios by MLPerf's rules of validity: 10 minutes each.")
    ] = False,
    qps: Annotated[
        float | None, typer.Option("--qps", help="Queries per second of the server scenario.")
    ] = None,
    latency_bound: Annotated[
        float | None, typer.Option("--latency-bound", metavar="MS", help="What 99 % of them must keep.")
    ] = None,
    batch: Annotated[
        int, typer.Option("--batch", min=1, help="Samples per run, in multi-stream and offline.")
    ] = 1,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime", metavar="R,...", help="Runtime ids (edgetx list); default the first usable."
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            "--precision", metavar="P,...", help="Convert the packages for the measurement: float32,float16."
        ),
    ] = None,
    device: options.AnyDevice = "cpu",
    threads: Annotated[
        str,
        typer.Option(
            "--threads",
            metavar="N,...",
            help="Of every engine; 0 takes the available physical cores.",
        ),
    ] = "0",
    custom_ops: options.CustomOps = True,
    provider: options.Provider = "",
    optimization: options.Optimization = options.GraphOptimization.all,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Timed runs per engine and input.")] = 50,
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, help="Alternating rounds they are spread over.")
    ] = 5,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", min=0.1, help="Time per engine instead of --runs, and per scenario."),
    ] = None,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Untimed runs at least.")] = 3,
    time_limit: Annotated[
        float, typer.Option("--time-limit", min=1, metavar="S", help="End an engine whose step takes longer.")
    ] = 3600,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also show where the time goes, by operator and module.")
    ] = False,
    output: Annotated[
        list[Path] | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write .json, .csv, .md or .html; repeat."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing reports.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help="Keep the report for `edgetx bench history`.")
    ] = True,
    check: Annotated[
        bool,
        typer.Option("--self-check", help="Measure the harness itself on this machine, without a package."),
    ] = False,
    json: options.Json = False,
) -> None:
    """Measure latency and memory, each engine in its own process, rounds alternating."""
    if check:
        if packages:
            raise InputError("--self-check measures the harness without a package; leave the packages out")
        _self_check(json)
        return
    if not packages:
        raise InputError("nothing to measure; give a package folder: edgetx bench PKG")
    for path in output or ():
        if (reason := why_not_write(path, force=force)) is not None:
            raise InputError(reason)
    bench = measurer(device)
    beside = {key: True for key, wanted in (("stock", stock), ("torch", torch)) if wanted}
    if beside and not device.startswith(("cpu", "cuda")):
        raise InputError(
            f"--{next(iter(beside))} needs PyTorch and runs on this machine alone, not on {device}"
        )
    counts = _counts(threads)
    loads = _loads(scenario, mlperf=mlperf, seconds=seconds, qps=qps, bound=latency_bound, batch=batch)
    with Progress() as progress, tempfile.TemporaryDirectory(prefix="edgetx-bench-") as folder:
        report = bench(
            _in_precisions(packages, _listed(precision), Path(folder), progress),
            baseline=baseline,
            **beside,
            runtime=_listed(runtime),
            target=Target(
                device=device, custom_ops=custom_ops, provider=provider, optimization=optimization.value
            ),
            inputs=input_ or (),
            golden="all" if all_golden else "first",
            stages=stages,
            threads=counts,
            runs=runs,
            rounds=rounds,
            seconds=seconds,
            warmup=warmup,
            loads=loads,
            profile=profile,
            time_limit=time_limit,
            progress=progress,
        )
    for path in output or ():
        report.save(path)
    if json:
        emit_json(report)
    else:
        show_report(report)
    if keep:
        _keep(report)
    if report.failures:
        raise typer.Exit(1)


def _in_precisions(
    packages: list[Path], wanted: list[str], folder: Path, progress: Progress
) -> list[Path | Package]:
    """Every package in every precision: as it is where it computes in that one, else converted."""
    from edgetx import precision as precisions
    from edgetx.package import Package

    if not wanted:
        return list(packages)
    found: list[Path | Package] = []
    for number, path in enumerate(packages):
        opened = Package.open(path)
        for precision in wanted:
            if precision == opened.manifest.precision:
                found.append(opened)
                continue
            output = folder / str(number) / f"{path.resolve().name} {precision}"
            output.parent.mkdir(exist_ok=True)
            progress(f"converting {path.name} to {precision}")
            found.append(precisions.convert(opened, precision=precision, output=output, progress=progress))
    return found


def _loads(
    scenario: list[str] | None,
    *,
    mlperf: bool,
    seconds: float | None,
    qps: float | None,
    bound: float | None,
    batch: int,
) -> list[Load]:
    from edgetx.benchmark import SCENARIOS, Load

    names = _listed(scenario)
    if unknown := [name for name in names if name not in SCENARIOS]:
        raise InputError(f"unknown scenario {unknown[0]!r}; accepted: {', '.join(SCENARIOS)}")
    if mlperf and not names:
        names = list(SCENARIOS)
    for option, value in (("--qps", qps), ("--latency-bound", bound)):
        if value is not None and "server" not in names:
            raise InputError(f"{option} belongs to the server scenario; give --scenario server too")
    if batch > 1 and not {"multi-stream", "offline"} & set(names):
        raise InputError("--batch belongs to the scenarios multi-stream and offline; give --scenario too")
    return [
        Load(
            scenario=name,  # type: ignore[arg-type]  # one of SCENARIOS
            mlperf=mlperf,
            seconds=None if mlperf else seconds,
            qps=qps if name == "server" else None,
            bound_ms=bound if name == "server" else None,
            batch=batch if name in ("multi-stream", "offline") else 1,
        )
        for name in names
    ]


def show_report(report: BenchReport) -> None:
    """Every table that the report has something for, then the conditions and what to know of it."""
    from edgetx.benchmark import tables

    show_table(*report.to_table())
    show_table(*tables.latencies(report), title="latency, with 95 % confidence intervals")
    show_table(*tables.cold_start(report), title="cold start, memory and energy")
    if any(engine.loads for engine in report.engines):
        show_table(*tables.loads(report), title="MLPerf scenarios")
    for engine in report.engines:
        if engine.stages:
            show_table(*report.stages_table(engine), title=engine.name)
    if len(report.engines[0].inputs) > 1:
        show_table(*report.inputs_table(), title="median by input")
        show_table(*tables.shapes(report), title="by shape")
    for engine in report.engines:
        profile = engine.profile
        if profile is not None:
            for shares, what in ((profile.by_operator(), "operator"), (profile.by_module(), "module")):
                show_table(
                    *tables.profile_shares(profile, shares, what),
                    title=f"{engine.name}: where the time goes, by {profile.profiler}",
                )
            if profile.rates is not None:
                rates = profile.rates
                most = f"{rates.flops / 1e9:.3g} GFLOP/s, {rates.bandwidth / 1e9:.3g} GB/s"
                show(f"roofline: {most}: {rates.how}")
            if profile.unprofiled_ns is not None:
                show(f"without the profiler a run takes {profile.unprofiled_ns / 1e6:.4g} ms")
            for note in profile.notes:
                show(f"note: {engine.name}: {note}")
    show(report.conditions())
    for engine in report.engines:
        if not engine.stationary:
            show(f"note: {engine.name} had not settled after {engine.warmup_runs} warm-up runs")
    for note in report.notes:
        show(f"note: {note}")
    for failure in report.failures:
        show(f"FAILED: {failure.name}: {failure.error}")


def _keep(report: BenchReport) -> None:
    from edgetx.benchmark import history

    try:
        for path in history.keep(report):
            say(f"kept in {path}")
    except InputError as error:
        say(f"not kept for the history: {error}")


def _self_check(json: bool) -> None:
    from edgetx.benchmark import selfcheck

    with Progress() as progress:
        found = selfcheck.self_check(progress=progress)
    if json:
        emit_json(found)
        return
    show_facts(selfcheck.lines(found), title="the harness on this machine, as it is now")


app.command()(comparing.compare)
app.command()(comparing.history)
