"""Checkpoint files: read as plain tensors (pickled code never runs), unwrapped, and held against a model."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgetx.errors import SourceError
from edgetx.sources._loaded import first_line

NESTING = ("state_dict_ema", "model_ema", "params_ema", "state_dict", "model", "params", "net")
"""Keys under which trainers keep the weights, averaged (EMA) ones first, as timm and BasicSR do."""

PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""

SHOWN = 5

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_PICKLE, _ZIP = b"\x80", b"PK\x03\x04"


def read(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors of a `.safetensors` or PyTorch checkpoint by name, and notes on what was unwrapped.

    Raises:
        SourceError: no such file, unreadable, a Git LFS pointer, truncated, pickled code, or no weights.
    """
    if not path.exists():
        raise SourceError(f"checkpoint {path} does not exist; check the path")
    if path.is_dir():
        raise SourceError(f"{path} is a folder; give a .pth, .pt or .safetensors file")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise SourceError(
            f"checkpoint {path} cannot be read: {error.strerror}; check its permissions"
        ) from error
    if not start:
        raise SourceError(f"checkpoint {path} is empty; get a fresh copy")
    if start.startswith(b"version https://git-lfs"):
        raise SourceError(
            f"checkpoint {path} is a Git LFS pointer, not the weights; run git lfs pull in its repository"
        )
    stored = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return _unwrap(stored, path)


def _read_safetensors(path: Path) -> Any:
    import safetensors
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise SourceError(
            f"checkpoint {path} is truncated or no safetensors file ({first_line(error)}); get a fresh copy"
        ) from error


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_inert()):
            warnings.simplefilter("ignore")  # what torch warns of becomes an error below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip, EOF, key and runtime errors for damaged files
        text = str(error)
        if "TorchScript" in text:
            raise SourceError(
                f"checkpoint {path} is a TorchScript archive, which holds code; "
                "save the weights alone: torch.save(model.state_dict(), ...) or safetensors"
            ) from error
        with path.open("rb") as file:
            start = file.read(4)
        match = _GLOBAL.search(text)
        whole = start[:1] == _PICKLE or zipfile.is_zipfile(path)
        if isinstance(error, pickle.UnpicklingError) and (match or whole):
            raise SourceError(
                f"checkpoint {path} contains pickled code or objects{f' ({match[1]})' if match else ''}, "
                "which edgetx never runs; save the weights alone as safetensors, "
                "or torch.save(model.state_dict(), ...)"
            ) from error
        state = "truncated or damaged" if start == _ZIP or start[:1] == _PICKLE else "no PyTorch checkpoint"
        # Pickle's own errors say little, and a key that it misses is a bare number.
        silent = isinstance(error, (pickle.UnpicklingError, KeyError))
        reason = "" if silent else f" ({first_line(error)})"
        raise SourceError(f"checkpoint {path} is {state}{reason}; get a fresh copy") from error


def _inert() -> list[Any]:
    """What trainers keep beside the weights and is plain data: numpy's scalars, argparse's options."""
    import argparse

    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64", "bool")}
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [argparse.Namespace, np.dtype, *dtypes, *names]


def _unwrap(stored: Any, path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    notes: list[str] = []
    while isinstance(stored, Mapping):
        nested = next((key for key in NESTING if isinstance(stored.get(key), Mapping) and stored[key]), None)
        if nested is None and len(stored) == 1:
            nested = next((key for key, value in stored.items() if isinstance(value, Mapping)), None)
        if nested is None:
            break
        others = [key for key in NESTING if key != nested and isinstance(stored.get(key), Mapping)]
        if others:
            notes.append(
                f"{path.name} holds several sets of weights; took {nested!r}, not {', '.join(others)}"
            )
        stored = stored[nested]
    tensors = (
        {
            name: value
            for name, value in stored.items()
            if isinstance(name, str) and isinstance(value, torch.Tensor)
        }
        if isinstance(stored, Mapping)
        else {}
    )
    if not tensors:
        what = (
            f"the keys {', '.join(map(str, list(stored)[:SHOWN]))}"
            if isinstance(stored, Mapping) and stored
            else (f"a {type(stored).__name__}")
        )
        raise SourceError(
            f"checkpoint {path} holds no weights but {what}; expected a state dict, "
            f"plain or under one of {', '.join(NESTING)}"
        )
    for prefix in PREFIXES * 2:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors, notes


def load_into(
    module: torch.nn.Module, state_dict: Mapping[str, torch.Tensor], *, model: str, checkpoint: str
) -> None:
    """Copy the weights into `module`; every parameter must be there, and nothing else.

    Buffers that the module computes itself (not part of its own state dict) may be present and are not used.

    Raises:
        SourceError: names the first missing, unexpected and differently shaped weights.
    """
    own = module.state_dict()
    computed = {name for name, _ in module.named_buffers()} - own.keys()
    missing = [name for name in own if name not in state_dict and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state_dict if name not in own and name not in computed]
    shapes = [
        f"{name} is {_shape(state_dict[name])} in the checkpoint and {_shape(own[name])} in the model"
        for name in own
        if name in state_dict and state_dict[name].shape != own[name].shape
    ]
    raise_misfit(model, checkpoint, missing=missing, unexpected=unexpected, shapes=shapes)
    module.load_state_dict({name: value for name, value in state_dict.items() if name in own}, strict=False)


def raise_misfit(
    model: str, checkpoint: str, *, missing: list[str], unexpected: list[str], shapes: list[str]
) -> None:
    """Raise a `SourceError` that names the first mismatches; return when there are none."""
    if not (missing or unexpected or shapes):
        return
    parts = [
        f"{len(names)} {label}: {_first(names)}"
        for label, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    raise SourceError(
        f"the weights in {checkpoint} do not fit {model}: {'; '.join(parts)}; "
        "choose the model they were trained with (--model SOURCE, options such as ?num_classes=10)"
    )


def _first(names: list[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
