"""Quick-deployable TensorRT plugins (10.9 and later): engines carry their kernels and need no library to run.

`register` declares `WindowAttention` to TensorRT's Python API `tensorrt.plugin`. While an engine is built,
TensorRT calls what is declared, which compiles the Triton kernel to PTX, and keeps the PTX in the engine.
Such a plugin has one kernel and a fixed number of inputs: each number of inputs is a plugin of its own
(`WindowAttention1` to `WindowAttention4`), and `GroupAttention`, which needs two kernels, is none.

The functions that are declared were run here in the Python bindings of TensorRT, without its library; no
engine has been built from them.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edgetx.errors import EdgetxError, InputError
from edgetx.ops import gpu
from edgetx.ops.aot import compiler
from edgetx.ops.aot.configs import FAMILIES, WINDOW, Config, Family, configs
from edgetx.ops.window_attention.attributes import WindowAttentionAttributes

if TYPE_CHECKING:
    import onnx_ir as ir

NAMESPACE, NAME = "edgetx", "WindowAttention"
INPUTS = ("qkv", "bias", "head_scale", "pad_value")
DTYPES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16"}
"""TensorRT's names of element types, and Triton's."""
SINGLE = ("keep", "drop_axis", "drop_both")
PAIRS = ("window", "kv_window", "shift", "pad_to")
FIELDS: dict[str, type] = {
    "num_heads": int, "head_size": int, "mask": str, "mask_value": float, "qk_norm": str,
    "shift_when_single": str, "scale": float, "pad": str,
}  # fmt: skip
"""Attributes with one value; PAIRS have two."""

_PARAMETER = re.compile(r"^\s*\.param [^\n]*?(?P<name>\w+_param_(?P<index>\d+)),?\n", re.MULTILINE)


class Quick(NamedTuple):
    """A compiled kernel: its name, PTX, threads of a block and bytes of shared memory."""

    name: str
    ptx: str
    threads: int
    shared: int


def why_not(trt: Any) -> str | None:
    """None if plugins can be declared to this TensorRT module and compiled here, else the reason."""
    if not hasattr(trt, "QuickPluginCreationRequest"):
        return (
            f"{trt.__name__} {trt.__version__} has no plugins that are compiled ahead of time; TensorRT 10.9 "
            "and later have, TensorRT-RTX 1.7 has not"
        )
    return compiler.why_not()


def rename(model: ir.Model) -> None:
    """Give every `WindowAttention` the name of the plugin for its number of inputs."""
    for node in model.graph:
        if node.domain == NAMESPACE and node.op_type == NAME:
            node.op_type = f"{NAME}{len(node.inputs)}"


def family_of(compute: str) -> Family:
    """The family of a compute capability such as `8.7`.

    Raises:
        InputError: kernels are made for none of that capability.
    """
    for family in FAMILIES:
        if int(compute.replace(".", "")) in family.capabilities:
            return family
    known = ", ".join(f"{each / 10:.1f}" for family in FAMILIES for each in family.capabilities)
    raise InputError(f"no kernels are made for compute capability {compute}; accepted: {known}")


def fitting(a: WindowAttentionAttributes, channels: int, dtype: str, family: Family) -> list[Config]:
    """The shipped configurations with the smallest block that holds the heads, for TensorRT to time.

    Raises:
        EdgetxError: no kernel holds heads of this size.
    """
    sizes = (a.head_size, a.value_size(channels))
    variant = int(a.qk_norm == "l2")
    found = [
        config
        for config in configs(family.capabilities[0])
        if (config.kernel, config.dtype, config.variant) == (WINDOW, dtype, variant)
        and config.size >= max(sizes)
        and not any(size % config.align for size in sizes)
    ]
    if not found:
        raise EdgetxError(f"no kernel of WindowAttention takes heads of {sizes} channels in {dtype}")
    best = min((config.size, -config.align) for config in found)
    return [config for config in found if (config.size, -config.align) == best]


def compile_kernel(
    a: WindowAttentionAttributes, inputs: int, channels: int, config: Config, family: Family
) -> Quick:
    """The kernel of a node, whose arguments are its inputs, the map's height and width, and its output."""
    from edgetx.ops.window_attention import quick_kernel as kernels
    from edgetx.ops.window_attention import triton_kernel

    function = kernels.edgetx_window_attention
    flags = sum(
        flag
        for flag, given in zip(
            (triton_kernel.HAS_BIAS, triton_kernel.HAS_SCALE, triton_kernel.HAS_PAD, triton_kernel.HAS_MASK),
            (inputs > 1, inputs > 2, inputs > 3, a.has_mask),
            strict=True,
        )
        if given
    )
    constants = constants_of(a, channels, config, flags)
    signature = {
        name: "constexpr"
        if name in constants
        else "i32"
        if name in ("height", "width")
        else f"*{config.dtype}"
        for name in function.arg_names
    }
    made = compiler.to_ptx(function, signature, constants, config.tile, family)
    if made.metadata.global_scratch_size or made.metadata.profile_scratch_size:
        raise EdgetxError(f"{config} needs scratch memory, which TensorRT does not give")
    absent = set(range(inputs, len(INPUTS)))
    kept = set(range(len(INPUTS) + 3)) - absent
    ptx = only(compiler.unbound(made.asm["ptx"]), kept)
    return Quick(made.metadata.name, ptx, 32 * made.metadata.num_warps, made.metadata.shared)


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


