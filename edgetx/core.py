"""The nouns of edgetx, free of any framework: numpy is imported only where arrays are touched.

A `Reference` (a loaded PyTorch model) becomes a `Package` on disk (`edgetx.package`), a `Runtime` opens a
package as a `Session`, and `Verdict` and `BenchReport` say how well and how fast it runs. Those of the export
side (`edgetx.references`) and verdicts (`edgetx.verdicts`) are found here too.
"""

from __future__ import annotations

import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import msgspec

from edgetx.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from types import TracebackType

    from edgetx.engines import Engine, Request
    from edgetx.package import Package
    from edgetx.references import Architecture as Architecture
    from edgetx.references import Reference as Reference
    from edgetx.references import Rewrite as Rewrite
    from edgetx.references import Stage as Stage
    from edgetx.verdicts import OutputVerdict as OutputVerdict
    from edgetx.verdicts import Verdict as Verdict

Array = "np.ndarray[Any, np.dtype[Any]]"
Dim = int | str
Feeds = Mapping[str, Any]
Weights = Literal["pretrained", "checkpoint", "random", "in-memory"]

DTYPES = ("float32", "float16", "bfloat16", "float64", "int8", "uint8", "int32", "int64", "bool")
"""The tensor element types that a package may have, by numpy's (and ml_dtypes') names."""

REFUSAL = "refused: "
"""What the name of a node starts with that fails on bad data; the rest of the name is the reason."""

_FLOATS = frozenset(("float32", "float16", "bfloat16", "float64"))
_INFINITY_BITS = {"float16": 0x7C00, "bfloat16": 0x7F80}
_SPEC = r"^(?P<name>[A-Za-z_]\w*)=(?P<dtype>\w+)\[(?P<dims>[^\]]*)\]$"
"""Not compiled here, where it would be half a millisecond of every start; `re` remembers it."""


class SymbolRange(msgspec.Struct, frozen=True):
    """The sizes that a symbolic dimension may take: `min <= size <= max` and `size % step == 0`.

    `max=None` means that only memory limits it.
    """

    min: int = 1
    max: int | None = None
    step: int = 1

    def why_not(self, size: int) -> str | None:
        """None if `size` is allowed, else the reason."""
        if size < self.min or (self.max is not None and size > self.max) or size % self.step:
            return f"{size} is outside {self}"
        return None

    def __str__(self) -> str:
        upper = "any size" if self.max is None else str(self.max)
        step = f", a multiple of {self.step}" if self.step != 1 else ""
        return f"{self.min} to {upper}{step}"


