"""Where the time goes: the parts of one run, from an engine's own profiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of a run; mean nanoseconds per run.

    Attributes:
        name: of the node as the engine runs it.
        operator: its kind, `domain::Name` outside of ONNX's own domain.
        module: the PyTorch module that it comes from, "" for the model itself, None where it is unknown.
        nodes: the nodes of the package's graph that it stands for.
        flops, bytes: what these nodes compute and touch, None where they are not counted.
    """

    name: str
    operator: str
    ns: float
    module: str | None = None
    nodes: tuple[str, ...] = ()
    flops: float | None = None
    bytes: float | None = None


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine can do at most: FLOP/s of matrix products, bytes/s of memory; how it was measured."""

    flops: float
    bandwidth: float
    how: str

    def least_ns(self, flops: float, moved: float) -> float:
        """The time that neither bound lets one go below, in nanoseconds."""
        return max(flops / self.flops, moved / self.bandwidth) * 1e9

    def bound(self, flops: float, moved: float) -> str:
        """Which of the two holds."""
        return "compute" if flops / self.flops >= moved / self.bandwidth else "memory"


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """All parts of one module or one kind of operator."""

    name: str
    ns: float
    share: float
    parts: int
    flops: float = 0.0
    bytes: float = 0.0


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a run, and what of its time they do not explain.

    Attributes:
        profiler: whose figures these are.
        runs: how many runs the figures are means over.
        total_ns: wall-clock time of a run with the profiler on, measured outside of the engine.
        parts: nodes in the order in which they run.
        around: named time of the engine outside of nodes (scheduling, binding of inputs and outputs).
        unprofiled_ns: median of a run without the profiler in the same process, to show what it costs.
        rates: the machine's, for the roofline; None where they were not measured.
        notes: what could not be told.
    """

    profiler: str
    runs: int
    total_ns: float
    parts: list[Part]
    around: dict[str, float] = {}
    unprofiled_ns: float | None = None
    rates: Rates | None = None
    notes: list[str] = []

    @property
    def remainder_ns(self) -> float:
        """What neither the parts nor the named time around them explain; negative where they overlap."""
        return self.total_ns - sum(part.ns for part in self.parts) - sum(self.around.values())

    @property
    def explained(self) -> float:
        """The share of the total that has a name."""
        return 1 - self.remainder_ns / self.total_ns

    def by_operator(self) -> list[Share]:
        """The kinds of operators, the most expensive first."""
        return self._grouped(lambda part: part.operator)

    def by_module(self, depth: int | None = None) -> list[Share]:
        """The modules, cut off after `depth` names, the most expensive first."""

        def name(part: Part) -> str:
            if part.module is None:
                return "(of no module)"
            return ".".join(part.module.split(".")[:depth]) or "(the model itself)"

        return self._grouped(name)

    def _grouped(self, name: Callable[[Part], str]) -> list[Share]:
        groups: dict[str, list[Part]] = {}
        for part in self.parts:
            groups.setdefault(name(part), []).append(part)
        shares = [
            Share(
                name=key,
                ns=_sum([part.ns for part in parts]),
                share=_sum([part.ns for part in parts]) / self.total_ns,
                parts=len(parts),
                flops=_sum([part.flops for part in parts]),
                bytes=_sum([part.bytes for part in parts]),
            )
            for key, parts in groups.items()
        ]
        return sorted(shares, key=lambda share: -share.ns)


def _sum(values: Sequence[float | None]) -> float:
    return sum(value for value in values if value is not None)
