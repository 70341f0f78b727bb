"""From cells of a sparse grid to the groups of GroupAttention: sorting, cutting and looking up.

All of it is int64 arithmetic, one sort per order, running sums, gathers and scatters, so it exports to
standard ONNX operators (a sort becomes TopK) with a dynamic number of points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Rows:
    """Segments of sorted tokens, and the rows of `size` slots that each of them is cut into; all int64.

    Attributes:
        start, count, rows, index: `[G, 1]`, for each row: where its segment starts among the sorted tokens,
            how many tokens and how many rows the segment has, and which of these it is.
        token_place, token_count, token_rows, token_row: `[T]`, for each sorted token: its place in its
            segment, how many tokens and rows the segment has, and its first row.
    """

    start: Tensor
    count: Tensor
    rows: Tensor
    index: Tensor
    token_place: Tensor
    token_count: Tensor
    token_rows: Tensor
    token_row: Tensor


def cut(segments: Tensor, size: int) -> Rows:
    """Cut every segment of tokens into `ceil(count / size)` rows.

    Args:
        segments: `[T]` int64, the segment of each token, 0 or more, sorted.
    """
    position = torch.arange(segments.shape[0], device=segments.device)
    ones = torch.ones_like(position)
    before = functional.pad(segments, (1, 0), value=-1)[:-1]
    segment = (segments != before).long().cumsum(0) - 1
    counts = torch.zeros_like(position).scatter_add(0, segment, ones)  # zeros behind the last segment
    starts = counts.cumsum(0) - counts
    rows = (counts + size - 1) // size
    first = rows.cumsum(0) - rows
    total: Any = rows.sum().item()
    torch._check(total >= 0)  # type: ignore[no-untyped-call]
    # What has no rows begins behind the last one, in a place that is cut off.
    marks = torch.zeros(total + 1, dtype=torch.int64, device=segments.device)
    owner = marks.scatter(0, first, ones)[:total].cumsum(0) - 1
    index = torch.arange(total, device=segments.device) - take(first, owner)
    return Rows(
        start=take(starts, owner).unsqueeze(1),
        count=take(counts, owner).unsqueeze(1),
        rows=take(rows, owner).unsqueeze(1),
        index=index.unsqueeze(1),
        token_place=position - take(starts, segment),
        token_count=take(counts, segment),
        token_rows=take(rows, segment),
        token_row=take(first, segment),
    )


def take(values: Tensor, index: Tensor) -> Tensor:
    """`values[index]` along the first axis, as one ONNX Gather; `index` has any shape."""
    if index.ndim == 1:
        return values.index_select(0, index)
    return values.index_select(0, index.reshape(-1)).reshape(index.shape + values.shape[1:])


def ascending(keys: Tensor) -> Tensor:
    """The order that sorts int64 `keys`; equal ones stay in their order."""
    return torch.sort(keys, stable=True).indices


def place(values: Tensor, at: Tensor) -> Tensor:
    """`out[at[i]] = values[i]`; `at` is a permutation."""
    return torch.zeros_like(values).scatter(0, at, values)


def lower_bound(keys: Tensor, queries: Tensor) -> Tensor:
    """For each query, how many `keys` are smaller; int64, neither has to be sorted. One sort of both."""
    order = ascending(torch.cat([queries, keys]))  # a query stands before the keys that are equal to it
    is_key = (order >= queries.shape[0]).long()
    return place(is_key.cumsum(0) - is_key, order)[: queries.shape[0]]


def samples(
    channels: int,
    cases: Sequence[tuple[int, int]],
    extent: tuple[int, int, int],
    columns: tuple[int, int, int, int] = (0, 1, 2, 3),
) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Seeded `features` `[points, channels]` float32 and `coords` `[points, 4]` int32, one pair per case.

    Cells are distinct and lie near a wavy surface, so that some regions are dense and most are empty.

    Args:
        cases: batch and points; the points of a sample need not stand together.
        extent: cells along x, y and z, several for each point.
        columns: of `coords`, where sample, x, y, z is 0, 1, 2, 3.
    """
    feeds = []
    for case, (batch, points) in enumerate(cases):
        generator = np.random.default_rng([0, case])
        found = np.zeros((0, 4), np.int32)
        while len(found) < points:
            at = generator.normal(0.5, 0.2, (2 * points, 3))
            wave = 0.5 + 0.3 * np.sin(7 * at[:, 0]) * np.cos(5 * at[:, 1])
            at[:, 2] = wave * generator.uniform(0.9, 1.1, 2 * points)
            cells = np.floor(at * extent)[((at >= 0) & (at < 1)).all(1)]
            sample = generator.integers(0, batch, (len(cells), 1))
            found = np.unique(np.concatenate([found, np.concatenate([sample, cells], 1)]), axis=0)
        coords = generator.permutation(found)[:points, columns].astype(np.int32)
        features = generator.standard_normal((points, channels), dtype=np.float32)
        feeds.append({"features": features, "coords": coords})
    return feeds
