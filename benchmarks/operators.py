"""WindowAttention alone: our kernel against its `primitive` body on ONNX Runtime, at Swin-T's four stages."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.record import Goal, Progress, Record
from edgetx import pipeline
from edgetx.benchmark import BenchReport, EngineSpec, compare
from edgetx.ops.window_attention import WindowAttentionAttributes, apply

TITLE = "WindowAttention against its body in standard operators"
STAGES = ((56, 3), (28, 6), (14, 12), (7, 24))
"""Side of the map and heads, for a 224x224 image; head size 32, window 7."""
LEAST = 4.0


class Attention(torch.nn.Module):
    """The operator with a position bias; shifted by 3 and masked wherever there is more than one window."""

    def __init__(self, side: int, heads: int) -> None:
        super().__init__()
        shift = 3 if side > 7 else 0
        self.attributes = WindowAttentionAttributes(
            num_heads=heads,
            head_size=32,
            window=(7, 7),
            shift=(shift, shift),
            mask="region" if shift else "none",
        )
        self.bias = torch.nn.Buffer(torch.randn(heads, 49, 49))

    def forward(self, qkv: torch.Tensor) -> torch.Tensor:
        """`[batch, side, side, heads * 96]` -> `[batch, side, side, heads * 32]`."""
        return apply(self.attributes, qkv, self.bias)


def run(folder: Path, *, threads: int, runs: int, rounds: int, progress: Progress) -> Record:
    """Measure each stage; `folder` takes the packages."""
    reports: dict[str, BenchReport] = {}
    goals = []
    torch.manual_seed(0)
    for stage, (side, heads) in enumerate(STAGES, 1):
        progress(f"stage {stage}: exporting")
        package = pipeline.export(
            Attention(side, heads).eval(),
            torch.randn(1, side, side, heads * 96),
            output=folder / f"stage{stage}.edgetx",
            bodies="primitive",
        )
        path = str(package.path)
        report = compare(
            [
                EngineSpec(name="kernel", kind="package", path=path),
                EngineSpec(name="primitive body", kind="package", path=path, custom_ops=False),
            ],
            baseline="primitive body",
            threads=threads,
            runs=runs,
            rounds=rounds,
            progress=progress,
        )
        what = f"stage {stage}, {side}x{side}, {heads} heads: body / kernel"
        reports[f"Stage {stage}"] = report
        goals.append(Goal(what=what, measured=report["kernel"].speedup, at_least=LEAST))
    return Record(title=TITLE, reports=reports, goals=goals)
