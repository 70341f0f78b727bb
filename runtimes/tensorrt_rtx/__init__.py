"""TensorRT-RTX: engines for NVIDIA RTX GPUs, built on any machine."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgetx import __version__, engines
from edgetx.core import Runtime, Session, Target
from edgetx.engines import child
from edgetx.errors import InputError, UnavailableError
from edgetx.ops import Variant
from edgetx.runtimes.tensorrt_rtx import cuda

if TYPE_CHECKING:
    from edgetx.package import Package

logger = logging.getLogger(__name__)

COMPUTE = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""The compute capabilities that TensorRT-RTX 1.7 builds for."""
PORTABLE = "portable"
"""One engine for 8.0, 8.6, 8.9, 12.0 and later of `COMPUTE`."""
LARGEST_TOPK = 3840
CHECK_SECONDS = 120.0
"""The longest that the parser may take to look at a model."""

_OTHERS = {"8.7": "Jetson Orin", "9.0": "Hopper", "10.0": "Blackwell data centre", "11.0": "Jetson Thor"}
_INSTALL = "pip install 'edgetx[tensorrt-rtx]'"


def parse_compute(text: str) -> str:
    """`8.6`, `86` or `sm_86` as `8.6`; `portable` as it is.

    Raises:
        InputError: another form, or a GPU that TensorRT-RTX does not build for; says what does.
    """
    if text.strip().lower() == PORTABLE:
        return PORTABLE
    match = re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", text.strip().lower())
    accepted = f"accepted: {', '.join(COMPUTE)} and {PORTABLE}"
    if match is None:
        raise InputError(f"cannot read the compute capability {text!r}; {accepted}")
    compute = f"{match[1]}.{match[2]}"
    if compute not in COMPUTE:
        name = f" ({_OTHERS[compute]})" if compute in _OTHERS else ""
        raise InputError(
            f"TensorRT-RTX does not support compute capability {compute}{name}; {accepted}; for this GPU use "
            "the runtime ort on CUDA (--runtime ort --device cuda, pip install 'edgetx[ort-gpu]')"
        )
    return compute


