"""Kernels compiled ahead of time, without a GPU: a few here, all of them by `make kernels`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgetx.ops.aot import archive, table
from edgetx.ops.aot.compiler import Compiled
from edgetx.ops.aot.configs import CAPABILITIES, CHAIN, FAMILIES, GROUP, WINDOW, configs

triton = pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]


def aot(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process that compiles, where this one interprets."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "edgetx.ops.aot", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def entries(path: Path) -> list[tuple[object, ...]]:
    data = path.read_bytes()
    magic, count, size = archive.HEADER.unpack_from(data)
    assert (magic, size) == (archive.MAGIC, archive.ENTRY.size)
    made = []
    for index in range(count):
        entry = archive.ENTRY.unpack_from(data, archive.HEADER.size + index * size)
        names = [name.rstrip(b"\0").decode() for name in entry[:2]]
        made.append((*names, *entry[2:-2], data[entry[-2] : entry[-2] + entry[-1]]))
    return made


def test_one_kernel_for_two_gpus_and_as_ptx(tmp_path: Path) -> None:
    path = tmp_path / "kernels.bin"
    only = "group_attention_kernel', dtype='fp16', tile=Tile(queries=32, keys=64, warps=4, stages=1), size=16"
    done = aot(
        "--output", path, "--only", only, "--sm", 80, 87, "--jobs", 1, "--table", tmp_path / "table.md"
    )
    assert done.returncode == 0, done.stderr
    first, third, second = entries(path)
    # Kernel, arguments, GPU, PTX?, dtype, block of queries, of keys, of channels, alignment, variant, warps.
    assert first[:11] == (GROUP, "pppppppiiiif", 80, 0, 1, 32, 64, 16, 8, 0, 4)
    assert second[:4] == (GROUP, "pppppppiiiif", 80, 1)
    assert third[:4] == (GROUP, "pppppppiiiif", 87, 0)
    for entry in (first, third):
        assert entry[-1][:4] == b"\x7fELF"  # type: ignore[index]
        assert (entry[12] > 0, entry[13]) == (True, 0)  # type: ignore[operator]  # registers, spilled bytes
    text = bytes(second[-1])  # type: ignore[call-overload]
    assert text.endswith(b"\0")
    # JetPack 6's driver takes PTX 8.5.
    assert re.search(rb"^\.version 8\.5\n\.target sm_80$", text, re.MULTILINE)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0].endswith("| sm_80 | sm_87 |")
    assert lines[2].startswith("| group_attention softmax | fp16 | ≤ 16, 8·n | 32×64 |")


def test_arguments_are_those_of_the_launcher() -> None:
    from edgetx.ops.aot.compiler import FLOATS, INDICES, POINTERS
    from edgetx.ops.group_attention import triton_kernel as group
    from edgetx.ops.window_attention import triton_kernel as window

    def kinds(function: object) -> str:
        names = [name for name in function.arg_names if not name.isupper()]  # type: ignore[attr-defined]
        return "".join(
            "p" if name in POINTERS | INDICES else "f" if name in FLOATS else "i" for name in names
        )

    native = (ROOT / "tests/native/fake/cases.h").read_text()
    for function in (window.window_attention_kernel, group.group_attention_kernel, group.chain_kernel):
        assert f'"{kinds(function)}"' in native


def test_every_gpu_has_every_kernel_and_dtype() -> None:
    assert CAPABILITIES == (75, 80, 86, 87, 89, 90, 110, 120, 121)
    for family in FAMILIES:
        made = configs(family.capabilities[0])
        assert len(set(made)) == len(made) <= 60
        for kernel in (WINDOW, GROUP):
            for dtype in ("fp32", "fp16", "bf16"):
                for variant in (0, 1):
                    fits = [c for c in made if (c.kernel, c.dtype, c.variant) == (kernel, dtype, variant)]
                    # Any head size up to 128, and for the common variant wide loads.
                    assert any(c.align == 1 and c.size == 128 for c in fits)
                    assert variant or {c.size for c in fits if c.align == 8} == {16, 32, 64}
        assert sum(c.kernel == CHAIN for c in made) == 1


def test_spills_are_shown(tmp_path: Path) -> None:
    config = configs(80)[1]
    kernel = Compiled(config, 80, False, b"image", "ppp", 2048, 255, 0, 1.0)
    text = table.markdown([kernel, replace(kernel, capability=86, spilled=12)])
    assert "| 255 / 2 | 255 / 2 (spills 12 B) |" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sm", "70"], "no kernels are made for sm_70; accepted: 75, 80"),
        (["--only", "nothing"], "no kernel's description holds 'nothing'"),
        ([], "TRITON_INTERPRET is set"),
    ],
)
def test_errors(arguments: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "kernels.bin"
    if arguments:
        done = aot("--output", path, *arguments)
    else:
        command = [sys.executable, "-m", "edgetx.ops.aot", "--output", str(path)]
        environment = os.environ | {"TRITON_INTERPRET": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert not path.exists()
