"""Which neighbours are fused, which are left alone, and that the numbers stay."""

import collections

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from edgetx import capture, fusion, sources


class Residual(nn.Module):
    """A pre- or post-norm branch with every piece that the rules look for."""

    def __init__(self, post: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 24), nn.Linear(24, 8)
        self.norm, self.last = nn.LayerNorm(8), nn.LayerNorm(8)
        self.post = post

    def forward(self, x):
        y = self.second(nn.functional.gelu(self.first(x)))
        if self.post:
            return x + self.norm(y)
        x = x + y
        return x * 2 + self.last(x)


class Shared(nn.Module):
    """What would disappear is used elsewhere, or is added with broadcasting, or is no exact GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
        self.row = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x):
        y = self.linear(x)
        z = nn.functional.gelu(y) * y
        w = self.norm(self.row + self.linear(z))
        return w + nn.functional.gelu(self.linear(w), approximate="tanh")


def export(module, *shape):
    torch.manual_seed(0)
    example = torch.randn(*shape)
    reference = sources.from_module(module.eval(), example)
    model = capture.capture(reference, reference.module)
    return model, example


def counts(model):
    return collections.Counter(node.op_type for node in model.graph if node.domain == "edgetx")


@pytest.mark.parametrize(
    "post, expected", [(False, {"BiasGelu": 1, "AddNorm": 1}), (True, {"BiasGelu": 1, "NormAdd": 1})]
)
def test_residual_branches_are_fused_and_give_the_same_numbers(post, expected, tmp_path):
    module = Residual(post)
    model, example = export(module, 2, 5, 8)
    assert counts(model) == expected
    capture.save(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    np.testing.assert_allclose(actual, module(example).detach().numpy(), rtol=0, atol=2e-6)


def test_a_branch_without_bias_gets_zeros(tmp_path):
    module = Residual(False)
    module.second = nn.Linear(24, 8, bias=False)
    model, example = export(module, 2, 5, 8)
    assert counts(model) == {"BiasGelu": 1, "AddNorm": 1}
    capture.save(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    np.testing.assert_allclose(actual, module(example).detach().numpy(), rtol=0, atol=2e-6)


def test_what_is_used_elsewhere_or_broadcast_is_left_alone():
    model, _ = export(Shared(), 2, 5, 8)
    assert counts(model) == {}


def test_fused_nodes_know_their_modules():
    model, _ = export(Residual(False), 2, 5, 8)
    (node,) = (node for node in model.graph if node.op_type == "AddNorm")
    assert node.metadata_props[fusion.MODULE_KEY] == "|last"
    assert node.metadata_props[fusion.PARTIAL_KEY] == "second"


def test_every_fused_node_has_a_body():
    model, _ = export(Residual(True), 2, 5, 8)
    for node in model.graph:
        if node.domain == "edgetx":
            assert isinstance(model.functions[node.op_identifier()], ir.Function)
