"""WindowAttention's kernel on Swin-T's shapes, fp16, against SDPA, FlexAttention and the memory floor.

The floor is what the device's memory takes to read every input once and to write the output once, at the
bandwidth that a copy reaches. The peers start from the same channels-last qkv: they roll, partition, attend
with bias and mask, merge and roll back, compiled by `torch.compile` so that what can be fused is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from benchmarks.gpu.timing import Bench
from benchmarks.record import Goal, Progress
from edgetx.ops.window_attention import WindowAttentionAttributes, apply

STAGES = ((56, 3), (28, 6), (14, 12), (7, 24))
"""Side of the map and heads, for a 224x224 image; head size 32, window 7."""
BATCH = 32
SHORTEST = 20e-6
"""Seconds that the floor of stages 3 and 4 must exceed, so that a launch is no large part of it."""
SHARE, FASTER = 0.7, 2.0
"""The least share of the floor, and the least ratio of the best peer's time to ours."""
ALLOWED, PEERS_ALLOWED = 2e-3, 1e-2
"""Largest difference from float64 in fp16, outputs of order 1: ours, and what a peer may have."""
SIDE = 7

Attend = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Stage:
    """One of Swin-T's stages, with what an attention of it needs."""

    number: int
    side: int
    heads: int
    bias: torch.Tensor

    @property
    def attributes(self) -> WindowAttentionAttributes:
        """Shifted and masked wherever there is more than one window."""
        shift = SIDE // 2 if self.side > SIDE else 0
        return WindowAttentionAttributes(
            num_heads=self.heads,
            head_size=32,
            window=(SIDE, SIDE),
            shift=(shift, shift),
            mask="region" if shift else "none",
        )

    @property
    def image_elements(self) -> int:
        """Elements that one image's qkv and output have."""
        return self.side**2 * self.heads * 32 * 4

    def regions(self) -> torch.Tensor:
        """`[windows, tokens]`: the part of the shifted map that each token is of."""
        shift = self.attributes.shift[0]
        row = torch.arange(self.side, device=self.bias.device)
        part = (row >= self.side - SIDE).int() + (row >= self.side - shift).int()
        return _partition((part[:, None] * 3 + part)[None, :, :, None])[..., 0]


