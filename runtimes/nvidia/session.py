"""An engine behind the edgetx `Session` interface.

Numpy arrays are copied to the GPU and back. Torch, CuPy and DLPack arrays on the GPU are used in place, and
the outputs come back as arrays of the same library. Runs that repeat shapes and addresses go through a CUDA
graph.
Written against the documentation of TensorRT and TensorRT-RTX: no GPU was at hand that runs it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from edgetx.core import Feeds, IOSpec, Session
from edgetx.errors import EdgetxError, InputError, PackageError, UnavailableError
from edgetx.processors import numpy_dtype
from edgetx.runtimes.nvidia import arrays, dlpack
from edgetx.runtimes.nvidia import log as logs
from edgetx.runtimes.nvidia.arrays import Located
from edgetx.runtimes.nvidia.bodies import why_no_run
from edgetx.runtimes.nvidia.cuda import Device, Gpu
from edgetx.runtimes.nvidia.layer_times import FILE, Recorder
from edgetx.runtimes.nvidia.library import Library

if TYPE_CHECKING:
    from edgetx.engines import Engine, Ranges
    from edgetx.package import Package


class EngineSession(Session):
    """A package opened on an engine; see `edgetx.core.Session`. One run at a time; others wait."""

    def __init__(
        self,
        package: Package,
        engine: Engine,
        index: int,
        gpu: Gpu,
        library: Library,
        profile: str | None = None,
    ) -> None:
        """`profile` is a folder that the times of layers are written to; such runs use no CUDA graph."""
        key = {} if engine.record is None else engine.record.key
        if (reason := why_no_run(key, library)) is not None:
            raise UnavailableError(f"{engine.path.name} needs edgetx's plugins to run: {reason}")
        trt = library.load()
        self.io: IOSpec = package.io
        self.processor = package.processor
        self._gpu, self._index, self._library = gpu, index, library
        self._version = trt.__version__
        self._name, self._key = engine.path.name, key
        self._profiles = engine.profiles
        self._looks_for_nan = not package.is_stage
        self._lock = threading.Lock()
        self._log = logs.make(trt)
        self._device: Device | None = Device(index)
        self._context: Any = None
        self._last: Any = None
        self._folder = profile
        self._recorder = None if profile is None else Recorder(trt)
        self._why_no_graph = "" if profile is None else "layers are timed one by one"
        try:
            with self._device.current():
                self._runtime = trt.Runtime(self._log)
                if key.get("plugin", "none") != "none":
                    from edgetx.ops import plugin

                    plugin.load(trt, self._runtime.get_plugin_registry())
                self._engine: Any = self._runtime.deserialize_cuda_engine(engine.plan.read_bytes())
                if self._engine is not None:
                    self._context = library.context(trt, self._engine, graphs=self._recorder is None)
                if self._context is not None and self._recorder is not None:
                    self._context.profiler = self._recorder.profiler
            if self._context is None:
                raise PackageError(
                    f"{library.title} {trt.__version__} does not load {engine.plan} on {gpu.name}: "
                    f"{self._log.cause()}; build it again: edgetx build {package.path} "
                    f"--runtime {library.id} --force"
                )
        except BaseException:
            self.close()
            raise

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """Run the model once; see `edgetx.core.Session.run`.

        Args:
            feeds: numpy arrays; or torch, CuPy or DLPack arrays, which are used in place on the GPU.

        Returns:
            Arrays of the inputs' library, on the GPU if an input was; DLPack arrays for libraries that we do
            not know.

        Raises:
            InputError: see `IOSpec.check`; an array that is not contiguous or on another device; or a shape
                outside every profile.
            EdgetxError: the session is closed, or the engine failed.
        """
        start = perf_counter_ns()
        sizes = self.io.check(feeds, nan=self._looks_for_nan)
        located = {spec.name: arrays.locate(feeds[spec.name], spec.name) for spec in self.io.inputs}
        for name, each in located.items():
            if each.device not in (None, self._index):
                raise InputError(
                    f"input {name!r} is on cuda:{each.device} and the session runs on cuda:{self._index}; "
                    "move the array, or open the package with that device"
                )
        profile = choose_profile(self._profiles, sizes, self._library.id)
        with self._lock:
            device = self._device
            if device is None:
                raise EdgetxError("the session is closed; open the package again with edgetx.load")
            with device.current():
                for library in {each.library for each in located.values() if each.device is not None}:
                    arrays.finish(library)
                outputs = self._run(device, located, feeds, profile)
                if self._recorder is not None:
                    self._recorder.run_ended(perf_counter_ns() - start)
                return outputs

    def _run(
        self, device: Device, located: Mapping[str, Located], feeds: Feeds, profile: int
    ) -> dict[str, Any]:
        import numpy as np

        on_gpu = {each.library for each in located.values() if each.device is not None}
        addresses: dict[str, tuple[int, tuple[int, ...]]] = {}
        for spec in self.io.inputs:
            name, each, shape = spec.name, located[spec.name], tuple(feeds[spec.name].shape)
            address = each.address
            if each.device is None:
                size = int(np.prod(shape, dtype=np.int64)) * numpy_dtype(spec.dtype).itemsize
                address = device.buffer(name, size)
                device.upload(address, each.address, size)
            addresses[name] = (address, shape)
        self._set_inputs(device, addresses, profile)
        library = sorted(on_gpu)[-1] if on_gpu else None
        outputs: dict[str, Any] = {}
        targets: dict[str, int] = {}
        for spec in self.io.outputs:
            shape = tuple(self._context.get_tensor_shape(spec.name))
            if any(size < 0 for size in shape):
                raise EdgetxError(
                    f"the size of output {spec.name!r} depends on the data ({shape}), which sessions of "
                    f"{self._library.title} do not take; run the model on ONNX Runtime"
                )
            if library is None:
                outputs[spec.name] = np.empty(shape, numpy_dtype(spec.dtype))
                targets[spec.name] = device.buffer(spec.name, outputs[spec.name].nbytes)
            elif library == "dlpack":
                size = int(np.prod(shape, dtype=np.int64)) * numpy_dtype(spec.dtype).itemsize
                address = device.allocate(size)
                outputs[spec.name] = dlpack.Memory(
                    address, shape, spec.dtype, dlpack.CUDA, self._index, device.releaser(address)
                )
                targets[spec.name] = address
            else:
                outputs[spec.name] = arrays.empty(library, spec, shape, self._index)
                targets[spec.name] = arrays.locate(outputs[spec.name], spec.name).address
        self._enqueue(device, addresses, targets, profile)
        if library is None:
            for name, array in outputs.items():
                device.download(array.ctypes.data, targets[name], array.nbytes)
        device.wait()
        if library is None and any(each.library == "torch" for each in located.values()):
            return {name: sys.modules["torch"].from_numpy(array) for name, array in outputs.items()}
        return outputs

    def _set_inputs(
        self, device: Device, addresses: Mapping[str, tuple[int, tuple[int, ...]]], profile: int
    ) -> None:
        """Tell the context shapes and addresses; nothing where they are those of the last run."""
        if self._last is not None and self._last[0] == (addresses, profile):
            return
        self._forget(device)
        context = self._context
        if self._profiles and context.active_optimization_profile != profile:
            self._need(context.set_optimization_profile_async(profile, device.stream), "choose a profile")
            device.wait()
        for name, (address, shape) in addresses.items():
            self._need(context.set_input_shape(name, shape), f"take {name} {shape}")
            self._need(context.set_tensor_address(name, address), f"take {name}")

    def _enqueue(self, device: Device, addresses: Any, targets: Mapping[str, int], profile: int) -> None:
        """Queue one run; the third in a row that is alike is a CUDA graph's.

        A graph holds as long as its context is not touched, so that only the last one is kept.
        """
        state = ((addresses, profile), dict(targets))
        if self._last is not None and self._last[:2] == state:
            if self._last[2] is not None:
                device.launch(self._last[2])
                return
        else:
            self._forget(device)
            for name, address in targets.items():
                self._need(self._context.set_tensor_address(name, address), f"give {name}")
        start = perf_counter_ns()
        self._need(self._context.execute_async_v3(device.stream), "run")
        if self._recorder is not None:
            device.wait()
            self._recorder.engine_ran(perf_counter_ns() - start)
        graph = None
        if self._last is not None and self._library.captures and not self._why_no_graph:
            device.wait()
            graph, self._why_no_graph = device.capture(
                lambda: bool(self._context.execute_async_v3(device.stream))
            )
        self._last = (*state, graph)

    def _forget(self, device: Device) -> None:
        if self._last is not None and self._last[2] is not None:
            device.destroy(self._last[2])
        self._last = None

    def _need(self, done: bool, what: str) -> None:
        if not done:
            self._last = None
            raise EdgetxError(
                f"{self._library.title} failed to {what}: {self._log.cause()}; "
                "a smaller batch or image needs less memory"
            )

    def describe(self) -> dict[str, str]:
        """See `edgetx.core.Session.describe`."""
        key = self._key
        facts = {
            "runtime": self._library.id,
            "engine": f"{self._library.title} {self._version}",
            "device": f"cuda:{self._index} ({self._gpu.name})",
            "plan": self._name,
            "bodies": key.get("bodies", "none"),
            "plugin": key.get("plugin", "none"),
        }
        if self._why_no_graph:
            facts["cuda graph"] = f"none: {self._why_no_graph}"
        return facts

    def end_profiling(self) -> str:
        """See `edgetx.core.Session.end_profiling`; `edgetx.runtimes.nvidia.layer_times` reads the file."""
        if self._folder is None or self._recorder is None:
            raise InputError("the session was opened without a profiler; open it with Target(profile=FOLDER)")
        with self._lock:
            device = self._device
            if device is None:
                raise EdgetxError("the session is closed; open the package again with edgetx.load")
            with device.current():
                trt = self._library.load()
                inspector = self._engine.create_engine_inspector()
                # With a context, sizes that the engine leaves open are those of the last run.
                inspector.execution_context = self._context
                said = str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
        path = Path(self._folder) / FILE
        self._recorder.write(path, f"{self._library.title} {self._version}", self._key, said)
        return str(path)

    def close(self) -> None:
        """Free the engine and the GPU's memory."""
        with self._lock:
            if self._device is not None:
                device, self._device = self._device, None
                with device.current():
                    self._forget(device)
                    self._context = self._engine = self._runtime = None
                device.close()


def choose_profile(profiles: tuple[Ranges, ...], sizes: Mapping[str, int], runtime: str) -> int:
    """The index of the profile with the smallest volume that holds these sizes; 0 where no shape varies.

    Raises:
        InputError: none does; says what is outside, and the profiles.
    """
    reasons: dict[str, str] = {}
    fitting = []
    for index, ranges in enumerate(profiles):
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
    if profiles and not fitting:
        from edgetx.engines import show_ranges

        raise InputError(
            f"{', '.join(reasons.values())}: outside the engine's profiles ({show_ranges(profiles)}); "
            f"build one that holds it: edgetx build PKG --runtime {runtime} --range SYMBOL=MIN:BEST:MAX"
        )
    return min(fitting)[1] if fitting else 0
