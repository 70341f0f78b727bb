"""The engines that a worker can open, one small function each; imported in workers only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from edgetx.benchmark import feeds as arrays
from edgetx.benchmark.specs import EngineSpec
from edgetx.core import Target, TensorSpec
from edgetx.errors import InputError, UnavailableError

Bound = tuple[str, Mapping[str, Any], Callable[[], Any]]


@dataclass
class Opened:
    """A loaded engine.

    `bind()` gives, for each input, its name, its tensors and a function that runs once on them and returns
    when the outputs are ready; `outputs(result)` gives those as numpy arrays. `spent` holds the nanoseconds
    that each stage took in the latest run, where there are stages.
    """

    bind: Callable[[], list[Bound]]
    outputs: Callable[[Any], list[Any]]
    version: str
    ran_on: dict[str, str] = field(default_factory=dict)
    spent: dict[str, int] = field(default_factory=dict)


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

    target = Target(
        device=spec.device, threads=threads, optimization=spec.optimization, custom_ops=spec.custom_ops
    )
    session = runtimes.load(spec.path, runtime=spec.runtime, target=target, stages=spec.stages)
    facts = session.describe()

    def inputs() -> Mapping[str, Mapping[str, Any]]:
        names = [tensor.name for tensor in session.io.inputs]
        if spec.files:
            if session.processor is None:
                raise InputError(f"package {spec.path} has no processor, so it cannot read {spec.files[0]}")
            read = session.processor.preprocess
            return {file: read(file, session.io) for file in spec.files}
        if spec.inputs is not None:
            return {name: arrays.rename(feeds, names) for name, feeds in _given(spec).items()}
        return {"golden input 0": Package.open(spec.path, check=False).golden()[0].inputs}

    def run(feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        if not isinstance(session, runtimes.Chain):
            return session.run(feeds)
        outputs, spent = session.run_timed(feeds)
        opened.spent.update(spent)
        return outputs

    opened = Opened(
        bind=lambda: [(name, feeds, partial(run, feeds)) for name, feeds in inputs().items()],
        outputs=lambda result: list(result.values()),
        version=facts.get("engine", spec.runtime or "package"),
        ran_on=facts,
    )
    return opened


def open_onnx(spec: EngineSpec, threads: int) -> Opened:
    """Bare ONNX Runtime: the stock baseline, with nothing of edgetx registered."""
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
    provider: Any = "CPUExecutionProvider"
    if spec.device != "cpu":
        provider = ("CUDAExecutionProvider", {"device_id": int(spec.device.partition(":")[2] or 0)})
    session = ort.InferenceSession(spec.path, options, providers=[provider])
    names = [tensor.name for tensor in session.get_inputs()]
    inputs = {name: arrays.rename(feeds, names) for name, feeds in _given(spec).items()}
    return Opened(
        bind=lambda: [(name, feeds, partial(session.run, None, feeds)) for name, feeds in inputs.items()],
        outputs=list,
        version=f"onnxruntime {ort.__version__}",
        ran_on={"providers": ", ".join(session.get_providers()), "optimization": spec.optimization},
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
        bind=lambda: [(name, feeds, partial(request.infer, feeds, share_inputs=True))],
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

    def bind() -> list[Bound]:
        return [
            (name, feeds, partial(run, [torch.from_numpy(a).to(spec.device) for a in feeds.values()]))
            for name, feeds in inputs.items()
        ]

    return Opened(
        bind=bind,
        outputs=lambda result: [tensor.cpu().numpy() for tensor in exporters.flatten(result).values()],
        version=f"torch {torch.__version__}",
        ran_on={"device": spec.device},
    )


KINDS: dict[str, Callable[[EngineSpec, int], Opened]] = {
    "package": open_package,
    "onnx": open_onnx,
    "openvino": open_openvino,
    "torch": open_torch,
}
