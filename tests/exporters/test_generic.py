"""Modules that no exporter recognises: described by running them, exported as they are."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import pytest
import torch

from edgetx import exporters
from edgetx.core import SymbolRange, TensorSpec
from edgetx.errors import ExportError, InputError


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return self.conv(picture)


class Pair(torch.nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, Any]:
        return {"sum": left.sum(1) + right.sum(1), "both": [left, None, right]}


class FixedBatch(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 6)


class DataDependent(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if float(x.sum()) == 0.0 else x


def test_a_tensor_gives_names_and_a_dynamic_batch() -> None:
    io = exporters.find(Net()).describe(Net(), torch.zeros(1, 3, 32, 48))
    assert str(io.inputs[0]) == "picture=float32[batch,3,32,48]"
    assert str(io.outputs[0]) == "output=float32[batch,8,16,24]"
    assert io.symbols == {"batch": SymbolRange()}


def test_specs_give_their_symbols() -> None:
    spec = TensorSpec.parse("x=float32[n,3,h,w]")
    io = exporters.get("generic").describe(Net(), (spec,))
    assert io.inputs == (spec,)
    assert io.outputs[0].shape == ("output_n", 8, "output_h", "output_w")
    assert set(io.symbols) == {"n", "h", "w"}


def test_several_inputs_and_nested_outputs() -> None:
    example = {"left": torch.zeros(2, 4), "right": torch.zeros(2, 4)}
    io = exporters.get("generic").describe(Pair(), example)
    assert [str(spec) for spec in io.inputs] == ["left=float32[batch,4]", "right=float32[batch,4]"]
    assert [spec.name for spec in io.outputs] == ["sum", "both_0", "both_2"]


def test_a_batch_that_the_model_fixes_stays_a_number() -> None:
    io = exporters.get("generic").describe(FixedBatch(), torch.zeros(3, 4))
    assert str(io.inputs[0]) == "x=float32[3,4]"
    assert io.symbols == {}


def test_a_model_that_looks_at_its_data_is_run() -> None:
    io = exporters.get("generic").describe(DataDependent(), torch.zeros(1, 4))
    assert str(io.outputs[0]) == "output=float32[batch,4]"


def test_the_copy_shares_weights_and_says_that_nothing_was_replaced() -> None:
    model = Net().train()
    architecture = exporters.find(model)
    rewrite = architecture.rewrite(model)
    assert architecture.id == "generic"
    assert rewrite.replaced == ()
    assert "no exporter recognised Net" in rewrite.notes[0]
    assert rewrite.module is not model
    assert rewrite.module.conv.weight is model.conv.weight
    assert model.training and not rewrite.module.training


@pytest.mark.parametrize("example", [None, (), "picture", 3])
def test_without_an_example_the_error_says_how_to_give_one(example: Any) -> None:
    with pytest.raises(ExportError, match="--input"):
        exporters.get("generic").describe(Net(), example)


def test_an_example_that_does_not_fit_is_named() -> None:
    with pytest.raises(ExportError, match=r"does not run with inputs picture=float32\[1,4,8,8\]"):
        exporters.get("generic").describe(Net(), torch.zeros(1, 4, 8, 8))
    with pytest.raises(ExportError, match="expected a torch"):
        exporters.get("generic").describe(Net(), [3.0])


def test_a_module_that_cannot_be_copied() -> None:
    model = Net()
    model.cache = torch.ones(1, requires_grad=True) * 2  # type: ignore[assignment]
    with pytest.raises(ExportError, match="cannot be copied"):
        exporters.get("generic").rewrite(model)


class Named(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


@dataclasses.dataclass
class Record:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


@pytest.mark.parametrize(
    ("output", "names"),
    [
        (torch.zeros(1), ["output"]),
        ([torch.zeros(1), torch.zeros(1)], ["output_0", "output_1"]),
        (Named(torch.zeros(1), torch.zeros(1)), ["first", "second"]),
        (Record(torch.zeros(1)), ["logits"]),
        ({"a": {"b": torch.zeros(1)}, "c": (torch.zeros(1), None)}, ["a_b", "c_0"]),
    ],
)
def test_flatten_names(output: Any, names: list[str]) -> None:
    assert list(exporters.flatten(output)) == names


@pytest.mark.parametrize(
    "output", [None, {}, 3, {"a": "text"}, {"a_b": torch.zeros(1), "a": {"b": torch.zeros(1)}}]
)
def test_flatten_refuses_what_it_cannot_name(output: Any) -> None:
    with pytest.raises(ExportError):
        exporters.flatten(output)


def test_registry() -> None:
    assert tuple(architecture.id for architecture in exporters.architectures()) == exporters.ids()
    assert exporters.architectures() is exporters.architectures()
    assert exporters.get("swin") is exporters.architectures()[0]
    with pytest.raises(InputError, match=r"known: swin, swinv2, .*, generic"):
        exporters.get("vit")
