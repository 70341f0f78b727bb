"""FlatFormer's orders against a plain version that sorts, in PyTorch and as an exported file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
import torch

from edgetx.capture import capture
from edgetx.core import IOSpec, Reference, SymbolRange, TensorSpec
from edgetx.errors import InputError
from edgetx.exporters.flatformer.config import PRESETS
from edgetx.exporters.flatformer.serialize import ORDERS, Serialize
from edgetx.exporters.flatformer.voxelize import Voxelize

GRIDS = [
    ((7, 11), 3, 4, 3),
    ((5, 5), 5, 6, 1),
    ((1, 30), 4, 3, 2),
    ((468, 468), 13, 144, 1),
    ((70, 53), 9, 69, 2),
]
"""Height and width of the grid, window, group, samples; the last two windows and groups are the authors'."""


def plain(
    coords: np.ndarray, grid: tuple[int, int], window: int, group: int
) -> list[tuple[list[list[int]], list[int]]]:
    """Groups and inverse of each order, from a sort by sample and key, one sample and one group at a time."""
    found = []
    for name in ORDERS:
        shift = window // 2 if name.endswith("shift") else 0
        y, x = coords[:, 1].astype(np.int64) + shift, coords[:, 2].astype(np.int64) + shift
        height, width = grid
        if name.startswith("y"):
            x, y, width = y, x, height
        n1, n2 = 2 * (math.ceil(width / window) + 1), 2 * window
        x1, y1, x2, y2 = x // window, y // window, x % window, y % window
        key = (n1 * y1 + (-1.0) ** y1 * x1) * n2 * n2 + (-1.0) ** y1 * (n2 * x2 + (-1.0) ** x2 * y2)
        order = np.lexsort((key, coords[:, 0]))
        groups: list[list[int]] = []
        inverse = [0] * len(coords)
        for sample in np.unique(coords[:, 0]):
            tokens = order[coords[order, 0] == sample].tolist()
            for place, token in enumerate(tokens):
                inverse[token] = len(groups) * group + place
            full = -len(tokens) % group
            tokens += tokens[-group:][:full] if len(tokens) >= group else [-1] * full
            groups += [tokens[start : start + group] for start in range(0, len(tokens), group)]
        found.append((groups, inverse))
    return found


