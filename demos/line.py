"""The line that the workbench shows, in a process of its own: `python -m edgetx.demos.line FOLDER`.

The process can be ended at any time, and the server imports no PyTorch for it. What it makes lies in its
current folder: the package, the reports, and the archive of both.
"""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

import edgetx
from edgetx.errors import EdgetxError, ExportError, UnavailableError, VerificationError
from edgetx.sweeps.isolation import serve

if TYPE_CHECKING:
    from edgetx.benchmark import BenchReport
    from edgetx.core import Verdict
    from edgetx.package import Package

STEPS = {
    "export": "Export",
    "verify": "Verify",
    "build": "Build",
    "bench": "Measure",
    "pack": "Pack",
}
"""In their order, with their titles."""

Tell = Callable[[str], None]
State = Literal["runs", "left out"]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for.

    Attributes:
        source: a SOURCE string; a checkpoint lies in the current folder.
        model: SOURCE of the model of a checkpoint that is not recognised by its weights.
        pretrained: as in `edgetx.export`.
        engines: runtimes to build engines for.
        stock: also measure what PyTorch's own exporter makes of the model.
        seconds: of measuring, per engine.
    """

    source: str
    model: str | None = None
    pretrained: bool | None = None
    engines: tuple[str, ...] = ()
    stock: bool = True
    seconds: float = 3.0


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A line of progress: what a step does, or why it is left out."""

    step: str
    text: str
    state: State = "runs"


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Attributes:
        facts: of the package, by name.
        outputs: how each compares with PyTorch; the first row is the header.
        engines: what was measured; the first row is the header.
        conditions: of the measurement, one line.
        notes: for the reader.
        archive, page: files in the folder; without plotly there is no page, which a note says.
    """

    facts: dict[str, str]
    outputs: list[list[str]]
    engines: list[list[str]]
    conditions: str
    notes: list[str]
    archive: str
    page: str | None = None


def do(line: Line, tell: Tell) -> Made:
    """Walk the line.

    Raises:
        EdgetxError: a step failed; the last line of progress says which.
    """

    def step(name: str, state: State = "runs") -> Tell:
        return lambda text: tell(msgspec.json.encode(Said(step=name, text=text, state=state)).decode())

    say = step("export")
    say("starting")
    package = edgetx.export(line.source, model=line.model, pretrained=line.pretrained, progress=say)
    step("verify")("replaying the golden inputs on the runtime")
    verdict = edgetx.verify(package)
    if not verdict.passed:
        from edgetx.pipeline import failure

        raise VerificationError(f"{package.name}: {failure(verdict)}")
    if not line.engines:
        step("build", "left out")("no engine was asked for: ONNX Runtime opens the package as it is")
    built: dict[str, int] = {}
    for runtime in line.engines:
        try:
            engine = edgetx.build(package, runtime=runtime, progress=step("build"))
            built[runtime] = engine.plan.stat().st_size
        except EdgetxError as error:
            # The package is none the worse for it.
            step("build", "left out")(str(error))
    report, notes = _measure(line, package, step("bench"))
    step("pack")("writing the report and the archive")
    page, reason = _page(report)
    report.save("report.json")
    archive = Path(f"{package.path.name}.zip")
    _pack(package.path, [Path("report.json"), *([page] if page else [])], archive)
    return Made(
        facts=_facts(package, verdict, built, archive),
        outputs=_outputs(verdict),
        engines=_engines(report),
        conditions=report.conditions(),
        notes=[*package.manifest.notes, *notes, *report.notes, *reason],
        archive=archive.name,
        page=page.name if page else None,
    )


def _measure(line: Line, package: Package, say: Tell) -> tuple[BenchReport, list[str]]:
    """The report, and why there is nothing to compare with."""
    if line.stock:
        try:
            report = edgetx.bench(package, stock=True, seconds=line.seconds, progress=say)
            return report, [f"not measured: {each.error}" for each in report.failures]
        except ExportError as error:
            notes = [f"no stock export to compare with: {error}"]
    else:
        notes = []
    return edgetx.bench(package, seconds=line.seconds, progress=say), notes


def _page(report: BenchReport) -> tuple[Path | None, list[str]]:
    """The whole report as one HTML file, or why there is none."""
    path = Path("report.html")
    try:
        report.save(path)
    except UnavailableError as error:
        return None, [str(error)]
    return path, []


def _pack(folder: Path, files: list[Path], archive: Path) -> None:
    """The package's folder, stored as it is since weights do not get smaller, and the reports beside it."""
    with zipfile.ZipFile(archive, "w") as packed:
        for file in _inside(folder):
            packed.write(file, file.relative_to(folder.parent).as_posix())
        for file in files:
            packed.write(file, file.name, zipfile.ZIP_DEFLATED)


def _inside(folder: Path) -> Iterator[Path]:
    for place, _, names in sorted(os.walk(folder)):
        yield from (Path(place) / name for name in sorted(names) if not name.startswith("."))


def _facts(package: Package, verdict: Verdict, built: dict[str, int], archive: Path) -> dict[str, str]:
    from edgetx.benchmark.report import size

    manifest = package.manifest
    random = manifest.weights == "random"
    worst = max(verdict.outputs, key=lambda output: output.max_abs / output.tolerance)
    return {
        "package": manifest.name,
        "architecture": manifest.architecture,
        "weights": "**random**: its outputs mean nothing, its speed and parity do"
        if random
        else manifest.weights,
        "inputs": ", ".join(map(str, package.io.inputs)),
        "operators": ", ".join(f"{count} {name}" for name, count in manifest.operators.items())
        or "standard ones only",
        "parity": f"passed, {verdict.cases} cases against PyTorch: {worst.name} differs by "
        f"{worst.max_abs:.1e} of {worst.tolerance:.1e} accepted",
        "ran on": ", ".join(f"{key} {value}" for key, value in verdict.ran_on.items()),
        "engines": ", ".join(f"{runtime}, {size(count)}" for runtime, count in built.items()) or "none",
        "size": f"{size(package.size)}, the archive {size(archive.stat().st_size)}",
    }


def _outputs(verdict: Verdict) -> list[list[str]]:
    header = ["output", "max abs", "accepted", "cosine"]
    rows = [
        [each.name, f"{each.max_abs:.2e}", f"{each.tolerance:.2e}", f"{each.cosine:.7f}"]
        for each in verdict.outputs
    ]
    return [header, *rows]


def _engines(report: BenchReport) -> list[list[str]]:
    from edgetx.benchmark.report import milliseconds, size

    header = ["", "median", "p99", "memory", "speed"]
    rows = []
    for each in report.engines:
        low, high = each.speedup_range
        baseline = each.name == report.baseline
        speed = "1" if baseline else f"{each.speedup:.2f}x ({low:.2f}-{high:.2f})"
        times = map(milliseconds, (each.latency.median, each.latency.p99))
        name = "this package" if each.kind == "package" else each.name
        rows.append([name, *times, size(each.peak_bytes), speed])
    return [header, *rows]


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Line, do)
