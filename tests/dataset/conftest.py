"""Packages that enlarge pictures or name their colour, the PyTorch models they come from, and data sets."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from edgetx.core import IOSpec, SymbolRange, TensorSpec
from edgetx.package import Case, create
from edgetx.processors import ImageClassification, ImageRestoration, to_dict
from tests.manifests import manifest

TOY = """
import torch

def enlarge():
    return torch.nn.Sequential(torch.nn.Upsample(scale_factor=2, mode="nearest"))

class Mean(torch.nn.Module):
    def forward(self, image):
        return image.mean((2, 3))

def classify():
    return Mean()
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A module `toy_models` that SOURCE strings can name."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "toy_models.py").write_text(TOY)
    monkeypatch.syspath_prepend(folder)


def write(folder, nodes, constants, io, processor, source, case):
    """A package of a graph that is written by hand."""
    values = [
        [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape) for spec in specs]
        for specs in (io.inputs, io.outputs)
    ]
    tensors = [helper.make_tensor(*constant) for constant in constants]
    model = helper.make_model(
        helper.make_graph(nodes, "toy", *values, tensors),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    with create(folder) as draft:
        onnx.save(model, draft.model_path)
        draft.save_golden([case])
        draft.seal(
            manifest(folder.name, io, source=source, weights="in-memory", processor=to_dict(processor))
        )
        return draft.publish().path


@pytest.fixture
def upscaler(tmp_path, toy):
    """Makes packages that repeat each pixel 2 x 2 and multiply by `gain`, which PyTorch's model does not.

    Their golden picture is `size` x `size`, as bright as `golden` says.
    """

    def make(name="upscaler", gain=1.0, source="toy_models:enlarge", value_range=1.0, size=8, golden=1.0):
        io = IOSpec(
            inputs=(TensorSpec("image", "float32", ("batch", 3, "height", "width")),),
            outputs=(TensorSpec("restored", "float32", ("batch", 3, "rows", "columns")),),
            symbols={name: SymbolRange() for name in ("batch", "height", "width")},
        )
        nodes = [
            helper.make_node(
                "Resize",
                ["image", "", "scales"],
                ["large"],
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            ),
            helper.make_node("Mul", ["large", "gain"], ["restored"]),
        ]
        constants = [
            ("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2]),
            ("gain", TensorProto.FLOAT, [], [gain]),
        ]
        image = (
            np.random.default_rng(0).uniform(0, golden * value_range, (1, 3, size, size)).astype(np.float32)
        )
        case = Case({"image": image}, {"restored": image.repeat(2, 2).repeat(2, 3)})
        processor = ImageRestoration(scale=2, value_range=value_range)
        return write(tmp_path / name, nodes, constants, io, processor, source, case)

    return make


@pytest.fixture
def colours(tmp_path, toy):
    """Makes packages whose logits are the channels' means times `signs`; PyTorch's model knows no signs."""

    def make(name="colours", signs=(1.0, 1.0, 1.0), source="toy_models:classify"):
        io = IOSpec(
            inputs=(TensorSpec("image", "float32", ("batch", 3, 8, 8)),),
            outputs=(TensorSpec("logits", "float32", ("batch", 3)),),
            symbols={"batch": SymbolRange()},
        )
        nodes = [
            helper.make_node("ReduceMean", ["image", "axes"], ["means"], keepdims=0),
            helper.make_node("Mul", ["means", "signs"], ["logits"]),
        ]
        constants = [
            ("axes", TensorProto.INT64, [2], [2, 3]),
            ("signs", TensorProto.FLOAT, [3], signs),
        ]
        image = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
        processor = ImageClassification(
            size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1), labels=("red", "green, verdant", "blue")
        )
        case = Case({"image": image}, {"logits": image.mean((2, 3))})
        return write(tmp_path / name, nodes, constants, io, processor, source, case)

    return make


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def pairs(tmp_path):
    """HR and LR_bicubic/X2 with three smooth pictures; the second one's sides are odd."""
    folder = tmp_path / "pairs"
    generator = np.random.default_rng(1)
    for name, (height, width) in {"a": (32, 40), "b": (33, 29), "c": (40, 32)}.items():
        coarse = Image.fromarray(generator.integers(0, 256, (5, 5, 3), np.uint8))
        high = coarse.resize((width, height), Image.Resampling.BICUBIC)
        low = high.resize((width // 2, height // 2), Image.Resampling.BICUBIC)
        save(folder / "HR" / f"{name}.png", np.asarray(high))
        save(folder / "LR_bicubic" / "X2" / f"{name}x2.png", np.asarray(low))
    return folder


@pytest.fixture
def classes(tmp_path):
    """Folders `red`, `Verdant` (a synonym) and `2`, two pictures each; one of the blue ones is red."""
    folder = tmp_path / "classes"
    for channel, name in enumerate(("red", "Verdant", "2")):
        for index in range(2):
            pixels = np.full((12, 12, 3), 40, np.uint8)
            pixels[..., 0 if (channel, index) == (2, 1) else channel] = 200
            save(folder / name / f"{index}.png", pixels)
    return folder
