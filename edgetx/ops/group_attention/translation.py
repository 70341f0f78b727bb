"""PyTorch operator -> ONNX node, for `torch.onnx.export(dynamo=True, custom_translation_table=...)`.

Only the node is emitted: functions present while torch exports are inlined, so bodies come afterwards.
"""

from __future__ import annotations

from typing import Any

import onnx
import onnxscript

from edgetx.ops.group_attention.attributes import INPUTS, Activation, GroupAttentionAttributes
from edgetx.ops.operator import DOMAIN, VERSION


def _schema() -> onnx.defs.OpSchema:
    formal, attribute = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema.Attribute
    kinds = onnx.defs.OpSchema.AttrType
    kind_of = {int: kinds.INT, float: kinds.FLOAT, str: kinds.STRING}
    return onnx.defs.OpSchema(
        "GroupAttention",
        DOMAIN,
        VERSION,
        inputs=[formal(name, "I" if name in ("groups", "inverse") else "T") for name in INPUTS],
        outputs=[formal("out", "T")],
        type_constraints=[
            ("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], ""),
            ("I", ["tensor(int32)"], ""),
        ],
        attributes=[
            attribute(name, kind_of[type(value)], required=name == "num_heads")
            for name, value in GroupAttentionAttributes(1, 1.0).to_onnx().items()
        ],
    )


_NODE = onnxscript.values.Op(onnxscript.values.Opset(DOMAIN, VERSION), "GroupAttention", _schema())


def translate(
    q: Any,
    k: Any,
    v: Any,
    groups: Any,
    inverse: Any,
    num_heads: int,
    scale: float,
    activation: Activation,
) -> Any:
    """Emit the node; arguments as `definition.SCHEMA`."""
    attributes = GroupAttentionAttributes(num_heads, scale, activation)
    return _NODE(q, k, v, groups, inverse, **attributes.to_onnx())
