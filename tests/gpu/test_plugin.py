"""The TensorRT plugins without TensorRT: every kernel that was compiled ahead of time, held to float64.

`plugin_enqueue.cc` drives the plugin library. Without a GPU a stand-in driver takes the launches, which shows
that everything up to them works.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gpu_cases import check, groups, windows  # noqa: E402

from edgetx.ops import plugin  # noqa: E402
from edgetx.ops.aot import archive  # noqa: E402
from edgetx.ops.aot.compiler import Compiled  # noqa: E402
from edgetx.ops.aot.configs import CHAIN, GROUP, WINDOW, Config, configs  # noqa: E402

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ARGUMENTS = {WINDOW: "pppppiiiiiiiiiiiiiiiiiiff", GROUP: "pppppppiiiif", CHAIN: "pppi"}
NAMES = {WINDOW: "WindowAttention", GROUP: "GroupAttention"}
AMPERE, TURING = configs(80), configs(75)
KINDS = sorted({(c.kernel, c.dtype, c.size, c.align, c.variant) for c in AMPERE if c.kernel != CHAIN})


def head_size(size: int, align: int) -> int:
    """The largest that only kernels of this block and this alignment take."""
    return size if align == 8 else size - align


@pytest.fixture(scope="session")
def kernels(device: Any) -> None:
    """Needs the compiled kernels and a GPU."""
    if (reason := plugin.why_no_kernels()) is not None:
        pytest.skip(reason)


def run(harness: Any, folder: Path, kernel: str, case: Any, **environment: str) -> None:
    """Enqueue every tactic and the plugin's own choice; hold each to float64."""
    attributes, tensors = case
    if kernel == GROUP:
        attributes = attributes.with_scale(tensors[0].shape[1])
    done = harness.run(folder, NAMES[kernel], attributes, tensors, **environment)
    assert done.returncode == 0, done.stderr
    like = torch.empty(0, dtype=tensors[0].dtype)
    if kernel == WINDOW:
        shape = (*tensors[0].shape[:3], attributes.num_heads * attributes.value_size(tensors[0].shape[3]))
    else:
        shape = tensors[2].shape
    outputs = harness.outputs(folder, like.new_empty(shape))
    assert len(outputs) > 1 and 0 in outputs
    for given in outputs.values():
        check(attributes, tensors, given)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind)))
def test_every_compiled_kernel(kernels: None, harness: Any, tmp_path: Path, kind: Any) -> None:
    kernel, dtype, size, align, variant = kind
    head = head_size(size, align)
    if kernel == WINDOW:
        norm = "l2" if variant else "none"
        cases = {
            # One block of keys; and several, over a map with pads.
            "one": windows(DTYPES[dtype], head, norm=norm),
            "loop": windows(
                DTYPES[dtype], head, norm=norm, heads=2, side=12, keys=16, size=(1, 20, 31), pad="after_roll"
            ),
        }
    else:
        activation = "relu2" if variant else "softmax"
        cases = {
            "one": groups(DTYPES[dtype], head, heads=2, slots=30, activation=activation),
            "loop": groups(DTYPES[dtype], head, heads=2, slots=144, activation=activation),
        }
    for name, case in cases.items():
        run(harness, tmp_path / name, kernel, case)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ptx_where_a_gpu_has_no_kernel_of_its_own(
    kernels: None, harness: Any, tmp_path: Path, dtype: str
) -> None:
    only_ptx(kernels_path(), tmp_path / "ptx.bin")
    chosen = {plugin.KERNELS_VARIABLE: str(tmp_path / "ptx.bin")}
    run(harness, tmp_path / "windows", WINDOW, windows(DTYPES[dtype]), **chosen)
    run(harness, tmp_path / "groups", GROUP, groups(DTYPES[dtype]), **chosen)


def kernels_path() -> Path:
    """The archive in use."""
    chosen = os.environ.get(plugin.KERNELS_VARIABLE)
    return Path(chosen) if chosen else plugin.library("tensorrt").with_name(plugin.KERNELS)


def only_ptx(source: Path, to: Path) -> None:
    """The archive without its cubins: the images stay where they are."""
    data = source.read_bytes()
    magic, count, size = archive.HEADER.unpack_from(data)
    table = [data[archive.HEADER.size + i * size :][:size] for i in range(count)]
    kept = [entry for entry in table if struct.unpack_from("<I", entry, 100)[0]]
    assert kept
    head = archive.HEADER.pack(magic, len(kept), size) + b"".join(kept)
    to.write_bytes(head + data[len(head) :])


