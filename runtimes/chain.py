"""The stages of a package, run one after the other as one session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from time import perf_counter_ns
from typing import Any

from edgetx.core import Feeds, Session
from edgetx.package import Package


class Chain(Session):
    """A package whose stages are opened one by one, each on a runtime of its own choice.

    Tensors go from stage to stage by name, as the stage before gave them, and are freed after the last stage
    that takes them.
    """

    def __init__(self, package: Package, open_stage: Callable[[Package], Session]) -> None:
        """Open every stage; where one cannot be opened, those before it are closed again."""
        self.io = package.io
        self.processor = package.processor
        self._sessions: list[tuple[str, Session]] = []
        with ExitStack() as opened:
            for name in package.stages:
                self._sessions.append((name, opened.enter_context(open_stage(package.stage(name)))))
            self._opened = opened.pop_all()
        self._needed = [
            {spec.name for spec in self.io.outputs}.union(
                *({spec.name for spec in later.io.inputs} for _, later in self._sessions[index + 1 :])
            )
            for index in range(len(self._sessions))
        ]

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """See `edgetx.core.Session.run`."""
        return self.run_timed(feeds)[0]

    def run_timed(self, feeds: Feeds) -> tuple[dict[str, Any], dict[str, int]]:
        """`run`, and the nanoseconds that each stage took."""
        self.io.check(feeds)
        values = dict(feeds)
        spent = {}
        for (name, session), needed in zip(self._sessions, self._needed, strict=True):
            start = perf_counter_ns()
            values |= session.run({spec.name: values[spec.name] for spec in session.io.inputs})
            values = {key: value for key, value in values.items() if key in needed}
            spent[name] = perf_counter_ns() - start
        return {spec.name: values[spec.name] for spec in self.io.outputs}, spent

    def describe(self) -> dict[str, str]:
        """See `edgetx.core.Session.describe`; where stages differ, each fact names the stages it is about."""
        facts = [(name, session.describe()) for name, session in self._sessions]
        keys = dict.fromkeys(key for _, each in facts for key in each)
        return {key: _join([(name, each.get(key, "")) for name, each in facts]) for key in keys} | {
            "stages": ", ".join(name for name, _ in facts)
        }

    def close(self) -> None:
        """Release every stage's engine."""
        self._opened.close()


def _join(values: Sequence[tuple[str, str]]) -> str:
    """One value where all are equal, else `a, b: value; c: other`."""
    names: dict[str, list[str]] = {}
    for name, value in values:
        names.setdefault(value, []).append(name)
    if len(names) == 1:
        return values[0][1]
    return "; ".join(f"{', '.join(each)}: {value}" for value, each in names.items() if value)
