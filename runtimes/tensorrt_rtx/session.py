"""A TensorRT-RTX engine behind the edgetx `Session` interface: numpy in, numpy out.

Written against TensorRT-RTX 1.7's documentation and checked for types only: no RTX GPU was at hand.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import tensorrt_rtx as trt

from edgetx.core import Feeds, IOSpec, Session
from edgetx.errors import EdgetxError, InputError, PackageError
from edgetx.processors import numpy_dtype
from edgetx.runtimes.tensorrt_rtx.cuda import Device, Gpu
from edgetx.runtimes.tensorrt_rtx.log import Log

if TYPE_CHECKING:
    from edgetx.engines import Engine
    from edgetx.package import Package


class TensorRTRTXSession(Session):
    """A package opened on TensorRT-RTX; see `edgetx.core.Session`. One run at a time; others wait."""

    def __init__(self, package: Package, engine: Engine, index: int, gpu: Gpu) -> None:
        self.io: IOSpec = package.io
        self.processor = package.processor
        self._gpu = gpu
        self._index = index
        self._name = engine.path.name
        self._profiles = engine.profiles
        self._looks_for_nan = not package.is_stage
        self._lock = threading.Lock()
        self._log = Log()
        self._device: Device | None = Device(index)
        self._context: Any = None
        try:
            with self._device.current():
                self._runtime = trt.Runtime(self._log)
                self._engine: Any = self._runtime.deserialize_cuda_engine(engine.plan.read_bytes())
                self._context = None if self._engine is None else self._engine.create_execution_context()
            if self._context is None:
                raise PackageError(
                    f"TensorRT-RTX {trt.__version__} does not load {engine.plan} on {gpu.name}: "
                    f"{self._log.cause()}; build it again: edgetx build {package.path} "
                    "--runtime tensorrt_rtx --force"
                )
        except BaseException:
            self.close()
            raise

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """Run the model once; see `edgetx.core.Session.run`.

        Args:
            feeds: numpy arrays, copied to the GPU and back.

        Raises:
            InputError: see `IOSpec.check`; another kind of array; or a shape outside every profile.
            EdgetxError: the session is closed, or TensorRT-RTX failed.
        """
        import numpy as np

        sizes = self.io.check(feeds, nan=self._looks_for_nan)
        arrays = {}
        for spec in self.io.inputs:
            if not isinstance(feeds[spec.name], np.ndarray):
                kind = type(feeds[spec.name]).__name__
                raise InputError(f"input {spec.name!r} is a {kind}; TensorRT-RTX sessions take numpy arrays")
            arrays[spec.name] = np.ascontiguousarray(feeds[spec.name])
        profile = self._profile(sizes)
        with self._lock:
            device = self._device
            if device is None:
                raise EdgetxError("the session is closed; open the package again with edgetx.load")
            with device.current():
                return self._run(device, arrays, profile)

    def _profile(self, sizes: dict[str, int]) -> int:
        """The index of the profile with the smallest volume that holds these sizes."""
        reasons: dict[str, str] = {}
        fitting = []
        for index, ranges in enumerate(self._profiles):
            outside = {
                name: f"{name} {reason}"
                for name, each in ranges.items()
                if (reason := each.why_not(sizes[name])) is not None
            }
            if not outside:
                volume = 1.0
                for each in ranges.values():
                    volume *= each.max
                fitting.append((volume, index))
            reasons |= outside
        if self._profiles and not fitting:
            from edgetx.engines import show_ranges

            raise InputError(
                f"{', '.join(reasons.values())}: outside the engine's profiles "
                f"({show_ranges(self._profiles)}); "
                "build one that holds it: edgetx build PKG --runtime tensorrt_rtx --range SYMBOL=MIN:BEST:MAX"
            )
        return min(fitting)[1] if fitting else 0

    def _run(self, device: Device, arrays: dict[str, Any], profile: int) -> dict[str, Any]:
        import numpy as np

        context = self._context
        if self._profiles and context.active_optimization_profile != profile:
            self._need(context.set_optimization_profile_async(profile, device.stream), "choose a profile")
            device.wait()
        for name, array in arrays.items():
            address = device.buffer(name, array.nbytes)
            device.upload(address, array.ctypes.data, array.nbytes)
            self._need(context.set_input_shape(name, array.shape), f"take {name} {array.shape}")
            self._need(context.set_tensor_address(name, address), f"take {name}")
        outputs = {}
        for spec in self.io.outputs:
            shape = tuple(context.get_tensor_shape(spec.name))
            if any(size < 0 for size in shape):
                raise EdgetxError(
                    f"the size of output {spec.name!r} depends on the data ({shape}), which sessions of "
                    "TensorRT-RTX do not take; run the model on ONNX Runtime"
                )
            outputs[spec.name] = np.empty(shape, numpy_dtype(spec.dtype))
            address = device.buffer(spec.name, outputs[spec.name].nbytes)
            self._need(context.set_tensor_address(spec.name, address), f"give {spec.name}")
        self._need(context.execute_async_v3(device.stream), "run")
        for name, array in outputs.items():
            device.download(array.ctypes.data, device.buffer(name, array.nbytes), array.nbytes)
        device.wait()
        return outputs

    def _need(self, done: bool, what: str) -> None:
        if not done:
            raise EdgetxError(
                f"TensorRT-RTX failed to {what}: {self._log.cause()}; "
                "a smaller batch or image needs less memory"
            )

    def describe(self) -> dict[str, str]:
        """See `edgetx.core.Session.describe`."""
        return {
            "runtime": "tensorrt_rtx",
            "engine": f"TensorRT-RTX {trt.__version__}",
            "device": f"cuda:{self._index} ({self._gpu.name})",
            "plan": self._name,
        }

    def close(self) -> None:
        """Free the engine and the GPU's memory."""
        with self._lock:
            if self._device is not None:
                device, self._device = self._device, None
                with device.current():
                    self._context = self._engine = self._runtime = None
                device.close()