def only(ptx: str, kept: set[int]) -> str:
    """The PTX without the parameters that are not `kept`: TensorRT gives exactly those that it knows.

    Triton adds two, for scratch memory.

    Raises:
        EdgetxError: the kernel reads one of them.
    """
    head, body = ptx[: ptx.index("\n{")], ptx[ptx.index("\n{") :]
    for match in _PARAMETER.finditer(head):
        if int(match["index"]) in kept:
            continue
        if re.search(rf"\b{match['name']}\b", body):
            raise EdgetxError(f"the kernel reads {match['name']}, which TensorRT does not give")
    lines = [match for match in _PARAMETER.finditer(head) if int(match["index"]) in kept]
    first, last = head.index("(\n") + 2, head.rindex(")")
    listed = ",\n".join(match.group().strip().rstrip(",") for match in lines)
    return f"{head[:first]}{listed}\n{head[last:]}{body}"


def register(trt: Any, compute: str, lazy: bool = False) -> list[str]:
    """Declare the plugins to a TensorRT module, for a GPU of this compute capability; gives their names.

    Args:
        trt: the module `tensorrt`.
        compute: such as `8.7`; an engine for several GPUs takes that of the oldest.
        lazy: leave it to the first use to enter them into TensorRT's registry.

    Raises:
        EdgetxError: see `why_not`.
        InputError: see `family_of`.
    """
    if (reason := why_not(trt)) is not None:
        raise EdgetxError(reason)
    family = family_of(compute)
    plugins = importlib.import_module(f"{trt.__name__}.plugin")
    names = []
    for count in range(1, len(INPUTS) + 1):
        name = f"{NAME}{count}"
        for kind, function in _declared(plugins, count, family).items():
            decorate = getattr(plugins, kind)(
                f"{NAMESPACE}::{name}", **({"lazy_register": lazy} if kind == "register" else {})
            )
            decorate(function)
        names.append(name)
    return names


