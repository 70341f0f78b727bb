"""What exporters do to a loaded model: recognise classes, copy without copying weights, replace, probe."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from edgetx.core import SymbolRange, TensorSpec
from edgetx.errors import ExportError
from edgetx.exporters._outputs import flatten

Builder = Callable[[nn.Module], nn.Module]


def is_a(module: nn.Module, names: Collection[str]) -> bool:
    """Whether `module` is an instance of one of the classes, given by dotted name: nothing is imported."""
    return any(_dotted(base) in names for base in type(module).__mro__)


def _dotted(base: type) -> str:
    return f"{base.__module__}.{base.__qualname__}"


def holds(module: nn.Module, names: Collection[str]) -> bool:
    """Whether `module` or a module inside it is an instance of one of the classes."""
    return any(is_a(inner, names) for inner in module.modules())


def clone(module: nn.Module) -> nn.Module:
    """A copy in eval mode whose parameters and buffers are the very tensors of `module`.

    Raises:
        ExportError: the module holds something that cannot be copied.
    """
    memo: dict[int, Any] = {
        id(tensor): tensor for tensor in itertools.chain(module.parameters(), module.buffers())
    }
    try:
        return copy.deepcopy(module, memo).eval()
    except Exception as error:
        raise ExportError(
            f"{type(module).__name__} cannot be copied ({error}); remove cached tensors and open resources "
            "from its attributes before exporting it"
        ) from error


def replace(module: nn.Module, builders: Mapping[str, Builder]) -> tuple[nn.Module, list[str]]:
    """Replace, in place, every module whose class has a builder; the inside of a replaced one is not visited.

    A builder may return the module it was given: then the modules inside it are visited.

    Returns:
        The module, or its replacement where it matches itself, and notes for the user.
    """
    notes: list[str] = []

    def visit(path: str, current: nn.Module) -> nn.Module:
        builder = next(
            (builders[name] for base in type(current).__mro__ if (name := _dotted(base)) in builders), None
        )
        new = current if builder is None else builder(current).eval()
        if new is not current:
            if current._forward_hooks or current._forward_pre_hooks:
                notes.append(f"forward hooks of {path or 'the model'} do not run in the exported model")
            return new
        for name, child in current.named_children():
            if (new_child := visit(f"{path}.{name}" if path else name, child)) is not child:
                setattr(current, name, new_child)
        return current

    with torch.no_grad():
        return visit("", module), notes


def output_specs(
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    symbols: Mapping[str, SymbolRange],
    rename: Callable[[str], str] = str,
) -> tuple[TensorSpec, ...]:
    """Find the outputs' names, dtypes and symbolic shapes by running `module` on shapes alone.

    The model runs once, and once more for each symbol with that symbol enlarged; a dimension that changes
    with `batch` is `batch`, one that changes with `height` is `<output>_height`, and so on.
    """
    sizes = {name: _first_size(allowed) for name, allowed in symbols.items()}
    base = _shapes(module, inputs, sizes)
    grown = {
        name: _shapes(module, inputs, {**sizes, name: _larger_size(sizes[name], allowed)})
        for name, allowed in symbols.items()
    }
    specs = []
    for output, (dtype, shape) in base.items():
        dims: list[int | str] = []
        for axis, size in enumerate(shape):
            causes = [name for name in symbols if grown[name][output][1][axis] != size]
            if not causes:
                dims.append(size)
            elif causes == ["batch"] and size == sizes["batch"]:
                dims.append("batch")
            else:
                dims.append(f"{rename(output)}_{'_'.join(causes)}")
        specs.append(TensorSpec(rename(output), dtype, tuple(dims)))
    return tuple(specs)


def _first_size(allowed: SymbolRange) -> int:
    size = -(-max(allowed.min, 2) // allowed.step) * allowed.step
    return size if allowed.max is None else min(size, allowed.max)


def _larger_size(size: int, allowed: SymbolRange) -> int:
    # Large enough to show behind any stride that a vision model has.
    larger = size + 1024 * allowed.step
    return larger if allowed.max is None else min(larger, allowed.max // allowed.step * allowed.step)


def _shapes(
    module: nn.Module, inputs: Sequence[TensorSpec], sizes: Mapping[str, int]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    shapes = [[sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape] for spec in inputs]

    def run(context: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
        with context, torch.no_grad():
            tensors = [
                torch.zeros(shape, dtype=getattr(torch, spec.dtype))
                for shape, spec in zip(shapes, inputs, strict=True)
            ]
            return {
                name: (str(tensor.dtype).removeprefix("torch."), tuple(int(size) for size in tensor.shape))
                for name, tensor in flatten(module(*tensors)).items()
            }

    try:
        return run(FakeTensorMode(allow_non_fake_inputs=True))
    except ExportError:
        raise
    except Exception:  # a model whose shapes depend on data says so in many ways; the real run decides
        return run(nullcontext())