def draw(sizes: list[int], grid: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """Distinct pillars in no order, so many per sample."""
    rng = np.random.default_rng(seed)
    rows = []
    for sample, size in enumerate(sizes):
        cells = rng.choice(grid[0] * grid[1], size, replace=False)
        rows += [(sample, cell // grid[1], cell % grid[1]) for cell in cells]
    rng.shuffle(rows)
    return torch.tensor(rows, dtype=torch.int32).reshape(-1, 3)


def same(found: Any, coords: torch.Tensor, grid: tuple[int, int], window: int, group: int) -> None:
    groups, inverse = found
    for index, (rows, slots) in enumerate(plain(coords.numpy(), grid, window, group)):
        want = np.array(rows, np.int32).reshape(-1, group)
        assert groups[index].dtype == inverse[index].dtype == torch.int32
        np.testing.assert_array_equal(groups[index].numpy(), want, err_msg=ORDERS[index])
        np.testing.assert_array_equal(inverse[index].numpy(), slots, err_msg=ORDERS[index])


@pytest.mark.parametrize(("grid", "window", "group", "batch"), GRIDS)
def test_equals_a_sort(grid: tuple[int, int], window: int, group: int, batch: int) -> None:
    serialize = Serialize(grid, window, group, batch)
    cells = grid[0] * grid[1]
    for size in (0, 1, 2, group - 1, group, group + 1, min(cells, 5 * group + 2), cells):
        coords = draw([size] * batch, grid, seed=size)
        same(serialize(coords), coords, grid, window, group)


@pytest.mark.parametrize("sizes", [[6, 0, 9], [0, 0, 3], [77, 4, 0], [2, 3, 5], [0, 8, 0]])
def test_samples_with_and_without_pillars(sizes: list[int]) -> None:
    grid, window, group, batch = GRIDS[0]
    coords = draw(sizes, grid)
    same(Serialize(grid, window, group, batch)(coords), coords, grid, window, group)


@pytest.mark.parametrize("preset", ["flatformer_tiny", "flatformer_kitti"])
def test_real_sweeps(shared_data: Path, preset: str) -> None:
    config = PRESETS[preset]
    serialize, voxelize = Serialize(config.grid, config.window, config.group), Voxelize(config)
    for path in sorted((shared_data / "lidar").glob("*.bin")):
        columns = 5 if "nuscenes" in path.name else 4
        points = np.fromfile(path, np.float32).reshape(-1, columns)[:, :4]
        coords = voxelize(torch.from_numpy(points.copy())).coords
        assert len(coords) > 500
        same(serialize(coords), coords, config.grid, config.window, config.group)


def test_each_pillar_has_its_own_slot() -> None:
    coords = draw([150], (20, 9))
    groups, inverse = Serialize((20, 9), 4, 7)(coords)
    for rows, slots in zip(groups, inverse, strict=True):
        assert torch.equal(rows.flatten()[slots.long()], torch.arange(150, dtype=torch.int32))


def test_refuses_a_pillar_listed_twice() -> None:
    coords = torch.tensor([[0, 1, 2], [0, 3, 3], [0, 1, 2]], dtype=torch.int32)
    with pytest.raises(InputError, match=r"pillar \[0, 1, 2\] \(sample, y, x\) is listed 2 times"):
        Serialize((4, 4), 2, 3)(coords)


@pytest.mark.parametrize("wrong", [[0, 4, 0], [0, 0, 4], [0, -1, 0], [1, 0, 0]])
def test_refuses_a_pillar_outside(wrong: list[int]) -> None:
    with pytest.raises(InputError, match="1 pillars are outside the grid"):
        Serialize((4, 4), 2, 3)(torch.tensor([[0, 0, 0], wrong], dtype=torch.int32))


@pytest.mark.parametrize("coords", [torch.zeros(3, 2, dtype=torch.int32), torch.zeros(3, 3)])
def test_refuses_other_tensors(coords: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"expected torch.int32 \[pillars, 3\]"):
        Serialize((4, 4), 2, 3)(coords)


class Flat(torch.nn.Module):
    """All eight tensors, side by side."""

    def __init__(self, serialize: Serialize) -> None:
        super().__init__()
        self.serialize = serialize

    def forward(self, coords: torch.Tensor) -> tuple[torch.Tensor, ...]:
        groups, inverse = self.serialize(coords)
        return (*groups, *inverse)


@pytest.mark.parametrize(("grid", "window", "group", "batch"), GRIDS[:2])
def test_the_exported_file_equals_a_sort(grid: tuple[int, int], window: int, group: int, batch: int) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    module = Flat(Serialize(grid, window, group, batch)).eval()
    program = torch.export.export(
        module, (draw([9] * batch, grid),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False
    )
    exported = torch.onnx.export(program, dynamo=True, verbose=False, opset_version=20)
    kinds = {node.op_type for node in exported.model.graph}
    assert not kinds & {"TopK", "Unique", "Loop", "If", "Scan"}
    assert {domain for domain in exported.model.opset_imports if exported.model.opset_imports[domain]} <= {""}
    session = onnxruntime.InferenceSession(exported.model_proto.SerializeToString())
    (name,) = [each.name for each in session.get_inputs()]
    cells = grid[0] * grid[1]
    for size in (0, 1, 2, group - 1, group, group + 1, cells):
        for sizes in {(size,) * batch, (size, *(0,) * (batch - 1)), (*(0,) * (batch - 1), size)}:
            coords = draw(list(sizes), grid, seed=size)
            found = [torch.from_numpy(each) for each in session.run(None, {name: coords.numpy()})]
            same((found[:4], found[4:]), coords, grid, window, group)


def test_the_exported_graph_says_that_a_pillar_is_listed_twice() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    module = Flat(Serialize((4, 6), 2, 3)).eval()
    coords = draw([9], (4, 6))
    outputs = tuple(TensorSpec(f"out{i}", "int32", (f"n{i}",)) for i in range(8))
    symbols = {name: SymbolRange() for spec in outputs for name in spec.shape}
    io = IOSpec(
        (TensorSpec("coords", "int32", ("pillars", 3)),), outputs, {"pillars": SymbolRange(), **symbols}
    )
    reference = Reference(
        module, io, [{"coords": coords.numpy()}], "generic", "test", "serialize", "in-memory"
    )
    session = onnxruntime.InferenceSession(
        onnx_ir.to_proto(capture(reference, module)).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert len(session.run(None, {"coords": coords.numpy()})) == 8
    with pytest.raises(
        Exception, match="refused: a pillar is listed twice; merge the points of a pillar first"
    ):
        session.run(None, {"coords": np.zeros((2, 3), np.int32)})
