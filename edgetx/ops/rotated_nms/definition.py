"""The PyTorch operator `edgetx::rotated_nms`; its eager implementation is the operator's definition.

Semantics read in: mmdet3d's `ops/iou3d` (`nms_gpu`), which CenterPoint, SST and FlatFormer share. It takes
corners within 1e-5 m of an edge as inside and sorts the corners of the shared polygon by angle: its overlaps
and these differ by rounding and by that margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from edgetx.errors import InputError

SCHEMA = (
    "rotated_nms(Tensor boxes, Tensor scores, Tensor labels, float[] iou_thresholds, int[] before, "
    "int[] after) -> Tensor"
)

SMALLEST_UNION = 1e-8
"""In m²: what the union of two rectangles counts as at least, as in mmdet3d."""


def apply(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_thresholds: Sequence[float],
    before: Sequence[int],
    after: Sequence[int],
) -> Tensor:
    """Indices of the boxes that no better box of their class overlaps too much.

    Within a class, the box with the highest score is kept, every box whose overlap with it (shared area over
    joint area, seen from above) is larger than the threshold goes, and so on with the rest. Of equal scores,
    the lower index is better.

    Args:
        boxes: `[N, 5]`, float32: x, y, length, width (not negative), yaw in rad; N may be 0.
        scores: `[N]`, float32.
        labels: `[N]`, int64, the class of each box; the numbers below belong to the classes 0, 1, ...
        iou_thresholds: above 0, at most 1.
        before: how many boxes of a class, the best ones, take part.
        after: how many are kept at most.

    Returns:
        int64 `[K]`, by descending score, of equal scores the lower index first.

    Raises:
        InputError: a dtype, shape or number does not fit.
    """
    return cast(
        Tensor, torch.ops.edgetx.rotated_nms.default(boxes, scores, labels, iou_thresholds, before, after)
    )


def rotated_iou(box: Tensor, boxes: Tensor) -> Tensor:
    """Shared area over joint area of one rectangle `[5]` and each of `boxes` `[N, 5]`; `[N]`.

    In the frame of `box`, the rectangle |x| <= a, |y| <= b, the shared area is the integral of
    clamp(x, -a, a) dy along those parts of the other's outline where |y| <= b (Green's theorem). An edge
    contributes the mean of clamp(x) over that part times its extent in y. The sum is continuous in every
    number: nothing is decided by whether a corner lies on an edge, so coincident edges need no care.
    """
    a, b = box[2] / 2, box[3] / 2
    sine, cosine = box[4].sin(), box[4].cos()
    corners_x, corners_y, edges_x, edges_y = _outlines(boxes)
    corners_x = corners_x + (boxes[:, 0:1] - box[0])
    corners_y = corners_y + (boxes[:, 1:2] - box[1])
    x = corners_x * cosine + corners_y * sine
    y = corners_y * cosine - corners_x * sine
    dx = edges_x * cosine + edges_y * sine
    dy = edges_y * cosine - edges_x * sine
    from_y, to_y = y.clamp(-b, b), (y + dy).clamp(-b, b)
    from_x, to_x = (x + dx * _fraction(at - y, dy) for at in (from_y, to_y))
    # clamp(x) bends where x passes -a and a; before, between and after it is linear.
    bends = _fraction(-a - from_x, to_x - from_x) + _fraction(a - from_x, to_x - from_x)
    first, last = from_x.clamp(-a, a), to_x.clamp(-a, a)
    mean = last + (first - last) * (bends * 0.5)
    shared = (mean * (to_y - from_y)).sum(1)
    joint = box[2] * box[3] + boxes[:, 2] * boxes[:, 3] - shared
    return shared / joint.clamp(min=SMALLEST_UNION)


def _outlines(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Corners, counter-clockwise and relative to the centre, and the edges that start there: x, y, dx, dy."""
    sine, cosine = boxes[:, 4].sin(), boxes[:, 4].cos()
    along_x, along_y = boxes[:, 2] * cosine, boxes[:, 2] * sine
    across_x, across_y = -boxes[:, 3] * sine, boxes[:, 3] * cosine
    edges_x = torch.stack((along_x, across_x, -along_x, -across_x), dim=1)
    edges_y = torch.stack((along_y, across_y, -along_y, -across_y), dim=1)
    # Corner k is half of the edge before it, less half of the edge after it.
    return (edges_x.roll(1, 1) - edges_x) * 0.5, (edges_y.roll(1, 1) - edges_y) * 0.5, edges_x, edges_y


