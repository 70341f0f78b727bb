"""Any `nn.Module`: exported as it is, without operators, and described by running it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edgetx.core import Architecture, IOSpec, Processor, Rewrite, SymbolRange, TensorSpec
from edgetx.errors import ExportError
from edgetx.exporters import _modules
from edgetx.exporters._pictures import ImageModel


class GenericArchitecture(Architecture):
    """The fallback: what no exporter recognises."""

    id = "generic"
    title = "any PyTorch module"
    paper = ""
    presets = {}

    def recognises(self, module: nn.Module) -> bool:
        return isinstance(module, nn.Module)

    def describe(self, module: nn.Module, example: Any | None = None) -> IOSpec:
        """See `describe`."""
        return describe(_modules.clone(module), example)

    def processor(self, module: nn.Module) -> Processor | None:
        """A restoration model that no exporter knows still takes and gives pictures."""
        return module.processor() if isinstance(module, ImageModel) else None

    def rewrite(self, module: nn.Module) -> Rewrite:
        model = module.model if isinstance(module, ImageModel) else module
        note = f"no exporter recognised {type(model).__name__}: exported as it is, without edgetx operators"
        return Rewrite(_modules.clone(module), (), (note,))


def describe(module: nn.Module, example: Any | None) -> IOSpec:
    """The inputs and outputs of a module that is known only by an example of its inputs.

    Args:
        module: run on shapes alone where that works, else on zeros.
        example: a tensor, a sequence of tensors in positional order or a mapping from name to tensor; or a
            sequence of `TensorSpec`, whose symbols may take any size from 1. Tensors that share their first
            size are taken to have it as `batch` where the model also runs with another one.

    Raises:
        ExportError: there is no example, or the model does not run on it.
    """
    if example is None and isinstance(module, ImageModel):
        return module.io()
    specs, are_tensors = _inputs(module, example)
    symbols = {dim: SymbolRange() for spec in specs for dim in spec.shape if isinstance(dim, str)}
    if are_tensors and (batched := _batched(specs)) is not None:
        batch = {"batch": SymbolRange()}
        try:
            outputs = _modules.output_specs(module, batched, batch)
            if any("batch" in spec.shape[:1] for spec in outputs):
                return IOSpec(batched, outputs, batch)
        except Exception:  # then its batch is fixed; an error at its own size is reported below
            pass
    try:
        return IOSpec(specs, _modules.output_specs(module, specs, symbols), symbols)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"{type(module).__name__} does not run with inputs {'; '.join(map(str, specs))} "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); give inputs that it accepts"
        ) from error


def _inputs(module: nn.Module, example: Any | None) -> tuple[tuple[TensorSpec, ...], bool]:
    if isinstance(example, torch.Tensor | TensorSpec):
        example = (example,)
    if not isinstance(example, Mapping | Sequence) or isinstance(example, str) or not example:
        raise ExportError(
            f"the inputs of {type(module).__name__} are not known; give example tensors to edgetx.export, "
            "or --input name=dtype[dim,...]"
        )
    if isinstance(example, Mapping):
        named = dict(example)
    elif all(isinstance(item, TensorSpec) for item in example):
        return tuple(example), False
    else:
        names = _parameter_names(module, len(example))
        named = dict(zip(names, example, strict=True))
    for name, tensor in named.items():
        if not isinstance(tensor, torch.Tensor):
            raise ExportError(f"example input {name!r} is {type(tensor).__name__}; expected a torch.Tensor")
    return (
        tuple(
            TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
            for name, tensor in named.items()
        ),
        True,
    )


def _parameter_names(module: nn.Module, count: int) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [
        name for name, value in inspect.signature(module.forward).parameters.items() if value.kind in kinds
    ]
    return parameters[:count] if len(parameters) >= count else [f"input_{index}" for index in range(count)]


def _batched(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...] | None:
    """The same specs with their common first size as `batch`, or None where they have none."""
    if any(not spec.shape for spec in specs) or len({spec.shape[0] for spec in specs}) != 1:
        return None
    return tuple(TensorSpec(spec.name, spec.dtype, ("batch", *spec.shape[1:])) for spec in specs)
