"""The engines that a worker can open, one small function each; imported in workers only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from edgetx.benchmark import feeds as arrays
from edgetx.benchmark.specs import EngineSpec
from edgetx.core import Target, TensorSpec
from edgetx.errors import InputError, UnavailableError

Feeds = Mapping[str, Any]


def _no_profiler() -> str:
    raise UnavailableError("this engine has no profiler that edgetx reads")


@dataclass
class Opened:
    """A loaded engine.

    `inputs()` gives the tensors of each input by its name; `prepare(tensors)` a function that runs once on
    them and returns when the outputs are ready; `outputs(result)` those as numpy arrays. `spent` holds the
    nanoseconds that each stage took in the latest run, where there are stages.
    """

    inputs: Callable[[], Mapping[str, Feeds]]
    prepare: Callable[[Feeds], Callable[[], Any]]
    outputs: Callable[[Any], list[Any]]
    version: str
    ran_on: dict[str, str] = field(default_factory=dict)
    spent: dict[str, int] = field(default_factory=dict)
    end_profiling: Callable[[], str] = _no_profiler
    module: Any = None


def _given(spec: EngineSpec) -> dict[str, dict[str, Any]]:
    """Name of each input -> its tensors."""
    if spec.inputs is None:
        raise InputError(f"engine {spec.name!r} ({spec.kind}) needs inputs; give a package to take them from")
    paths = (spec.inputs,) if isinstance(spec.inputs, str) else spec.inputs
    return {Path(path).stem: arrays.load(path) for path in paths}


def _require(module: str, extra: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnavailableError(f"{module} cannot be imported ({error}); install it with {extra}") from error


def open_package(spec: EngineSpec, threads: int) -> Opened:
    """The package through `edgetx.load`, as a user runs it."""
    from edgetx import runtimes
    from edgetx.package import Package
    from edgetx.runtimes.chain import Chain

    target = Target(
        device=spec.device,
        threads=threads,
        optimization=spec.optimization,
        custom_ops=spec.custom_ops,
        profile=spec.profile,
        provider=spec.provider,
    )
    session = runtimes.load(spec.path, runtime=spec.runtime, target=target, stages=spec.stages)
    facts = session.describe()

    def inputs() -> dict[str, Feeds]:
        names = [tensor.name for tensor in session.io.inputs]
        if spec.files:
            if session.processor is None:
                raise InputError(f"package {spec.path} has no processor, so it cannot read {spec.files[0]}")
            read = session.processor.preprocess
            return {file: read(file, session.io) for file in spec.files}
        if spec.inputs is not None:
            return {name: arrays.rename(feeds, names) for name, feeds in _given(spec).items()}
        cases = Package.open(spec.path, check=False).golden()
        wanted = cases if spec.golden == "all" else cases[:1]
        return {f"golden input {index}": case.inputs for index, case in enumerate(wanted)}

    def run(feeds: Feeds) -> Mapping[str, Any]:
        if not isinstance(session, Chain):
            return session.run(feeds)
        outputs, spent = session.run_timed(feeds)
        opened.spent.update(spent)
        return outputs

    opened = Opened(
        inputs=inputs,
        prepare=lambda feeds: partial(run, feeds),
        outputs=lambda result: list(result.values()),
        version=facts.get("engine", spec.runtime or "package"),
        ran_on=facts,
        end_profiling=session.end_profiling,
    )
    return opened


def open_onnx(spec: EngineSpec, threads: int) -> Opened:
    """Bare ONNX Runtime: the stock baseline, with nothing registered that the spec does not name."""
    ort = _require("onnxruntime", "pip install 'edgetx[ort]'")
    levels = ort.GraphOptimizationLevel
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = {
        "none": levels.ORT_DISABLE_ALL,
        "basic": levels.ORT_ENABLE_BASIC,
        "extended": levels.ORT_ENABLE_EXTENDED,
        "all": levels.ORT_ENABLE_ALL,
    }[spec.optimization]
    if spec.profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(spec.profile) / "ort")
        options.optimized_model_filepath = str(Path(spec.profile) / "optimized.onnx")
        options.log_severity_level = 4  # it warns that the optimized graph fits this machine alone
    provider: Any = "CPUExecutionProvider"
    if spec.device != "cpu":
        provider = ("CUDAExecutionProvider", {"device_id": int(spec.device.partition(":")[2] or 0)})
    if spec.operators is not None:
        options.register_custom_ops_library(spec.operators)
    session = ort.InferenceSession(spec.path, options, providers=[provider])
    names = [tensor.name for tensor in session.get_inputs()]
    inputs = {name: arrays.rename(feeds, names) for name, feeds in _given(spec).items()}

    def bind(feeds: Feeds) -> Callable[[], Any]:
        binding = session.io_binding()
        kept = [ort.OrtValue.ortvalue_from_numpy(array) for array in feeds.values()]
        for name, value in zip(feeds, kept, strict=True):
            binding.bind_ortvalue_input(name, value)
        answers = zip(session.get_outputs(), session.run(None, feeds), strict=True)
        for output, answer in answers:
            kept.append(ort.OrtValue.ortvalue_from_numpy(answer))
            binding.bind_ortvalue_output(output.name, kept[-1])

        def run() -> list[Any]:
            session.run_with_iobinding(binding)
            return kept[len(feeds) :]

        return run

    return Opened(
        inputs=lambda: inputs,
        prepare=bind if spec.bound else lambda feeds: partial(session.run, None, feeds),
        outputs=(lambda values: [value.numpy() for value in values]) if spec.bound else list,
        version=f"onnxruntime {ort.__version__}",
        ran_on={"providers": ", ".join(session.get_providers()), "optimization": spec.optimization},
        end_profiling=session.end_profiling,
    )


def open_openvino(spec: EngineSpec, threads: int) -> Opened:
    """Bare OpenVINO on an ONNX file, latency hint, float32 as the other CPU engines."""
    ov = _require("openvino", "pip install openvino")
    if spec.device != "cpu":
        raise UnavailableError(f"the openvino engine runs on cpu only, not {spec.device!r}")
    core = ov.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    inputs = _given(spec)
    if len(inputs) > 1:
        raise InputError(f"the openvino engine is built for one shape; given {len(inputs)} inputs")
    ((name, given),) = inputs.items()
    model = core.read_model(spec.path)
    feeds = arrays.rename(given, [tensor.get_any_name() for tensor in model.inputs])
    model.reshape({name: list(array.shape) for name, array in feeds.items()})
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return Opened(
        inputs=lambda: {name: feeds},
        prepare=lambda feeds: partial(request.infer, feeds, share_inputs=True),
        outputs=lambda result: list(result.values()),
        version=f"openvino {ov.__version__.split('-')[0]}",
        ran_on={key.lower(): str(value) for key, value in settings.items()},
    )


def open_torch(spec: EngineSpec, threads: int) -> Opened:
    """PyTorch eager on the module that a SOURCE names, as its library built it."""
    torch = _require("torch", "pip install 'edgetx[export]'")
    torch.set_num_threads(threads)
    from edgetx import exporters, sources

    shapes = [TensorSpec.parse(text) for text in spec.shapes]
    reference = sources.load(spec.path, pretrained=spec.pretrained, inputs=shapes)
    module = reference.module.eval().to(spec.device)
    inputs = _given(spec)

    def run(tensors: list[Any]) -> Any:
        with torch.inference_mode():
            result = module(*tensors)
            if spec.device != "cpu":
                torch.cuda.synchronize(spec.device)
        return result

    return Opened(
        inputs=lambda: inputs,
        prepare=lambda feeds: partial(run, [torch.from_numpy(a).to(spec.device) for a in feeds.values()]),
        outputs=lambda result: [tensor.cpu().numpy() for tensor in exporters.flatten(result).values()],
        version=f"torch {torch.__version__}",
        ran_on={"device": spec.device},
        module=module,
    )


def open_null(spec: EngineSpec, threads: int) -> Opened:
    """No model: `spec.products` matrix products, for the harness to measure itself."""
    import numpy as np

    matrix = np.full((128, 128), 1 / 128, np.float32)
    out = np.empty_like(matrix)

    def run() -> None:
        for _ in range(spec.products):
            np.matmul(matrix, matrix, out=out)

    return Opened(
        inputs=lambda: {"nothing": {"x": np.zeros((1, 1), np.float32)}},
        prepare=lambda feeds: run,
        outputs=lambda result: [],
        version="no engine",
        ran_on={"computes": f"{spec.products} products of 128x128 matrices"},
    )


def compute_for(nanoseconds: float) -> None:
    """Keep this core busy: a sleep would end late, by as much as the system's timer slack."""
    end = perf_counter_ns() + nanoseconds
    while perf_counter_ns() < end:
        pass


