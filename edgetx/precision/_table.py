"""The overflow table: how far every PyTorch module is from 65504, and what stays in float32."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from edgetx.fusion import MODULE_KEY
from edgetx.package import KeptEntry, RangeOfModule
from edgetx.precision._observe import Ranges
from edgetx.precision._plan import Plan, floats


def modules(graph: ir.Graph, ranges: Ranges) -> list[RangeOfModule]:
    """Every module whose own nodes give float32 values, the largest magnitude first."""
    largest: dict[str, float] = {}
    for node in graph:
        scopes = _scopes(node)
        for index, value in enumerate(node.outputs):
            seen = ranges.values.get(value.name or "")
            if seen is not None:
                scope = scopes[min(index, len(scopes) - 1)]
                largest[scope] = max(largest.get(scope, 0.0), seen.largest)
        if node.name in ranges.inner:
            largest[scopes[0]] = max(largest.get(scopes[0], 0.0), ranges.inner[node.name])
    ranked = sorted(largest.items(), key=lambda item: (-item[1], item[0]))
    return [RangeOfModule(module=scope, largest=number) for scope, number in ranked]


def kept(graph: ir.Graph, plan: Plan) -> list[KeptEntry]:
    """What stays in float32, equal lines once, in graph order."""
    lines = Counter(
        ("|".join(dict.fromkeys(_scopes(node))), node.op_type, plan.kept[node.name])
        for node in floats(graph)
        if node.name in plan.kept
    )
    return [
        KeptEntry(module=scope, operator=operator, nodes=count, reason=reason)
        for (scope, operator, reason), count in lines.items()
    ]


def _scopes(node: ir.Node) -> list[str]:
    return node.metadata_props.get(MODULE_KEY, "").split("|")