def _fraction(part: Tensor, whole: Tensor) -> Tensor:
    """`part / whole`, cut to [0, 1]; any number of that range where `whole` is 0."""
    return (part / torch.where(whole == 0, 1.0, whole)).clamp(0, 1)


def _eager(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_thresholds: Sequence[float],
    before: Sequence[int],
    after: Sequence[int],
) -> Tensor:
    _check(boxes, scores, labels, iou_thresholds, before, after)
    if not len(boxes) == len(scores) == len(labels):
        raise InputError(
            f"rotated_nms: {len(boxes)} boxes, {len(scores)} scores and {len(labels)} labels; expected as "
            "many of each"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(iou_thresholds):
        raise InputError(
            f"rotated_nms: labels reach from {int(labels.min())} to {int(labels.max())}; expected 0 to "
            f"{len(iou_thresholds) - 1}, as there are {len(iou_thresholds)} thresholds"
        )
    order = torch.sort(scores, descending=True, stable=True).indices
    boxes, labels = boxes[order], labels[order]
    kept = [order[:0]]
    for label, (threshold, first, most) in enumerate(zip(iou_thresholds, before, after, strict=True)):
        rest = (labels == label).nonzero()[:first, 0]
        for _ in range(most):
            if not len(rest):
                break
            best, rest = rest[:1], rest[1:]
            kept.append(best)
            rest = rest[~(rotated_iou(boxes[best[0]], boxes[rest]) > threshold)]
    return order[torch.cat(kept).sort().values]


def _fake(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_thresholds: Sequence[float],
    before: Sequence[int],
    after: Sequence[int],
) -> Tensor:
    _check(boxes, scores, labels, iou_thresholds, before, after)
    most = sum(min(pair) for pair in zip(before, after, strict=True))
    kept = torch.library.get_ctx().new_dynamic_size(min=0, max=most)
    return labels.new_empty((kept,))


def _check(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_thresholds: Sequence[float],
    before: Sequence[int],
    after: Sequence[int],
) -> None:
    """Symbolic sizes are not compared, so tracing adds no guard."""
    if boxes.ndim != 2 or boxes.shape[1] != 5 or scores.ndim != 1 or labels.ndim != 1:
        raise InputError(
            f"rotated_nms: boxes {tuple(boxes.shape)}, scores {tuple(scores.shape)} and labels "
            f"{tuple(labels.shape)} do not fit; expected [N, 5] (x, y, length, width, yaw), [N] and [N]"
        )
    if boxes.dtype != torch.float32 or scores.dtype != torch.float32 or labels.dtype != torch.int64:
        raise InputError(
            f"rotated_nms: boxes have dtype {boxes.dtype}, scores {scores.dtype}, labels {labels.dtype}; "
            "expected float32, float32 and int64"
        )
    if not len(iou_thresholds) == len(before) == len(after) > 0:
        raise InputError(
            f"rotated_nms: {len(iou_thresholds)} thresholds, {len(before)} limits before and {len(after)} "
            "after; expected one of each per class"
        )
    if not all(0 < threshold <= 1 for threshold in iou_thresholds):
        raise InputError(
            f"rotated_nms: thresholds are {list(iou_thresholds)}; expected numbers above 0 and at most 1"
        )
    if min(*before, *after) < 1:
        raise InputError(
            f"rotated_nms: limits are {list(before)} before and {list(after)} after; expected 1 or more"
        )


_LIBRARY = torch.library.Library("edgetx", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
_LIBRARY.impl("rotated_nms", _eager, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("edgetx::rotated_nms", _fake, lib=_LIBRARY)

rotated_nms = torch.ops.edgetx.rotated_nms.default