def _declared(plugins: Any, count: int, family: Family) -> dict[str, Callable[..., Any]]:
    """What is declared of the plugin with `count` inputs."""
    import numpy as np
    from numpy.typing import NDArray

    pair: Any = NDArray[np.int32]
    kinds: dict[str, Any] = {**FIELDS, **dict.fromkeys(PAIRS, pair)}
    names = INPUTS[:count]

    def attributes(values: dict[str, Any]) -> WindowAttentionAttributes:
        return WindowAttentionAttributes.from_onnx(
            {key: tuple(map(int, value)) if key in PAIRS else value for key, value in values.items()}
        )

    def split(
        arguments: Sequence[Any], named: dict[str, Any]
    ) -> tuple[Sequence[Any], dict[str, Any], Sequence[Any]]:
        values = dict(zip(kinds, arguments[count:], strict=False)) | named
        return arguments[:count], values, arguments[count + len(kinds) :]

    def describe(*arguments: Any, **named: Any) -> Any:
        tensors, values, _ = split(arguments, named)
        out = tensors[0].like()
        # qkv has channels of queries and keys too, which the output lacks.
        out.shape_expr[3] = tensors[0].shape_expr[3] - 2 * values["num_heads"] * values["head_size"]
        return out

    def combinations(*arguments: Any, **named: Any) -> Any:
        tensors, values, _ = split(arguments, named)
        dtype = tensors[0].dtype.name
        found = fitting(attributes(values), _channels(tensors[0]), DTYPES[dtype], family)
        # A tactic is a tile, from 1.
        name = {"FLOAT": "FP32", "HALF": "FP16"}.get(dtype, dtype)
        types = ", ".join([name] * (count + 1))
        return [plugins.AutoTuneCombination(types, "LINEAR", list(range(1, len(found) + 1)))]

    def implement(*arguments: Any, **named: Any) -> Any:
        tensors, values, (_, tactic) = split(arguments, named)
        a, channels = attributes(values), _channels(tensors[0])
        found = fitting(a, channels, DTYPES[tensors[0].dtype.name], family)
        config = found[max(tactic, 1) - 1]
        kernel = compile_kernel(a, count, channels, config, family)
        batch, height, width, _ = tensors[0].shape_expr
        params = plugins.KernelLaunchParams()
        params.grid_x = batch * _windows(plugins, a, height, width) * (_blocks(a, config.tile) * a.num_heads)
        params.block_x, params.shared_mem = kernel.threads, kernel.shared
        extra = plugins.SymIntExprs.from_tuple([plugins.SymInt32(height), plugins.SymInt32(width)])
        return kernel.name, kernel.ptx, params, extra

    tensor, several = plugins.TensorDesc, tuple[plugins.TensorDesc]
    describe.__signature__ = _signature({**dict.fromkeys(names, tensor), **kinds}, tensor)  # type: ignore[attr-defined]
    given = {**dict.fromkeys(names, tensor), **kinds, "outputs": several}
    combinations.__signature__ = _signature(given, list[plugins.AutoTuneCombination])  # type: ignore[attr-defined]
    answer = tuple[str, str, plugins.KernelLaunchParams, plugins.SymExprs]
    implement.__signature__ = _signature({**given, "tactic": int}, answer)  # type: ignore[attr-defined]
    return {"register": describe, "autotune": combinations, "aot_impl": implement}


def _signature(kinds: dict[str, Any], answer: Any) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature(
        [inspect.Parameter(name, kind, annotation=each) for name, each in kinds.items()],
        return_annotation=answer,
    )


def _channels(qkv: Any) -> int:
    """The channels of qkv, which are the same for every size of map."""
    channels = int(qkv.shape[3])
    if channels < 1:
        raise EdgetxError("the channels of WindowAttention's qkv must be known when an engine is built")
    return channels


def _blocks(a: WindowAttentionAttributes, tile: gpu.Tile) -> int:
    return -(-a.query_tokens // tile.queries)


def _windows(plugins: Any, a: WindowAttentionAttributes, height: Any, width: Any) -> Any:
    """Windows of one map of symbolic sizes."""
    pads = a.window if a.pad == "none" else a.pad_to
    down = plugins.cdiv(height, pads[0]) * (pads[0] // a.window[0])
    across = plugins.cdiv(width, pads[1]) * (pads[1] // a.window[1])
    return down * across
