"""DSVT against sets made voxel by voxel, as the paper's equation 3 has them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import edgetx
from edgetx import exporters
from edgetx.exporters import _sets
from edgetx.exporters.dsvt import DSVT, dsvt_block, model

S = 6
SETTINGS = {
    "channels": 8,
    "num_heads": 2,
    "hidden": 16,
    "set_size": S,
    "grid": (40, 37, 1),
    "window": (8, 6, 1),
    "shift": (4, 3, 0),
}
CASES = [(1, 1), (1, S - 1), (1, S), (1, S + 1), (1, 40 * S), (3, 500)]
FLAT = ((40, 37, 1), (8, 6, 1), (4, 3, 0))
HIGH = ((40, 37, 8), (8, 6, 4), (4, 3, 2))
FULL = ((40, 37, 8), (16, 12, 8), (4, 3, 2))  # as high as the grid: the shift along z is left out


def voxels(batch: int, points: int, grid: tuple[int, int, int] = (40, 37, 1)) -> dict[str, np.ndarray]:
    (feeds,) = _sets.samples(8, [(batch, points)], grid, (0, 3, 2, 1))
    return feeds


def slow_sets(coords: np.ndarray, layout: tuple, size: int, along: int) -> tuple[list[list[int]], list[int]]:
    """The voxels of each set, repetitions included, and the first slot of each voxel."""
    grid, window, shift = layout
    shift = (*shift[:2], 0 if window[2] == grid[2] else shift[2])
    members = defaultdict(list)
    for voxel, (sample, z, y, x) in enumerate(coords.tolist()):
        at = [value + offset for value, offset in zip((x, y, z), shift, strict=True)]
        number = (sample, *(value // side for value, side in zip(at, window, strict=True)))
        inside = [value % side for value, side in zip(at, window, strict=True)]
        members[number].append(((inside[along], inside[1 - along], inside[2]), voxel))
    sets, inverse = [], {}
    for number in sorted(members):
        line = [voxel for _, voxel in sorted(members[number])]
        count = -(-len(line) // size)
        for index in range(count):
            chosen = []
            for slot in range(size):
                place = int(Fraction((index * size + slot) * len(line), count * size))
                chosen.append(line[place])
                inverse.setdefault(line[place], len(sets) * size + slot)
            sets.append(chosen)
    return sets, [inverse[voxel] for voxel in range(len(coords))]


@pytest.mark.parametrize("along", [0, 1])
@pytest.mark.parametrize("layout", [FLAT, HIGH, FULL])
@pytest.mark.parametrize(("batch", "points"), CASES)
def test_sets_are_those_of_a_plain_loop(batch: int, points: int, layout: tuple, along: int) -> None:
    coords = voxels(batch, points, layout[0])["coords"]
    numbers, inside = model.windows(torch.from_numpy(coords), *layout)
    sets = model.partition(numbers, inside, layout[1], S)[1 - along]
    expected, inverse = slow_sets(coords, layout, S, along)
    assert sets.voxels.tolist() == expected
    assert sets.inverse.tolist() == inverse
    assert sets.groups.dtype == sets.inverse.dtype == torch.int32
    # Each voxel counts once: what repeats is empty, and no voxel is in two sets.
    listed = sets.groups[sets.groups >= 0]
    assert sorted(listed.tolist()) == list(range(points))
    for row, chosen in zip(sets.groups.tolist(), expected, strict=True):
        assert [voxel for voxel in row if voxel >= 0] == list(dict.fromkeys(chosen))


def test_an_empty_slot_is_a_masked_repetition(randomized: Callable[..., torch.nn.Module]) -> None:
    """The reference masks repeated voxels as keys, as the authors do; the copy has -1 in their place."""
    layer = model.Layer(8, 2, 16)
    randomized(layer)
    feeds = voxels(1, 90)
    x = torch.from_numpy(feeds["features"])
    position = torch.randn(90, 8, generator=torch.Generator().manual_seed(1))
    numbers, inside = model.windows(torch.from_numpy(feeds["coords"]), *FLAT)
    sets, _ = model.partition(numbers, inside, FLAT[1], S)
    assert (sets.groups < 0).sum() > 50
    copied = DSVT().rewrite(layer).module
    with torch.no_grad():
        expected = layer(x, position, sets)
        torch.testing.assert_close(copied(x, position, sets), expected, atol=1e-6, rtol=0)
        # Without the mask a voxel that fills two slots would count twice.
        twice = sets._replace(groups=sets.voxels.int())
        assert not torch.allclose(layer(x, position, twice), expected, atol=1e-3)


def test_blocks_take_the_partitions_in_turn(randomized: Callable[..., torch.nn.Module]) -> None:
    """Which sets, and which position embedding, each layer gets."""
    blocks = randomized(dsvt_block(**SETTINGS, blocks=3))
    feeds = voxels(2, 200)
    seen = []
    for name, inner in blocks.named_modules():
        if isinstance(inner, model.SetAttention):
            inner.register_forward_pre_hook(lambda _module, args, name=name: seen.append((name, *args[1:])))
    features, coords = (torch.from_numpy(array) for array in feeds.values())
    with torch.no_grad():
        blocks(features, coords)
        shapes = ((8, 6, 1), (16, 12, 1))
        shifts = ((0, 0, 0), (4, 3, 0))
        for index, (name, position, sets) in enumerate(seen):
            block, layer = divmod(index, 2)
            assert name == f"stage_0.{block}.encoder_list.{layer}.win_attn"
            kind = block % 2
            layout = (SETTINGS["grid"], shapes[kind], shifts[kind])
            assert sets.voxels.tolist() == slow_sets(feeds["coords"], layout, S, along=1 - layer)[0]
            place = feeds["coords"][:, :1:-1] + np.asarray(shifts[layer][:2])
            place = place % shapes[layer][:2] - np.asarray(shapes[layer][:2]) / 2
            embed = blocks.input_layer.posembed_layers[0][block][layer]
            torch.testing.assert_close(position, embed(torch.from_numpy(place).float()))
    assert len(seen) == 6


def test_exports_to_one_file_for_any_number_of_voxels(
    tmp_path: Path, randomized: Callable[..., torch.nn.Module]
) -> None:
    high = dict(zip(("grid", "window", "shift"), HIGH, strict=True))
    blocks = randomized(dsvt_block(**{**SETTINGS, **high}))
    assert exporters.find(blocks).id == "dsvt"
    before = {name: value.clone() for name, value in blocks.state_dict().items()}
    rewrite = DSVT().rewrite(blocks)
    assert len(rewrite.replaced) == 4
    package = edgetx.export(blocks, output=tmp_path / "dsvt", split=True)
    assert package.stages == ("partition", "blocks")
    assert package.manifest.operators["GroupAttention"] == 4
    plain = edgetx.Target(custom_ops=False)
    for target, stages in ((edgetx.Target(), False), (plain, False), (edgetx.Target(), True)):
        with edgetx.load(package, target=target, stages=stages) as session:
            for batch, points in CASES:
                feeds = voxels(batch, points, HIGH[0])
                tensors = [torch.from_numpy(array) for array in feeds.values()]
                with torch.no_grad():
                    expected = blocks(*tensors)
                    torch.testing.assert_close(rewrite.module(*tensors), expected, atol=1e-5, rtol=0)
                np.testing.assert_allclose(session.run(feeds)["tokens"], expected, atol=1e-5, rtol=0)
    assert all(torch.equal(before[name], value) for name, value in blocks.state_dict().items())


def test_the_authors_configuration_has_their_weights() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in dsvt_block(blocks=4).state_dict().items()}
    head = "input_layer.posembed_layers.0.3.1.position_embedding_head"
    assert shapes[f"{head}.0.weight"] == (192, 2)
    assert shapes[f"{head}.1.running_mean"] == (192,)
    assert shapes["stage_0.3.encoder_list.1.win_attn.self_attn.in_proj_weight"] == (576, 192)
    assert shapes["stage_0.0.encoder_list.0.win_attn.linear1.weight"] == (384, 192)
    assert shapes["residual_norm_stage_0.3.weight"] == (192,)


@pytest.mark.parametrize(
    "wrong", [{"num_heads": 3}, {"set_size": 0}, {"window": (0, 6, 1)}, {"shift": (-1, 0, 0)}]
)
def test_refuses_what_does_not_fit(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="heads that divide"):
        dsvt_block(**{**SETTINGS, **wrong})
