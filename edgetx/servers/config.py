"""A package's `config.pbtxt`: what Triton is told of a model.

Semantics read in the documentation and the sources of Triton's server, core, onnxruntime_backend and
tensorrt_backend.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgetx.core import IOSpec, SymbolRange, TensorSpec
from edgetx.errors import InputError
from edgetx.servers.pbtxt import Word

Backend = Literal["onnxruntime", "tensorrt"]

BATCH = "batch"
"""The symbol along which requests are joined."""
MAX_BATCH = 8
"""Requests that are joined at most where nobody says how many."""

_TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}
_LACKS: Mapping[Backend, frozenset[str]] = {
    "onnxruntime": frozenset({"bfloat16"}),
    "tensorrt": frozenset({"float64"}),
}
"""Dtypes of inputs and outputs that a backend does not pass on."""
_INSTANCES = re.compile(r"^(cpu|gpu):(\d+)(?:@(\d+(?:,\d+)*))?$")


@dataclass(frozen=True)
class Instances:
    """So many copies of a model on the processor, or on each of some GPUs (none named: on every one)."""

    kind: Literal["cpu", "gpu"]
    count: int
    gpus: tuple[int, ...] = ()


def parse_instances(text: str) -> Instances:
    """`cpu:2`, `gpu:1` or `gpu:2@0,1`.

    Raises:
        InputError: another form, or no instances.
    """
    match = _INSTANCES.match(text)
    if match is None or not int(match[2]) or (match[1] == "cpu" and match[3]):
        raise InputError(f"cannot read the instances {text!r}; accepted: cpu:2, gpu:1, gpu:2@0,1 (two GPUs)")
    gpus = tuple(int(gpu) for gpu in match[3].split(",")) if match[3] else ()
    return Instances("cpu" if match[1] == "cpu" else "gpu", int(match[2]), gpus)


def parse_versions(text: str) -> dict[str, Any]:
    """Which versions are served, as Triton's version policy: `latest:2`, `all` or `1,3`.

    Raises:
        InputError: another form.
    """
    if text == "all":
        return {"all": {}}
    if match := re.fullmatch(r"latest:([1-9]\d*)", text):
        return {"latest": {"num_versions": int(match[1])}}
    if re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        return {"specific": {"versions": [int(each) for each in text.split(",")]}}
    raise InputError(f"cannot read the versions {text!r}; accepted: latest:1, all, or numbers such as 1,3")


def why_not_dtypes(io: IOSpec, backend: Backend) -> str | None:
    """None if the backend passes every input and output on, else the first that it does not."""
    for spec in (*io.inputs, *io.outputs):
        if spec.dtype in _LACKS[backend]:
            return (
                f"Triton's {backend} backend takes no {spec.dtype}, and the model has {spec}; export it with "
                "inputs and outputs in float32"
            )
    return None


def why_not_batched(io: IOSpec) -> str | None:
    """None if requests can be joined along the first axis of every input and output, else the reason."""
    for spec in (*io.inputs, *io.outputs):
        if not spec.shape or spec.shape[0] != BATCH:
            return f"the first dimension of {spec} is not the symbol {BATCH}"
        if BATCH in spec.shape[1:]:
            return f"{spec} has {BATCH} twice"
    allowed = io.symbols.get(BATCH, SymbolRange())
    if allowed.why_not(1) is not None or allowed.step != 1:
        return f"{BATCH} is {allowed}, and Triton joins any number of requests"
    return None


def max_batch(io: IOSpec, wanted: int | None, largest: int | None = None) -> int:
    """Triton's `max_batch_size`: 0 where requests are not joined.

    Args:
        io: of the package.
        wanted: None takes `MAX_BATCH`, or what the model takes if that is less.
        largest: that an engine takes.

    Raises:
        InputError: more than the model takes, or any for a model that takes no batch.
    """
    reason = why_not_batched(io)
    if reason is not None:
        if wanted:
            raise InputError(f"requests cannot be joined: {reason}; leave out --max-batch, or give 0")
        return 0
    tops = [top for top in (io.symbols.get(BATCH, SymbolRange()).max, largest) if top is not None]
    if wanted is None:
        return min([MAX_BATCH, *tops])
    if wanted < 0 or any(wanted > top for top in tops):
        raise InputError(
            f"--max-batch is {wanted}; accepted: 0 (none are joined) to {min(tops) if tops else 'any'}"
        )
    return wanted


def tensor(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    """An input or output; a batched one is told without its first dimension, and no shape may be empty."""
    shape = spec.shape[1:] if batched else spec.shape
    dims = [dim if isinstance(dim, int) else -1 for dim in shape]
    return {
        "name": spec.name,
        "data_type": Word(_TYPES[spec.dtype]),
        "dims": dims or [1],
        "reshape": None if dims else {},
    }


def warmup(spec: TensorSpec, shape: Sequence[int], file: str) -> dict[str, Any]:
    """The entry of an input in a warm-up request; `shape` is what the file holds, without the batch."""
    return {
        "key": spec.name,
        "value": {
            "data_type": Word(_TYPES[spec.dtype]),
            "dims": list(shape) or [1],
            "input_data_file": file,
        },
    }


def instance_group(instances: Instances, profiles: int) -> dict[str, Any]:
    """An entry of `instance_group`; an engine's profiles are told by their numbers."""
    return {
        "kind": Word(f"KIND_{instances.kind.upper()}"),
        "count": instances.count,
        "gpus": list(instances.gpus),
        "profile": [str(index) for index in range(profiles)] if profiles > 1 else None,
    }
