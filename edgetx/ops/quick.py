"""Quick-deployable TensorRT plugins (10.9 and later): engines carry their kernels and need no library to run.

`register` declares the plugins of `edgetx.ops.window_attention.quick` and `edgetx.ops.group_attention.quick`
to TensorRT's Python API `tensorrt.plugin`. While an engine is built, TensorRT calls what is declared, which
compiles the Triton kernel to PTX, and keeps the PTX in the engine. Such a plugin has one kernel, a fixed
number of inputs and an output that nobody has cleared; `rename` turns the operators' nodes into theirs.

The functions that are declared were run here in the Python bindings of TensorRT, without its library; no
engine has been built from them.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edgetx.errors import EdgetxError, InputError
from edgetx.ops.aot import compiler
from edgetx.ops.aot.configs import FAMILIES, Config, Family, configs

if TYPE_CHECKING:
    import onnx_ir as ir

NAMESPACE = "edgetx"
OPERATORS = {
    "WindowAttention": "edgetx.ops.window_attention.quick",
    "GroupAttention": "edgetx.ops.group_attention.quick",
}
"""The operators that become plugins, and the modules with `rename`, `plugins` and what they declare."""
DTYPES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16"}
"""TensorRT's names of element types, and Triton's."""

_FORMATS = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16"}
_PARAMETER = re.compile(r"^\s*\.param [^\n]*?(?P<name>\w+_param_(?P<index>\d+)),?\n", re.MULTILINE)


class Quick(NamedTuple):
    """A compiled kernel: its name, PTX, threads of a block and bytes of shared memory."""

    name: str
    ptx: str
    threads: int
    shared: int


class Plugin(NamedTuple):
    """What is declared of one plugin.

    Attributes:
        inputs: the names of its tensors.
        fields: of its attributes, by name.
        outputs: from tensors and attributes: the descriptions of the outputs.
        combinations: from tensors and attributes: the element types of inputs and outputs as TensorRT writes
            them, and how many tactics there are.
        implement: from tensors, attributes and the tactic, from 1: kernel, blocks of the grid, and integers
            that the kernel is given between inputs and outputs.
    """

    inputs: Sequence[str]
    fields: Mapping[str, Any]
    outputs: Callable[[Sequence[Any], dict[str, Any]], Any]
    combinations: Callable[[Sequence[Any], dict[str, Any]], tuple[str, int]]
    implement: Callable[[Sequence[Any], dict[str, Any], int], tuple[Quick, Any, Sequence[Any]]]


def why_not(trt: Any) -> str | None:
    """None if plugins can be declared to this TensorRT module and compiled here, else the reason."""
    if not hasattr(trt, "QuickPluginCreationRequest"):
        return (
            f"{trt.__name__} {trt.__version__} has no plugins that are compiled ahead of time; TensorRT 10.9 "
            "and later have, TensorRT-RTX 1.7 has not"
        )
    return compiler.why_not()


def rename(model: ir.Model) -> None:
    """Turn the nodes of the operators into those of their plugins."""
    for module in map(importlib.import_module, OPERATORS.values()):
        module.rename(model)


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


def fitting(
    operator: str, kernel: str, variant: int, dtype: str, sizes: tuple[int, int], family: Family
) -> list[Config]:
    """The shipped configurations with the smallest block that holds such heads, for TensorRT to time.

    Raises:
        EdgetxError: no kernel holds them.
    """
    found = [
        config
        for config in configs(family.capabilities[0])
        if (config.kernel, config.dtype, config.variant) == (kernel, dtype, variant)
        and config.size >= max(sizes)
        and not any(size % config.align for size in sizes)
    ]
    if not found:
        raise EdgetxError(f"no kernel of {operator} takes heads of {sizes} channels in {dtype}")
    best = min((config.size, -config.align) for config in found)
    return [config for config in found if (config.size, -config.align) == best]


def compile_kernel(
    function: Any, types: Mapping[str, str], constants: Mapping[str, Any], config: Config, family: Family
) -> Quick:
    """A kernel as TensorRT launches it.

    Args:
        function: the kernel.
        types: of the arguments that TensorRT gives, in Triton's words; the others are compiled in, or taken
            out of the PTX, which never reads them then.
        constants: by name.
        config: its tile tells warps and stages.
        family: the GPUs.

    Raises:
        EdgetxError: the kernel needs scratch memory, or reads what it is not given.
    """
    names = function.arg_names
    signature = {
        name: "constexpr" if name in constants else types.get(name, f"*{config.dtype}") for name in names
    }
    made = compiler.to_ptx(function, signature, constants, config.tile, family)
    if made.metadata.global_scratch_size or made.metadata.profile_scratch_size:
        raise EdgetxError(f"{config} needs scratch memory, which TensorRT does not give")
    kept = {index for index, name in enumerate(names) if name in types}
    ptx = only(compiler.unbound(made.asm["ptx"]), kept)
    return Quick(made.metadata.name, ptx, 32 * made.metadata.num_warps, made.metadata.shared)


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
    api = importlib.import_module(f"{trt.__name__}.plugin")
    names = []
    for module in map(importlib.import_module, OPERATORS.values()):
        for name, plugin in module.plugins(api, family).items():
            for kind, function in _declared(api, plugin).items():
                lately = {"lazy_register": lazy} if kind == "register" else {}
                getattr(api, kind)(f"{NAMESPACE}::{name}", **lately)(function)
            names.append(name)
    return names


def _declared(api: Any, plugin: Plugin) -> dict[str, Callable[..., Any]]:
    """The functions that TensorRT calls, with the signatures that it reads."""
    count, kinds = len(plugin.inputs), plugin.fields

    def split(
        arguments: Sequence[Any], named: dict[str, Any]
    ) -> tuple[Sequence[Any], dict[str, Any], Sequence[Any]]:
        values = dict(zip(kinds, arguments[count:], strict=False)) | named
        return arguments[:count], values, arguments[count + len(kinds) :]

    def describe(*arguments: Any, **named: Any) -> Any:
        tensors, values, _ = split(arguments, named)
        return plugin.outputs(tensors, values)

    def combinations(*arguments: Any, **named: Any) -> Any:
        tensors, values, _ = split(arguments, named)
        types, tactics = plugin.combinations(tensors, values)
        return [api.AutoTuneCombination(types, "LINEAR", list(range(1, tactics + 1)))]

    def implement(*arguments: Any, **named: Any) -> Any:
        tensors, values, (_, tactic) = split(arguments, named)
        kernel, blocks, numbers = plugin.implement(tensors, values, max(tactic, 1))
        params = api.KernelLaunchParams()
        params.grid_x, params.block_x, params.shared_mem = blocks, kernel.threads, kernel.shared
        extra = api.SymIntExprs.from_tuple([api.SymInt32(number) for number in numbers])
        return kernel.name, kernel.ptx, params, extra

    tensor, several = api.TensorDesc, tuple[api.TensorDesc]
    given = {**dict.fromkeys(plugin.inputs, tensor), **kinds}
    described = {**given, "outputs": several}
    describe.__signature__ = _signature(given, tensor)  # type: ignore[attr-defined]
    combinations.__signature__ = _signature(described, list[api.AutoTuneCombination])  # type: ignore[attr-defined]
    answer = tuple[str, str, api.KernelLaunchParams, api.SymExprs]
    implement.__signature__ = _signature({**described, "tactic": int}, answer)  # type: ignore[attr-defined]
    return {"register": describe, "autotune": combinations, "aot_impl": implement}


def _signature(kinds: dict[str, Any], answer: Any) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature(
        [inspect.Parameter(name, kind, annotation=each) for name, each in kinds.items()],
        return_annotation=answer,
    )


def channels(tensor: Any, axis: int, what: str) -> int:
    """The channels of a tensor, which are the same for every size of the input.

    Raises:
        EdgetxError: they are not known while the engine is built.
    """
    found = int(tensor.shape[axis])
    if found < 1:
        raise EdgetxError(f"the channels of {what} must be known when an engine is built")
    return found


def types(tensors: Sequence[Any], integers: int = 0) -> str:
    """The formats of the floating-point inputs, of so many int32 ones behind them, and of the output."""
    name = _FORMATS[DTYPES[tensors[0].dtype.name]]
    return ", ".join([*[name] * (len(tensors) - integers), *["INT32"] * integers, name])
