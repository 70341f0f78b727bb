"""FlatFormer: its backbone, its orders, agreement with PyTorch, and growth with the number of pillars.

Weights are random. Clouds of a given number of pillars are drawn; the sweeps are those of the tests' data
(`EDGETX_TEST_DATA`).
"""

from __future__ import annotations

import json
import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from benchmarks.figure import growth
from benchmarks.record import Goal, Progress, Record
from edgetx import pipeline, tracing
from edgetx.benchmark import BenchReport, EngineResult, EngineSpec, compare, feeds
from edgetx.core import Reference, Stage
from edgetx.exporters.flatformer import PRESETS, FlatFormer, backbone, model, rewritten
from edgetx.exporters.flatformer.bev import scatter
from edgetx.exporters.flatformer.serialize import ORDERS, Serialize, keys
from edgetx.ops import library
from edgetx.package import Package

TITLE = "FlatFormer"
CONFIG = PRESETS["flatformer_waymo"]
BACKBONE_PILLARS, ORDER_PILLARS = 12_000, 30_000
PILLARS = (1_000, 2_500, 5_000, 10_000, 20_000, 40_000)
POINTS = 3
"""Per pillar."""
TOLERANCE = 1e-4
SPARSE = ("voxelize", "serialize", "backbone")
"""The stages that see pillars; the others see the whole grid."""


