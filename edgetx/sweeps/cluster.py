"""Cells on the nodes of a Ray cluster, one at a time per node: two at once would measure each other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from edgetx import __version__
from edgetx.devices import registry
from edgetx.errors import InputError, UnavailableError
from edgetx.package import Package
from edgetx.sweeps import isolation
from edgetx.sweeps.child import Run
from edgetx.sweeps.isolation import Outcome
from edgetx.sweeps.plan import Cell, Plan

TRIES = 3
"""How often a cell is begun whose node goes away."""
POLL = 1.0


def on_node(files: dict[str, bytes], name: str, task: bytes, seconds: float, version: str) -> bytes:
    """On a node: put the package down, do the task in a process of its own, give back its outcome."""
    if version != __version__:
        return msgspec.json.encode(
            Outcome(
                status="failed", error=f"the node has edgetx {__version__}, the sweep {version}; install that"
            )
        )
    with tempfile.TemporaryDirectory(prefix="edgetx-node-") as folder:
        package = Path(folder) / name
        for inside, data in files.items():
            file = package / inside
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        run = msgspec.structs.replace(msgspec.json.decode(task, type=Run), package=str(package))
        return msgspec.json.encode(isolation.run(run, seconds, lambda line: None))


class Cluster:
    """A Ray cluster; every node needs the same edgetx and Python, as Ray itself does."""

    def __init__(self, address: str, plan: Plan, progress: Callable[[str], None]) -> None:
        """Check what can be checked before anything is done; `local` is a cluster of this machine.

        Raises:
            UnavailableError: Ray is not installed.
            InputError: the sweep names devices over SSH.
        """
        try:
            import ray
        except ImportError as error:
            raise UnavailableError(
                f"--ray needs Ray, which cannot be imported ({error}); pip install 'edgetx[ray]'"
            ) from error
        if named := [each for each in plan.devices if registry.split(each)[0] is not None]:
            raise InputError(
                f"a Ray cluster runs cells on its nodes, not on {named[0]!r}; leave --ray out "
                "for devices over SSH"
            )
        self._ray: Any = ray
        self._address, self._plan, self._progress = address, plan, progress
        self._stored: dict[str, Any] = {}

    def run(self, work: Iterator[tuple[Cell, Run]]) -> Iterator[tuple[Cell, float, Outcome]]:
        """Cells as they end.

        Raises:
            UnavailableError: the cluster cannot be reached, or all its nodes are gone.
        """
        ray = self._ray
        try:
            if self._address == "local":
                ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
            else:
                ray.init(address=self._address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, ValueError, OSError) as error:
            raise UnavailableError(
                f"no Ray cluster at {self._address!r} ({error}); start one with `ray start --head`, or give "
                "--ray local"
            ) from error
        try:
            yield from self._spread(work)
        finally:
            ray.shutdown()

    def _nodes(self) -> list[str]:
        return [
            str(node["NodeID"])
            for node in self._ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU", 0) > 0
        ]

    def _spread(self, work: Iterator[tuple[Cell, Run]]) -> Iterator[tuple[Cell, float, Outcome]]:
        ray = self._ray
        running: dict[Any, tuple[str, Cell, Run, int, float]] = {}
        again: list[tuple[Cell, Run, int]] = []
        more = True
        while more or again or running:
            busy = {node for node, *_ in running.values()}
            nodes = self._nodes()
            if not nodes:
                raise UnavailableError(
                    "every node of the Ray cluster is gone; start the sweep again when they are back"
                )
            for node in nodes:
                if node in busy:
                    continue
                if again:
                    cell, task, tries = again.pop()
                elif more and (new := next(work, None)) is not None:
                    (cell, task), tries = new, 0
                else:
                    more = False
                    break
                self._progress(f"{cell.name}: on node {node[:8]}")
                running[self._submit(node, task)] = (node, cell, task, tries + 1, monotonic())
            ready, _ = ray.wait(list(running), timeout=POLL) if running else ([], [])
            for reference in ready:
                node, cell, task, tries, started = running.pop(reference)
                try:
                    outcome = msgspec.json.decode(ray.get(reference), type=Outcome)
                except ray.exceptions.RayError as error:
                    why = str(error).splitlines()[0]
                    self._progress(f"{cell.name}: lost with node {node[:8]}: {why}")
                    if tries < TRIES:
                        again.append((cell, task, tries))
                        continue
                    outcome = Outcome(status="crashed", error=f"lost with its node {tries} times: {why}")
                yield cell, monotonic() - started, outcome

    def _submit(self, node: str, task: Run) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if task.package not in self._stored:
            package = Package.open(task.package)
            names = ["manifest.json", *package.manifest.files]
            self._stored[task.package] = self._ray.put(
                {name: (package.path / name).read_bytes() for name in names}
            )
        remote = self._ray.remote(on_node).options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        )
        name = Path(task.package).resolve().name
        limit = self._plan.limits.cell
        return remote.remote(self._stored[task.package], name, msgspec.json.encode(task), limit, __version__)
