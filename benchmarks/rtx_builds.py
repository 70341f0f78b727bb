"""Which packages TensorRT-RTX builds: a small model of every exporter, and one full Swin-T.

    python -m benchmarks.rtx_builds [--full] [NAME...]

Prints a Markdown table. Needs no GPU; weights are random. Every line is one build for compute capability 8.6
with the profile that `edgetx build` chooses; where a model has stages, each is a line of its own.
"""

from __future__ import annotations

import importlib
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import edgetx
from edgetx import _torchvision, exporters
from edgetx.core import Architecture
from edgetx.engines import Request
from edgetx.package import Package
from edgetx.profiles import Range
from edgetx.runtimes.tensorrt_rtx import TensorRTRTXRuntime

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
COUNTS = {"points": Range(100, 1000, 4000), "pillars": Range(50, 500, 2000), "groups": Range(1, 10, 60)}
"""Sizes for symbols that nothing else is known of."""


def model(name: str) -> Any:
    """A SOURCE, or a small module in memory."""
    source = SOURCES[name]
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


def rows(name: str, package: Package, runtime: TensorRTRTXRuntime) -> Iterator[tuple[str, ...]]:
    """One line for the whole and one for each stage."""
    for part in (package, *(package.stage(stage) for stage in package.stages)):
        symbols = {dim for spec in part.io.inputs for dim in spec.shape}
        request = Request(
            compute=("8.6",), ranges={key: each for key, each in COUNTS.items() if key in symbols}
        )
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        label = f"{name} {part.name.removeprefix(package.name).lstrip('.')}".strip()
        precision = part.manifest.precision
        try:
            engine, _ = runtime.build(part, request)
        except edgetx.EdgetxError as error:
            yield label, precision, "", "", "", " ".join(str(error).split()).replace("|", "/")
            continue
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert engine.record is not None
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        size = f"{engine.record.size / 2**20:.1f} MB"
        yield label, precision, f"{engine.record.seconds:.1f}", f"{spent:.1f}", size, ""


def export(name: str, folder: Path) -> Package:
    """A package of a small model, with stages where it has them."""
    source = model(name)
    module = source if not isinstance(source, str) else None
    split = type(exporters.get(name)).stages is not Architecture.stages
    settings: dict[str, Any] = {} if module is not None else {"pretrained": False}
    return edgetx.export(source, output=folder / name, split=split, **settings)


def main(names: list[str]) -> None:
    """Build and print."""
    torch.set_num_threads(1)
    runtime = TensorRTRTXRuntime()
    full = "--full" in names
    chosen = [name for name in names if name != "--full"] or ([] if full else list(SOURCES))
    print(
        "| model | precision | seconds | CPU seconds | engine | does not build |",
        "| --- " * 6 + "|",
        sep="\n",
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            try:
                package = export(name, Path(folder))
            except edgetx.EdgetxError as error:
                print(f"| {name} | not exported: {' '.join(str(error).split())} |", flush=True)
                continue
            for row in rows(name, package, runtime):
                print(f"| {' | '.join(row)} |", flush=True)
        if full:
            package = edgetx.export("swin_tiny", pretrained=False, output=Path(folder) / "full")
            for row in rows("swin_tiny, full", package, runtime):
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
