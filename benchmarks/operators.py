"""WindowAttention alone: our kernel against its `primitive` body on ONNX Runtime.

Both sides are bare ONNX Runtime sessions of the same file, with and without our library, whose input and
output are bound once: `Session.run` adds a check for NaN and the allocation of the output to either, which
take as long as the operator does.

Swin-T's four stages, which have a goal, and the shapes of restoration models on a 64x64 map.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch

from benchmarks.record import Goal, Progress, Record
from edgetx import pipeline
from edgetx.benchmark import BenchReport, EngineSpec, compare, feeds
from edgetx.ops import library
from edgetx.ops.window_attention import WindowAttentionAttributes, apply

TITLE = "WindowAttention against its body in standard operators"
STAGES = ((56, 3), (28, 6), (14, 12), (7, 24))
"""Side of the map and heads, for a 224x224 image; head size 32, window 7."""
LEAST = 4.0


def _swin(side: int, heads: int) -> WindowAttentionAttributes:
    """Shifted by 3 and masked wherever there is more than one window."""
    shift = 3 if side > 7 else 0
    return WindowAttentionAttributes(
        num_heads=heads,
        head_size=32,
        window=(7, 7),
        shift=(shift, shift),
        mask="region" if shift else "none",
    )


SHAPES: dict[str, tuple[int, WindowAttentionAttributes, float | None]] = {
    f"Swin-T stage {stage}, {side}x{side}": (side, _swin(side, heads), LEAST)
    for stage, (side, heads) in enumerate(STAGES, 1)
} | {
    "SwinIR-light, 6 heads of 10, window 8": (
        64,
        WindowAttentionAttributes(num_heads=6, head_size=10, window=(8, 8), shift=(4, 4), mask="region"),
        None,
    ),
    "SwinIR, 6 heads of 30, window 8": (
        64,
        WindowAttentionAttributes(num_heads=6, head_size=30, window=(8, 8), shift=(4, 4), mask="region"),
        None,
    ),
    "HAT, 6 heads of 30, window 16": (
        64,
        WindowAttentionAttributes(num_heads=6, head_size=30, window=(16, 16), shift=(8, 8), mask="region"),
        None,
    ),
    "HAT's overlapping attention, 6 heads of 30, window 24 over 16": (
        64,
        WindowAttentionAttributes(num_heads=6, head_size=30, window=(16, 16), kv_window=(24, 24)),
        None,
    ),
    "DAT-light and RGT, 3 heads of 10, window 8x32": (
        64,
        WindowAttentionAttributes(num_heads=3, head_size=10, window=(8, 32), shift=(4, 16), mask="region"),
        None,
    ),
    "CRAFT, 3 heads of 8, window 4x16": (
        64,
        WindowAttentionAttributes(num_heads=3, head_size=8, window=(4, 16), shift=(2, 8)),
        None,
    ),
    "6 heads of 15, window 8x32": (
        64,
        WindowAttentionAttributes(num_heads=6, head_size=15, window=(8, 32), shift=(4, 16), mask="region"),
        None,
    ),
    "6 heads of 6, window 4x16": (
        64,
        WindowAttentionAttributes(num_heads=6, head_size=6, window=(4, 16), shift=(2, 8)),
        None,
    ),
}
"""Name -> side of the map, attributes, and the least ratio of the body's time to the kernel's."""


class Attention(torch.nn.Module):
    """The operator with a position bias."""

    def __init__(self, attributes: WindowAttentionAttributes) -> None:
        super().__init__()
        self.attributes = attributes
        queries = attributes.window[0] * attributes.window[1]
        keys = attributes.kv_window[0] * attributes.kv_window[1]
        self.bias = torch.nn.Buffer(torch.randn(attributes.num_heads, queries, keys))

    def forward(self, qkv: torch.Tensor) -> torch.Tensor:
        """`[batch, side, side, heads * 3 * head_size]` -> `[batch, side, side, heads * head_size]`."""
        return apply(self.attributes, qkv, self.bias)


def run(folder: Path, *, threads: int, runs: int, rounds: int, progress: Progress) -> Record:
    """Measure each shape; `folder` takes the packages."""
    reports: dict[str, BenchReport] = {}
    goals = []
    torch.manual_seed(0)
    for name, (side, attributes, least) in SHAPES.items():
        progress(f"{name}: exporting")
        package = pipeline.export(
            Attention(attributes).eval(),
            torch.randn(1, side, side, attributes.num_heads * attributes.head_size * 3),
            output=folder / f"{len(reports)}.edgetx",
            bodies="primitive",
        )
        inputs = folder / f"{len(reports)}.npz"
        feeds.save(inputs, package.golden()[0].inputs)
        body = EngineSpec(
            name="primitive body", kind="onnx", path=str(package.model_path), inputs=str(inputs), bound=True
        )
        kernel = msgspec.structs.replace(body, name="kernel", operators=library.path())
        report = compare(
            [kernel, body],
            baseline="primitive body",
            threads=threads,
            runs=runs,
            rounds=rounds,
            progress=progress,
        )
        reports[name] = report
        goals.append(Goal(what=f"{name}: body / kernel", measured=report["kernel"].speedup, at_least=least))
    return Record(title=TITLE, reports=reports, goals=goals)
