"""DepthwiseConv in standard operators, between two transposes; both variants are the same."""

from __future__ import annotations

import onnx_ir as ir

from edgetx.errors import ExportError
from edgetx.ops import rows
from edgetx.ops.builder import Builder
from edgetx.ops.depthwise_conv.attributes import INPUTS, DepthwiseConvAttributes, why_not
from edgetx.ops.operator import Variant


def body_of_node(node: ir.Node, variant: Variant, opset: int) -> ir.Function:
    """The body for one node of a model, whose value types must be known.

    Raises:
        ExportError: a missing input, shapes that do not fit together, or unknown dtype or channels.
        InputError: an attribute is unknown or out of range.
    """
    attributes = DepthwiseConvAttributes.from_onnx(
        {name: attribute.value for name, attribute in node.attributes.items()}
    )
    present = INPUTS[: len(node.inputs)]
    rows.check_node(node, present, lambda shapes: why_not(attributes, shapes))
    x, weight = node.inputs[:2]
    if x is None or weight is None or x.dtype is None or weight.shape is None or not weight.shape.is_static():
        raise ExportError(
            f"node {node.name!r}: the dtype of its input x or the shape of weight is unknown; "
            "infer the model's shapes first"
        )
    height, width, channels = (int(size) for size in weight.shape)  # type: ignore[arg-type]
    whole = [
        None if value is None or value.shape is None else value.shape[3]
        for value in (x, node.inputs[3] if len(node.inputs) > 3 else None)
    ]
    b = Builder(x.dtype)
    inputs = [ir.Value(name=name) for name in present]

    def part(value: ir.Value, size: object, offset: int) -> ir.Value:
        if not offset and size == channels:
            return value
        return b.op("Slice", value, b.ints(offset), b.ints(offset + channels), b.ints(3))

    maps = b.op("Transpose", part(inputs[0], whole[0], attributes.offset), perm=[0, 3, 1, 2])
    kernel = b.op("Unsqueeze", b.op("Transpose", inputs[1], perm=[2, 0, 1]), b.ints(1))
    sides = [height // 2, width // 2]
    out = b.op("Conv", maps, kernel, inputs[2], group=channels, kernel_shape=[height, width], pads=sides * 2)
    out = b.op("Transpose", out, perm=[0, 2, 3, 1])
    if attributes.activation == "gelu":
        out = b.op("Gelu", out)
    if len(inputs) > 3:
        other = part(inputs[3], whole[1], attributes.other_offset)
        out = b.op("Add" if attributes.combine == "add" else "Mul", out, other)
    key = [attributes.to_onnx(), [height, width, channels], [str(size) for size in whole], str(x.dtype)]
    return b.function("DepthwiseConv", inputs, out, key, opset)