class TensorRTRTXRuntime(Runtime):
    """TensorRT-RTX.

    Engines are built from the operators' standard ONNX bodies, in the precision that the package has; float32
    products are computed in float32, not in TF32. Building needs no GPU, running does.
    """

    id: ClassVar[str] = "tensorrt_rtx"
    title: ClassVar[str] = "TensorRT-RTX"

    def why_not(self, package: Package | None = None, target: Target | None = None) -> str | None:
        """See `Runtime.why_not`: whether it can *run* here; `why_no_build` says whether it can build.

        With a package that is asked to run on a GPU, TensorRT-RTX's own parser looks at the graph, in a
        process of its own.
        """
        if (reason := _why_no_wheel()) is not None:
            return reason
        if target is not None and not target.device.startswith("cuda"):
            return f"TensorRT-RTX runs on NVIDIA GPUs, not on {target.device}; give the device cuda"
        reasons = [self._why_no_gpu(target), None if package is None else self.why_no_build(package)]
        return "; ".join(filter(None, reasons)) or None

    def why_no_build(self, package: Package, compute: Sequence[str] = ()) -> str | None:
        """None if an engine of `package` can be built here, else the reasons; names operators and stages.

        Raises:
            InputError: a compute capability that TensorRT-RTX does not build for.
        """
        for each in compute:
            parse_compute(each)
        if (reason := _why_no_wheel()) is not None:
            return reason
        if importlib.util.find_spec("onnx_ir") is None:
            return f"building an engine needs onnx_ir; {_INSTALL}"
        parts = [package, *(package.stage(name) for name in package.stages)]
        request = {
            "check": [{"model": str(part.model_path), "bodies": _bodies(part)} for part in parts],
        }
        found = child.run("edgetx.runtimes.tensorrt_rtx.worker", request, seconds=CHECK_SECONDS)["problems"]
        if not found[0]:
            return None
        reason = f"TensorRT-RTX does not take {'; '.join(found[0])}"
        if package.is_stage:
            return f"{reason}; run the stage {package.name} on ONNX Runtime"
        if not package.stages:
            return f"{reason}; run the model on ONNX Runtime (--runtime ort)"
        able = [name for name, problems in zip(package.stages, found[1:], strict=True) if not problems]
        others = [
            f"stage {name}: {'; '.join(problems)}"
            for name, problems in zip(package.stages, found[1:], strict=True)
            if problems
        ]
        build = f"build its stages {', '.join(able)} with --stage" if able else "no stage can be built either"
        return f"{reason}; {build} ({'; '.join(others)})"

    def version(self) -> str | None:
        """See `Runtime.version`."""
        from importlib.metadata import PackageNotFoundError, version

        for distribution in ("tensorrt_rtx", "tensorrt_rtx_cu13", "tensorrt_rtx_cu12"):
            try:
                return version(distribution)
            except PackageNotFoundError:
                continue
        return None

    def key(
        self, package: Package, compute: Sequence[str], profiles: Sequence[engines.Ranges]
    ) -> dict[str, str]:
        """What an engine of `package` depends on; see `edgetx.engines`."""
        return {
            "model": engines.model_digest(package),
            "engine": f"TensorRT-RTX {self.version()}",
            "compute": ", ".join(compute),
            "precision": package.manifest.precision,
            "bodies": f"{_bodies(package)} of edgetx {__version__}" if package.manifest.operators else "none",
            "profiles": engines.show_ranges(profiles),
        }

    def build(
        self,
        package: Package,
        request: engines.Request,
        progress: Callable[[str], None] = lambda line: None,
    ) -> tuple[engines.Engine, bool]:
        """See `Runtime.build`."""
        if (reason := _why_no_wheel()) is not None:
            raise UnavailableError(reason)
        if importlib.util.find_spec("onnx_ir") is None:
            raise UnavailableError(f"building an engine needs onnx_ir; {_INSTALL}")
        compute = _compute(request.compute)
        profiles = engines.choose(package, request)
        shapes = [
            {
                spec.name: [[_size(dim, ranges, at) for dim in spec.shape] for at in ("min", "opt", "max")]
                for spec in package.io.inputs
            }
            for ranges in profiles
        ]

        def produce(plan: Path) -> None:
            child.run(
                "edgetx.runtimes.tensorrt_rtx.worker",
                {
                    "model": str(package.model_path),
                    "bodies": _bodies(package),
                    "compute": [] if compute == (PORTABLE,) else list(compute),
                    "profiles": shapes,
                    "name": package.name,
                    "plan": str(plan),
                    "draft": str(plan.parent),
                },
                seconds=request.seconds,
                progress=progress,
            )

        return engines.Cache(package).ensure(
            self.id,
            self.key(package, compute, profiles),
            profiles,
            produce,
            seconds=request.seconds,
            force=request.force,
            progress=progress,
        )

    def open(self, package: Package, target: Target) -> Session:
        """See `Runtime.open`; builds an engine for this GPU where the cache has none that fits.

        Raises:
            UnavailableError: see `why_not`, without the look at the graph that building takes anyway.
            EdgetxError: the engine cannot be built, or TensorRT-RTX refuses it.
        """
        if (reason := self._why_no_run(target)) is not None:
            raise UnavailableError(reason)
        gpu = cuda.devices()[_index(target)]
        engine = self.find(package, gpu.compute)
        if engine is None:
            request = engines.Request(compute=(gpu.compute,))
            wanted = self.key(package, (gpu.compute,), engines.choose(package, request))
            why = engines.Cache(package).why_none(self.id, wanted) or "the cache has no engine"
            logger.warning("building an engine of %s for %s: %s", package.name, gpu.name, why)
            engine, _ = self.build(package, request, logger.info)
        from edgetx.runtimes.tensorrt_rtx.session import TensorRTRTXSession

        return TensorRTRTXSession(package, engine, _index(target), gpu)

    def find(self, package: Package, compute: str) -> engines.Engine | None:
        """The newest whole engine of `package` that a GPU of this capability loads, whatever its profiles."""
        wanted = self.key(package, (compute,), ())
        for engine in reversed(engines.Cache(package).engines()):
            record = engine.record
            if record is None or (record.runtime, record.graph) != (self.id, package.graph):
                continue
            runs_on = record.key["compute"].split(", ")
            same = all(
                record.key[name] == wanted[name] for name in ("model", "engine", "precision", "bodies")
            )
            if not same or not (compute in runs_on or (runs_on == [PORTABLE] and compute != "7.5")):
                continue
            if engine.problem is None:
                return engine
            logger.warning("not loaded: %s", engine.problem)
        return None

    def _why_no_run(self, target: Target) -> str | None:
        """Everything that `why_not` says of this machine."""
        return self.why_not(None, target)

    def _why_no_gpu(self, target: Target | None) -> str | None:
        found = cuda.devices()
        if not found:
            return (
                f"TensorRT-RTX has no NVIDIA GPU to run on here ({cuda.why_none()}); engines can be built: "
                f"edgetx build PKG --runtime {self.id}"
            )
        index = 0 if target is None else _index(target)
        if index >= len(found):
            return f"there is no device cuda:{index}; the last one is cuda:{len(found) - 1}"
        try:
            parse_compute(found[index].compute)
        except InputError as error:
            return f"{found[index].name}: {error}"
        return None


def _index(target: Target) -> int:
    _, _, index = target.device.partition(":")
    if index and not index.isdigit():
        raise InputError(f"unknown device {target.device!r}; accepted: cuda, cuda:<index>")
    return int(index or 0)


def _why_no_wheel() -> str | None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        return f"TensorRT-RTX is not installed; {_INSTALL}"
    return None


def _bodies(package: Package) -> Variant:
    """The bodies to build from.

    In half precision `Attention` becomes a fused layer; in float32 there is none, so that it would only be
    taken apart again.
    """
    half = package.manifest.precision in ("float16", "bfloat16")
    return "attention" if half and package.manifest.opset >= 23 else "primitive"


def _compute(wanted: Sequence[str]) -> tuple[str, ...]:
    chosen = {parse_compute(each) for each in wanted}
    if not chosen:
        here = {gpu.compute for gpu in cuda.devices()} & set(COMPUTE)
        chosen = here or {PORTABLE}
    if PORTABLE in chosen and len(chosen) > 1:
        raise InputError(f"{PORTABLE} stands alone; given {', '.join(sorted(chosen))}")
    return tuple(sorted(chosen, key=lambda each: COMPUTE.index(each) if each in COMPUTE else -1))


def _size(dim: int | str, ranges: engines.Ranges, at: str) -> int:
    return dim if isinstance(dim, int) else int(getattr(ranges[dim], at))
