"""Parity of one dynamic file per model with the exported PyTorch module, freshly loaded, over sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.record import Goal, Progress, Record
from edgetx import pipeline, runtimes, sources
from edgetx.core import Target

TITLE = "Parity of one dynamic file with PyTorch"
MODELS = (
    "timm:swin_tiny_patch4_window7_224",
    "timm:swinv2_tiny_window8_256",
    "torchvision:swin_t",
    "torchvision:swin_v2_t",
)
SIZES = ((224, 224), (256, 320), (400, 304))
BATCHES = (1, 2, 3, 4, 5)
LARGEST_ERROR = 1e-5


def run(folder: Path, *, threads: int, runs: int, rounds: int, progress: Progress) -> Record:
    """Largest absolute error of the logits per model and size, over batches 1 to 5; nothing is timed."""
    goals = []
    torch.set_num_threads(threads)
    for source in MODELS:
        name = source.partition(":")[2]
        progress(f"{source}: exporting")
        package = pipeline.export(source, pretrained=False, output=folder / f"{name}.edgetx")
        (spec,) = package.io.inputs
        with runtimes.load(package, target=Target(threads=threads)) as session:
            for size in SIZES:
                progress(f"{source}: {size[0]}x{size[1]}")
                worst = largest = 0.0
                for batch in BATCHES:
                    images = np.random.default_rng(batch).normal(size=(batch, 3, *size)).astype("float32")
                    module = sources.load(source, pretrained=False).module
                    with torch.inference_mode():
                        expected = module(torch.from_numpy(images)).numpy()
                    (actual,) = session.run({spec.name: images}).values()
                    worst = max(worst, float(np.abs(actual - expected).max()))
                    largest = max(largest, float(np.abs(expected).max()))
                goals.append(
                    Goal(
                        what=f"{source}, {size[0]}x{size[1]}, batch 1-5 (largest logit {largest:.2f})",
                        measured=worst,
                        at_most=LARGEST_ERROR,
                    )
                )
    return Record(
        title=TITLE,
        reports={},
        goals=goals,
        notes=["Random weights from a fixed seed, no parameter constant; inputs are standard normal."],
    )
