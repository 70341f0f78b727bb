"""TensorRT 10.3 to 11: engines that are built on the GPU that runs them.

Written against TensorRT's documentation. It shares the child process, graphs, sessions and cache with
TensorRT-RTX, which builds in every test run; TensorRT itself has not run here yet.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from edgetx.engines import Key
from edgetx.errors import InputError
from edgetx.runtimes.nvidia import cuda
from edgetx.runtimes.nvidia.library import Library
from edgetx.runtimes.nvidia.runtime import EngineRuntime
from edgetx.runtimes.tensorrt.versions import GPUS, LIBRARY, PORTABLE, why_not_gpu

AMPERE = (8, 0)


class TensorRTRuntime(EngineRuntime):
    """TensorRT.

    Networks are strongly typed: precision is the package's. Kernels are timed while an engine is built, on
    the GPU that it is for, and the times are kept beside the engines for the next build.
    """

    id: ClassVar[str] = "tensorrt"
    title: ClassVar[str] = "TensorRT"
    library: ClassVar[Library] = LIBRARY

    def targets(self, wanted: Sequence[str], device: int = 0) -> tuple[str, ...]:
        """See `EngineRuntime.targets`: the GPU here, or `portable`, which is built on it as well."""
        chosen = {_parse(each) for each in wanted}
        if chosen == {PORTABLE}:
            return (PORTABLE,)
        found = cuda.devices()
        if not found:
            return tuple(sorted(chosen))
        here = found[min(device, len(found) - 1)]
        if others := sorted(chosen - {here.compute}):
            raise InputError(
                f"TensorRT builds on the GPU that the engine is for: here is {here.name} ({here.compute}), "
                f"wanted {', '.join(others)}; build on that device, or for an RTX GPU with "
                "--runtime tensorrt_rtx, which needs no GPU"
            )
        return (here.compute,)

    def _why_no_device(self, gpu: cuda.Gpu) -> str | None:
        return why_not_gpu(gpu.compute, self.version() or "")

    def _why_no_builder(self, device: int = 0) -> str | None:
        found = cuda.devices()
        if not found:
            return (
                f"TensorRT builds on the GPU that the engine is for, and there is none here "
                f"({cuda.why_none()}); build on the device, or for an RTX GPU with --runtime tensorrt_rtx, "
                "which needs no GPU"
            )
        if device >= len(found):
            return f"there is no device cuda:{device}; the last one is cuda:{len(found) - 1}"
        return self._why_no_device(found[device]) or super()._why_no_builder(device)

    def _machine(self, device: int) -> dict[str, str]:
        found = cuda.devices()
        if device >= len(found):
            return {}
        return {"gpu": found[device].name, "driver": cuda.driver()}

    def _loads(self, built: Key, wanted: Key, compute: str) -> bool:
        if built["compute"] == PORTABLE:
            major, _, minor = compute.partition(".")
            return (int(major), int(minor)) >= AMPERE
        return all(built.get(name) == wanted.get(name) for name in ("compute", "gpu", "driver"))


def _parse(text: str) -> str:
    """`8.7`, `87` or `sm_87` as `8.7`; `portable` as it is."""
    if text.strip().lower() == PORTABLE:
        return PORTABLE
    match = re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", text.strip().lower())
    compute = f"{match[1]}.{match[2]}" if match is not None else ""
    if compute not in GPUS:
        what = f"TensorRT does not support compute capability {compute}" if compute else ""
        raise InputError(
            f"{what or f'cannot read the compute capability {text!r}'}; accepted: {', '.join(GPUS)} and "
            f"{PORTABLE}; the runtime ort runs packages on other GPUs and on the CPU"
        )
    return compute
