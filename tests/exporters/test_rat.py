"""RAT against an implementation in plain numpy, one region after the other, written apart from the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgetx
from edgetx import exporters
from edgetx.exporters.rat import Rat, rat
from edgetx.exporters.rat.rewritten import RegionGroups

TINY = {"width": 8, "blocks": 1, "layers": 1, "encoders": (1,), "decoders": (1,)}
DEEPER = {"width": 4, "channels": 3, "blocks": 2, "layers": 2, "encoders": (1, 2), "decoders": (2, 1)}
SIZES = [(1, 16, 32), (2, 19, 37), (1, 1, 1)]

Weights = Mapping[str, np.ndarray]

_ERF = np.vectorize(math.erf)


class Slow:
    """The forward pass on one picture `[C, H, W]` in float64, from the names of the weights alone."""

    def __init__(self, weights: Weights, heads: int = 8, window: int = 4) -> None:
        self.w = {name: value.astype(np.float64) for name, value in weights.items()}
        self.heads, self.window = heads, window
        self.depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("downs."))

    def __call__(self, image: np.ndarray, regions: np.ndarray) -> np.ndarray:
        height, width = regions.shape
        side = self.window << self.depth
        rows, columns = ([_mirrored(i, n) for i in range(-(-n // side) * side)] for n in (height, width))
        image, regions = image[:, rows][:, :, columns].astype(np.float64), regions[rows][:, columns]
        ids = regions[:: 1 << self.depth, :: 1 << self.depth]
        x, skips = self.conv("intro", image, pad=1), []
        for level in range(self.depth):
            x = self.naf_blocks(f"encoders.{level}", x)
            skips.append(x)
            x = self.conv(f"downs.{level}", x, stride=2)
        shortcut = x
        for block in self.children("middle_blks"):
            before = x
            for layer in self.children(f"{block}.layers"):
                x = self.layer(layer, x, ids)
            x = before + self.conv(f"{block}.conv", x, pad=1)
        x = x + shortcut
        for level in range(self.depth):
            up = self.conv(f"ups.{level}.0", x)
            x = np.empty((up.shape[0] // 4, 2 * up.shape[1], 2 * up.shape[2]))
            for offset in range(4):
                x[:, offset // 2 :: 2, offset % 2 :: 2] = up[offset::4]
            x = self.naf_blocks(f"decoders.{level}", x + skips.pop())
        return (image + self.conv("ending", x, pad=1))[:, :height, :width]

    def children(self, name: str) -> list[str]:
        numbers = {int(key[len(name) + 1 :].split(".")[0]) for key in self.w if key.startswith(f"{name}.")}
        return [f"{name}.{number}" for number in sorted(numbers)]

    def naf_blocks(self, name: str, x: np.ndarray) -> np.ndarray:
        for block in self.children(name):
            y = self.conv(f"{block}.conv1", self.norm(f"{block}.norm1", x))
            y = self.conv(f"{block}.conv2", y, pad=1, depthwise=True)
            half = len(y) // 2
            y = y[:half] * y[half:]
            y = y * self.conv(f"{block}.sca.1", y.mean((1, 2), keepdims=True))
            x = x + self.w[f"{block}.beta"][0] * self.conv(f"{block}.conv3", y)
            y = self.conv(f"{block}.conv4", self.norm(f"{block}.norm2", x))
            x = x + self.w[f"{block}.gamma"][0] * self.conv(f"{block}.conv5", y[:half] * y[half:])
        return x

    def layer(self, name: str, x: np.ndarray, ids: np.ndarray) -> np.ndarray:
        packed = self.conv(f"{name}.ra.qkv", self.norm(f"{name}.norm_ra", x))
        out = np.zeros_like(x)
        for number in np.unique(ids):
            inside = ids == number
            out[:, inside] = self.attention(packed[:, inside])
        x = x + self.w[f"{name}.lambda_ra"][0] * self.conv(f"{name}.ra.project_out", out)
        x = x + self.mlp(f"{name}.mlp_ra", self.norm(f"{name}.norm_ra_mlp", x))
        packed = self.linear(f"{name}.wa.qkv", self.norm(f"{name}.norm_wa", x))
        out = np.zeros_like(x)
        for top in range(0, x.shape[1], self.window):
            for left in range(0, x.shape[2], self.window):
                cut = np.s_[:, top : top + self.window, left : left + self.window]
                tokens = packed[cut]
                out[cut] = self.attention(tokens.reshape(len(tokens), -1)).reshape(out[cut].shape)
        x = x + self.w[f"{name}.lambda_wa"][0] * self.linear(f"{name}.wa.proj_out", out)
        return x + self.mlp(f"{name}.mlp_wa", self.norm(f"{name}.norm_wa_mlp", x))

    def attention(self, packed: np.ndarray) -> np.ndarray:
        """`[3C, tokens]` to `[C, tokens]`, all tokens among each other."""
        q, k, v = packed.reshape(3, self.heads, -1, packed.shape[1])
        out = np.empty_like(v)
        for head in range(self.heads):
            logits = q[head].T @ k[head] / math.sqrt(self.heads)
            weights = np.exp(logits - logits.max(1, keepdims=True))
            out[head] = v[head] @ (weights / weights.sum(1, keepdims=True)).T
        return out.reshape(-1, packed.shape[1])

    def mlp(self, name: str, x: np.ndarray) -> np.ndarray:
        hidden = self.conv(f"{name}.fc1", x)
        return self.conv(f"{name}.fc2", hidden * (1 + _ERF(hidden / math.sqrt(2))) / 2)

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        normal = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-6)
        return self.w[f"{name}.weight"][:, None, None] * normal + self.w[f"{name}.bias"][:, None, None]

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return np.tensordot(self.w[f"{name}.weight"], x, 1) + self.w[f"{name}.bias"][:, None, None]

    def conv(
        self, name: str, x: np.ndarray, *, stride: int = 1, pad: int = 0, depthwise: bool = False
    ) -> np.ndarray:
        weight, bias = self.w[f"{name}.weight"], self.w.get(f"{name}.bias")
        side = weight.shape[-1]
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        rows, columns = ((n - side) // stride + 1 for n in x.shape[1:])
        out = np.zeros((len(weight), rows, columns))
        for i in range(side):
            for j in range(side):
                part = x[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
                tap = weight[:, :, i, j]
                out += tap[:, :1, None] * part if depthwise else np.tensordot(tap, part, 1)
        return out if bias is None else out + bias[:, None, None]


def _mirrored(index: int, size: int) -> int:
    return index if index < size else max(2 * (size - 1) - index, 0)


def _randomized(**settings: Any) -> Any:
    torch.manual_seed(0)
    model = rat(**settings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def _feeds(channels: int, size: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A picture and a map of coarse regions with scattered pixels of others, numbered with gaps."""
    batch, height, width = size
    rng = np.random.default_rng(height * 100 + width)
    image = rng.random((batch, channels, height, width), dtype=np.float32)
    coarse = rng.integers(0, 4, (batch, height // 8 + 1, width // 8 + 1)).repeat(8, 1).repeat(8, 2)
    regions = np.where(
        rng.random((batch, height, width)) < 0.1,
        rng.integers(0, 9, (batch, height, width)),
        coarse[:, :height, :width],
    )
    return image, (regions * 70_001 - 5).astype(np.int32)


def _slow(model: Any, image: np.ndarray, regions: np.ndarray) -> np.ndarray:
    slow = Slow({name: value.numpy() for name, value in model.state_dict().items()})
    return np.stack([slow(*pair) for pair in zip(image, regions, strict=True)])


@pytest.mark.parametrize("settings", [TINY, DEEPER], ids=["tiny", "deeper"])
def test_agrees_with_the_slow_implementation(settings: dict[str, Any]) -> None:
    model = _randomized(**settings)
    rewritten = Rat().rewrite(model)
    assert len(rewritten.replaced) == 2 * model.stride // 2 * (1 if settings is TINY else 2)
    for size in SIZES:
        image, regions = _feeds(model.channels, size)
        expected = _slow(model, image, regions)
        tensors = torch.from_numpy(image), torch.from_numpy(regions)
        with torch.no_grad():
            np.testing.assert_allclose(model(*tensors), expected, atol=2e-5, rtol=0, err_msg=f"{size}")
            np.testing.assert_allclose(
                rewritten.module(*tensors), expected, atol=2e-5, rtol=0, err_msg=f"rewritten, {size}"
            )


def test_scale_enlarges_the_picture_and_repeats_the_map() -> None:
    model = _randomized(**TINY, scale=2)
    image, regions = (torch.from_numpy(array) for array in _feeds(1, (1, 9, 14)))
    large = torch.nn.functional.interpolate(image, size=(18, 28), mode="bilinear")
    model.scale, expected = 1, None
    with torch.no_grad():
        expected = model(large, regions.repeat_interleave(2, 1).repeat_interleave(2, 2))
        model.scale = 2
        torch.testing.assert_close(model(image, regions), expected)
        torch.testing.assert_close(Rat().rewrite(model).module(image, regions), expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_groups_are_the_regions_of_each_picture(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    regions = torch.randint(-2, 3, (2, 5, 7), generator=generator, dtype=dtype) * 1_000_000_007
    groups, inverse = RegionGroups()(regions)
    expected = [
        np.flatnonzero(picture == number) + 35 * index
        for index, picture in enumerate(regions.flatten(1).numpy())
        for number in np.unique(picture)
    ]
    assert groups.dtype == inverse.dtype == torch.int32
    assert groups.shape == (len(expected), max(map(len, expected)))
    for row, tokens in zip(groups, expected, strict=True):
        assert row[: len(tokens)].tolist() == tokens.tolist()
        assert (row[len(tokens) :] == -1).all()
    assert torch.equal(groups.flatten()[inverse.long()].long(), torch.arange(70))


def test_exports_to_one_file_for_any_size(tmp_path: Path) -> None:
    model = _randomized(**TINY)
    package = edgetx.export(model, output=tmp_path / "rat")
    assert package.manifest.architecture == "rat"
    assert package.manifest.operators["GroupAttention"] == package.manifest.operators["WindowAttention"] == 1
    assert package.processor.regions == "regions"
    for target in (edgetx.Target(), edgetx.Target(custom_ops=False)):
        with edgetx.load(package, target=target) as session:
            for size in SIZES:
                image, regions = _feeds(1, size)
                restored = session.run({"image": image, "regions": regions})["restored"]
                expected = _slow(model, image, regions)
                np.testing.assert_allclose(restored, expected, atol=2e-5, rtol=0, err_msg=f"{size}")


def test_recognised_from_its_weights() -> None:
    model = rat(**DEEPER)
    state = model.state_dict()
    assert exporters.find(model).id == "rat"
    found = Rat().source_from_state_dict(state)
    assert found == ("edgetx.exporters.rat:rat", {**DEEPER, "mlp_ratio": 2.0})
    rat(**found[1]).load_state_dict(state)
    del state["middle_blks.0.layers.0.lambda_ra"]  # what is left could be any model around NAF blocks
    assert Rat().source_from_state_dict(state) is None


def test_the_authors_configuration_has_their_weights() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in rat().state_dict().items()}
    assert len(shapes) == 474
    assert shapes["intro.weight"] == (64, 1, 3, 3)
    assert shapes["downs.1.weight"] == (256, 128, 2, 2)
    assert shapes["middle_blks.3.layers.2.ra.qkv.weight"] == (768, 256, 1, 1)
    assert shapes["middle_blks.3.layers.2.wa.qkv.weight"] == (768, 256)
    assert shapes["ups.0.0.weight"] == (512, 256, 1, 1)
    assert shapes["decoders.1.1.sca.1.weight"] == (64, 64, 1, 1)


def test_refuses_heads_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="heads that divide"):
        rat(width=6, encoders=(1,), decoders=(1,))