def slowed(run: Callable[[], Any], share: float) -> Callable[[], Any]:
    """`run`, and afterwards computing for `share` of the time that it took."""

    def slower() -> Any:
        start = perf_counter_ns()
        result = run()
        compute_for((perf_counter_ns() - start) * share)
        return result

    return slower


KINDS: dict[str, Callable[[EngineSpec, int], Opened]] = {
    "package": open_package,
    "onnx": open_onnx,
    "openvino": open_openvino,
    "torch": open_torch,
    "null": open_null,
}

WARM = 3
"""Runs under a profiler before those that count."""


def first_run(engine: Opened) -> Callable[[], Any]:
    """A function that runs the engine on its first input."""
    return engine.prepare(next(iter(engine.inputs().values())))


def timed(run: Callable[[], Any], runs: int) -> list[int]:
    """Nanoseconds of each run."""
    found = []
    for _ in range(runs):
        start = perf_counter_ns()
        run()
        found.append(perf_counter_ns() - start)
    return found


IMPORTS: dict[str, tuple[str, ...]] = {
    "package": ("numpy", "edgetx.runtimes", "edgetx.package"),
    "onnx": ("numpy", "onnxruntime"),
    "openvino": ("numpy", "openvino"),
    "torch": ("numpy", "torch", "edgetx.sources"),
    "null": ("numpy",),
}
"""What an engine imports before it can load anything; of a package, also its runtime's library."""

LIBRARIES = {
    "ort": "onnxruntime",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx",
    None: "onnxruntime",
}
"""Runtime -> the library that it imports; without a choice, the first runtime's."""


def import_all(spec: EngineSpec) -> int:
    """Import what the engine needs, as far as it is there; returns the nanoseconds that took."""
    import contextlib
    import importlib

    wanted = list(IMPORTS[spec.kind])
    if spec.kind == "package" and spec.runtime in LIBRARIES:
        wanted.append(LIBRARIES[spec.runtime])
    start = perf_counter_ns()
    for name in wanted:
        # What is missing is said when the engine is opened.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    return perf_counter_ns() - start
