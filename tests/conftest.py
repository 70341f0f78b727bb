"""Fixtures that several test folders share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Before anything imports torch, onnxruntime or numpy: small models lose more to threads than they gain.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
# Before anything imports Triton: without a GPU its interpreter runs the kernels.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def _spinning_off() -> None:
    """Threads of ONNX Runtime that wait take no core from the tests beside them; answers are the same."""
    try:
        import onnxruntime
    except ImportError:
        return

    class Options(onnxruntime.SessionOptions):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.add_session_config_entry("session.intra_op.allow_spinning", "0")

    onnxruntime.SessionOptions = Options


if "PYTEST_XDIST_WORKER" in os.environ:
    _spinning_off()

# A shell that starts the tests in the background lets them, and all that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that none is left to one process while the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tests measure is kept in a folder of theirs."""
    folder = tmp_path_factory.mktemp("history")
    os.environ["EDGETX_HISTORY"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs, LiDAR sweeps and speech that are not part of the project."""
    folder = Path(os.environ.get("EDGETX_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data in {folder}; set EDGETX_TEST_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def photograph() -> Path:
    """A real photograph (451 x 300, RGB, CC0) that scikit-image carries."""
    data = pytest.importorskip("skimage.data", reason="the photograph comes with scikit-image")
    return Path(data.__file__).with_name("chelsea.png")


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A package of 8x8 images and 3 classes: logits are half the channels' means. Needs onnx, not torch."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    from edgetx.core import IOSpec, SymbolRange, TensorSpec
    from edgetx.package import Case, create
    from edgetx.processors import ImageClassification, to_dict
    from tests.manifests import manifest

    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["means"], keepdims=0),
        helper.make_node("Mul", ["means", "half"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]),
            helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    image = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    io = IOSpec(
        inputs=(TensorSpec("image", "float32", ("batch", 3, 8, 8)),),
        outputs=(TensorSpec("logits", "float32", ("batch", 3)),),
        symbols={"batch": SymbolRange()},
    )
    processor = ImageClassification(
        size=(8, 8), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), labels=("red", "green", "blue"), top_k=2
    )
    with create(tmp_path / "classifier") as draft:
        onnx.save(model, draft.model_path)
        draft.save_golden([Case({"image": image}, {"logits": image.mean((2, 3)) / 2})])
        draft.seal(manifest("classifier", io, processor=to_dict(processor)))
        return draft.publish().path


@pytest.fixture(scope="session")
def swin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of a small Swin with random weights, which has edgetx operators."""
    import edgetx
    from edgetx import _torchvision

    _torchvision.install()
    timm = pytest.importorskip("timm")
    model = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=64,
        window_size=4,
        embed_dim=16,
        depths=(2, 2),
        num_heads=(1, 2),
    )
    return edgetx.export(model.eval(), output=tmp_path_factory.mktemp("swin") / "swin").path
