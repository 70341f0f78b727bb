"""Whole models in fp16 under torch.compile: with edgetx's operators, and as their library has them.

Weights are random; both sides share them. Each side has the faster of its modes, `default` and
`max-autotune`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.gpu.timing import Bench
from benchmarks.record import Goal, Progress
from edgetx import _torchvision, exporters

MODES = ("default", "max-autotune")
FASTER = 1.3
"""The least ratio of Swin-T's times, plain over ours."""
POINTS = 100_000
"""Of FlatFormer's sweep."""
ALLOWED = 5e-2
"""Largest difference between both sides in fp16, relative to the largest output."""


class Pair(NamedTuple):
    """A model, its copy with operators, and inputs for either."""

    plain: nn.Module
    ours: nn.Module
    inputs: tuple[torch.Tensor, ...]
    note: str = ""


def _rewritten(module: nn.Module) -> nn.Module:
    rewrite = exporters.find(module).rewrite(module)
    assert rewrite.replaced
    return rewrite.module.eval()


def _pair(module: nn.Module, shape: tuple[int, ...], bench: Bench) -> Pair:
    torch.manual_seed(0)
    dtype = torch.float16 if bench.real else torch.float32
    image = torch.rand(shape).to(bench.device, dtype)
    return Pair(module.to(bench.device, dtype), _rewritten(module).to(bench.device, dtype), (image,))


def swin(batch: int) -> Callable[[Bench], Pair]:
    """Swin-T of timm on 224x224 images."""

    def make(bench: Bench) -> Pair:
        _torchvision.install()
        import timm

        torch.manual_seed(0)
        small = {} if bench.real else {"depths": (1, 1, 1, 1), "embed_dim": 24}
        module = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, **small).eval()
        return _pair(module, (batch if bench.real else 1, 3, 224, 224), bench)

    return make


def hat(bench: Bench) -> Pair:
    """HAT-S x4 on a 128x128 picture."""
    _torchvision.install()
    from spandrel.architectures.HAT import HAT

    torch.manual_seed(0)
    depth, side = (6, 128) if bench.real else (1, 32)
    module = HAT(
        upscale=4,
        window_size=16,
        depths=[depth] * depth,
        embed_dim=144,
        num_heads=[6] * depth,
        compress_ratio=24,
        squeeze_factor=24,
        overlap_ratio=0.5,
        mlp_ratio=2,
        upsampler="pixelshuffle",
        img_size=64,
    ).eval()
    return _pair(module, (1, 3, side, side), bench)


class _Half(nn.Module):
    """The plain position encoding, which computes in float32, rounded to the features' dtype."""

    def __init__(self, encoding: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoding, self.dtype = encoding, dtype

    def forward(self, coords: torch.Tensor) -> torch.Tensor:
        return self.encoding(coords).to(self.dtype)


def _attend_full(self: Any, x: Any, pe: Any, groups: Any, inverse: Any) -> Any:
    """The plain attention without its look for empty slots, which waits for the GPU: FlatFormer has none."""
    from torch.nn import functional

    channels = x.shape[1]
    weight, bias = self.attn.in_proj_weight, self.attn.in_proj_bias
    placed = functional.linear(x + pe, weight[: 2 * channels], bias[: 2 * channels])
    packed = torch.cat([placed, functional.linear(x, weight[2 * channels :], bias[2 * channels :])], dim=1)
    q, k, v = packed[groups].unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
    out = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, channels)
    return self.attn.out_proj(out[inverse])


class _PlainMaps(nn.Module):
    """Features, coords and orders to the head's maps."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.grid = detector.config.grid
        self.middle, self.backbone = detector.middle_encoder, detector.backbone
        self.neck, self.head = detector.neck, detector.bbox_head

    def forward(self, features: torch.Tensor, coords: torch.Tensor, *orders: torch.Tensor) -> Any:
        from edgetx.exporters.flatformer.bev import scatter

        half = len(orders) // 2
        tokens = self.middle.attend(features, coords, orders[:half], orders[half:])
        return self.head(self.neck(self.backbone(scatter(tokens, coords, self.grid))))


class _OurMaps(nn.Module):
    """The same with operators."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.middle, self.bev = detector.middle_encoder, detector.bev()

    def forward(self, features: torch.Tensor, coords: torch.Tensor, *orders: torch.Tensor) -> Any:
        return self.bev(self.middle(features, coords, *orders), coords)


