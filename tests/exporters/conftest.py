"""Small models of every library, and the one comparison that all exporter tests make."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch

from edgetx import _torchvision, exporters
from edgetx.core import IOSpec, SymbolRange

TOLERANCE = 1e-5

_torchvision.install()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """These models are so small that waiting for another thread takes longer than their work."""
    torch.set_num_threads(1)


def randomize(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights under which every part matters: libraries start biases, tables and SwinV2's norms at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.3 * noise + (1.0 if name.endswith("weight") else 0.0))
            elif "logit_scale" in name:
                parameter.copy_(2.0 + noise)
            elif "table" in name:
                parameter.copy_(noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return module.eval()


def image(io: IOSpec, batch: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randn(batch, int(io.inputs[0].shape[1]), height, width, generator=generator)


def flat(output: Any) -> tuple[torch.Tensor, ...]:
    return tuple(exporters.flatten(output).values())


def assert_close(actual: Any, expected: Any, case: str) -> None:
    got, want = flat(actual), flat(expected)
    assert len(got) == len(want), case
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape, case
        error = (one - other).abs().max().item()
        assert error <= TOLERANCE * max(1.0, other.abs().max().item()), f"{case}: {error:.2e}"


def assert_exports(
    module: torch.nn.Module,
    architecture: str,
    sizes: Iterable[tuple[int, int, int]],
    *,
    trace: bool = True,
) -> IOSpec:
    """Hold the rewritten copy, and its one dynamic torch.export program, against fresh copies of `module`.

    Also: the module is recognised and described, left as it was, and no roll or windows remain in the graph.
    """
    found = exporters.find(module)
    assert found.id == architecture
    fresh = copy.deepcopy(module)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    classes = [type(inner) for inner in module.modules()]

    io = found.describe(module)
    rewritten = found.rewrite(module)
    assert rewritten.replaced

    if trace:
        program = export(rewritten.module, io)
        targets = {str(node.target) for node in program.graph.nodes}
        assert not [name for name in targets if "roll" in name or "scaled_dot" in name or "softmax" in name]
        assert sum("edgetx.window_attention" in str(node.target) for node in program.graph.nodes) == len(
            rewritten.replaced
        )
        # torch.export assumes that no dimension is 1, and so refuses maps of one token, which the graph
        # computes all the same; ONNX has no such check.
        runnable = program.module(check_guards=False)
        runnable._forward_pre_hooks.clear()
    with torch.no_grad():
        for batch, height, width in sizes:
            x = image(io, batch, height, width)
            bound = io.check({io.inputs[0].name: x}, nan=False)
            expected = copy.deepcopy(fresh)(x)
            case = f"{type(module).__name__} at {batch}x{height}x{width}"
            assert_close(rewritten.module(x), expected, case)
            if trace:
                assert_close(runnable(x), expected, f"exported {case}")
            for spec, tensor in zip(io.outputs, flat(expected), strict=True):
                assert len(spec.shape) == tensor.ndim, case
                for dim, size in zip(spec.shape, tensor.shape, strict=True):
                    assert bound.get(dim, size) == size if isinstance(dim, str) else dim == size, case

    assert classes == [type(inner) for inner in module.modules()]
    assert before.keys() == module.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    return io


def export(module: torch.nn.Module, io: IOSpec) -> torch.export.ExportedProgram:
    """torch.export with every symbol of the IOSpec dynamic, from sizes of its own choice."""
    spec = io.inputs[0]
    dims: dict[int, Any] = {}
    shape = []
    for axis, dim in enumerate(spec.shape):
        if isinstance(dim, str):
            allowed = io.symbols.get(dim, SymbolRange())
            size = -(-max(allowed.min, 40 + 24 * axis if axis else 2) // allowed.step) * allowed.step
            dims[axis] = torch.export.Dim.DYNAMIC
            shape.append(size)
        else:
            shape.append(dim)

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return flat(self.module(x))

    with torch.no_grad():
        return torch.export.export(Flat(), (torch.zeros(shape),), dynamic_shapes=(dims,), strict=False)


@pytest.fixture
def check() -> Callable[..., IOSpec]:
    return assert_exports


@pytest.fixture
def randomized() -> Callable[..., torch.nn.Module]:
    return randomize


@pytest.fixture
def same() -> Callable[..., None]:
    return assert_close


def assert_restores(
    id: str,
    settings: dict[str, Any],
    sizes: Iterable[tuple[int, int, int]],
    *,
    architecture: str | None = None,
    bodies: str = "attention",
) -> Any:
    """A restoration model of spandrel, random: its rewritten copy and one dynamic file against fresh copies.

    Returns:
        The Reference and the ONNX model.
    """
    import numpy as np
    import onnx_ir as ir

    from edgetx import capture, sources
    from edgetx.ops import library

    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("spandrel")
    query = "&".join(f"{key}={value}" for key, value in settings.items())
    reference = sources.load(f"spandrel:{id}?{query}", pretrained=False)
    model = reference.module
    found = exporters.get(reference.architecture)
    assert found.id == (architecture or id.lower())
    randomize(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rewritten = found.rewrite(model)
    onnx_model = capture.capture(reference, rewritten.module, bodies=bodies)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if library.why_not() is None:
        options.register_custom_ops_library(library.path())
    session = onnxruntime.InferenceSession(ir.to_proto(onnx_model).SerializeToString(), options)
    generator = torch.Generator().manual_seed(1)
    for batch, height, width in sizes:
        x = torch.rand(batch, model.channels, height, width, generator=generator)
        with torch.no_grad():
            expected = copy.deepcopy(model)(x)
            copied = rewritten.module(x)
        case = f"{id} at {batch}x{height}x{width}"
        assert expected.shape == (batch, model.out_channels, model.scale * height, model.scale * width), case
        accepted = RESTORATION_TOLERANCE * max(1.0, expected.abs().max().item())
        error = (copied - expected).abs().max().item()
        assert error <= accepted, f"{case}: {error:.2e}"
        (answer,) = session.run(None, {"image": x.numpy()})
        error = float(np.abs(answer - expected.numpy()).max())
        assert error <= accepted, f"exported {case}: {error:.2e}"
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    return reference, onnx_model


RESTORATION_TOLERANCE = 2e-5
"""Of the value range; random weights make outputs of the order of 1."""


@pytest.fixture
def restores() -> Callable[..., Any]:
    return assert_restores
