"""ONNX Runtime, on the CPU and, through its CUDA execution provider, on NVIDIA GPUs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from edgetx.core import Runtime, Session, Target
from edgetx.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from edgetx.package import Package

KERNEL_PRECISIONS = ("float32", "float16", "bfloat16")
"""The dtypes for which edgetx's operator library has kernels."""

BODIES_SINCE = (1, 27)
"""The first ONNX Runtime that tells function bodies apart by their overload."""

OPTIMIZATIONS = ("none", "basic", "extended", "all")


def parse_device(device: str) -> tuple[str, int]:
    """`cuda:1` -> `("cuda", 1)`.

    Raises:
        InputError: not `cpu`, `cuda` or `cuda:<index>`.
    """
    if device == "cpu":
        return device, 0
    match = re.match(r"^cuda(?::(\d+))?$", device)
    if match is None:
        raise InputError(f"unknown device {device!r}; accepted: cpu, cuda, cuda:<index>")
    return "cuda", int(match[1] or 0)


PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt_rtx": "NvTensorRTRTXExecutionProvider",
}
"""What runs on NVIDIA GPUs, by the names of `Target.provider`, and what ONNX Runtime calls it."""
_HOW = {
    "cuda": "pip uninstall onnxruntime && pip install 'edgetx[ort-gpu]'",
    "tensorrt": "pip uninstall onnxruntime && pip install 'edgetx[ort-gpu,tensorrt]'",
    "tensorrt_rtx": "build ONNX Runtime with --use_nv_tensorrt_rtx, or use the runtime tensorrt_rtx "
    "(pip install 'edgetx[tensorrt-rtx]')",
}


def parse_provider(target: Target) -> str | None:
    """The key of `PROVIDERS` that a target asks for; None on the CPU.

    Raises:
        InputError: there is no such provider, or it is asked for on the CPU.
    """
    kind, _ = parse_device(target.device)
    if target.provider and target.provider not in PROVIDERS:
        raise InputError(f"unknown provider {target.provider!r}; accepted: {', '.join(PROVIDERS)}")
    if kind == "cpu":
        if target.provider:
            raise InputError(
                f"the provider {target.provider} runs on NVIDIA GPUs, not on {target.device}; "
                "give the device cuda"
            )
        return None
    return target.provider or "cuda"


class Kernels(NamedTuple):
    """The operators of a package that edgetx's kernels run, and why not all; None if they run all."""

    operators: tuple[str, ...]
    why_not_all: str | None


class OrtRuntime(Runtime):
    """ONNX Runtime.

    Where edgetx's operator library covers the provider and the package's precision, its kernels run; anywhere
    else the operators' standard ONNX bodies run, and `Session.describe` says why.
    """

    id: ClassVar[str] = "ort"
    title: ClassVar[str] = "ONNX Runtime"

    def why_not(self, package: Package | None = None, target: Target | None = None) -> str | None:
        """See `Runtime.why_not`; raises InputError for a device or an option that no machine has."""
        target = target if target is not None else Target()
        provider = parse_provider(target)
        try:
            import onnxruntime
        except ImportError as error:
            if error.name == "onnxruntime":
                return (
                    "ONNX Runtime is not installed; pip install 'edgetx[ort]' (or 'edgetx[ort-gpu]' for CUDA)"
                )
            return f"ONNX Runtime is installed but cannot be imported ({error}); reinstall onnxruntime"
        if provider is not None and PROVIDERS[provider] not in onnxruntime.get_available_providers():
            return (
                f"the installed ONNX Runtime {onnxruntime.__version__} has no {PROVIDERS[provider]}; "
                f"{_HOW[provider]}"
            )
        if package is not None and package.manifest.operators:
            return self._why_no_operators(package, target, onnxruntime.__version__)
        return None

    def _why_no_operators(self, package: Package, target: Target, version: str) -> str | None:
        """Why neither edgetx's kernels nor the bodies can run the operators of `package`."""
        kernels = self._kernels(package, target)
        as_bodies = [name for name in package.manifest.operators if name not in kernels.operators]
        if not as_bodies:
            return None
        reason = kernels.why_not_all
        if package.manifest.bodies == "none":
            return reason
        if tuple(map(int, version.split(".")[:2])) < BODIES_SINCE:
            return (
                f"ONNX Runtime {version} takes one function body per operator, the package has several, and "
                f"edgetx's kernels do not run ({reason}); upgrade to onnxruntime "
                f"{'.'.join(map(str, BODIES_SINCE))} or newer"
            )
        return None

    def version(self) -> str | None:
        """See `Runtime.version`."""
        from importlib.metadata import PackageNotFoundError, version
        from importlib.util import find_spec

        if find_spec("onnxruntime") is None:
            return None
        for distribution in ("onnxruntime", "onnxruntime-gpu"):
            try:
                return version(distribution)
            except PackageNotFoundError:
                continue
        import onnxruntime

        return str(onnxruntime.__version__)

    def open(self, package: Package, target: Target) -> Session:
        """See `Runtime.open`.

        Raises:
            UnavailableError: see `why_not`; or the CUDA provider is there and fails to start.
            PackageError: ONNX Runtime cannot load the model, or it differs from the manifest.
            InputError: an option of `target` that ONNX Runtime does not have.
        """
        if target.optimization not in OPTIMIZATIONS:
            raise InputError(
                f"unknown optimization {target.optimization!r}; accepted: {', '.join(OPTIMIZATIONS)}"
            )
        if target.threads < 0:
            raise InputError(f"threads is {target.threads}; accepted: 0 (the engine's choice) or more")
        if (reason := self.why_not(package, target)) is not None:
            raise UnavailableError(reason)
        from edgetx.runtimes.ort.session import OrtSession

        kernels = self._kernels(package, target)
        if kernels.why_not_all is not None and target.custom_ops and package.manifest.operators:
            import logging  # here, since it takes 4 ms of a start-up that has nothing to say

            what = "its operators" if not kernels.operators else "some operators"
            logging.getLogger(__name__).warning(
                "%s runs %s as standard ONNX: %s", package.name, what, kernels.why_not_all
            )
        return OrtSession(package, target, kernels)

    def _kernels(self, package: Package, target: Target) -> Kernels:
        """Which operators of `package` edgetx's kernels run, and why not all."""
        reason = self._why_no_kernels(package, target)
        if reason is not None:
            return Kernels((), reason)
        names = tuple(package.manifest.operators)
        if parse_provider(target) is None:
            return Kernels(names, None)
        from edgetx.ops import library

        covered = tuple(name for name in names if name in library.CUDA_OPERATORS)
        rest = [name for name in names if name not in covered]
        missing = f"edgetx has CUDA kernels for {', '.join(library.CUDA_OPERATORS)} only"
        return Kernels(covered, missing if rest else None)

    def _why_no_kernels(self, package: Package, target: Target) -> str | None:
        """Why none of edgetx's kernels runs on this target and in this precision; None if they do."""
        if not target.custom_ops:
            return "custom operators are switched off"
        precision = package.manifest.operator_precision
        if precision not in KERNEL_PRECISIONS:
            return (
                f"edgetx's kernels take {', '.join(KERNEL_PRECISIONS)}, the package computes in {precision}"
            )
        from edgetx.ops import library

        provider = parse_provider(target)
        if provider is None:
            return library.why_not()
        if provider != "cuda":
            return (
                f"{PROVIDERS[provider]} takes standard operators and fuses them itself; "
                f"the runtime {provider} runs edgetx's plugins"
            )
        return library.why_not() or library.why_no_kernels(library.path())
