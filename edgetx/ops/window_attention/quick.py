"""WindowAttention as quick-deployable plugins: see `edgetx.ops.quick`.

A plugin has a fixed number of inputs, so that each number of inputs is a plugin of its own,
`WindowAttention1` to `WindowAttention4`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgetx.ops import gpu, quick
from edgetx.ops.aot.configs import WINDOW, Config, Family
from edgetx.ops.window_attention.attributes import WindowAttentionAttributes

if TYPE_CHECKING:
    import onnx_ir as ir

NAME = "WindowAttention"
INPUTS = ("qkv", "bias", "head_scale", "pad_value")
SINGLE = ("keep", "drop_axis", "drop_both")
PAIRS = ("window", "kv_window", "shift", "pad_to")
FIELDS: dict[str, type] = {
    "num_heads": int, "head_size": int, "mask": str, "mask_value": float, "qk_norm": str,
    "shift_when_single": str, "scale": float, "pad": str,
}  # fmt: skip
"""Attributes with one value; PAIRS have two."""


def rename(model: ir.Model) -> None:
    """Give every node the name of the plugin for its number of inputs."""
    for node in model.graph:
        if node.domain == quick.NAMESPACE and node.op_type == NAME:
            node.op_type = f"{NAME}{len(node.inputs)}"


def plugins(api: Any, family: Family) -> dict[str, quick.Plugin]:
    """The plugins by name, for `tensorrt.plugin` and a family of GPUs."""
    pair: Any = NDArray[np.int32]
    fields: dict[str, Any] = {**FIELDS, **dict.fromkeys(PAIRS, pair)}
    return {
        f"{NAME}{count}": quick.Plugin(
            INPUTS[:count],
            fields,
            _outputs,
            partial(_combinations, family),
            partial(_implement, api, family),
        )
        for count in range(1, len(INPUTS) + 1)
    }


def fitting(a: WindowAttentionAttributes, channels: int, dtype: str, family: Family) -> list[Config]:
    """The shipped configurations for a node; raises as `quick.fitting`."""
    sizes = (a.head_size, a.value_size(channels))
    return quick.fitting(NAME, WINDOW, int(a.qk_norm == "l2"), dtype, sizes, family)


def compile_kernel(
    a: WindowAttentionAttributes, inputs: int, channels: int, config: Config, family: Family
) -> quick.Quick:
    """The kernel of a node, whose arguments are its inputs, the map's height and width, and its output."""
    from edgetx.ops.window_attention import quick_kernel, triton_kernel

    flags = sum(
        flag
        for flag, given in zip(
            (triton_kernel.HAS_BIAS, triton_kernel.HAS_SCALE, triton_kernel.HAS_PAD, triton_kernel.HAS_MASK),
            (inputs > 1, inputs > 2, inputs > 3, a.has_mask),
            strict=True,
        )
        if given
    )
    pointers = dict.fromkeys((*INPUTS[:inputs], "out"), f"*{config.dtype}")
    return quick.compile_kernel(
        quick_kernel.edgetx_window_attention,
        {**pointers, "height": "i32", "width": "i32"},
        constants_of(a, channels, config, flags),
        config,
        family,
    )


def constants_of(a: WindowAttentionAttributes, channels: int, config: Config, flags: int) -> dict[str, Any]:
    """What is known when the kernel of a node is compiled."""
    pad = (1, 1) if a.pad == "none" else a.pad_to
    return {
        "PAD_Y": pad[0],
        "PAD_X": pad[1],
        "ROLLS_PADDED": a.pad != "after_roll",
        "SHIFT_Y": a.shift[0],
        "SHIFT_X": a.shift[1],
        "SINGLE": SINGLE.index(a.shift_when_single),
        "HEADS": a.num_heads,
        "SIZE": a.head_size,
        "VALUE_SIZE": a.value_size(channels),
        "WINDOW_Y": a.window[0],
        "WINDOW_X": a.window[1],
        "KV_Y": a.kv_window[0],
        "KV_X": a.kv_window[1],
        "FLAGS": flags,
        "SCALE": a.scale,
        "MASK_VALUE": a.mask_value,
        "NORM": a.qk_norm == "l2",
        "UPCAST": False,
        "ALIGN": config.align,
        "BLOCK_Q": config.tile.queries,
        "BLOCK_K": config.tile.keys,
        "BLOCK_D": config.size,
    }


def _outputs(tensors: Sequence[Any], values: dict[str, Any]) -> Any:
    out = tensors[0].like()
    # qkv has channels of queries and keys too, which the output lacks.
    out.shape_expr[3] = tensors[0].shape_expr[3] - 2 * values["num_heads"] * values["head_size"]
    return out


def _combinations(family: Family, tensors: Sequence[Any], values: dict[str, Any]) -> tuple[str, int]:
    return quick.types(tensors), len(_fitting(family, tensors, values)[2])


def _implement(
    api: Any, family: Family, tensors: Sequence[Any], values: dict[str, Any], tactic: int
) -> tuple[quick.Quick, Any, Sequence[Any]]:
    a, channels, found = _fitting(family, tensors, values)
    config = found[tactic - 1]
    kernel = compile_kernel(a, len(tensors), channels, config, family)
    batch, height, width, _ = tensors[0].shape_expr
    blocks = batch * _windows(api, a, height, width) * (_blocks(a, config.tile) * a.num_heads)
    return kernel, blocks, (height, width)


def _fitting(
    family: Family, tensors: Sequence[Any], values: dict[str, Any]
) -> tuple[WindowAttentionAttributes, int, list[Config]]:
    a = WindowAttentionAttributes.from_onnx(
        {key: tuple(map(int, value)) if key in PAIRS else value for key, value in values.items()}
    )
    channels = quick.channels(tensors[0], 3, "WindowAttention's qkv")
    return a, channels, fitting(a, channels, quick.DTYPES[tensors[0].dtype.name], family)


def _blocks(a: WindowAttentionAttributes, tile: gpu.Tile) -> int:
    return -(-a.query_tokens // tile.queries)


def _windows(api: Any, a: WindowAttentionAttributes, height: Any, width: Any) -> Any:
    """Windows of one map of symbolic sizes."""
    pads = a.window if a.pad == "none" else a.pad_to
    down = api.cdiv(height, pads[0]) * (pads[0] // a.window[0])
    across = api.cdiv(width, pads[1]) * (pads[1] // a.window[1])
    return down * across
