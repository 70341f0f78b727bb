"""Point Transformer V3 against Skilling's algorithm, dictionaries of cells and attention patch by patch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import edgetx
from edgetx import exporters, sources
from edgetx.exporters import _sets
from edgetx.exporters.ptv3 import PTv3, curves, model, ptv3_block

K = 8
SETTINGS = {
    "channels": 8,
    "num_heads": 2,
    "patch_size": K,
    "blocks": 2,
    "orders": ("z-trans", "hilbert-trans"),
}
CASES = [(1, 1), (1, K - 1), (1, K), (1, K + 1), (1, 5 * K), (3, 6 * K + 5)]
EXTENT = (40, 37, 12)


def cloud(batch: int, points: int, extent: tuple[int, int, int] = EXTENT) -> dict[str, np.ndarray]:
    (feeds,) = _sets.samples(8, [(batch, points)], extent)
    return feeds


def z_order(cell: tuple[int, int, int], _bits: int) -> int:
    return sum(
        (value >> bit & 1) << (3 * bit + 2 - axis) for axis, value in enumerate(cell) for bit in range(16)
    )


def hilbert(cell: tuple[int, int, int], bits: int) -> int:
    """Skilling's `AxestoTranspose`, and the bits of its answer in turn."""
    x = list(cell)
    bit = 1 << (bits - 1) if bits else 0
    while bit > 1:
        below = bit - 1
        for axis in range(3):
            if x[axis] & bit:
                x[0] ^= below
            else:
                swap = (x[0] ^ x[axis]) & below
                x[0] ^= swap
                x[axis] ^= swap
        bit >>= 1
    x[1] ^= x[0]
    x[2] ^= x[1]
    turn, bit = 0, 1 << (bits - 1) if bits else 0
    while bit > 1:
        if x[2] & bit:
            turn ^= bit - 1
        bit >>= 1
    x = [value ^ turn for value in x]
    return sum(
        (value >> bit & 1) << (3 * bit + 2 - axis) for axis, value in enumerate(x) for bit in range(16)
    )


def slow_code(cell: np.ndarray, order: str, bits: int) -> int:
    x, y, z = (int(value) for value in cell)
    if order.endswith("-trans"):
        x, y = y, x
    return (hilbert if order.startswith("hilbert") else z_order)((x, y, z), bits)


def slow_patches(coords: np.ndarray, order: str, size: int) -> tuple[list[list[int]], list[int]]:
    bits = int(coords[:, 1:].max()).bit_length()
    groups: list[list[int]] = []
    inverse = [-1] * len(coords)
    for sample in np.unique(coords[:, 0]):
        along = sorted(
            np.flatnonzero(coords[:, 0] == sample), key=lambda i: slow_code(coords[i, 1:], order, bits)
        )
        for start in range(0, len(along), size):
            patch = along[start : start + size]
            for slot, point in enumerate(patch):
                inverse[point] = len(groups) * size + slot
            missing = size - len(patch)
            borrowed = groups[-1][len(patch) :] if start else [-1] * missing
            groups.append([int(point) for point in patch] + borrowed)
    return groups, inverse