# --------------------------------------------------------------------------- without a GPU


@pytest.fixture(scope="module")
def stand_in(compile_native: Callable[..., Path], harness: Any, tmp_path_factory: Any) -> dict[str, str]:
    """Environment: the stand-in driver, and an archive of every kernel whose images say nothing."""
    driver = compile_native("libedgetx_fake_cuda.so", "-shared", "-fPIC", "tests/native/fake/cuda.cc")
    path = tmp_path_factory.mktemp("archive") / "kernels.bin"
    made = [
        Compiled(config, 86, False, b"image\0", ARGUMENTS[config.kernel], 0, 0, 0, 0.0) for config in AMPERE
    ]
    archive.write(made, path)
    return {"EDGETX_CUDA_DRIVER": str(driver), plugin.KERNELS_VARIABLE: str(path)}


@pytest.mark.parametrize("kernel", NAMES)
def test_the_way_to_the_launch(stand_in: dict[str, str], harness: Any, tmp_path: Path, kernel: str) -> None:
    attributes, tensors = windows(torch.float16) if kernel == WINDOW else groups(torch.bfloat16)
    if kernel == GROUP:
        attributes = attributes.with_scale(tensors[0].shape[1])
    calls = tmp_path / "calls"
    done = harness.run(tmp_path, NAMES[kernel], attributes, tensors, FAKE_CALLS=str(calls), **stand_in)
    assert done.returncode == 0, done.stderr
    tactics = {
        c.tile.queries << 16 | c.tile.keys
        for c in fitting(kernel, *((32, "fp16") if kernel == WINDOW else (16, "bf16")))
    }
    outputs = harness.outputs(
        tmp_path, tensors[2].new_empty((2, 14, 21, 96) if kernel == WINDOW else tensors[2].shape)
    )
    assert set(outputs) == tactics | {0}
    # The stand-in computes nothing, and the check would say so.
    with pytest.raises(AssertionError, match="inf"):
        check(attributes, tensors, outputs[0])
    launches = [line for line in calls.read_text().splitlines() if line.startswith("cuLaunchKernel")]
    if kernel == WINDOW:
        # 2 maps of 2 x 3 windows and 3 heads; 49 queries in one block of 64 or two of 32.
        assert {launch.split()[1] for launch in launches} == {"36,1,1", "72,1,1"}
    else:
        # The chains of 1000 tokens, then 7 groups of 144 slots and 8 heads.
        assert {launch.split()[1] for launch in launches} == {"4,1,1", "280,1,1"}


def fitting(kernel: str, head: int, dtype: str) -> list[Config]:
    return [
        c
        for c in AMPERE
        if (c.kernel, c.dtype, c.variant) == (kernel, dtype, 0) and c.size >= head and not head % c.align
    ]


def test_every_kernel_has_a_case() -> None:
    """The case of a kind reaches the kernels of that kind: the tightest block and the widest loads."""
    for config in (*AMPERE, *TURING):
        if config.kernel == CHAIN:
            continue
        kind = (config.kernel, config.dtype, config.size, config.align, config.variant)
        assert kind in KINDS
        head = head_size(config.size, config.align)
        same = [
            c
            for c in AMPERE
            if (c.kernel, c.dtype, c.variant) == (config.kernel, config.dtype, config.variant)
        ]
        fits = [c for c in same if c.size >= head and not head % c.align and c.tile == config.tile]
        if config in AMPERE:
            assert min(fits, key=lambda c: (c.size, -c.align)) == config


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"FAKE_FAIL": "cuMemAlloc_v2"}, "cuMemAlloc failed with CUDA_ERROR_OUT_OF_MEMORY"),
        (
            {"FAKE_FAIL": "cuLaunchKernel"},
            "enqueue failed: edgetx: the NVIDIA driver's cuLaunchKernel failed",
        ),
        ({plugin.KERNELS_VARIABLE: "/none.bin"}, "/none.bin cannot be opened"),
        ({"EDGETX_CUDA_DRIVER": "/none.so"}, "there is no NVIDIA driver that can be loaded (/none.so"),
    ],
    ids=["memory", "launch", "kernels", "driver"],
)
def test_what_fails(
    stand_in: dict[str, str], harness: Any, tmp_path: Path, environment: dict[str, str], message: str
) -> None:
    done = harness.run(tmp_path, "WindowAttention", *windows(torch.float16), **(stand_in | environment))
    assert done.returncode == 1 and message in done.stderr, done.stderr
    assert not list(tmp_path.glob("out.*"))
