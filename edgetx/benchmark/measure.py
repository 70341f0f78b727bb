"""`bench`: packages, and what they are compared with, as one table."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from edgetx.benchmark import baselines
from edgetx.benchmark import feeds as arrays
from edgetx.benchmark.loads import Load
from edgetx.benchmark.report import BenchReport
from edgetx.benchmark.runner import TIME_LIMIT, Progress, compare
from edgetx.benchmark.specs import EngineSpec
from edgetx.core import Target
from edgetx.errors import InputError

if TYPE_CHECKING:
    from edgetx.package import Package


def bench(
    package: Package | str | os.PathLike[str] | Sequence[Package | str | os.PathLike[str]],
    *,
    baseline: str | os.PathLike[str] | None = None,
    stock: bool = False,
    torch: bool = False,
    runtime: str | Sequence[str] | None = None,
    target: Target | None = None,
    inputs: Sequence[str | os.PathLike[str]] = (),
    golden: Literal["first", "all"] = "first",
    stages: bool = True,
    threads: int | Sequence[int] | None = None,
    runs: int = 50,
    rounds: int = 5,
    seconds: float | None = None,
    warmup: int = 3,
    threshold: float | None = None,
    loads: Sequence[Load | dict[str, Any]] = (),
    profile: bool = False,
    time_limit: float = TIME_LIMIT,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure one package or several, each on its own golden input 0 (or on `inputs`).

    Args:
        package: packages or their paths.
        baseline: a plain ONNX file that bare ONNX Runtime runs on the first package's input; ratios are
            against it. Without one they are against `stock`, then `torch`, then the first package.
        stock: also measure what PyTorch's own exporter makes of the first package's SOURCE (needs torch).
        torch: also measure that SOURCE in PyTorch eager.
        runtime: a runtime, or several: every package is measured on each.
        target: as in `edgetx.load`.
        inputs: files that the packages' processors read, or folders of them, such as photographs or sweeps;
            every engine runs each of them `runs` times.
        golden: without `inputs`, run the first golden input, or all of them, whose shapes differ in a
            dynamic package.
        stages: where a package has stages, also run them one after the other and time each.
        threads: worker threads, or several counts to compare; default `target.threads`, and where that is 0
            the available physical cores.
        runs, rounds, seconds, warmup, threshold, loads, profile, time_limit, progress: as in `compare`;
            `loads` also as dictionaries of their fields.

    Raises:
        InputError: an unknown runtime, or an option out of range.
        BenchmarkError: every engine failed; the message holds the end of the first one's stderr.
    """
    from edgetx import runtimes
    from edgetx.package import Package

    many = [package] if isinstance(package, (str, os.PathLike, Package)) else list(package)
    packages = [each if isinstance(each, Package) else Package.open(each) for each in many]
    if not packages:
        raise InputError("there is nothing to measure; give a package")
    target = target or Target()
    chosen = [runtime] if runtime is None or isinstance(runtime, str) else list(runtime)
    for name in chosen:
        if name is not None:
            runtimes.get(name)
    counts = [threads] if isinstance(threads, int) else list(threads or [target.threads])
    if any(count < 0 for count in counts):
        raise InputError(f"threads is {counts}; accepted: 0 (the available physical cores) or more")
    specs: list[EngineSpec] = []
    names = _unique([Path(each.path).resolve().name for each in packages])
    for (name, each), on, count in itertools.product(
        zip(names, packages, strict=True), chosen or [None], counts or [0]
    ):
        parts = [
            name,
            *([str(on)] if len(chosen) > 1 else []),
            *([f"{count} threads"] if len(counts) > 1 else []),
        ]
        whole = EngineSpec(
            name=", ".join(parts),
            kind="package",
            path=str(each.path),
            model=each.manifest.name,
            runtime=on,
            threads=count or None,
            precision=each.manifest.precision,
            device=target.device,
            optimization=target.optimization,
            custom_ops=target.custom_ops,
            provider=target.provider,
            files=tuple(map(str, arrays.find(inputs, each.processor))) if inputs else (),
            golden=golden,
        )
        specs.append(whole)
        if stages and each.stages:
            specs.append(msgspec.structs.replace(whole, name=f"{whole.name}, in stages", stages=True))
    with tempfile.TemporaryDirectory(prefix="edgetx-bench-") as folder:
        others = baselines.specs_of(
            packages[0],
            specs[0],
            Path(folder),
            file=baseline,
            stock=stock,
            torch=torch,
            progress=progress or (lambda line: None),
        )
        return compare(
            [*specs, *others],
            baseline=others[0].name if others else None,
            threads=counts[0] if counts else 0,
            runs=runs,
            rounds=rounds,
            seconds=seconds,
            warmup=warmup,
            threshold=threshold,
            loads=msgspec.convert(list(loads), list[Load]),
            profile=profile,
            time_limit=time_limit,
            progress=progress,
        )


def _unique(names: Sequence[str]) -> list[str]:
    return [f"{name}#{i + 1}" if list(names).count(name) > 1 else name for i, name in enumerate(names)]