class TensorSpec(msgspec.Struct, frozen=True):
    """Name, dtype and shape of one tensor; a dimension is a fixed int or a symbol such as `"batch"`."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    @classmethod
    def parse(cls, text: str) -> TensorSpec:
        """Read `name=dtype[dim,...]`, for example `x=float32[batch,3,224,224]`.

        Raises:
            InputError: the text has another form, or an unknown dtype.
        """
        match = re.match(_SPEC, text.strip().replace(" ", ""))
        if not match:
            raise InputError(
                f"cannot read the tensor {text!r}; expected name=dtype[dim,...], "
                "for example x=float32[batch,3,224,224]"
            )
        if match["dtype"] not in DTYPES:
            raise InputError(f"unknown dtype {match['dtype']!r} in {text!r}; accepted: {', '.join(DTYPES)}")
        dims: list[Dim] = []
        for dim in filter(None, match["dims"].split(",")):
            if dim.isdigit() and int(dim) > 0:
                dims.append(int(dim))
            elif dim.isidentifier():
                dims.append(dim)
            else:
                raise InputError(
                    f"dimension {dim!r} in {text!r} is neither a positive integer nor a name such as batch"
                )
        return cls(match["name"], match["dtype"], tuple(dims))

    def __str__(self) -> str:
        return f"{self.name}={self.dtype}[{','.join(map(str, self.shape))}]"


class IOSpec(msgspec.Struct, frozen=True):
    """What goes in and out of a model, and the range of every symbol that its inputs name.

    Outputs may have symbols of their own: sizes that depend on the data, such as `detections`.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    symbols: Mapping[str, SymbolRange] = msgspec.field(default_factory=dict)

    def check(self, feeds: Feeds, *, nan: bool = True) -> dict[str, int]:
        """Hold `feeds` (name -> array with `.dtype` and `.shape`) against the inputs.

        Args:
            feeds: one array per input; nothing is converted or copied.
            nan: also look for NaN in floating-point numpy inputs (one pass over the data).

        Returns:
            The size that each symbol takes.

        Raises:
            InputError: a name is missing or unknown, or a dtype, rank, size or value does not fit.
        """
        bound: dict[str, int] = {}
        for spec in self.inputs:
            array = feeds.get(spec.name)
            if array is None:
                raise InputError(f"input {spec.name!r} is missing; {self._given(feeds)}")
            shape = getattr(array, "shape", None)
            if shape is None:
                raise InputError(f"input {spec.name!r} is a {type(array).__name__}; pass an array: {spec}")
            if _dtype_name(array.dtype) != spec.dtype:
                raise InputError(f"input {spec.name!r} has dtype {array.dtype}; the model takes {spec}")
            if len(shape) != len(spec.shape):
                raise InputError(
                    f"input {spec.name!r} has {len(shape)} dimensions {tuple(shape)}; the model takes {spec}"
                )
            for axis, (dim, size) in enumerate(zip(spec.shape, shape, strict=True)):
                if isinstance(dim, str):
                    if bound.setdefault(dim, size) != size:
                        raise InputError(
                            f"input {spec.name!r} has size {size} on axis {axis}, but {dim!r} is "
                            f"{bound[dim]} elsewhere; equal names take equal sizes"
                        )
                    allowed = self.symbols.get(dim)
                    if allowed is not None and (reason := allowed.why_not(size)):
                        raise InputError(f"input {spec.name!r}, axis {axis} ({dim}): {reason}")
                elif dim != size:
                    raise InputError(
                        f"input {spec.name!r} has size {size} on axis {axis}; the model takes {spec}"
                    )
            if nan and spec.dtype in _FLOATS and _has_nan(array, spec.dtype):
                raise InputError(f"input {spec.name!r} holds NaN; clean the data before running the model")
        if len(feeds) != len(self.inputs):
            names = {spec.name for spec in self.inputs}
            unknown = ", ".join(repr(name) for name in feeds if name not in names)
            raise InputError(f"unknown input {unknown}; {self._given(feeds)}")
        return bound

    def _given(self, feeds: Feeds) -> str:
        return f"given {sorted(feeds)}, the model takes {'; '.join(map(str, self.inputs))}"


@functools.lru_cache(maxsize=64)
def _dtype_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _has_nan(array: Any, dtype: str) -> bool:
    if not hasattr(array, "__array_interface__") or not array.size:
        return False
    import numpy as np

    if dtype in _INFINITY_BITS:
        # numpy compares 16-bit floats one by one; their bits, as integers, go through SIMD.
        magnitude = array.view(np.uint16) & np.uint16(0x7FFF)
        return bool(np.maximum.reduce(magnitude, axis=None) > _INFINITY_BITS[dtype])
    # The minimum propagates NaN and is one vectorised pass without a temporary.
    lowest = np.minimum.reduce(array, axis=None)
    return bool(lowest != lowest)


@runtime_checkable
class Processor(Protocol):
    """Numpy-only pre- and post-processing, stored in the manifest as `{"kind": kind, **to_dict()}`.

    `edgetx.processors` holds the implementations and the table from `kind` to class.
    """

    kind: ClassVar[str]

    def preprocess(self, path: str, io: IOSpec) -> dict[str, Any]:
        """Read one input file and return the feeds (batch 1)."""

    def postprocess(self, outputs: Mapping[str, Any]) -> Any:
        """Turn the outputs of one run (batch 1) into a JSON-serialisable answer."""

    def to_dict(self) -> dict[str, Any]:
        """The settings, JSON-serialisable; `type(self)(**to_dict())` gives an equal processor."""


class Target(msgspec.Struct, frozen=True):
    """What a package is opened for: a runtime's device and its settings.

    Attributes:
        device: `cpu` or `cuda[:index]`.
        threads: worker threads; 0 leaves the choice to the engine.
        optimization: graph optimisation level: `none`, `basic`, `extended` or `all`.
        custom_ops: use edgetx's operator library; False runs the operators' standard ONNX bodies.
        profile: a folder into which the engine's own profiler writes; it slows every run. None is off.
        provider: which of ONNX Runtime's execution providers runs on a GPU: `cuda` (as ""), `tensorrt` or
            `tensorrt_rtx`; other runtimes have none.
    """

    device: str = "cpu"
    threads: int = 0
    optimization: Literal["none", "basic", "extended", "all"] = "all"
    custom_ops: bool = True
    profile: str | None = None
    provider: str = ""