def flatformer(bench: Bench) -> Pair:
    """FlatFormer (Waymo's configuration) from the pillars of a synthetic sweep to the maps of its head."""
    from edgetx import samples
    from edgetx.exporters import flatformer as module
    from edgetx.exporters.flatformer import backbone

    torch.manual_seed(0)
    detector = module.flatformer_waymo() if bench.real else module.flatformer_tiny()
    config = detector.config
    points = samples.sweep(config.point_range, config.columns, seed=0, points=POINTS if bench.real else 2_000)
    with torch.inference_mode():
        features, coords = detector.voxel_encoder(torch.from_numpy(points))
        groups, inverse = detector.middle_encoder.serialize(coords)
    dtype = torch.float16 if bench.real else torch.float32
    ours = _OurMaps(_rewritten(detector))
    plain = copy.deepcopy(detector)
    plain.middle_encoder.embedding = _Half(plain.middle_encoder.embedding, dtype)
    for part in plain.modules():
        if isinstance(part, backbone.GroupAttention):
            part.forward = _attend_full.__get__(part)
    assert all(bool((group >= 0).all()) for group in groups)
    tensors = (features.to(dtype), coords, *groups, *inverse)
    return Pair(
        _PlainMaps(plain).to(bench.device, dtype),
        ours.to(bench.device, dtype),
        tuple(tensor.to(bench.device) for tensor in tensors),
        f"FlatFormer: {len(coords)} pillars of {len(points)} points; voxelising and decoding are left out, "
        "whose sizes depend on the data.",
    )


MODELS: dict[str, tuple[Callable[[Bench], Pair], tuple[str, ...], float | None]] = {
    "Swin-T, batch 1": (swin(1), ("timm",), FASTER),
    "Swin-T, batch 32": (swin(32), ("timm",), FASTER),
    "HAT-S x4, 128x128": (hat, ("spandrel",), None),
    "FlatFormer": (flatformer, (), None),
}
"""Name -> model, libraries that it needs, and the least ratio of the plain time to ours."""


def measure(bench: Bench, only: str, progress: Progress) -> Iterator[tuple[list[Goal], list[str]]]:
    """Goals and notes, model by model; `only` is a part of the names that are wished."""
    for name, (make, needs, least) in MODELS.items():
        if only not in name:
            continue
        if missing := [library for library in needs if find_spec(library) is None]:
            yield [], [f"{name} was not run: {', '.join(missing)} is not installed."]
            continue
        progress(name)
        pair = make(bench)
        yield _model(bench, name, pair, least, progress)
        torch.compiler.reset()


def _model(
    bench: Bench, name: str, pair: Pair, least: float | None, progress: Progress
) -> tuple[list[Goal], list[str]]:
    notes = [pair.note] if pair.note else []
    goals = []
    with torch.inference_mode():
        given, expected = (_first(module(*pair.inputs)) for module in (pair.ours, pair.plain))
        difference = float((given.float() - expected.float()).abs().max() / expected.float().abs().max())
        goals.append(
            Goal(what=f"{name}: difference of both sides, eager", measured=difference, at_most=ALLOWED)
        )
        best: dict[str, float] = {}
        for side, module in (("edgetx", pair.ours), ("plain", pair.plain)):
            for mode in MODES if bench.real else MODES[:1]:
                progress(f"{name}: {side}, {mode}")
                torch.compiler.reset()
                try:
                    compiled = bench.compiled(module, mode)
                    seconds = bench.latency(lambda run=compiled: run(*pair.inputs))  # type: ignore[misc]
                except Exception as error:
                    lines = str(error).strip().splitlines()
                    notes.append(f"{name}: {side} in mode {mode} failed: {lines[0] if lines else error!r}")
                    continue
                best[side] = min(seconds, best.get(side, seconds))
                goals.append(Goal(what=f"{name}: {side}, {mode}", measured=seconds * 1e3, unit="ms"))
    if len(best) == 2:
        ratio = best["plain"] / best["edgetx"]
        goals.append(Goal(what=f"{name}: plain / edgetx", measured=ratio, at_least=least))
    return goals, notes


def _first(output: Any) -> torch.Tensor:
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return output
