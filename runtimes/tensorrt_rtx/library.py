"""TensorRT-RTX as a `Library`: builds without a GPU, for compute capabilities that it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from edgetx.runtimes.nvidia.library import Library

COMPUTE = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""The compute capabilities that TensorRT-RTX 1.7 builds for."""
PORTABLE = "portable"
"""One engine for 8.0, 8.6, 8.9, 12.0 and later of `COMPUTE`."""


class TensorRTRTX(Library):
    """TensorRT-RTX 1.7."""

    id: ClassVar[Literal["tensorrt_rtx"]] = "tensorrt_rtx"
    title: ClassVar[str] = "TensorRT-RTX"
    install: ClassVar[str] = "pip install 'edgetx[tensorrt-rtx]'"
    distributions: ClassVar[tuple[str, ...]] = ("tensorrt_rtx", "tensorrt_rtx_cu13", "tensorrt_rtx_cu12")
    place: ClassVar[str] = "edgetx.runtimes.tensorrt_rtx.library:LIBRARY"
    refused: ClassVar[Mapping[str, str]] = {
        "NonZero": "its parser has no NonZero: the number of outputs depends on the data",
        "NonMaxSuppression": "it parses and has no implementation",
    }
    times: ClassVar[bool] = False
    captures: ClassVar[bool] = False

    def network_flags(self, trt: Any) -> int:
        """See `Library.network_flags`."""
        return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)

    def context(self, trt: Any, engine: Any, graphs: bool = True) -> Any:
        """See `Library.context`; repeated shapes become CUDA graphs."""
        config = engine.create_runtime_config()
        strategies = trt.CudaGraphStrategy
        config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if graphs else strategies.DISABLED
        return engine.create_execution_context(config)

    def aim(self, trt: Any, config: Any, compute: Sequence[str]) -> None:
        """See `Library.aim`; without capabilities the engine is portable."""
        chosen = [each for each in compute if each != PORTABLE]
        config.num_compute_capabilities = len(chosen)
        for index, each in enumerate(chosen):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{each.replace('.', '')}"), index)


LIBRARY = TensorRTRTX()
