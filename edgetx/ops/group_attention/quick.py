"""GroupAttention as a quick-deployable plugin: see `edgetx.ops.quick`.

The plugin `GroupAttentionSlots` computes a row for every slot of the groups and one of zeros behind them; a
Gather by the operator's input `inverse` puts the rows in the tokens' order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from edgetx.ops import quick
from edgetx.ops.aot.configs import GROUP, Config, Family
from edgetx.ops.group_attention.attributes import GroupAttentionAttributes

if TYPE_CHECKING:
    import onnx_ir as ir

NAME = "GroupAttention"
PLUGIN = "GroupAttentionSlots"
INPUTS = ("q", "k", "v", "groups")
FIELDS: dict[str, type] = {"num_heads": int, "scale": float, "activation": str}


def rename(model: ir.Model) -> None:
    """Put the plugin and a Gather in the place of every node."""
    import onnx_ir as ir

    for node in list(model.graph):
        if node.domain != quick.NAMESPACE or node.op_type != NAME:
            continue
        *inputs, inverse = node.inputs
        slots = ir.Node(quick.NAMESPACE, PLUGIN, inputs, node.attributes.values(), name=f"{node.name}.slots")
        out = ir.node("Gather", [slots.outputs[0], inverse], {"axis": 0}, name=node.name)
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], [slots, out], node.outputs, out.outputs
        )


def plugins(api: Any, family: Family) -> dict[str, quick.Plugin]:
    """The plugin by its name, for `tensorrt.plugin` and a family of GPUs."""
    return {
        PLUGIN: quick.Plugin(
            INPUTS, FIELDS, _outputs, partial(_combinations, family), partial(_implement, api, family)
        )
    }


def fitting(a: GroupAttentionAttributes, sizes: tuple[int, int], dtype: str, family: Family) -> list[Config]:
    """The shipped configurations for heads of `(d, dv)` channels; raises as `quick.fitting`."""
    return quick.fitting(NAME, GROUP, int(a.activation == "relu2"), dtype, sizes, family)


def compile_kernel(
    a: GroupAttentionAttributes, sizes: tuple[int, int], config: Config, family: Family
) -> quick.Quick:
    """The kernel of a node, whose arguments are its inputs, G and S, and its output."""
    from edgetx.ops.group_attention import quick_kernel

    return quick.compile_kernel(
        quick_kernel.edgetx_group_attention,
        {
            **dict.fromkeys(("q", "k", "v", "out"), f"*{config.dtype}"),
            "groups": "*i32",
            "count": "i32",
            "slots": "i32",
        },
        constants_of(a, sizes, config),
        config,
        family,
    )


def constants_of(a: GroupAttentionAttributes, sizes: tuple[int, int], config: Config) -> dict[str, Any]:
    """What is known when the kernel of a node is compiled."""
    return {
        "HEADS": a.num_heads,
        "SIZE": sizes[0],
        "VALUE_SIZE": sizes[1],
        "SCALE": a.scale,
        "SOFTMAX": a.activation == "softmax",
        "UPCAST": False,
        "BLOCK_Q": config.tile.queries,
        "BLOCK_K": config.tile.keys,
        "BLOCK_D": config.size,
    }


def _outputs(tensors: Sequence[Any], values: dict[str, Any]) -> Any:
    _, _, v, groups = tensors
    out = v.like()
    count, slots = groups.shape_expr
    out.shape_expr[0] = count * slots + 1
    return out


def _combinations(family: Family, tensors: Sequence[Any], values: dict[str, Any]) -> tuple[str, int]:
    return quick.types(tensors, integers=1), len(_fitting(family, tensors, values)[2])


def _implement(
    api: Any, family: Family, tensors: Sequence[Any], values: dict[str, Any], tactic: int
) -> tuple[quick.Quick, Any, Sequence[Any]]:
    a, sizes, found = _fitting(family, tensors, values)
    config = found[tactic - 1]
    kernel = compile_kernel(a, sizes, config, family)
    count, slots = tensors[3].shape_expr
    blocks = (count + 1) * api.cdiv(slots, config.tile.queries) * a.num_heads
    return kernel, blocks, (count, slots)


def _fitting(
    family: Family, tensors: Sequence[Any], values: dict[str, Any]
) -> tuple[GroupAttentionAttributes, tuple[int, int], list[Config]]:
    a = GroupAttentionAttributes.from_onnx(values)
    sizes = (
        quick.channels(tensors[0], 1, "GroupAttention's q") // a.num_heads,
        quick.channels(tensors[2], 1, "GroupAttention's v") // a.num_heads,
    )
    return a, sizes, fitting(a, sizes, quick.DTYPES[tensors[0].dtype.name], family)
