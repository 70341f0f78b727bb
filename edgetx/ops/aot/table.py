"""The table of what the compiled kernels take, for the documentation."""

from __future__ import annotations

from collections.abc import Sequence

from edgetx.ops.aot.compiler import Compiled
from edgetx.ops.aot.configs import Config


def markdown(kernels: Sequence[Compiled]) -> str:
    """Registers of a thread / shared memory of a block in KiB, per configuration and GPU; and spills."""
    cubins = [kernel for kernel in kernels if not kernel.is_ptx]
    capabilities = sorted({kernel.capability for kernel in cubins})
    rows: dict[Config, dict[int, str]] = {}
    for kernel in cubins:
        spilled = f" (spills {kernel.spilled} B)" if kernel.spilled else ""
        text = f"{kernel.registers} / {kernel.shared / 1024:g}{spilled}"
        rows.setdefault(kernel.config, {})[kernel.capability] = text
    head = ["kernel", "dtype", "head size", "block", *(f"sm_{each}" for each in capabilities)]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for config, numbers in sorted(rows.items(), key=lambda row: _order(row[0])):
        cells = [
            f"{config.kernel.removesuffix('_kernel')} {config.variant_name}".strip(),
            config.dtype if config.size else "",
            f"≤ {config.size}" + (f", {config.align}·n" if config.align > 1 else "") if config.size else "",
            f"{config.tile.queries}×{config.tile.keys}" if config.size else "",
            *(numbers.get(each, "") for each in capabilities),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _order(config: Config) -> tuple[object, ...]:
    return (config.kernel, config.variant, config.dtype, -config.align, config.size, -config.tile.queries)
