"""PyTorch operator -> ONNX node, for `torch.onnx.export(dynamo=True, custom_translation_table=...)`.

Only the node is emitted: functions present while torch exports are inlined, so bodies come afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import onnx
import onnx_ir as ir
import onnxscript

from edgetx.ops.operator import DOMAIN, VERSION
from edgetx.ops.window_attention.attributes import (
    Mask,
    Pad,
    QkNorm,
    ShiftWhenSingle,
    WindowAttentionAttributes,
)


def _schema() -> onnx.defs.OpSchema:
    formal, attribute = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema.Attribute
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    kinds = onnx.defs.OpSchema.AttrType
    example = WindowAttentionAttributes(1, 1, (1, 1)).to_onnx()
    kind_of = {int: kinds.INT, float: kinds.FLOAT, str: kinds.STRING, list: kinds.INTS}
    return onnx.defs.OpSchema(
        "WindowAttention",
        DOMAIN,
        VERSION,
        inputs=[
            formal("qkv", "T"),
            *(formal(name, "T", param_option=optional) for name in ("bias", "head_scale", "pad_value")),
        ],
        outputs=[formal("out", "T")],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "")],
        attributes=[
            attribute(name, kind_of[type(value)], required=name in ("num_heads", "head_size", "window"))
            for name, value in example.items()
        ],
    )


_NODE = onnxscript.values.Op(onnxscript.values.Opset(DOMAIN, VERSION), "WindowAttention", _schema())


def translate(
    qkv: Any,
    bias: Any,
    head_scale: Any,
    pad_value: Any,
    num_heads: int,
    head_size: int,
    window: Sequence[int],
    kv_window: Sequence[int],
    shift: Sequence[int],
    mask: str,
    mask_value: float,
    qk_norm: str,
    shift_when_single: str,
    scale: float,
    pad: str,
    pad_to: Sequence[int],
) -> Any:
    """Emit the node; arguments as `definition.SCHEMA`.

    TensorRT-RTX rejects empty input names in functions, so an absent input before a present one becomes
    its neutral tensor: zeros for `bias`, ones for `head_scale`. Absent trailing inputs are left out, and
    so is a `pad_value` that `pad="none"` never reads.
    """
    attributes = WindowAttentionAttributes(
        num_heads,
        head_size,
        cast("tuple[int, int]", tuple(window)),
        cast("tuple[int, int]", tuple(kv_window)),
        cast("tuple[int, int]", tuple(shift)),
        cast(Mask, mask),
        mask_value,
        cast(QkNorm, qk_norm),
        cast(ShiftWhenSingle, shift_when_single),
        scale,
        cast(Pad, pad),
        cast("tuple[int, int]", tuple(pad_to)),
    )
    inputs = [qkv, bias, head_scale, None if pad == "none" else pad_value]
    while inputs[-1] is None:
        inputs.pop()
    shapes = ((), (num_heads, attributes.query_tokens, attributes.key_tokens), (num_heads,))
    for index, shape in enumerate(shapes[: len(inputs)]):
        if inputs[index] is None:
            inputs[index] = _constant(np.full(shape, float(index == 2), np.float32), qkv.dtype)
    return _NODE(*inputs, **attributes.to_onnx())


def _constant(values: np.ndarray[Any, Any], dtype: ir.DataType) -> Any:
    return onnxscript.opset20.Constant(
        value=ir.serde.serialize_tensor(ir.tensor(values.astype(dtype.numpy())))
    )
