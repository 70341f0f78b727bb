"""What the GPU's tests share. Without a GPU they skip, but for what a stand-in driver can show."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from edgetx.ops import plugin

spec = importlib.util.spec_from_file_location("gpu_cases", Path(__file__).with_name("cases.py"))
assert spec is not None and spec.loader is not None
cases = importlib.util.module_from_spec(spec)
sys.modules["gpu_cases"] = cases  # for the tests beside it
spec.loader.exec_module(cases)

NO_GPU = None if torch.cuda.is_available() else "no NVIDIA GPU that PyTorch can use"
TYPES = {torch.float32: "float", torch.float16: "half", torch.bfloat16: "bfloat16", torch.int32: "int32"}


@pytest.fixture(scope="session")
def device() -> Any:
    """The GPU."""
    if NO_GPU is not None:
        pytest.skip(NO_GPU)
    return torch.device("cuda")


def _headers() -> list[Path]:
    """TensorRT's headers, where the build of edgetx looks for them too."""
    lens = importlib.util.find_spec("kernel_lens")
    folders = [Path(os.environ["TENSORRT_ROOT"])] if os.environ.get("TENSORRT_ROOT") else []
    folders += [Path("/usr")]
    found = [
        folder / below
        for folder in folders
        for below in ("include", "include/x86_64-linux-gnu", "include/aarch64-linux-gnu", "")
    ]
    if lens is not None and lens.submodule_search_locations:
        found.append(Path(lens.submodule_search_locations[0]) / "include" / "tensorrt")
    return [folder for folder in found if (folder / "NvInferRuntime.h").is_file()]


@pytest.fixture(scope="session")
def compile_native(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that compiles C++ of this checkout and returns what it made."""
    compiler = shutil.which("c++") or shutil.which("g++")
    folder = tmp_path_factory.mktemp("native")

    def make(name: str, *arguments: str) -> Path:
        if compiler is None:
            pytest.skip("no C++ compiler")
        output = folder / name
        command = [compiler, "-std=c++17", "-O1", "-I.", *arguments, "-ldl", "-o", str(output)]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return output

    return make


@dataclass(frozen=True)
class Harness:
    """`plugin_enqueue.cc`, compiled."""

    program: Path

    def run(
        self,
        folder: Path,
        name: str,
        attributes: Any,
        tensors: Sequence[torch.Tensor],
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """Enqueue the plugin `name`; `outputs` reads what it gave."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"plugin {name}", "output out"]
        for key, value in attributes.to_onnx().items():
            if key == "plugin_namespace":
                continue
            values = value if isinstance(value, (list, tuple)) else [value]
            kind = {str: "text", float: "floats", int: "ints"}[type(values[0])]
            lines.append(f"{kind} {key} {' '.join(map(repr if kind == 'floats' else str, values))}")
        for index, tensor in enumerate(tensors):
            raw = tensor.contiguous().cpu().view(torch.uint8) if tensor.numel() else tensor
            (folder / f"{index}.bin").write_bytes(raw.numpy().tobytes())
            lines.append(f"input {TYPES[tensor.dtype]} {index}.bin {' '.join(map(str, tensor.shape))}")
        (folder / "case").write_text("\n".join(lines) + "\n")
        command = [str(self.program), str(plugin.library("tensorrt")), str(folder / "case")]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | environment
        )

    @staticmethod
    def outputs(folder: Path, like: torch.Tensor) -> dict[int, torch.Tensor]:
        """Tactic -> output, 0 for the plugin's own choice; of `like`'s dtype and shape."""
        return {
            int(file.suffix[1:]): torch.frombuffer(bytearray(file.read_bytes()), dtype=like.dtype).view(
                like.shape
            )
            for file in folder.glob("out.*")
        }


@pytest.fixture(scope="session")
def harness(compile_native: Callable[..., Path]) -> Harness:
    """Runs plugins without TensorRT; EDGETX_PLUGIN_ENQUEUE names one that is compiled already."""
    if (reason := plugin.why_not("tensorrt")) is not None:
        pytest.skip(reason)
    if chosen := os.environ.get("EDGETX_PLUGIN_ENQUEUE"):
        return Harness(Path(chosen))
    headers = _headers()
    if not headers:
        pytest.skip("no TensorRT headers; set TENSORRT_ROOT or pip install --no-deps kernel-lens")
    sources = ["tests/gpu/plugin_enqueue.cc", "edgetx/ops/native/cuda/driver.cc"]
    folders = ["-isystem", str(headers[0]), "-isystem", "edgetx/ops/native/trt/cuda_types"]
    return Harness(compile_native("plugin_enqueue", *folders, *sources))
