"""What each layer of an engine took, from the engine's own profiler, and what the layer was made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgetx.errors import PackageError

FILE = "layer_times.json"


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer as the engine's inspector tells it; `metadata` names the nodes that it was made of."""

    name: str
    kind: str = ""
    metadata: str = ""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run: milliseconds by layer, in the order in which they ran; nanoseconds by the host's clock.

    `engine_ns` runs from queueing the engine to its end, `whole_ns` is all of `Session.run`, copies included.
    """

    layers: dict[str, float]
    engine_ns: int
    whole_ns: int


class LayerTimes(msgspec.Struct, frozen=True, kw_only=True):
    """What a session's profiler wrote; the engine's `key` tells the graph that it was built from."""

    engine: str
    key: dict[str, str]
    layers: list[Layer]
    runs: list[Run]
    notes: list[str] = []

    @classmethod
    def read(cls, path: str | Path) -> LayerTimes:
        """The file that `Recorder.write` left.

        Raises:
            PackageError: it is not there or damaged.
        """
        try:
            return msgspec.json.decode(Path(path).read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError) as error:
            raise PackageError(f"{path} cannot be read as the times of layers: {error}") from error


class Recorder:
    """Collects the times of one execution context, run by run."""

    def __init__(self, trt: Any) -> None:
        self.profiler = _profiler(trt)
        self._runs: list[Run] = []
        self._engine_ns = 0

    def engine_ran(self, nanoseconds: int) -> None:
        """The engine of the current run has ended."""
        self._engine_ns = nanoseconds

    def run_ended(self, nanoseconds: int) -> None:
        """So has the whole run."""
        self._runs.append(Run(layers=self.profiler.taken(), engine_ns=self._engine_ns, whole_ns=nanoseconds))

    def write(self, path: Path, engine: str, key: Mapping[str, str], inspected: str) -> None:
        """Write all runs; `inspected` is what the engine's inspector says, as JSON."""
        layers, notes = parse(inspected)
        times = LayerTimes(engine=engine, key=dict(key), layers=layers, runs=self._runs, notes=notes)
        path.write_bytes(msgspec.json.encode(times))


def parse(inspected: str) -> tuple[list[Layer], list[str]]:
    """The layers in an engine inspector's JSON, and what it does not tell."""
    try:
        layers = msgspec.json.decode(inspected)["Layers"]
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        return [], [f"no modules: the engine inspector's answer is not JSON with Layers ({error})"]
    if any(not isinstance(layer, dict) for layer in layers):
        return [Layer(name=str(layer)) for layer in layers], [
            "no modules: the engine was built without detailed verbosity, so that layers have only names; "
            "build it again: edgetx build --force"
        ]
    return [
        Layer(
            name=str(layer.get("Name", "")),
            kind=str(layer.get("LayerType", "")),
            metadata=str(layer.get("Metadata", "")),
        )
        for layer in layers
    ], []


def _profiler(trt: Any) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self._layers: dict[str, float] = {}

        def report_layer_time(self, name: str, milliseconds: float) -> None:
            """Called by the engine, once per layer and run; a layer in a loop several times."""
            self._layers[name] = self._layers.get(name, 0.0) + milliseconds

        def taken(self) -> dict[str, float]:
            """The times since the last call."""
            layers, self._layers = self._layers, {}
            return layers

    return Profiler()
