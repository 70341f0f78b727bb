"""Floating-point operations of ONNX nodes whose shapes are known.

Two per multiply-add; a comparison, an exponential, a root count as one each. Operators that only move data
count zero. What is in no table gives None and is named in the profile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgetx import ops

Shape = Sequence[int]
Count = Callable[[Mapping[str, Any], Sequence[Shape], Sequence[Shape]], float]

_MOVES = (
    "Cast", "CastLike", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Expand",
    "EyeLike", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "NonZero", "OneHot",
    "Pad", "Range", "Reshape", "ScatterElements", "ScatterND", "Shape", "Size", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "TopK", "Transpose", "Trilu", "Unique", "Unsqueeze",
)  # fmt: skip
MOVES = frozenset(_MOVES)

_SINGLE = (
    "Abs", "Add", "And", "BitShift", "Ceil", "Clip", "Cos", "Div", "Equal", "Erf", "Exp", "Floor",
    "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Log", "Max", "Min",
    "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Round", "Sign", "Sin", "Sqrt",
    "Sub", "Sum", "Tan", "Tanh", "Where", "Xor", "CumSum",
)  # fmt: skip
PER_ELEMENT: dict[str, float] = {
    **dict.fromkeys(
        _SINGLE,
        1,
    ),
    "LeakyRelu": 2,
    "PRelu": 2,
    "HardSigmoid": 3,
    "HardSwish": 4,
    "Elu": 3,
    "Selu": 4,
    "Celu": 4,
    "Sigmoid": 3,
    "Softplus": 3,
    "Mish": 6,
    "Swish": 4,
    "Gelu": 10,
    "Softmax": 5,
    "LogSoftmax": 6,
    "LayerNormalization": 8,
    "RMSNormalization": 6,
    "SimplifiedLayerNormalization": 6,
    "InstanceNormalization": 8,
    "GroupNormalization": 8,
    "BatchNormalization": 2,
    "LpNormalization": 4,
    "QuantizeLinear": 3,
    "DequantizeLinear": 2,
    "Resize": 8,
    "GridSample": 12,
    "DynamicQuantizeLinear": 5,
}
"""Operations per element of the output."""

_REDUCTIONS = (
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceLogSumExp", "ReduceSumSquare", "ReduceLogSum", "ArgMax", "ArgMin", "GlobalAveragePool",
    "GlobalMaxPool",
)  # fmt: skip
REDUCTIONS = frozenset(_REDUCTIONS)
"""One operation per element of the input."""


def flops(
    domain: str,
    op_type: str,
    attributes: Mapping[str, Any],
    inputs: Sequence[Shape],
    outputs: Sequence[Shape],
) -> float | None:
    """Operations of one node; None for an operator that is not counted, or shapes that do not fit it."""
    try:
        if domain == ops.DOMAIN:
            for operator in ops.OPERATORS:
                if operator.name == op_type:
                    return operator.flops(attributes, inputs, outputs)
            return None
        if op_type in MOVES:
            return 0.0
        if op_type in PER_ELEMENT:
            return PER_ELEMENT[op_type] * math.prod(outputs[0])
        if op_type in REDUCTIONS:
            return float(math.prod(inputs[0]))
        count = _COUNTS.get(op_type)
        return None if count is None else float(count(attributes, inputs, outputs))
    except (ImportError, IndexError, KeyError, TypeError, ValueError):
        return None


def _matmul(attributes: Mapping[str, Any], inputs: Sequence[Shape], outputs: Sequence[Shape]) -> float:
    return 2 * math.prod(outputs[0]) * inputs[0][-1]


def _gemm(attributes: Mapping[str, Any], inputs: Sequence[Shape], outputs: Sequence[Shape]) -> float:
    inner = inputs[0][0] if attributes.get("transA") else inputs[0][1]
    bias = math.prod(outputs[0]) if len(inputs) > 2 else 0
    return 2 * math.prod(outputs[0]) * inner + bias


def _conv(attributes: Mapping[str, Any], inputs: Sequence[Shape], outputs: Sequence[Shape]) -> float:
    # Weights are [out channels, in channels / groups, kernel...].
    bias = math.prod(outputs[0]) if len(inputs) > 2 else 0
    return 2 * math.prod(outputs[0]) * math.prod(inputs[1][1:]) + bias


def _conv_transpose(
    attributes: Mapping[str, Any], inputs: Sequence[Shape], outputs: Sequence[Shape]
) -> float:
    # Weights are [in channels, out channels / groups, kernel...]; every input element meets all of a row.
    bias = math.prod(outputs[0]) if len(inputs) > 2 else 0
    return 2 * math.prod(inputs[0]) * math.prod(inputs[1][1:]) + bias


def _quantized_matmul(
    attributes: Mapping[str, Any], inputs: Sequence[Shape], outputs: Sequence[Shape]
) -> float:
    return 2 * math.prod(outputs[0]) * inputs[0][-1]


def _quantized_conv(
    attributes: Mapping[str, Any], inputs: Sequence[Shape], outputs: Sequence[Shape]
) -> float:
    return 2 * math.prod(outputs[0]) * math.prod(inputs[3][1:])


def _integer_conv(attributes: Mapping[str, Any], inputs: Sequence[Shape], outputs: Sequence[Shape]) -> float:
    return 2 * math.prod(outputs[0]) * math.prod(inputs[1][1:])


def _pool(attributes: Mapping[str, Any], inputs: Sequence[Shape], outputs: Sequence[Shape]) -> float:
    taps: Sequence[int] = attributes["kernel_shape"]
    return math.prod(outputs[0]) * math.prod(taps)


def _attention(attributes: Mapping[str, Any], inputs: Sequence[Shape], outputs: Sequence[Shape]) -> float:
    """ONNX's `Attention`: q, k, v as [B, h, N, d], or as [B, N, h·d] with the heads as attributes."""
    query, key, value = inputs[:3]
    if len(query) == 3:
        heads, groups = int(attributes["q_num_heads"]), int(attributes["kv_num_heads"])
        tokens, keys, size = query[1], key[1], query[2] // heads
        value_size = value[2] // groups
    else:
        heads, tokens, keys, size, value_size = query[1], query[2], key[2], query[3], value[3]
    return query[0] * heads * tokens * keys * (2 * size + 2 * value_size + 5)


_COUNTS: dict[str, Count] = {
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _quantized_matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "ConvInteger": _integer_conv,
    "QLinearConv": _quantized_conv,
    "ConvTranspose": _conv_transpose,
    "AveragePool": _pool,
    "MaxPool": _pool,
    "Attention": _attention,
}
