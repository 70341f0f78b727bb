"""An ONNX Runtime session behind the edgetx `Session` interface.

Numpy in, numpy out: ONNX Runtime reads the arrays in place (it copies one that is not contiguous). When an
input is a torch tensor or a CuPy array the run goes through IOBinding by address, without a copy, and the
outputs come back as arrays of the same library, on the session's device.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import onnxruntime

from edgetx.core import REFUSAL, Feeds, IOSpec, Session, Target
from edgetx.errors import EdgetxError, InputError, PackageError, UnavailableError
from edgetx.processors import numpy_dtype
from edgetx.runtimes.ort import PROVIDERS, Kernels, parse_device, parse_provider

if TYPE_CHECKING:
    from edgetx.package import Package

_ONNX_TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "bfloat16": 16,
}
"""`TensorProto.DataType` of onnx.proto."""


_forks = 0
_abandoned: list[Any] = []
"""Engines of a parent process: destroying them would wait for threads that the child does not have."""
_reopening = threading.Lock()


def _count_fork() -> None:
    global _forks, _reopening
    _forks += 1
    _reopening = threading.Lock()  # whoever held it is not in the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


class OrtSession(Session):
    """A package opened on ONNX Runtime; see `edgetx.core.Session`.

    A process that is forked from the one that opened it opens the package again at its first run, since an
    engine's threads do not survive a fork; a session that is pickled, for a spawned process, does so at once.
    """

    def __init__(self, package: Package, target: Target, kernels: Kernels) -> None:
        self.io: IOSpec = package.io
        self.processor = package.processor
        self._device, self._device_index = parse_device(target.device)
        self._target = target
        self._provider = parse_provider(target)
        self._looks_for_nan = not package.is_stage
        self._operators = package.manifest.operators
        self._bodies = package.manifest.bodies
        self._kernels = kernels
        self._outputs = [output.name for output in self.io.outputs]
        self._has_bfloat16 = any(tensor.dtype == "bfloat16" for tensor in (*self.io.inputs, *self.io.outputs))
        self._package = package
        self._forks = _forks
        self._session: Any = self._open(package)

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_again, (self._package, self._target)

    def _open_after_fork(self) -> None:
        with _reopening:
            if self._forks != _forks and self._session is not None:
                _abandoned.append(self._session)
                self._session = self._open(self._package)
            self._forks = _forks

    def _open(self, package: Package) -> Any:
        engine = f"ONNX Runtime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._target.threads
        options.log_severity_level = 4  # errors arrive as exceptions; do not print them as well
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = {
            "none": levels.ORT_DISABLE_ALL,
            "basic": levels.ORT_ENABLE_BASIC,
            "extended": levels.ORT_ENABLE_EXTENDED,
            "all": levels.ORT_ENABLE_ALL,
        }[self._target.optimization]
        if self.processor is not None and self.processor.kind == "image-restoration":
            # Pictures are large and of every size. Memory that is planned for one shape, or kept for a later
            # tensor of the same shape, is what a run then peaks at: DAT-light x2 took 5.1 KB per pixel with
            # both, 4.6 KB without patterns and 3.2 KB without either, as fast.
            options.enable_mem_pattern = False
            options.enable_mem_reuse = False
        # Workers spin while a run is under way and sleep between runs: back-to-back runs take as long as
        # with endless spinning, and runs 30 ms apart cost half the processor time.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if self._target.profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = os.path.join(self._target.profile, "ort")
            options.optimized_model_filepath = os.path.join(self._target.profile, "optimized.onnx")
        if self._kernels.operators:
            from edgetx.ops import library

            options.add_session_config_entry(library.PROVIDER_KEY, self._provider or "cpu")
            try:
                options.register_custom_ops_library(library.path())
            except Exception as error:
                raise UnavailableError(
                    f"{engine} cannot load edgetx's operator library {library.path()} "
                    f"({_first_line(error)}); reinstall edgetx, or switch custom operators off"
                ) from error
        providers: list[Any] = ["CPUExecutionProvider"]
        if self._provider is not None:
            # What the first does not take goes to CUDA, and what that does not, to the CPU.
            names = dict.fromkeys((PROVIDERS[self._provider], PROVIDERS["cuda"]))
            available = onnxruntime.get_available_providers()
            index = {"device_id": str(self._device_index)}
            providers = [*((name, index) for name in names if name in available), *providers]
        model = os.path.join(package.folder, package.graph)
        try:
            session = onnxruntime.InferenceSession(model, options, providers=providers)
        except Exception as error:  # pybind11 exceptions without a common base
            raise PackageError(
                f"{engine} cannot load {model}: {_first_line(error)}; "
                "upgrade onnxruntime, or export the package again"
            ) from error
        if self._provider is not None and session.get_providers()[0] != PROVIDERS[self._provider]:
            libraries = {"cuda": "CUDA and cuDNN versions", "tensorrt": "CUDA, cuDNN and TensorRT versions"}
            raise UnavailableError(
                f"{engine} has the {PROVIDERS[self._provider]} but cannot start it on "
                f"{self._target.device}; check the NVIDIA driver, and that the "
                f"{libraries.get(self._provider, 'CUDA and TensorRT-RTX versions')} that it asks for "
                "are installed"
            )
        session.disable_fallback()
        for side, specs, found in (
            ("inputs", self.io.inputs, session.get_inputs()),
            ("outputs", self.io.outputs, session.get_outputs()),
        ):
            declared, actual = sorted(spec.name for spec in specs), sorted(value.name for value in found)
            if declared != actual:
                raise PackageError(
                    f"package {package.path}: the manifest has the {side} {declared}, "
                    f"{package.graph} has {actual}; export the package again"
                )
        return session

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """Run the model once; see `edgetx.core.Session.run`.

        Args:
            feeds: numpy arrays; or torch tensors (CPU or CUDA) or CuPy arrays, which are used in place.

        Returns:
            Numpy arrays; arrays of the inputs' library where that is not numpy.

        Raises:
            InputError: see `IOSpec.check`; also a torch or CuPy array that is not contiguous, or that lives
                on a GPU which the session does not run on.
            EdgetxError: the session is closed, or ONNX Runtime failed.
        """
        if self._forks != _forks:
            self._open_after_fork()
        session = self._session
        if session is None:
            raise EdgetxError("the session is closed; open the package again with edgetx.load")
        self.io.check(feeds, nan=self._looks_for_nan)
        try:
            for array in feeds.values():
                if not hasattr(array, "__array_interface__") or self._has_bfloat16:
                    return self._run_bound(session, feeds)
            arrays = feeds if type(feeds) is dict else dict(feeds)
            return dict(zip(self._outputs, session.run(self._outputs, arrays), strict=True))
        except EdgetxError:
            raise
        except Exception as error:  # pybind11 exceptions without a common base
            raise _failure(error, feeds) from error

    def _run_bound(self, session: Any, feeds: Feeds) -> dict[str, Any]:
        binding = session.io_binding()
        library = ""
        kept = []  # the addresses stay valid while these live
        for spec in self.io.inputs:
            array, device, index, address = _locate(feeds[spec.name], spec.name)
            if device == "cuda" and (self._device, self._device_index) != ("cuda", index):
                raise InputError(
                    f"input {spec.name!r} is on cuda:{index} and the session runs on {self._target.device}; "
                    "move the array, or open the package with that device"
                )
            origin = type(array).__module__.partition(".")[0]
            library = origin if origin != "numpy" else library
            if device == "cuda":
                _wait_for_producer(origin)
            kept.append(array)
            binding.bind_input(spec.name, device, index, _ONNX_TYPES[spec.dtype], tuple(array.shape), address)
        for name in self._outputs:
            binding.bind_output(
                name, self._device if library else "cpu", self._device_index if library else 0
            )
        session.run_with_iobinding(binding)
        values = binding.get_outputs()
        if library:
            return {name: _export(value, library) for name, value in zip(self._outputs, values, strict=True)}
        return {
            spec.name: _numpy(value, spec.dtype) for spec, value in zip(self.io.outputs, values, strict=True)
        }

    def describe(self) -> dict[str, str]:
        """See `edgetx.core.Session.describe`."""
        kernels = [f"edgetx ({self._named(self._kernels.operators)})"] if self._kernels.operators else []
        rest = [name for name in self._operators if name not in self._kernels.operators]
        if rest:
            kernels.append(f"{self._bodies} ONNX bodies of {self._named(rest)}: {self._kernels.why_not_all}")
        return {
            "runtime": "ort",
            "engine": f"ONNX Runtime {onnxruntime.__version__}",
            "device": self._target.device,
            "provider": "CPUExecutionProvider" if self._provider is None else PROVIDERS[self._provider],
            "threads": str(self._target.threads or "chosen by ONNX Runtime"),
            "optimization": self._target.optimization,
            "kernels": "; ".join(kernels) or "standard ONNX operators",
        }

    def _named(self, operators: Iterable[str]) -> str:
        return ", ".join(f"{name} x{self._operators[name]}" for name in operators)

    def end_profiling(self) -> str:
        """See `edgetx.core.Session.end_profiling`; the optimized graph lies beside it as `optimized.onnx`."""
        if self._target.profile is None:
            raise InputError("the session was opened without a profiler; open it with Target(profile=FOLDER)")
        return str(self._session.end_profiling())

    def close(self) -> None:
        """Free the engine; a run in another thread ends first."""
        if self._forks != _forks and self._session is not None:
            _abandoned.append(self._session)
        self._session = None


def _open_again(package: Package, target: Target) -> Session:
    from edgetx.runtimes.ort import OrtRuntime

    return OrtRuntime().open(package, target)


def _locate(array: Any, name: str) -> tuple[Any, str, int, int]:
    """The array (a contiguous copy of a numpy one), its device, the device's index and its address."""
    if hasattr(array, "__array_interface__") and not hasattr(array, "data_ptr"):
        import numpy as np

        array = np.ascontiguousarray(array)
        return array, "cpu", 0, array.ctypes.data
    if hasattr(array, "data_ptr"):
        device, contiguous, address = array.device, array.is_contiguous(), array.data_ptr()
        kind, index = device.type, device.index or 0
    elif hasattr(array, "__cuda_array_interface__"):
        interface: Mapping[str, Any] = array.__cuda_array_interface__
        kind, index = "cuda", getattr(array.device, "id", 0)
        contiguous, address = array.flags.c_contiguous, interface["data"][0]
    else:
        raise InputError(
            f"input {name!r} is a {type(array).__qualname__}; accepted: numpy and CuPy arrays, torch tensors"
        )
    if not contiguous:
        raise InputError(f"input {name!r} is not contiguous; pass {name}.contiguous() or a contiguous copy")
    if kind not in ("cpu", "cuda"):
        raise InputError(f"input {name!r} is on {kind}; accepted: cpu and cuda")
    return array, kind, index, address


