"""ONNX Runtime's CUDA provider end to end: a package whose attention our CUDA kernels run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")

import edgetx  # noqa: E402
from edgetx import Target, pipeline, runtimes  # noqa: E402
from edgetx.ops.window_attention import WindowAttentionAttributes, apply  # noqa: E402

CUDA = Target(device="cuda")


class Attention(torch.nn.Module):
    """Windowed attention between two projections."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = torch.nn.Linear(96, 288)
        self.bias = torch.nn.Buffer(torch.randn(3, 49, 49))
        self.proj = torch.nn.Linear(96, 96)
        self.attributes = WindowAttentionAttributes(
            num_heads=3, head_size=32, window=(7, 7), shift=(3, 3), mask="region"
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(apply(self.attributes, self.qkv(x), self.bias))


@pytest.fixture(scope="module")
def package(device: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    made = pipeline.export(
        Attention().eval(), torch.randn(1, 14, 21, 96), output=tmp_path_factory.mktemp("gpu") / "attention"
    )
    if (reason := runtimes.get("ort").why_not(made, CUDA)) is not None:
        pytest.skip(reason)
    return made


def test_agrees_with_pytorch_and_says_what_ran(package: Any, tmp_path: Path) -> None:
    verdict = edgetx.verify(package, runtime="ort", target=CUDA)
    assert verdict.passed
    assert verdict.ran_on["provider"] == "CUDAExecutionProvider"
    assert verdict.ran_on["kernels"] == "edgetx (WindowAttention x1)"


def test_the_node_runs_on_cuda(package: Any, tmp_path: Path) -> None:
    with runtimes.load(package, target=Target(device="cuda", profile=str(tmp_path))) as session:
        session.run(package.golden()[0].inputs)
        events = json.loads(Path(session.end_profiling()).read_text())  # type: ignore[attr-defined]
    ran = [event["args"] for event in events if event.get("args", {}).get("op_name") == "WindowAttention"]
    assert {arguments["provider"] for arguments in ran} == {"CUDAExecutionProvider"}


def test_tensors_stay_on_the_gpu(package: Any) -> None:
    golden = package.golden()[0]
    feeds = {name: torch.from_numpy(array).cuda() for name, array in golden.inputs.items()}
    with runtimes.load(package, target=CUDA) as session:
        outputs = session.run(feeds)
    for name, array in golden.outputs.items():
        assert outputs[name].is_cuda
        # The projections are cuBLAS's, TF32 where ONNX Runtime allows it.
        torch.testing.assert_close(outputs[name].cpu(), torch.from_numpy(array), atol=2e-3, rtol=2e-3)


def test_kernels_and_bodies_agree(package: Any) -> None:
    feeds = package.golden()[0].inputs
    with runtimes.load(package, target=CUDA) as session:
        ours = session.run(feeds)
    with runtimes.load(package, target=Target(device="cuda", custom_ops=False)) as session:
        bodies = session.run(feeds)
    for name, array in ours.items():
        torch.testing.assert_close(
            torch.from_numpy(array), torch.from_numpy(bodies[name]), atol=2e-3, rtol=2e-3
        )
