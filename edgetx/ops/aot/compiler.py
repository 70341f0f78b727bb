"""Triton kernel -> PTX -> cubins; no GPU is needed."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgetx.errors import EdgetxError, UnavailableError
from edgetx.ops import gpu
from edgetx.ops.aot.configs import CHAIN, PTX_CAPABILITY, WINDOW, Config, Family

REGISTER_USAGE = (5, 0, 10)
"""ptxas's `--register-usage-level`, its default first; it spills a few bytes for one more block on a core."""
POINTERS = {"qkv", "bias", "head_scale", "pad_value", "out", "q", "k", "v"}
INDICES = {"groups", "inverse", "first", "following"}
FLOATS = {"scale", "mask_value"}


@dataclass(frozen=True, slots=True)
class Compiled:
    """A configuration for one GPU.

    Attributes:
        image: a cubin; or PTX with a terminating zero.
        arguments: their types in order: `p` pointer, `i` int32, `f` float32.
        shared: dynamic shared memory of a block, in bytes.
        spilled: bytes that a thread writes to memory since its registers do not suffice.
        seconds: that it took to compile, shared evenly by a family.
    """

    config: Config
    capability: int
    is_ptx: bool
    image: bytes
    arguments: str
    shared: int
    registers: int
    spilled: int
    seconds: float


def why_not() -> str | None:
    """None if kernels can be compiled here, else what is missing."""
    try:
        import triton
    except ImportError:
        return "compiling the GPU kernels needs Triton; pip install 'triton>=3.7'"
    if gpu.interpreted():
        return "TRITON_INTERPRET is set, so that Triton interprets instead of compiling; unset it"
    if not Path(triton.knobs.nvidia.ptxas.path).is_file():
        return "Triton's assembler ptxas is missing; reinstall triton"
    return None


def compile_family(config: Config, family: Family, capabilities: Sequence[int]) -> list[Compiled]:
    """Compile for those of a family's GPUs that are among `capabilities`.

    Raises:
        UnavailableError: see `why_not`.
        EdgetxError: the kernel needs scratch memory, which the launcher does not give; or ptxas failed.
    """
    if (reason := why_not()) is not None:
        raise UnavailableError(reason)
    wanted = [each for each in family.capabilities if each in capabilities]
    start = time.monotonic()
    made, arguments = _to_ptx(config, family)
    ptx = unbound(made.asm["ptx"])
    cubins = [_assemble(ptx, each, new=each in family.new_assembler) for each in wanted]
    common: dict[str, Any] = {"arguments": arguments, "shared": made.metadata.shared}
    common["seconds"] = (time.monotonic() - start) / max(len(wanted), 1)
    compiled = [
        Compiled(config, each, False, image, registers=registers, spilled=spilled, **common)
        for each, (image, registers, spilled) in zip(wanted, cubins, strict=True)
    ]
    if PTX_CAPABILITY in wanted:
        # What the driver will make of it is unknown; the numbers are the cubin's.
        first = compiled[0]
        compiled.append(replace(first, is_ptx=True, image=ptx.encode() + b"\0"))
    return compiled


def _to_ptx(config: Config, family: Family) -> tuple[Any, str]:
    """What Triton made, and the types of the kernel's arguments."""
    function, constants = _kernel(config)
    signature = {name: _type(name, config) for name in function.arg_names}
    made = to_ptx(function, signature, constants, config.tile, family)
    scratch = made.metadata.global_scratch_size + made.metadata.profile_scratch_size
    if scratch or made.metadata.num_warps != config.tile.warps or made.metadata.name != config.kernel:
        raise EdgetxError(
            f"{config} needs {scratch} bytes of scratch memory or other warps than its tile says"
        )
    kinds = [kind for kind in signature.values() if kind != "constexpr"]
    return made, "".join("p" if kind.startswith("*") else kind[0] for kind in kinds)


def to_ptx(
    function: Any, signature: Mapping[str, str], constants: Mapping[str, Any], tile: gpu.Tile, family: Family
) -> Any:
    """What Triton makes of a kernel, whose pointers are multiples of 16, for a family's first GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointers = [i for i, name in enumerate(function.arg_names) if signature[name].startswith("*")]
    options = {"ptx_version": family.ptx}
    if tile.queries:
        options |= {"num_warps": tile.warps, "num_stages": tile.stages}
    with tempfile.TemporaryDirectory(prefix="edgetx-triton-") as cache, triton.knobs.compilation.scope():
        triton.knobs.compilation.disable_line_info = True
        with triton.knobs.cache.scope():
            triton.knobs.cache.dir = cache
            # Engines allocate in 256 bytes, so that every tensor starts at a multiple of 16.
            return triton.compile(
                ASTSource(
                    function, signature, constants, {(i,): [["tt.divisibility", 16]] for i in pointers}
                ),
                target=GPUTarget("cuda", family.capabilities[0], 32),
                options=options,
            )


def unbound(ptx: str) -> str:
    """PTX for all of a family: Triton's "a" binds it to the first GPU."""
    return re.sub(r"^(\.target sm_1[02]0)a", r"\1", ptx, flags=re.MULTILINE)


def _kernel(config: Config) -> tuple[Any, dict[str, Any]]:
    """The kernel and what is known when it is compiled."""
    from edgetx.ops.group_attention import triton_kernel as group
    from edgetx.ops.window_attention import triton_kernel as window

    if config.kernel == CHAIN:
        return group.chain_kernel, {"BLOCK": group.BLOCK_TOKENS}
    constants: dict[str, Any] = {
        "UPCAST": False,
        "ALIGN": config.align,
        "BLOCK_Q": config.tile.queries,
        "BLOCK_K": config.tile.keys,
        "BLOCK_D": config.size,
    }
    if config.kernel == WINDOW:
        return window.window_attention_kernel, constants | {"NORM": bool(config.variant)}
    return group.group_attention_kernel, constants | {"SOFTMAX": not config.variant}


def _type(name: str, config: Config) -> str:
    if name.isupper():
        return "constexpr"
    if name in INDICES:
        return "*i32"
    if name in POINTERS:
        return f"*{config.dtype}"
    return "fp32" if name in FLOATS else "i32"


def _assemble(ptx: str, capability: int, *, new: bool) -> tuple[bytes, int, int]:
    """Cubin, registers of a thread, and bytes that it spills."""
    import triton

    tools = triton.knobs.nvidia
    tool = (tools.ptxas_blackwell if new else tools.ptxas).path
    target = re.search(r"^\.target sm_(\d+a?)", ptx, re.MULTILINE)
    assert target is not None
    suffix = "a" if target[1].endswith("a") else ""
    with tempfile.TemporaryDirectory(prefix="edgetx-ptxas-") as folder:
        source, output = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        registers, spilled = 0, 0
        for level in REGISTER_USAGE:
            command = [tool, "-v", f"--gpu-name=sm_{capability}{suffix}", f"--register-usage-level={level}"]
            done = subprocess.run(
                [*command, str(source), "-o", str(output)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise EdgetxError(f"ptxas failed for sm_{capability}: {done.stderr.strip()[:500]}")
            used = re.search(r"Used (\d+) registers", done.stderr)
            spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
            assert used is not None and spills is not None, done.stderr
            registers, spilled = int(used[1]), max(int(spills[1]), int(spills[2]))
            if not spilled:
                break
        return output.read_bytes(), registers, spilled