def _partition(x: torch.Tensor) -> torch.Tensor:
    """`[B, H, W, C]` to `[B * windows, tokens, C]`."""
    batch, height, width, channels = x.shape
    parts = x.view(batch, height // SIDE, SIDE, width // SIDE, SIDE, channels)
    return parts.transpose(2, 3).reshape(-1, SIDE * SIDE, channels)


def _around(stage: Stage, attend: Callable[..., torch.Tensor]) -> Attend:
    """A peer: `attend` takes q, k and v as `[B * windows, heads, tokens, 32]`."""
    shift = stage.attributes.shift[0]

    def run(qkv: torch.Tensor) -> torch.Tensor:
        batch, height, width, _ = qkv.shape
        rolled = torch.roll(qkv, (-shift, -shift), (1, 2)) if shift else qkv
        split = _partition(rolled).view(-1, SIDE * SIDE, 3, stage.heads, 32).permute(2, 0, 3, 1, 4)
        out = attend(*split).transpose(1, 2)
        rows = out.reshape(batch, height // SIDE, width // SIDE, SIDE, SIDE, stage.heads * 32)
        merged = rows.transpose(2, 3).reshape(batch, height, width, -1)
        return torch.roll(merged, (shift, shift), (1, 2)) if shift else merged

    return run


def _sdpa(stage: Stage) -> Attend:
    """`scaled_dot_product_attention` with bias and mask as one tensor, the same for every image."""
    added = stage.bias[None]
    if stage.attributes.mask == "region":
        region = stage.regions()
        same = region[:, None, :, None] == region[:, None, None, :]
        added = added + torch.where(same, 0.0, -100.0).to(added.dtype)
    windows = added.shape[0]
    added = added.reshape(1, windows * stage.heads, SIDE * SIDE, SIDE * SIDE)

    def attend(*tensors: torch.Tensor) -> torch.Tensor:
        # Windows beside heads, so that the mask is broadcast over the images and not copied.
        q, k, v = (x.reshape(-1, windows * stage.heads, SIDE * SIDE, 32) for x in tensors)
        out = functional.scaled_dot_product_attention(q, k, v, added)
        return out.view(-1, stage.heads, SIDE * SIDE, 32)

    return _around(stage, attend)


def _flex(stage: Stage) -> Attend:
    """FlexAttention: the bias and the regions are looked up as scores are made."""
    from torch.nn.attention.flex_attention import flex_attention

    bias, region = stage.bias, stage.regions()
    masked = stage.attributes.mask == "region"
    windows = region.shape[0]

    def score(value: Any, batch: Any, head: Any, query: Any, key: Any) -> Any:
        value = value + bias[head, query, key]
        if not masked:
            return value
        window = batch % windows
        return torch.where(region[window, query] == region[window, key], value, value - 100.0)

    return _around(stage, lambda q, k, v: flex_attention(q, k, v, score_mod=score))


PEERS: dict[str, Callable[[Stage], Attend]] = {"SDPA": _sdpa, "FlexAttention": _flex}


def measure(bench: Bench, bandwidth: float, progress: Progress) -> Iterator[tuple[list[Goal], list[str]]]:
    """Goals and notes, stage by stage."""
    dtype = torch.float16 if bench.real else torch.float32
    for number, (side, heads) in enumerate(STAGES if bench.real else STAGES[2:], 1 if bench.real else 3):
        progress(f"stage {number}")
        torch.manual_seed(number)
        bias = torch.randn(heads, SIDE * SIDE, SIDE * SIDE).to(bench.device, dtype)
        stage = Stage(number, side, heads, bias)
        batch = _batch(bench, stage, bandwidth)
        yield _stage(bench, stage, batch, bandwidth, progress)


def _batch(bench: Bench, stage: Stage, bandwidth: float) -> int:
    """32; for the small maps of stages 3 and 4, what their floor needs to exceed `SHORTEST`."""
    if not bench.real:
        return 2
    if stage.number <= 2:
        return BATCH
    images = SHORTEST * bandwidth / (2 * stage.image_elements)
    return max(BATCH, math.ceil(images * 1.1 / 16) * 16)


def _stage(
    bench: Bench, stage: Stage, batch: int, bandwidth: float, progress: Progress
) -> tuple[list[Goal], list[str]]:
    dtype = stage.bias.dtype
    channels = stage.heads * 96
    moved = stage.image_elements * batch * dtype.itemsize + stage.bias.numel() * dtype.itemsize
    # So many copies of the input that a later call does not find an earlier one's in the cache.
    copies = max(2, math.ceil(3 * bench.cache_bytes() / moved)) if bench.real else 2
    inputs = [
        torch.randn(batch, stage.side, stage.side, channels, device=bench.device, dtype=dtype)
        for _ in range(copies)
    ]
    name = f"stage {stage.number}, batch {batch}"
    floor = moved / bandwidth
    goals = [Goal(what=f"{name}: memory floor", measured=floor * 1e6, unit="us")]
    notes: list[str] = []
    contenders: dict[str, Attend] = {"edgetx": lambda qkv: apply(stage.attributes, qkv, stage.bias)}
    for peer, make in PEERS.items():
        contenders[peer] = bench.compiled(make(stage), "max-autotune-no-cudagraphs")
    expected = apply(stage.attributes, inputs[0][:1].cpu().double(), stage.bias.cpu().double())
    times: dict[str, float] = {}
    for contender, attend in contenders.items():
        progress(f"{name}: {contender}")
        try:
            with torch.inference_mode():
                error = float((attend(inputs[0])[:1].cpu().double() - expected).abs().max())
                allowed = ALLOWED if contender == "edgetx" else PEERS_ALLOWED
                if not error <= allowed * max(1.0, float(expected.abs().max())):
                    raise ArithmeticError(f"it differs from float64 by {error:.2g}")
                times[contender] = bench.per_call([lambda x=x, f=attend: f(x) for x in inputs])  # type: ignore[misc]
        except Exception as error_:
            if contender == "edgetx":
                raise
            lines = str(error_).strip().splitlines()
            notes.append(f"{name}: {contender} was not measured: {lines[0] if lines else repr(error_)}")
            continue
        goals.append(Goal(what=f"{name}: {contender}", measured=times[contender] * 1e6, unit="us"))
    ours = times.pop("edgetx")
    goals.append(Goal(what=f"{name}: share of the memory floor", measured=floor / ours, at_least=SHARE))
    if times:
        best = min(times, key=times.__getitem__)
        goals.append(
            Goal(what=f"{name}: {best}, the best peer / edgetx", measured=times[best] / ours, at_least=FASTER)
        )
    return goals, notes
