"""TensorRT-RTX: engines for NVIDIA RTX GPUs, built on any machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from edgetx.engines import Key
from edgetx.errors import InputError
from edgetx.runtimes.nvidia import cuda
from edgetx.runtimes.nvidia.library import Library
from edgetx.runtimes.nvidia.runtime import EngineRuntime
from edgetx.runtimes.tensorrt_rtx.library import COMPUTE, LIBRARY, PORTABLE

_OTHERS = {"8.7": "Jetson Orin", "9.0": "Hopper", "10.0": "Blackwell data centre", "11.0": "Jetson Thor"}


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
            "the runtime tensorrt on the device (--runtime tensorrt, pip install 'edgetx[tensorrt]')"
        )
    return compute


class TensorRTRTXRuntime(EngineRuntime):
    """TensorRT-RTX.

    Engines are built from the operators' ONNX bodies or plugins, in the precision that the package has;
    float32 products are computed in float32, not in TF32. Building needs no GPU, running does.
    """

    id: ClassVar[str] = "tensorrt_rtx"
    title: ClassVar[str] = "TensorRT-RTX"
    library: ClassVar[Library] = LIBRARY

    def targets(self, wanted: Sequence[str], device: int = 0) -> tuple[str, ...]:
        """See `EngineRuntime.targets`; () is the GPUs here, else portable."""
        chosen = {parse_compute(each) for each in wanted}
        if not chosen:
            here = {gpu.compute for gpu in cuda.devices()} & set(COMPUTE)
            chosen = here or {PORTABLE}
        if PORTABLE in chosen and len(chosen) > 1:
            raise InputError(f"{PORTABLE} stands alone; given {', '.join(sorted(chosen))}")
        return tuple(sorted(chosen, key=lambda each: COMPUTE.index(each) if each in COMPUTE else -1))

    def _why_no_device(self, gpu: cuda.Gpu) -> str | None:
        try:
            parse_compute(gpu.compute)
        except InputError as error:
            return str(error)
        return None

    def _loads(self, built: Key, wanted: Key, compute: str) -> bool:
        runs_on = built["compute"].split(", ")
        return compute in runs_on or (runs_on == [PORTABLE] and compute != "7.5")

    def _without_gpu(self) -> str:
        return f"; engines can be built: edgetx build PKG --runtime {self.id}"
