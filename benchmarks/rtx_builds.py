"""Which packages TensorRT-RTX builds, and how long it takes: a small model of every exporter, one Swin-T.

Needs no GPU; weights are random. Every exporter's network parts are built in float32 and float16, from the
operators' bodies and, where there is one, with the plugin, for compute capability 8.6 and with the profile
that `edgetx build` chooses. `python -m benchmarks.rtx_builds NAME...` takes only some of the models.
"""

from __future__ import annotations

import importlib
import resource
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

import edgetx
from benchmarks.record import Goal, Progress, Record
from edgetx import _torchvision, building, exporters, precision
from edgetx.core import Architecture
from edgetx.engines import Ranges, Request, fused
from edgetx.package import Package
from edgetx.profiles import Range
from edgetx.runtimes.tensorrt_rtx import TensorRTRTXRuntime

TITLE = "TensorRT-RTX engines, built without a GPU"
LONGEST = 10.0
"""Seconds that a Swin-T may take to build."""
REPEATS = 3
_TIMM = {"embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 7, "img_size": 64}
_UPSCALER = "img_size=16&window_size=8&embed_dim=24&mlp_ratio=2"
SOURCES = {
    "swin": "timm",
    "swinv2": "timm",
    "swinir": f"spandrel:SwinIR?{_UPSCALER}&depths=[2,2]&num_heads=[2,4]&upscale=2&upsampler='pixelshuffle'",
    "swin2sr": f"spandrel:Swin2SR?{_UPSCALER}&depths=[2,2]&num_heads=[2,4]&upscale=2&upsampler=pixelshuffle",
    "craft": "spandrel:CRAFT?depths=[1,1]&embed_dim=32&num_heads=[4,2]&window_size=8&split_size_0=2"
    "&split_size_1=8",
    "hat": f"spandrel:HAT?{_UPSCALER}&depths=[2,1]&num_heads=[2,4]&compress_ratio=4&squeeze_factor=6"
    "&overlap_ratio=0.5&upscale=2&upsampler=pixelshuffle",
    "drct": f"spandrel:DRCT?{_UPSCALER}&depths=[6]&num_heads=[4]&gc=8&upscale=2&upsampler=pixelshuffle",
    "dat": "spandrel:DAT?embed_dim=32&depth=[3,1]&num_heads=[2,4]&split_size=[4,8]&expansion_factor=2.0",
    "rgt": "spandrel:RGT?embed_dim=32&depth=[3,2]&num_heads=[2,4]&mlp_ratio=2.0&split_size=[4,8]",
    "atd": "spandrel:ATD?embed_dim=24&depths=[1]&num_heads=[2]&num_tokens=16&mlp_ratio=1",
    "fdat": "spandrel:FDAT?embed_dim=32&num_groups=1&depth_per_group=1&mid_dim=32",
    "scunet": "spandrel:SCUNet?config=[1,1,1,1,1,1,1]",
    "uformer": "spandrel:Uformer?embed_dim=8&num_heads=[1,2,4,8,8,8,4,2,1]&mlp_ratio=2",
    "omnisr": "spandrel:OmniSR?up_scale=2&res_num=1",
    "rat": "edgetx.exporters.rat:rat",
    "histoformer": "edgetx.exporters.histoformer:histoformer",
    "flatformer": "edgetx.exporters.flatformer:flatformer_tiny",
    "ptv3": "edgetx.exporters.ptv3:ptv3_block",
    "dsvt": "edgetx.exporters.dsvt:dsvt_block",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "rat": {"width": 8, "blocks": 1, "layers": 1, "encoders": (1,), "decoders": (1,)},
    "histoformer": {
        "dim": 4,
        "num_blocks": (1, 1, 1, 1),
        "num_refinement_blocks": 1,
        "heads": (1, 2, 2, 4),
        "ffn_expansion_factor": 2.0,
    },
}
COUNTS = {
    "points": Range(100, 1000, 4000),
    "pillars": Range(50, 500, 2000),
    **dict.fromkeys(("groups", "groups_0", "groups_1"), Range(1, 10, 60)),
}
"""Sizes for symbols that nothing else is known of."""
SIZES: dict[str, Ranges] = {"atd": {"height": Range(16, 32, 48), "width": Range(16, 32, 48)}}
"""ATD sorts all tokens with TopK, of which TensorRT-RTX takes 3840 at most."""
RUNTIME = TensorRTRTXRuntime()


def model(name: str) -> Any:
    """A SOURCE, or a small module in memory, whose random weights are the same in every run."""
    source = SOURCES[name]
    torch.manual_seed(0)
    if source == "timm":
        _torchvision.install()
        transformers = importlib.import_module("timm.models.swin_transformer")
        v2 = importlib.import_module("timm.models.swin_transformer_v2")
        if name == "swin":
            return transformers.SwinTransformer(window_size=4, strict_img_size=False, **_TIMM).eval()
        return v2.SwinTransformerV2(window_size=4, strict_img_size=False, **_TIMM).eval()
    if source.startswith("spandrel:"):
        return source
    module, _, function = source.partition(":")
    return getattr(importlib.import_module(module), function)(**SETTINGS.get(name, {}))


def export(name: str, folder: Path) -> Package:
    """A package of a small model, with stages where it has them."""
    source = model(name)
    module = source if not isinstance(source, str) else None
    split = type(exporters.get(name)).stages is not Architecture.stages
    settings: dict[str, Any] = {} if module is not None else {"pretrained": False}
    return edgetx.export(source, output=folder / name, split=split, **settings)


class Built(NamedTuple):
    """One engine, or why there is none."""

    what: str
    seconds: float = 0.0
    cpu: float = 0.0
    size: int = 0
    problem: str = ""

    @property
    def goal(self) -> Goal:
        size = f"{self.size / 2**20:.1f} MB, {self.cpu:.1f} CPU seconds"
        return Goal(what=f"{self.what}: {size}; built in", measured=self.seconds, unit="s")


def build(part: Package, bodies: str, label: str, *, force: bool = False) -> Built:
    """Build one engine."""
    symbols = {dim for spec in part.io.inputs for dim in spec.shape}
    ranges = {key: each for key, each in COUNTS.items() if key in symbols}
    ranges |= SIZES.get(label.split(" ")[0], {})
    kind = part.manifest.precision
    what = f"{label}, {kind}, {bodies or 'bodies'}"
    request = Request(compute=("8.6",), ranges=ranges, bodies=bodies, force=force)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        engine, _ = RUNTIME.build(part, request)
    except edgetx.EdgetxError as error:
        return Built(what, problem=" ".join(str(error).split()).replace("|", "/"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert engine.record is not None
    if bodies == "plugin" and not any(each.plugin for each in fused.read(engine.path).network):
        return Built(what, problem="no layer of the network is a plugin")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Built(what, engine.record.seconds, spent, engine.record.size)


def parts(name: str, package: Package) -> Iterator[tuple[str, Package]]:
    """The network parts: the stages that have operators or can be built, or the whole."""
    if not package.stages:
        yield name, package
        return
    for stage in package.stages:
        part = package.stage(stage)
        if RUNTIME.why_no_build(part) is None:
            yield f"{name} {stage}", part


def builds(name: str, package: Package) -> Iterator[Built]:
    """Every network part with bodies and, where an operator has a plugin, with it."""
    for label, part in parts(name, package):
        yield build(part, "", label)
        if RUNTIME.choices(part)["plugin"] is None:
            yield build(part, "plugin", label)


def run(folder: Path, *, threads: int, runs: int, rounds: int, progress: Progress) -> Record:
    """Build all, and a Swin-T several times."""
    return measure(list(SOURCES), folder, min(rounds, REPEATS), progress)


def measure(names: list[str], folder: Path, repeats: int, progress: Progress) -> Record:
    torch.set_num_threads(1)
    found: dict[str, list[Built]] = {}
    notes = []
    for name in names:
        progress(f"{name}: exporting")
        package = export(name, folder)
        for each in (package, _half(package, progress, notes)):
            if each is None:
                continue
            if (reason := RUNTIME.why_no_build(each)) is not None:
                notes.append(f"{name}, {each.manifest.precision}, whole: {reason.replace('|', '/')}")
            for built in builds(name, each):
                progress(f"{built.what}: {built.problem or f'{built.seconds:.1f} s'}")
                found.setdefault(name, []).append(built)
    every = [built for several in found.values() for built in several]
    notes += [f"{built.what}: {built.problem}" for built in every if built.problem]
    goals = [_swin(folder, bodies, repeats, progress) for bodies in ("", "plugin")]
    for kind in ("float32", "float16"):
        able = [
            name
            for name in names
            if (chosen := [each for each in found.get(name, ()) if f", {kind}, " in each.what])
            and not any(each.problem for each in chosen)
        ]
        goals.append(
            Goal(
                what=f"exporters whose network parts all build, {kind}, of {len(names)}",
                measured=len(able),
                at_least=len(names),
            )
        )
    goals += [built.goal for built in every if not built.problem]
    return Record(title=TITLE, reports={}, goals=goals, notes=notes + NOTES)


def _half(package: Package, progress: Progress, notes: list[str]) -> Package | None:
    try:
        return precision.convert(package)
    except edgetx.EdgetxError as error:
        notes.append(f"{package.name} is not converted: {' '.join(str(error).split())}")
        progress(notes[-1])
        return None


def _swin(folder: Path, bodies: str, repeats: int, progress: Progress) -> Goal:
    """The median of several builds of a whole Swin-T."""
    path = folder / "swin_tiny_full"
    package = (
        Package.open(path) if path.exists() else edgetx.export("swin_tiny", pretrained=False, output=path)
    )
    taken = []
    for _ in range(repeats):
        built = build(package, bodies, "swin_tiny", force=True)
        if built.problem:
            raise RuntimeError(built.problem)
        progress(f"{built.what}: {built.seconds:.1f} s, {built.cpu:.1f} CPU seconds")
        taken.append(built.seconds)
    building.prune(package)
    return Goal(
        what=f"Swin-T (28 million weights), float32, {bodies or 'bodies'}, median of {repeats}; built in",
        measured=statistics.median(taken),
        unit="s",
        at_most=LONGEST,
    )


NOTES = [
    "TensorRT-RTX 1.7.1, compute capability 8.6, random weights; all models but the Swin-T are small.",
    "Seconds are those of the whole build: a process of its own, its imports, preparing and parsing the "
    "graph, building and writing. CPU seconds are that process's.",
    "float16 packages are made by `edgetx convert`.",
]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        chosen = sys.argv[1:] or list(SOURCES)
        print(measure(chosen, Path(scratch), 1, lambda line: print(line, file=sys.stderr)).to_markdown())
