"""`python -m edgetx.ops.aot`: see the package; exit code 1 if a kernel spills registers, 2 for an error."""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import resources
from multiprocessing import get_context
from pathlib import Path

from edgetx.errors import EdgetxError, InputError
from edgetx.ops.aot import archive, compiler, table
from edgetx.ops.aot.configs import CAPABILITIES, FAMILIES, Config, Family, configs
from edgetx.ops.plugin import KERNELS


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m edgetx.ops.aot", description=compiler.__doc__)
    beside = Path(str(resources.files("edgetx.ops") / KERNELS))
    parser.add_argument("--output", type=Path, default=beside, help=f"the archive, default {beside}")
    known = ", ".join(map(str, CAPABILITIES))
    parser.add_argument("--sm", type=int, nargs="+", default=CAPABILITIES, help=f"GPUs, default {known}")
    parser.add_argument("--only", default="", help="compile only kernels whose description holds this text")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--table", type=Path, help="write the table of registers and memory here, as Markdown"
    )
    options = parser.parse_args(arguments)
    try:
        if unknown := sorted(set(options.sm) - set(CAPABILITIES)):
            raise InputError(f"no kernels are made for sm_{unknown[0]}; accepted: {known}")
        if (reason := compiler.why_not()) is not None:
            raise EdgetxError(reason)
        kernels = build(tuple(options.sm), options.only, options.jobs)
        archive.write(kernels, options.output)
    except EdgetxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.table:
        options.table.write_text(table.markdown(kernels))
    spilling = [kernel for kernel in kernels if kernel.spilled]
    for kernel in spilling:
        print(f"spills {kernel.spilled} bytes on sm_{kernel.capability}: {kernel.config}", file=sys.stderr)
    size = options.output.stat().st_size / 2**20
    print(f"{len(kernels)} kernels, {size:.1f} MiB, {len(spilling)} that spill: {options.output}")
    return int(bool(spilling))


def build(capabilities: tuple[int, ...], only: str = "", jobs: int = 1) -> list[compiler.Compiled]:
    """Every kernel that is shipped for these GPUs, in the order of `configs`.

    Raises:
        EdgetxError: nothing fits `only`; or a kernel does not compile.
    """
    work: list[tuple[Config, Family]] = []
    for family in FAMILIES:
        if set(family.capabilities) & set(capabilities):
            work += [(config, family) for config in configs(family.capabilities[0]) if only in str(config)]
    if not work:
        raise InputError(f"no kernel's description holds {only!r}; they look like {configs(80)[1]}")
    start = time.monotonic()
    made: dict[tuple[Config, Family], list[compiler.Compiled]] = {}
    # Children that are not forked: Triton's threads do not survive a fork.
    with ProcessPoolExecutor(max(1, jobs), mp_context=get_context("spawn")) as pool:
        jobs_ = {pool.submit(compiler.compile_family, *each, capabilities): each for each in work}
        for done, job in enumerate(as_completed(jobs_), 1):
            made[jobs_[job]] = job.result()
            if done % 20 == 0 or done == len(work):
                print(f"{done} of {len(work)} after {time.monotonic() - start:.0f} s", file=sys.stderr)
    return [kernel for each in work for kernel in made[each]]


if __name__ == "__main__":
    sys.exit(main())
