"""The architectures that edgetx knows, one module each.

Adding one: write its module and its test, and add a line to `_TABLE`.
"""

from __future__ import annotations

import contextlib
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgetx.core import Architecture
from edgetx.errors import InputError

if TYPE_CHECKING:
    import torch

_TABLE = {
    "swin": "edgetx.exporters.swin:Swin",
    "swinv2": "edgetx.exporters.swinv2:SwinV2",
    "swinir": "edgetx.exporters.swinir:SwinIR",
    "swin2sr": "edgetx.exporters.swin2sr:Swin2SR",
    "craft": "edgetx.exporters.craft:CRAFT",
    "hat": "edgetx.exporters.hat:HAT",
    "drct": "edgetx.exporters.drct:DRCT",
    "dat": "edgetx.exporters.dat:DAT",
    "rgt": "edgetx.exporters.rgt:RGT",
    "atd": "edgetx.exporters.atd:ATD",
    "fdat": "edgetx.exporters.fdat:FDAT",
    "scunet": "edgetx.exporters.scunet:SCUNet",
    "uformer": "edgetx.exporters.uformer:Uformer",
    "omnisr": "edgetx.exporters.omnisr:OmniSR",
    "rat": "edgetx.exporters.rat:Rat",
    "histoformer": "edgetx.exporters.histoformer:Histoformer",
    "flatformer": "edgetx.exporters.flatformer:FlatFormer",
    "ptv3": "edgetx.exporters.ptv3:PTv3",
    "dsvt": "edgetx.exporters.dsvt:DSVT",
}
_GENERIC = "edgetx.exporters.generic:GenericArchitecture"


def ids() -> tuple[str, ...]:
    """The ids of `architectures()`; needs no torch."""
    return tuple(_TABLE)


@cache
def architectures() -> tuple[Architecture, ...]:
    """Every architecture with an exporter of its own, in the order in which they are asked. Imports torch."""
    return tuple(_make(place) for place in _TABLE.values())


@cache
def fallback() -> Architecture:
    """The architecture of every module that no exporter recognises."""
    return _make(_GENERIC)


def get(id: str) -> Architecture:
    """The architecture of this id.

    Raises:
        InputError: there is none.
    """
    for architecture in (*architectures(), fallback()):
        if architecture.id == id:
            return architecture
    raise InputError(f"unknown architecture {id!r}; known: {', '.join(_TABLE)}, generic")


def find(module: torch.nn.Module) -> Architecture:
    """The first architecture that recognises `module`, else the generic one."""
    return next((known for known in architectures() if known.recognises(module)), fallback())


def flatten(output: Any) -> dict[str, torch.Tensor]:
    """See `edgetx.exporters._outputs.flatten`."""
    from edgetx.exporters._outputs import flatten as named

    return named(output)


def clone(module: torch.nn.Module) -> torch.nn.Module:
    """See `edgetx.exporters._modules.clone`."""
    from edgetx.exporters._modules import clone as share_weights

    return share_weights(module)


def reference_mode() -> contextlib.ExitStack:
    """The context in which a library's model gives the answer that a package is held to.

    Inference mode, and sorts that keep the order of equal values, as ONNX defines them.
    """
    import torch

    from edgetx.exporters._stable import StableSorts

    context = contextlib.ExitStack()
    context.enter_context(torch.inference_mode())
    context.enter_context(StableSorts())
    return context


def _make(place: str) -> Architecture:
    module, name = place.split(":")
    architecture: Architecture = getattr(import_module(module), name)()
    return architecture
