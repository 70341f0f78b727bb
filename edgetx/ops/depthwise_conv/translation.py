"""PyTorch operator -> ONNX node, for `torch.onnx.export(dynamo=True, custom_translation_table=...)`.

Only the node is emitted: functions present while torch exports are inlined, so bodies come afterwards.
"""

from __future__ import annotations

from typing import Any

import onnx
import onnxscript

from edgetx.ops.depthwise_conv.attributes import INPUTS, Activation, Combine, DepthwiseConvAttributes
from edgetx.ops.operator import DOMAIN, VERSION


def _schema() -> onnx.defs.OpSchema:
    formal, attribute = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema.Attribute
    kinds = onnx.defs.OpSchema.AttrType
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    return onnx.defs.OpSchema(
        "DepthwiseConv",
        DOMAIN,
        VERSION,
        inputs=[*(formal(name, "T") for name in INPUTS[:3]), formal(INPUTS[3], "T", param_option=optional)],
        outputs=[formal("out", "T")],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "")],
        attributes=[
            attribute(name, kinds.INT if isinstance(value, int) else kinds.STRING, required=False)
            for name, value in DepthwiseConvAttributes().to_onnx().items()
        ],
    )


_NODE = onnxscript.values.Op(onnxscript.values.Opset(DOMAIN, VERSION), "DepthwiseConv", _schema())


def translate(
    x: Any,
    weight: Any,
    bias: Any,
    other: Any,
    offset: int,
    activation: Activation,
    combine: Combine,
    other_offset: int,
) -> Any:
    """Emit the node; arguments as `definition.SCHEMA`."""
    attributes = DepthwiseConvAttributes(offset, activation, combine, other_offset)
    inputs = (x, weight, bias) if other is None else (x, weight, bias, other)
    return _NODE(*inputs, **attributes.to_onnx())
