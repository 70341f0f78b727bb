"""FlatFormer against an implementation in plain numpy, written apart from the model; its exported file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

import edgetx
from edgetx import exporters, samples, sources, tracing
from edgetx.errors import InputError
from edgetx.exporters.flatformer import FlatFormer, flatformer_tiny
from edgetx.exporters.flatformer.config import PRESETS
from edgetx.exporters.flatformer.head import head_maps
from edgetx.exporters.flatformer.model import Detector
from edgetx.exporters.flatformer.serialize import ORDERS, Serialize
from edgetx.ops import library

TINY = PRESETS["flatformer_tiny"]
FEATURES = ("middle_encoder", "neck")
TOLERANCE = 1e-4

_ERF = np.vectorize(math.erf)


class Slow:
    """Points to tokens in float64, from the names of the weights alone; pillar by pillar, group by group."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.w = {name: value.double().numpy() for name, value in weights.items()}

    def __call__(self, points: np.ndarray) -> tuple[list[tuple[int, int]], np.ndarray, np.ndarray]:
        """(y, x) of the pillars, their features and their tokens."""
        pillars: dict[tuple[int, int], list[np.ndarray]] = {}
        low, size = np.float32(TINY.point_range[:3]), np.float32(TINY.pillar)
        for point in points:
            cell = np.floor((point[:3] - low) / size)
            if (cell >= 0).all() and (cell < (*reversed(TINY.grid), 1)).all():
                pillars.setdefault((int(cell[1]), int(cell[0])), []).append(point.astype(np.float64))
        coords = sorted(pillars)
        features = np.array([self.encode(cell, np.array(pillars[cell])) for cell in coords])
        return coords, features, self.attend(features, coords)

    def encode(self, cell: tuple[int, int], points: np.ndarray) -> np.ndarray:
        y, x = cell
        xyz = points[:, :3]
        center = np.array(TINY.point_range[:3]) + (np.array([x, y, 0]) + 0.5) * TINY.pillar
        rows = np.concatenate([points, xyz - xyz.mean(0), xyz - center], 1)
        for name in ("voxel_encoder.vfe_layers.0", "voxel_encoder.vfe_layers.1"):
            norm = f"{name}.norm"
            rows = rows @ self.w[f"{name}.linear.weight"].T - self.w[f"{norm}.running_mean"]
            rows = rows / np.sqrt(self.w[f"{norm}.running_var"] + 1e-3)
            rows = rows * self.w[f"{norm}.weight"] + self.w[f"{norm}.bias"]
            rows = np.maximum(rows, 0)
            largest = rows.max(0)
            rows = np.concatenate([rows, np.tile(largest, (len(rows), 1))], 1)
        return largest

    def attend(self, x: np.ndarray, coords: list[tuple[int, int]]) -> np.ndarray:
        cells = torch.tensor([(0, *cell) for cell in coords], dtype=torch.int32)
        groups, inverse = Serialize(TINY.grid, TINY.window, TINY.group)(cells)
        pe = np.array([[*self.wave(column), *self.wave(row)] for row, column in coords])
        for block in range(TINY.blocks):
            for layer in range(len(ORDERS)):
                name = f"middle_encoder.block_list.{block}.block.{layer}"
                out = np.zeros((groups[layer].numel(), x.shape[1]))
                for number, row in enumerate(groups[layer].tolist()):
                    tokens = [token for token in row if token >= 0]
                    place = number * TINY.group
                    out[place : place + len(tokens)] = self.group(f"{name}.attn.attn", x[tokens], pe[tokens])
                out = self.linear(f"{name}.attn.attn.out_proj", out[inverse[layer]])
                x = self.norm(f"{name}.norm1", x + out)
                hidden = self.linear(f"{name}.fc1", x)
                hidden = hidden * (1 + _ERF(hidden / math.sqrt(2))) / 2
                x = self.norm(f"{name}.norm2", x + self.linear(f"{name}.fc2", hidden))
        return x

    def wave(self, position: int) -> list[float]:
        half = TINY.channels // 2
        phases = [position / 10000 ** (2 * (index // 2) / half) for index in range(half)]
        return [math.cos(phase) if index % 2 else math.sin(phase) for index, phase in enumerate(phases)]

    def group(self, name: str, x: np.ndarray, pe: np.ndarray) -> np.ndarray:
        weights, biases = (np.split(self.w[f"{name}.in_proj_{kind}"], 3) for kind in ("weight", "bias"))
        q, k, v = (
            (inputs @ weight.T + bias).reshape(len(x), TINY.heads, -1)
            for inputs, weight, bias in zip((x + pe, x + pe, x), weights, biases, strict=True)
        )
        logits = np.einsum("ahd,bhd->hab", q, k) / math.sqrt(q.shape[2])
        chances = np.exp(logits - logits.max(2, keepdims=True))
        chances /= chances.sum(2, keepdims=True)
        return np.einsum("hab,bhd->ahd", chances, v).reshape(len(x), -1)

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        normal = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        return normal * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return flatformer_tiny()


@pytest.fixture(scope="module")
def package(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return edgetx.export(detector, output=tmp_path_factory.mktemp("packages") / "tiny", split=True)


@pytest.fixture(scope="module")
def session(package: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """ONNX Runtime on the package's file, with the tokens and the neck's features as further outputs."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = ir.load(package.model_path)
    values = tracing.last_values(model)
    for name in FEATURES:
        values[name].name = name
        model.graph.outputs.append(values[name])
    folder = tmp_path_factory.mktemp("profiles")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.log_severity_level = 3
    if library.why_not() is None:
        options.register_custom_ops_library(library.path())
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)


def run(session: Any, points: np.ndarray) -> dict[str, np.ndarray]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"points": points}), strict=True))


def sweep(path: Path) -> np.ndarray:
    points = np.fromfile(path, np.float32).reshape(-1, 5 if "nuscenes" in path.name else 4)
    return np.ascontiguousarray(points[:, :4])


def same_boxes(detector: Detector, found: Mapping[str, np.ndarray], points: np.ndarray) -> int:
    """Whether the boxes are PyTorch's, in whatever order equal scores come; their number."""
    with torch.no_grad():
        expected = {name: value.numpy() for name, value in detector(torch.from_numpy(points)).items()}
    processor = FlatFormer().processor(detector)
    arranged, reason = processor.match(expected, found, TOLERANCE)
    assert reason is None
    for name in ("boxes", "scores"):
        np.testing.assert_allclose(arranged[name], expected[name], atol=TOLERANCE, rtol=0)
    np.testing.assert_array_equal(arranged["labels"], expected["labels"])
    return len(expected["scores"])


@pytest.mark.parametrize("points", [1500, 10])
def test_equals_the_plain_version(detector: Detector, points: int) -> None:
    cloud = samples.sweep(TINY.point_range, 4, seed=3, points=1500)[:points]
    coords, features, tokens = Slow(detector.state_dict())(cloud)
    with torch.no_grad():
        encoded, cells = detector.voxel_encoder(torch.from_numpy(cloud))
        attended = detector.middle_encoder(encoded, cells)
    assert cells.tolist() == [[0, y, x] for y, x in coords]
    assert (len(coords) < TINY.group) == (points == 10)
    np.testing.assert_allclose(encoded.numpy(), features, atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(attended.numpy(), tokens, atol=2e-5, rtol=0)


CLOUDS = {
    "sweep": samples.sweep(TINY.point_range, 4, seed=1, points=3000),
    "empty": np.zeros((0, 4), np.float32),
    "one point": np.array([[10.0, 2.0, -1.0, 0.3]], np.float32),
    "none in range": np.full((7, 4), 500.0, np.float32),
    "none finite": np.full((7, 4), np.nan, np.float32),
}


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS.keys())
def test_rewritten_equals_the_model(detector: Detector, cloud: np.ndarray) -> None:
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    points = torch.from_numpy(cloud)
    rewrite = FlatFormer().rewrite(detector)
    assert len(rewrite.replaced) == TINY.blocks * len(ORDERS)
    stages = FlatFormer().stages(rewrite.module)
    assert [stage.name for stage in stages] == ["voxelize", "serialize", "backbone", "bev", "decode"]
    values = {"points": points}
    with torch.no_grad():
        for stage in stages:
            feeds = {spec.name: values[spec.name] for spec in stage.io.inputs}
            stage.io.check(feeds, nan=False)
            outputs = exporters.flatten(stage.module(*feeds.values())).values()
            for spec, value in zip(stage.io.outputs, outputs, strict=True):
                assert str(value.dtype).removeprefix("torch.") == spec.dtype
                sizes = zip(spec.shape, value.shape, strict=True)
                assert all(isinstance(dim, str) or dim == size for dim, size in sizes), spec
                values[spec.name] = value
        whole = rewrite.module(points)
        assert all(torch.equal(whole[name], values[name]) for name in whole)
        for name, expected in zip(head_maps(TINY), detector.maps(points), strict=True):
            torch.testing.assert_close(values[name], expected, atol=2e-5, rtol=1e-5)
    same_boxes(detector, {name: value.numpy() for name, value in whole.items()}, cloud)
    after = detector.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in after)


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS.keys())
def test_one_file_for_any_cloud(detector: Detector, session: Any, cloud: np.ndarray) -> None:
    found = run(session, cloud)
    assert same_boxes(detector, found, cloud) == len(found["boxes"])
    assert not len(found["boxes"]) or len(cloud) > 1


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS.keys())
def test_the_chain_of_stages_gives_the_same(package: Any, session: Any, cloud: np.ndarray) -> None:
    assert package.stages == ("voxelize", "serialize", "backbone", "bev", "decode")
    with edgetx.load(package, stages=True) as chain:
        if np.isnan(cloud).any():  # said where points are given by hand; dropped where they are read
            with pytest.raises(InputError, match="holds NaN"):
                chain.run({"points": cloud})
            return
        found = chain.run({"points": cloud})
    for name, expected in run(session, cloud).items():
        if name in found:
            np.testing.assert_allclose(found[name], expected, atol=1e-5, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("dtype", ["int32", "float64"])
def test_other_numbers_are_refused(package: Any, dtype: str) -> None:
    points = CLOUDS["sweep"].astype(dtype)
    with (
        edgetx.load(package) as whole,
        pytest.raises(InputError, match=f"'points' has dtype {dtype}; the model takes"),
    ):
        whole.run({"points": points})


def test_a_million_points(detector: Detector, session: Any) -> None:
    tile = samples.sweep(TINY.point_range, 4, seed=2)
    cloud = np.tile(tile, (-(-1_000_000 // len(tile)), 1))
    rng = np.random.default_rng(0)
    cloud[:, :3] += rng.normal(0, 0.05, (len(cloud), 3)).astype(np.float32)
    assert same_boxes(detector, run(session, cloud), cloud) > 5


def test_points_that_do_not_count_change_nothing(session: Any) -> None:
    cloud = CLOUDS["sweep"]
    rng = np.random.default_rng(0)
    noise = rng.choice(np.float32([np.nan, np.inf, -np.inf, 1e30, -500]), (900, 4))
    mixed = np.concatenate([cloud, noise])[rng.permutation(len(cloud) + len(noise))]
    clean = mixed[(np.abs(mixed) < 400).all(1)]
    assert len(clean) == len(cloud)
    for name, value in run(session, mixed).items():
        np.testing.assert_array_equal(value, run(session, clean)[name], err_msg=name)


def test_real_sweeps(detector: Detector, session: Any, shared_data: Path) -> None:
    paths = sorted((shared_data / "lidar").glob("*.bin"))
    assert len(paths) == 4
    processor = FlatFormer().processor(detector)
    for path in paths:
        points = sweep(path)
        found = run(session, points)
        with torch.no_grad():
            features, coords = detector.voxel_encoder(torch.from_numpy(points))
            tokens = detector.middle_encoder(features, coords)
            canvas = exporters.flatformer.model.scatter(tokens, coords, TINY.grid)
            bev = detector.neck(detector.backbone(canvas))
        for name, expected in zip(FEATURES, (tokens, bev), strict=True):
            assert expected.std() > 0.1
            error = float(np.abs(found[name].reshape(expected.shape) - expected.numpy()).max())
            assert error <= TOLERANCE, f"{path.name}, {name}: {error:.2e}"
        assert same_boxes(detector, found, points) > 10, path.name
        counts = processor.counts(points)
        assert counts["pillars"] == len(coords)
        assert counts["groups"] == len(detector.middle_encoder.serialize(coords)[0][0])


def test_no_tensor_grows_faster_than_the_points(package: Any, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    largest = []
    for points in (2_000, 8_000, 32_000):
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(tmp_path / str(points))
        if library.why_not() is None:
            options.register_custom_ops_library(library.path())
        session = onnxruntime.InferenceSession(package.model_path, options)
        rng = np.random.default_rng(points)
        low, high = np.array(TINY.point_range).reshape(2, 3)
        cloud = np.concatenate([rng.uniform(low, high, (points, 3)), rng.random((points, 1))], 1)
        session.run(None, {"points": cloud.astype(np.float32)})
        profile = json.loads(Path(session.end_profiling()).read_text())
        sizes = [
            math.prod(shape)
            for event in profile
            for each in event.get("args", {}).get("output_type_shape", [])
            for shape in each.values()
        ]
        largest.append(max(sizes))
    fixed = TINY.grid[0] * TINY.grid[1] * sum(TINY.neck_channels)
    for points, size in zip((2_000, 8_000, 32_000), largest, strict=True):
        assert size <= max(fixed, points * 2 * TINY.channels), f"{points} points: {size}"


def test_the_package_says_what_it_is(package: Any, detector: Detector) -> None:
    manifest = package.manifest
    assert manifest.architecture == "flatformer"
    assert manifest.operators == {"GroupAttention": 8, "BiasGelu": 8, "AddNorm": 16}
    assert package.processor == FlatFormer().processor(detector)
    assert [str(spec) for spec in package.io.inputs] == ["points=float32[points,4]"]
    assert package.io.symbols["points"].min == 0
    assert [len(case.inputs["points"]) > 0 for case in package.golden()] == [True, True, False]
    assert len(package.golden()[0].outputs["scores"]) > 10


def test_every_preset_can_be_named() -> None:
    for name, config in PRESETS.items():
        assert FlatFormer.presets[name] == f"edgetx.exporters.flatformer:{name}"
        with torch.device("meta"):
            module = Detector(config)
        assert exporters.find(module).id == "flatformer"
        io = FlatFormer().describe(module)
        assert io.inputs[0].shape == ("points", config.columns)
        assert io.outputs[0].shape == ("detections", config.box_size)
        assert len(config.nms_iou) == len(config.nms_before) == len(config.nms_after) == len(config.classes)
        assert all(size % config.output_stride == 0 for size in config.grid)


def test_a_module_around_a_detector(detector: Detector) -> None:
    class Around(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = detector

        def forward(self, points: torch.Tensor) -> torch.Tensor:
            return self.inner(points)["scores"] + 1

    around, architecture = Around().eval(), FlatFormer()
    points = torch.from_numpy(CLOUDS["sweep"])
    assert exporters.find(around).id == "flatformer"
    rewrite = architecture.rewrite(around)
    assert rewrite.replaced[0] == "inner.middle_encoder.block_list.0.block.0.attn"
    assert architecture.stages(rewrite.module) == architecture.samples(around) == ()
    assert architecture.processor(around) is None
    with torch.no_grad():
        torch.testing.assert_close(rewrite.module(points), around(points), atol=2e-5, rtol=0)


def test_random_weights_are_the_same_each_time() -> None:
    first, second = (sources.load("flatformer_tiny", pretrained=False).module.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
