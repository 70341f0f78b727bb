"""Intermediate values of a package and of its PyTorch model, paired by module (needs torch and onnx_ir)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from edgetx import exporters, sources
from edgetx.capture import Positional
from edgetx.core import Reference
from edgetx.errors import PackageError
from edgetx.exporters import clone, reference_mode
from edgetx.fusion import MODULE_KEY, PARTIAL_KEY, ancestors
from edgetx.ops import library
from edgetx.package import Package


@dataclass(frozen=True)
class TracedModule:
    """One module's output: PyTorch's and the package's, of equal shape."""

    name: str
    type: str
    expected: np.ndarray[Any, Any]
    actual: np.ndarray[Any, Any]


def trace(package: Package, reference: Reference | None = None) -> Iterator[TracedModule]:
    """Yield every module that has a counterpart in the graph, in the order in which PyTorch runs them.

    Raises:
        PackageError: the PyTorch model does not give the package's golden outputs (another model or weights).
    """
    manifest = package.manifest
    reference = reference or sources.load(
        manifest.source,
        pretrained=False if manifest.weights == "random" else None,
        inputs=package.io.inputs if manifest.architecture == "generic" else (),
    )
    case = package.golden()[0]
    expected, types, outputs = _torch_values(reference, case.inputs)
    for spec, output in zip(reference.io.outputs, outputs, strict=True):
        golden = case.outputs[spec.name]
        if golden.shape != output.shape or not np.allclose(golden, output, rtol=1e-4, atol=1e-4):
            raise PackageError(
                f"the model loaded from {reference.source!r} does not give the package's golden output "
                f"{spec.name!r}: other weights or another version; pass the exported model itself"
            )
    actual = _onnx_values(package, case.inputs)
    places = _places(reference.module, exporters.get(manifest.architecture).rewrite(reference.module).module)
    for name, value in expected.items():
        place = places.get(name, name)
        # Inside and around an operator that replaced a module, tokens stand in another order.
        if any(_inside(place, module) for module in manifest.replaced):
            continue
        if place in actual and (paired := _in_layout_of(value, actual[place])) is not None:
            yield TracedModule(name, types[name], value, paired)


def _places(original: torch.nn.Module, rewritten: torch.nn.Module) -> dict[str, str]:
    """Name of a module -> its name in the rewritten copy, by class and very weights."""

    def by_weights(module: torch.nn.Module) -> dict[Any, list[str]]:
        found: dict[Any, list[str]] = {}
        for name, inner in module.named_modules():
            if weights := tuple(id(parameter) for parameter in inner.parameters()):
                found.setdefault((type(inner), weights), []).append(name)
        return found

    theirs = by_weights(rewritten)
    return {
        names[0]: theirs[key][0]
        for key, names in by_weights(original).items()
        if len(names) == 1 == len(theirs.get(key, ()))
    }


def _torch_values(
    reference: Reference, inputs: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str], list[np.ndarray[Any, Any]]]:
    values: dict[str, np.ndarray[Any, Any]] = {}
    types: dict[str, str] = {}

    def record(name: str) -> Any:
        def hook(module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                values.pop(name, None)  # a module that runs twice is compared at its last run
                values[name] = output.detach().cpu().numpy().copy()
                types[name] = type(module).__name__

        return hook

    model = clone(reference.module)
    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(record(name))
    with reference_mode():
        tensors = [torch.from_numpy(inputs[spec.name]) for spec in reference.io.inputs]
        outputs = Positional(model, reference.io)(*tensors)
    return values, types, [output.numpy() for output in outputs]


def _onnx_values(package: Package, inputs: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The last value that each module hands on, by module name."""
    import onnxruntime

    model = ir.load(package.model_path)
    values = last_values(model)
    existing = {value.name for value in model.graph.outputs}
    model.graph.outputs.extend(
        {value.name: value for value in values.values() if value.name not in existing}.values()
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    library_path = library.path()
    if library_path is not None:
        options.register_custom_ops_library(library_path)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        ir.save(model, path, external_data="model.onnx.data", size_threshold_bytes=1024)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    results = dict(zip(names, session.run(names, dict(inputs)), strict=True))
    return {module: results[value.name] for module, value in values.items() if value.name in results}


def last_values(model: ir.Model) -> dict[str, ir.Value]:
    """Module name -> the value that leaves it: computed inside it last, and used outside or nowhere else."""
    values: dict[str, ir.Value] = {}
    partial: set[str] = set()
    graph_outputs = set(model.graph.outputs)
    for node in model.graph:
        partial.update(filter(None, node.metadata_props.get(PARTIAL_KEY, "").split("|")))
        for value, scope in zip(node.outputs, _scopes(node), strict=True):
            for name in ancestors(scope):
                users = [other for user, _ in value.uses() for other in _scopes(user)]
                # A value without users goes on inside a fused node.
                if not users or value in graph_outputs or not all(_inside(user, name) for user in users):
                    values[name] = value
    return {name: value for name, value in values.items() if name not in partial}


def _scopes(node: ir.Node) -> list[str]:
    """The module that computed each output."""
    scopes = node.metadata_props.get(MODULE_KEY, "").split("|")
    return scopes if len(scopes) == len(node.outputs) else scopes[:1] * len(node.outputs)


def _inside(scope: str, module: str) -> bool:
    return scope == module or scope.startswith(module + ".")


def _in_layout_of(expected: np.ndarray[Any, Any], value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """`value` laid out as `expected` (NHWC for tokens, NHWC for NCHW); None where more differs."""
    shape = expected.shape
    if value.ndim == 4 and len(shape) == 3 and value.size == np.prod(shape) and value.shape[-1] == shape[-1]:
        return value.reshape(shape)
    orders = ((0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2)) if value.ndim == 4 else (tuple(range(value.ndim)),)
    fitting = [laid for order in orders if (laid := value.transpose(order)).shape == shape]
    # Several fit where a map has as many channels as rows and columns.
    return min(fitting, key=lambda laid: float(np.abs(laid - expected).max()), default=None)