@pytest.mark.parametrize("order", curves.ORDERS)
@pytest.mark.parametrize("extent", [(1, 1, 3), (5, 9, 3), (300, 200, 17), (65536, 65536, 65536)])
def test_codes_are_those_of_the_curves(order: str, extent: tuple[int, int, int]) -> None:
    points = min(100, int(np.prod(extent)) // 3)
    coords = cloud(1, points, extent)["coords"]
    bits = int(coords[:, 1:].max()).bit_length()
    codes = curves.codes(torch.from_numpy(coords)[:, 1:], order)
    assert codes.tolist() == [slow_code(cell, order, bits) for cell in coords[:, 1:]]


def test_hilberts_curve_visits_neighbours() -> None:
    cells = torch.cartesian_prod(*[torch.arange(8)] * 3)
    codes = curves.codes(cells, "hilbert")
    assert sorted(codes.tolist()) == list(range(512))
    steps = cells[codes.argsort()].diff(dim=0).abs().sum(1)
    assert (steps == 1).all()


@pytest.mark.parametrize("order", curves.ORDERS)
@pytest.mark.parametrize(("batch", "points"), [*CASES, (2, 4 * K)])
def test_patches_are_those_of_a_plain_loop(order: str, batch: int, points: int) -> None:
    coords = cloud(batch, points)["coords"]
    ((groups, inverse),) = model.serialize(torch.from_numpy(coords), [order], K)
    expected = slow_patches(coords, order, K)
    assert groups.dtype == inverse.dtype == torch.int32
    assert (groups.tolist(), inverse.tolist()) == expected


def test_the_position_encoding_is_a_convolution_at_occupied_cells() -> None:
    feeds = cloud(2, 60, (9, 8, 5))
    x, coords = torch.from_numpy(feeds["features"]), torch.from_numpy(feeds["coords"]).long()
    convolution = model.SparseConv(8)
    torch.nn.init.normal_(convolution.bias)
    volume = torch.zeros(2, 8, 9, 8, 5)
    place = coords.unbind(1)
    volume[place[0], :, place[1], place[2], place[3]] = x
    weight = convolution.weight.permute(0, 4, 1, 2, 3)
    dense = torch.nn.functional.conv3d(volume, weight, convolution.bias, padding=1)
    with torch.no_grad():
        out = convolution(x, model.Neighbours()(coords))
        torch.testing.assert_close(out, dense[place[0], :, place[1], place[2], place[3]], atol=1e-5, rtol=0)


def test_attention_is_that_of_each_patch() -> None:
    feeds = cloud(2, 3 * K + 3)
    x = torch.from_numpy(feeds["features"])
    groups, inverse = slow_patches(feeds["coords"], "hilbert", K)
    torch.manual_seed(0)
    attention = model.SerializedAttention(8, 2, K, enable_rpe=False)
    expected = torch.zeros(len(x), 8)
    with torch.no_grad():
        q, k, v = (part.reshape(-1, 2, 4) for part in attention.qkv(x).chunk(3, 1))
        for point, slot in enumerate(inverse):
            keys = [other for other in groups[slot // K] if other >= 0]
            for head in range(2):
                weights = (k[keys, head] @ q[point, head] / 2).softmax(0)
                expected[point, 4 * head : 4 * head + 4] = weights @ v[keys, head]
        coords = torch.from_numpy(feeds["coords"])
        out = attention(x, coords, *model.serialize(coords, ["hilbert"], K))
        torch.testing.assert_close(out, attention.proj(expected), atol=1e-6, rtol=0)


def test_exports_to_one_file_for_any_number_of_points(
    tmp_path: Path, randomized: Callable[..., torch.nn.Module]
) -> None:
    blocks = randomized(ptv3_block(**SETTINGS))
    assert exporters.find(blocks).id == "ptv3"
    before = {name: value.clone() for name, value in blocks.state_dict().items()}
    rewrite = PTv3().rewrite(blocks)
    assert rewrite.replaced == ("block0.attn", "block1.attn")
    package = edgetx.export(blocks, output=tmp_path / "ptv3", split=True)
    assert package.stages == ("serialize", "blocks")
    assert package.manifest.operators["GroupAttention"] == 2
    plain = edgetx.Target(custom_ops=False)
    for target, stages in ((edgetx.Target(), False), (plain, False), (edgetx.Target(), True)):
        with edgetx.load(package, target=target, stages=stages) as session:
            for batch, points in CASES:
                feeds = cloud(batch, points)
                tensors = [torch.from_numpy(array) for array in feeds.values()]
                with torch.no_grad():
                    expected = blocks(*tensors)
                    torch.testing.assert_close(rewrite.module(*tensors), expected, atol=1e-5, rtol=0)
                np.testing.assert_allclose(session.run(feeds)["tokens"], expected, atol=1e-5, rtol=0)
    assert all(torch.equal(before[name], value) for name, value in blocks.state_dict().items())


def test_relative_position_bias_stays_in_standard_operators(
    randomized: Callable[..., torch.nn.Module],
) -> None:
    settings = {**SETTINGS, "blocks": 1, "cpe": False, "enable_rpe": True}
    blocks = randomized(ptv3_block(**settings))
    rewrite = PTv3().rewrite(blocks)
    assert rewrite.replaced == ()
    assert "relative position bias" in rewrite.notes[0]
    feeds = cloud(2, 2 * K + 1)
    tensors = [torch.from_numpy(array) for array in feeds.values()]
    with torch.no_grad():
        assert torch.equal(rewrite.module(*tensors), blocks(*tensors))
        table = blocks.get_submodule("block0.attn.rpe")
        bias = table(tensors[1], torch.tensor([[3, 1, -1]]))[0]
        apart = (feeds["coords"][3, 1:] - feeds["coords"][1, 1:]).clip(-table.bound, table.bound)
        side = 2 * table.bound + 1
        expected = sum(table.rpe_table[axis * side + table.bound + step] for axis, step in enumerate(apart))
        torch.testing.assert_close(bias[:, 0, 1], expected)


def test_weights_have_the_authors_names() -> None:
    names = set(ptv3_block(**SETTINGS, enable_rpe=True).state_dict())
    first = {name.removeprefix("block0.") for name in names if name.startswith("block0.")}
    modules = (
        "cpe.0",
        "cpe.1",
        "cpe.2",
        "norm1.0",
        "attn.qkv",
        "attn.proj",
        "norm2.0",
        "mlp.0.fc1",
        "mlp.0.fc2",
    )
    expected = {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}
    assert first == {*expected, "attn.rpe.rpe_table"}


def test_the_source_brings_clouds() -> None:
    reference = sources.load("ptv3_block", pretrained=False)
    assert [len(feeds["coords"]) for feeds in reference.samples] == [2560, 512, 1]
    for feeds in reference.samples:
        reference.io.check(feeds)
        assert len(np.unique(feeds["coords"], axis=0)) == len(feeds["coords"])


@pytest.mark.parametrize("wrong", [{"num_heads": 3}, {"patch_size": 0}, {"orders": ("peano",)}])
def test_refuses_what_does_not_fit(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="heads that divide"):
        ptv3_block(**{**SETTINGS, **wrong})
