"""PyTorch operator -> standard ONNX operators, for `torch.onnx.export(dynamo=True)`.

The exporter inlines the function: a `Loop` with one iteration per kept box. Its state is the list of boxes
that are left; the overlap is computed only with those whose circumscribed circle touches the kept box's. So
no tensor has more than 19 numbers per box, and most are short.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnxscript
from onnxscript import FLOAT, INT64
from onnxscript import opset18 as op  # what PyTorch's exporter inlines; it converts the model afterwards

from edgetx.ops.rotated_nms.definition import SMALLEST_UNION, rotated_nms


@onnxscript.script(onnxscript.values.Opset("edgetx.functions", 1), default_opset=op)  # type: ignore[untyped-decorator]
def suppress(
    boxes: FLOAT, scores: FLOAT, labels: INT64, thresholds: FLOAT, before: INT64, after: INT64
) -> INT64:
    """`definition.apply`, operator by operator; the last three are `[classes]`."""
    # As numbers, they would each become a constant and a CastLike wherever they stand.
    zero, half, one = op.Constant(value_float=0.0), op.Constant(value_float=0.5), op.Constant(value_float=1.0)
    smallest = op.Constant(value_float=SMALLEST_UNION)
    start, second = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
    fields = op.Constant(value_ints=[4, 4, 4, 4, 1, 1, 1])

    _, order = op.TopK(scores, op.Shape(scores), axis=0, largest=1, sorted=1)
    center_x, center_y, length, width, yaw = op.Split(op.Gather(boxes, order, axis=0), num_outputs=5, axis=1)
    labels = op.Gather(labels, order, axis=0)
    label = op.Unsqueeze(op.Cast(labels, to=1), second)
    threshold = op.Unsqueeze(op.Gather(thresholds, labels, axis=0), second)
    sine, cosine = op.Sin(yaw), op.Cos(yaw)
    along_x, along_y = length * cosine, length * sine
    across_x, across_y = op.Neg(width * sine), width * cosine
    edges_x = op.Concat(along_x, across_x, op.Neg(along_x), op.Neg(across_x), axis=1)
    edges_y = op.Concat(along_y, across_y, op.Neg(along_y), op.Neg(across_y), axis=1)
    edges_before_x = op.Concat(op.Neg(across_x), along_x, across_x, op.Neg(along_x), axis=1)
    edges_before_y = op.Concat(op.Neg(across_y), along_y, across_y, op.Neg(along_y), axis=1)
    corners_x, corners_y = (edges_before_x - edges_x) * half, (edges_before_y - edges_y) * half
    areas = length * width
    radii = op.Sqrt(length * length + width * width) * half
    frames = op.Concat(
        center_x, center_y, length * half, width * half, sine, cosine, areas, radii, label, threshold, axis=1
    )
    circles = op.Concat(center_x, center_y, radii, label, axis=1)
    outlines = op.Concat(corners_x, corners_y, edges_x, edges_y, center_x, center_y, areas, axis=1)

    # The place of every box in its class, from 1.
    classes = op.Range(op.Constant(value_int=0), op.Squeeze(op.Shape(before)), op.Constant(value_int=1))
    own = op.Cast(op.Equal(op.Unsqueeze(labels, second), classes), to=7)
    place = op.ReduceSum(op.CumSum(own, op.Constant(value_int=0)) * own, second, keepdims=0)
    rest = op.Squeeze(op.NonZero(op.LessOrEqual(place, op.Gather(before, labels, axis=0))), start)
    kept = op.Slice(rest, start, start)
    more = op.Squeeze(op.Greater(op.Shape(rest), start))
    while more:
        best = op.Slice(rest, start, second)
        rest = op.Slice(rest, second, op.Shape(rest))
        kept = op.Concat(kept, best, axis=0)
        best_x, best_y, best_a, best_b, s, c, best_area, best_radius, best_label, limit = op.Split(
            op.Gather(frames, best, axis=0), num_outputs=10, axis=1
        )
        circle_x, circle_y, radius, circle_label = op.Split(
            op.Gather(circles, rest, axis=0), num_outputs=4, axis=1
        )
        rival = op.Squeeze(op.Equal(circle_label, best_label), second)
        away_x, away_y, reach = circle_x - best_x, circle_y - best_y, radius + best_radius
        close = op.Squeeze(op.LessOrEqual(away_x * away_x + away_y * away_y, reach * reach), second)
        touches = op.And(rival, close)
        near = op.Squeeze(op.NonZero(touches), start)

        corner_x, corner_y, edge_x, edge_y, other_x, other_y, area = op.Split(
            op.Gather(outlines, op.Gather(rest, near, axis=0), axis=0), fields, axis=1
        )
        corner_x, corner_y = corner_x + (other_x - best_x), corner_y + (other_y - best_y)
        x, y = corner_x * c + corner_y * s, corner_y * c - corner_x * s
        dx, dy = edge_x * c + edge_y * s, edge_y * c - edge_x * s
        a, b = op.Squeeze(best_a), op.Squeeze(best_b)
        minus_a, minus_b = op.Neg(a), op.Neg(b)
        from_y, to_y = op.Clip(y, minus_b, b), op.Clip(y + dy, minus_b, b)
        rise = op.Where(op.Equal(dy, zero), one, dy)
        from_x = x + dx * op.Clip((from_y - y) / rise, zero, one)
        to_x = x + dx * op.Clip((to_y - y) / rise, zero, one)
        run = to_x - from_x
        run = op.Where(op.Equal(run, zero), one, run)
        bends = op.Clip((minus_a - from_x) / run, zero, one) + op.Clip((a - from_x) / run, zero, one)
        first, last = op.Clip(from_x, minus_a, a), op.Clip(to_x, minus_a, a)
        mean = last + (first - last) * (bends * half)
        shared = op.ReduceSum(mean * (to_y - from_y), second, keepdims=1)
        joint = op.Max((best_area + area) - shared, smallest)
        over = op.Squeeze(op.Greater(shared / joint, limit), second)

        gone = op.ScatterElements(touches, near, over, axis=0)
        best_class = op.Gather(labels, best, axis=0)
        count = op.ReduceSum(op.Cast(op.Equal(op.Gather(labels, kept, axis=0), best_class), to=7), start)
        full = op.GreaterOrEqual(count, op.Gather(after, best_class, axis=0))
        rest = op.Compress(rest, op.Not(op.Or(gone, op.And(rival, full))), axis=0)
        more = op.Squeeze(op.Greater(op.Shape(rest), start))
    return op.Gather(order, kept, axis=0)


OVERLOAD = rotated_nms


def translate(
    boxes: Any,
    scores: Any,
    labels: Any,
    iou_thresholds: Sequence[float],
    before: Sequence[int],
    after: Sequence[int],
) -> Any:
    """Emit the function's call; arguments as `definition.SCHEMA`."""
    return suppress(
        boxes,
        scores,
        labels,
        op.Constant(value_floats=iou_thresholds),
        op.Constant(value_ints=before),
        op.Constant(value_ints=after),
    )