class Attend(torch.nn.Module):
    """The backbone in PyTorch, with SDPA on gathered groups."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = backbone.FlatFormer(CONFIG)

    def forward(self, features: Any, coords: Any, *orders: Any) -> Any:
        """Tokens; `orders` are four groups, then four inverses."""
        half = len(ORDERS)
        return self.inner.attend(features, coords, orders[:half], orders[half:])


class LexSort(torch.nn.Module):
    """The orders in numpy, by sorting."""

    def forward(self, coords: Any) -> Any:
        """Four groups, then four inverses."""
        sample, y, x = coords.numpy().T
        tokens, size = len(sample), CONFIG.group
        slot = np.arange(-(-tokens // size) * size)
        source = np.where(slot < tokens, slot, slot - size)
        groups, inverses = [], []
        for order in ORDERS:
            key = keys(torch.from_numpy(y), torch.from_numpy(x), CONFIG.grid, CONFIG.window, order).numpy()
            place = np.lexsort((key, sample))
            inverse = np.empty(tokens, np.int32)
            inverse[place] = np.arange(tokens, dtype=np.int32)
            groups.append(torch.from_numpy(place[source].astype(np.int32).reshape(-1, size)))
            inverses.append(torch.from_numpy(inverse))
        return (*groups, *inverses)


def attend() -> torch.nn.Module:
    """SOURCE of the PyTorch backbone."""
    return Attend().eval()


def lex_sort() -> torch.nn.Module:
    """SOURCE of the numpy orders."""
    return LexSort()


def run(folder: Path, *, threads: int, runs: int, rounds: int, progress: Progress) -> Record:
    """Measure each part; `folder` takes the packages and inputs."""
    reports: dict[str, BenchReport] = {}
    goals: list[Goal] = []
    with torch.device("meta"):
        stages = {
            stage.name: stage
            for stage in FlatFormer().stages(rewritten.Detector(model.Detector(CONFIG).eval()))
        }
    coords = _coords(BACKBONE_PILLARS, CONFIG.grid)
    orders = Serialize(CONFIG.grid, CONFIG.window, CONFIG.group)
    groups, inverse = orders(coords)
    features = torch.randn(BACKBONE_PILLARS, CONFIG.channels, generator=torch.Generator().manual_seed(0))
    parts: list[tuple[str, torch.nn.Module, tuple[torch.Tensor, ...], str, float]] = [
        (
            "backbone",
            rewritten.FlatFormer(Attend().inner).eval(),
            (features, coords, *groups, *inverse),
            "attend",
            1.5,
        ),
        (
            "serialize",
            rewritten.Serialize(orders).eval(),
            (_coords(ORDER_PILLARS, CONFIG.grid),),
            "lex_sort",
            1.0,
        ),
    ]
    for name, module, tensors, peer, least in parts:
        title = f"{name}, {len(tensors[0]):,} pillars"
        stage = Stage(name, module, stages[name].io)
        report = reports[title] = _against(
            folder, title, stage, tensors, peer, threads, runs, rounds, progress
        )
        goals.append(
            Goal(what=f"{title}: {peer} / edgetx", measured=report["edgetx"].speedup, at_least=least)
        )
        difference = report["edgetx"].difference
        goals.append(
            Goal(
                what=f"{title}: largest difference from {peer}",
                measured=math.inf if difference is None else difference,
                at_most=TOLERANCE if name == "backbone" else 0.0,
            )
        )
    package = pipeline.export(
        "flatformer_kitti", pretrained=False, split=True, output=folder / "kitti.edgetx", progress=progress
    )
    report, grown, figure = _growth(folder, package, threads, runs, rounds, progress)
    reports["detector, KITTI grid"] = report
    goals += grown
    agreed, notes = _agreement(folder, package, progress)
    return Record(
        title=TITLE,
        reports=reports,
        goals=goals + agreed,
        notes=[
            "Growth is the exponent of the least-squares line through log time and log pillars, 1 if it is "
            f"linear; {PILLARS[0]:,} to {PILLARS[-1]:,} pillars of {POINTS} points each on the KITTI grid.",
            *notes,
        ],
        figures={"flatformer_growth.svg": figure},
    )


def _against(
    folder: Path,
    title: str,
    stage: Stage,
    tensors: tuple[torch.Tensor, ...],
    peer: str,
    threads: int,
    runs: int,
    rounds: int,
    progress: Progress,
) -> BenchReport:
    """One stage as a package against a function of this module."""
    progress(f"{title}: exporting")
    inputs = {spec.name: tensor.numpy() for spec, tensor in zip(stage.io.inputs, tensors, strict=True)}
    place = folder / f"{stage.name}.npz"
    feeds.save(place, inputs)
    package = pipeline.export_reference(
        Reference(
            stage.module, stage.io, [inputs], "generic", f"benchmarks.flatformer:{peer}", title, "random"
        ),
        output=folder / f"{stage.name}.edgetx",
    )
    return compare(
        [
            EngineSpec(name="edgetx", kind="package", path=str(package.path), inputs=str(place)),
            EngineSpec(
                name=peer,
                kind="torch",
                path=f"benchmarks.flatformer:{peer}",
                inputs=str(place),
                shapes=tuple(
                    f"{name}={array.dtype}[{','.join(map(str, array.shape))}]"
                    for name, array in inputs.items()
                ),
            ),
        ],
        baseline=peer,
        threads=threads,
        runs=runs,
        rounds=rounds,
        progress=progress,
    )


def _growth(
    folder: Path, package: Package, threads: int, runs: int, rounds: int, progress: Progress
) -> tuple[BenchReport, list[Goal], str]:
    config = PRESETS["flatformer_kitti"]
    places = []
    for pillars in PILLARS:
        places.append(str(folder / f"{pillars}.npz"))
        feeds.save(places[-1], {"points": _cloud(pillars, config)})
    path = str(package.path)
    fewer = max(runs // 10, 1)
    report = compare(
        [
            EngineSpec(name="whole", kind="package", path=path, inputs=tuple(places)),
            EngineSpec(name="in stages", kind="package", path=path, inputs=tuple(places), stages=True),
        ],
        threads=threads,
        runs=fewer,
        rounds=max(min(rounds // 5, fewer), 1),
        progress=progress,
    )
    total = [each.latency.median / 1e6 for each in report["whole"].inputs]
    by_stage = _by_stage(report["in stages"])
    sparse = [sum(by_stage[name][index] for name in SPARSE) for index in range(len(PILLARS))]
    peak = report["whole"].peak_bytes
    goals = [
        Goal(what="growth of the total time", measured=_exponent(total), at_most=1.0),
        *(
            Goal(what=f"growth from {fewer:,} to {more:,} pillars", measured=_exponent(part, sizes))
            for (fewer, more), part, sizes in zip(
                pairwise(PILLARS), pairwise(total), pairwise(PILLARS), strict=True
            )
        ),
        Goal(what=f"growth of {', '.join(SPARSE)}", measured=_exponent(sparse)),
        *(
            Goal(what=f"{pillars:,} pillars: {name}", measured=milliseconds, unit="ms")
            for name, times in (("total", total), (" + ".join(SPARSE), sparse))
            for pillars, milliseconds in zip(PILLARS, times, strict=True)
        ),
        Goal(
            what=f"{PILLARS[-1]:,} pillars: peak memory of the process",
            measured=math.nan if peak is None else peak / 2**20,
            unit="MB",
        ),
        Goal(
            what=f"{PILLARS[-1]:,} pillars: elements of the largest tensor / pillars²",
            measured=_largest(folder, package, _cloud(PILLARS[-1], config)) / PILLARS[-1] ** 2,
            at_most=0.1,
        ),
    ]
    lines = {"total": total, **{name: by_stage[name] for name in by_stage}}
    return report, goals, growth(PILLARS, lines, "pillars", "ms")


def _by_stage(engine: EngineResult) -> dict[str, list[float]]:
    """Median of each stage in ms, by input."""
    found = {}
    for stage in engine.stages:
        runs = np.array(stage.rounds_ns).reshape(len(stage.rounds_ns), len(PILLARS), -1)
        found[stage.name] = [float(np.median(runs[:, index])) / 1e6 for index in range(len(PILLARS))]
    return found


def _exponent(times: Any, sizes: Any = PILLARS) -> float:
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def _largest(folder: Path, package: Package, points: np.ndarray[Any, Any]) -> int:
    """Elements of the largest tensor that ONNX Runtime makes."""
    options = _options()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(package.model_path, options)
    session.run(None, {"points": points})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return max(
        math.prod(shape)
        for event in events
        for each in event.get("args", {}).get("output_type_shape", [])
        for shape in each.values()
    )


def _agreement(folder: Path, kitti: Package, progress: Progress) -> tuple[list[Goal], list[str]]:
    """Features and boxes of both presets against PyTorch on the sweeps; a note where there are none."""
    data = Path(os.environ.get("EDGETX_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")) / "lidar"
    sweeps = sorted(data.glob("*.bin"))
    if not sweeps:
        return [], ["There were no sweeps to compare with PyTorch: set EDGETX_TEST_DATA."]
    tiny = pipeline.export("flatformer_tiny", pretrained=False, output=folder / "tiny.edgetx")
    goals = []
    for package in (tiny, kitti):
        name = package.manifest.name
        progress(f"{name}: agreement on {len(sweeps)} sweeps")
        errors, alike = _compared(package, sweeps)
        goals += [
            Goal(
                what=f"{name}, {len(sweeps)} sweeps: {what}, max abs error against PyTorch",
                measured=error,
                at_most=TOLERANCE,
            )
            for what, error in errors.items()
        ]
        goals.append(
            Goal(
                what=f"{name}: sweeps of {len(sweeps)} with the same boxes as PyTorch",
                measured=alike,
                at_least=len(sweeps),
            )
        )
    return goals, []


def _compared(package: Package, sweeps: list[Path]) -> tuple[dict[str, float], int]:
    reference = pipeline.load_reference(package.manifest.name, pretrained=False)
    detector: Any = reference.module
    exposed = ir.load(package.model_path)
    values = tracing.last_values(exposed)
    names = ("middle_encoder", "neck")
    for name in names:
        values[name].name = name
        exposed.graph.outputs.append(values[name])
    session = onnxruntime.InferenceSession(ir.to_proto(exposed).SerializeToString(), _options())
    outputs = [output.name for output in session.get_outputs()]
    errors, alike = dict.fromkeys(names, 0.0), 0
    for sweep in sweeps:
        points = (
            np.fromfile(sweep, np.float32).reshape(-1, 5 if "nuscenes" in sweep.name else 4)[:, :4].copy()
        )
        found = dict(zip(outputs, session.run(outputs, {"points": points}), strict=True))
        with torch.inference_mode():
            features, coords = detector.voxel_encoder(torch.from_numpy(points))
            tokens = detector.middle_encoder(features, coords)
            bev = detector.neck(detector.backbone(scatter(tokens, coords, detector.config.grid)))
            expected = {key: value.numpy() for key, value in detector(torch.from_numpy(points)).items()}
        for name, value in zip(names, (tokens, bev), strict=True):
            errors[name] = max(errors[name], float(np.abs(found[name] - value.numpy()).max()))
        _, reason = package.processor.match(expected, found, TOLERANCE)  # type: ignore[union-attr]
        alike += reason is None
    return errors, alike


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    options.register_custom_ops_library(library.path())
    return options


def _coords(pillars: int, grid: tuple[int, int]) -> torch.Tensor:
    """Distinct pillars in ascending order, `[pillars, 3]` int32."""
    cells = np.sort(np.random.default_rng(pillars).choice(grid[0] * grid[1], pillars, replace=False))
    return torch.from_numpy(np.stack([0 * cells, cells // grid[1], cells % grid[1]], 1).astype(np.int32))


def _cloud(pillars: int, config: Any) -> np.ndarray[Any, Any]:
    """Points in exactly so many pillars, in no order."""
    rng = np.random.default_rng(pillars)
    _, y, x = np.repeat(_coords(pillars, config.grid).numpy(), POINTS, axis=0).T
    inside = rng.uniform(0.1, 0.9, (3, len(x)))
    low, size = np.array(config.point_range[:3]), np.array(config.pillar)
    rows = [(np.array([x, y, 0 * x]) + inside)[axis] * size[axis] + low[axis] for axis in range(3)]
    return rng.permutation(np.stack([*rows, rng.random(len(x))], 1)).astype(np.float32)