def _wait_for_producer(library: str) -> None:
    """Finish what the caller queued on its own CUDA stream: ONNX Runtime's stream does not wait for it."""
    if library == "cupy":
        sys.modules["cupy"].cuda.get_current_stream().synchronize()
    else:
        sys.modules["torch"].cuda.current_stream().synchronize()


def _export(value: Any, library: str) -> Any:
    """An OrtValue as an array of the caller's library, sharing its memory."""
    # Before 1.32 only the inner object speaks DLPack.
    return sys.modules[library].from_dlpack(value if hasattr(value, "__dlpack__") else value._ortvalue)


def _numpy(value: Any, dtype: str) -> Any:
    """An OrtValue on the CPU as numpy; ONNX Runtime itself cannot convert bfloat16."""
    if dtype != "bfloat16":
        return value.numpy()
    import ctypes

    import numpy as np

    shape = tuple(value.shape())
    count = int(np.prod(shape, dtype=np.int64))
    if not count:
        return np.empty(shape, numpy_dtype(dtype))
    words = ctypes.cast(value.data_ptr(), ctypes.POINTER(ctypes.c_uint16))
    return np.ctypeslib.as_array(words, (count,)).copy().view(numpy_dtype(dtype)).reshape(shape)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _failure(error: Exception, feeds: Feeds) -> EdgetxError:
    shapes = ", ".join(f"{name} {tuple(array.shape)}" for name, array in feeds.items())
    text = _first_line(error)
    refused = re.search(f"Name:'{REFUSAL}([^']*)'", text)
    if refused:
        return InputError(f"the model refuses {shapes}: {refused[1]}")
    if isinstance(error, MemoryError) or "allocate memory" in text.lower() or "bad_alloc" in text:
        step = "use a smaller batch or image, or a device with more memory"
    else:
        step = "check that the model takes this size; `edgetx verify` replays inputs that are known to work"
    return EdgetxError(f"ONNX Runtime failed on {shapes}: {text}; {step}")