class Session(ABC):
    """An opened package. A context manager; `run` may be called from several threads."""

    io: IOSpec
    processor: Processor | None

    @abstractmethod
    def run(self, feeds: Feeds) -> dict[str, Any]:
        """Run the model once.

        Args:
            feeds: input name -> array of exactly the dtype and a shape that `io` accepts.

        Returns:
            Output name -> array, in the order of `io.outputs`.

        Raises:
            InputError: see `IOSpec.check`.
        """

    async def run_async(self, feeds: Feeds) -> dict[str, Any]:
        """`run` in a thread of asyncio's executor, so that the event loop goes on; raises what it raises."""
        import asyncio

        return await asyncio.to_thread(self.run, feeds)

    def warm_up(self, feeds: Feeds | None = None, runs: int = 2) -> float:
        """Run before the first request, so that it pays for no allocations; gives the last run's seconds.

        Args:
            feeds: what requests will look like: engines prepare themselves for sizes. None takes zeros of the
                smallest sizes that the model accepts.
            runs: how often.

        Raises:
            InputError: see `run`; or less than one run.
        """
        from time import perf_counter

        if runs < 1:
            raise InputError(f"runs is {runs}; accepted: 1 or more")
        given = smallest_feeds(self.io) if feeds is None else feeds
        for _ in range(runs):
            start = perf_counter()
            self.run(given)
        return perf_counter() - start

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """What this session runs on: engine and version, device, threads, which kernels."""

    def end_profiling(self) -> str:
        """Stop the engine's own profiler, which `Target.profile` started; gives the file that it wrote.

        Raises:
            UnavailableError: the engine has no profiler that edgetx reads.
        """
        raise UnavailableError(
            f"{self.describe().get('runtime', type(self).__name__)} has no profiler that edgetx reads; "
            "profile the package on the runtime ort"
        )

    def close(self) -> None:  # noqa: B027 - most engines free themselves
        """Release the engine; a second call does nothing."""

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def smallest_feeds(io: IOSpec) -> dict[str, Any]:
    """Zeros of the smallest sizes that `io` accepts, above nothing at all."""
    import numpy as np

    def dtype(name: str) -> Any:
        if name != "bfloat16":
            return np.dtype(name)
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)

    def size(dim: Dim) -> int:
        if isinstance(dim, int):
            return dim
        allowed = io.symbols.get(dim, SymbolRange())
        return max(-(-allowed.min // allowed.step), 1) * allowed.step

    return {spec.name: np.zeros([size(dim) for dim in spec.shape], dtype(spec.dtype)) for spec in io.inputs}


class Runtime(ABC):
    """One engine. `why_not` is the single truth about what it can do here."""

    id: ClassVar[str]
    title: ClassVar[str]

    @abstractmethod
    def why_not(self, package: Package | None = None, target: Target | None = None) -> str | None:
        """None if `package` (or anything at all) can run here, else what is missing and how to get it."""

    @abstractmethod
    def open(self, package: Package, target: Target) -> Session:
        """Open a package; raises `UnavailableError` with `why_not` when it cannot."""

    def build(
        self, package: Package, request: Request, progress: Callable[[str], None] = lambda line: None
    ) -> tuple[Engine, bool]:
        """Build an engine into the package's cache, or find it there; and whether it was built by this call.

        Raises:
            UnavailableError: the engine's library is not installed, or does not take the model; says why.
            InputError: this runtime opens packages as they are; or the request does not fit the package.
            EdgetxError: the build failed, or ran out of time or memory; the cache is as it was.
        """
        raise InputError(
            f"{self.title} opens packages as they are: there is nothing to build for the runtime {self.id}"
        )

    def choices(self, package: Package) -> Mapping[str, str | None]:
        """What `build` can put in the place of edgetx's operators, and why not here; {} if nothing."""
        return {}

    def session(self, package: Package, engine: Engine, device: int = 0) -> Session:
        """A session of one engine that `build` made, on the GPU of this index.

        Raises:
            InputError: this runtime has no engines.
            UnavailableError: the engine needs what is not here; says what.
            PackageError: the engine is not loaded; says why.
        """
        raise InputError(f"{self.title} opens packages as they are: it has no engines")

    def version(self) -> str | None:
        """The engine's version, or None where it is not installed."""
        return None


_ELSEWHERE = {
    "Architecture": "edgetx.references",
    "Reference": "edgetx.references",
    "Rewrite": "edgetx.references",
    "Stage": "edgetx.references",
    "OutputVerdict": "edgetx.verdicts",
    "Verdict": "edgetx.verdicts",
}
"""Nouns that no session needs; loaded on first use, which keeps them out of its start-up."""


def __getattr__(name: str) -> Any:
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_ELSEWHERE[name]), name)
    globals()[name] = value
    return value
