"""Readings of the machine while it is measured: clocks, temperatures, throttling, power and energy.

Parsers are pure functions of text, so that they can be tested without the board that printed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """The machine at one moment.

    Attributes:
        seconds: since the measurement began.
        clocks: MHz, by what runs at them (`cpu0`, `gpu0`, `emc`).
        temperatures: degrees Celsius by sensor.
        watts: by power rail, as the board reports them.
        throttle: reasons that hold clocks down now.
        load: average number of running processes over a minute.
        unknown: parts of a reading that no parser knows, as they were printed.
    """

    seconds: float = 0.0
    clocks: dict[str, float] = {}
    temperatures: dict[str, float] = {}
    watts: dict[str, float] = {}
    throttle: tuple[str, ...] = ()
    load: float | None = None
    unknown: tuple[str, ...] = ()

    def __or__(self, other: Reading) -> Reading:
        """Both readings as one, of the moment of the first."""
        return Reading(
            seconds=self.seconds,
            clocks=self.clocks | other.clocks,
            temperatures=self.temperatures | other.temperatures,
            watts=self.watts | other.watts,
            throttle=(*self.throttle, *other.throttle),
            load=self.load if self.load is not None else other.load,
            unknown=(*self.unknown, *other.unknown),
        )


class Sensor(Protocol):
    """A source of readings; what it cannot read it leaves out."""

    name: str

    def settings(self) -> dict[str, str]:
        """What stays as it is while a benchmark runs, such as the governor."""

    def read(self) -> Reading:
        """Now."""

    def joules(self) -> dict[str, float]:
        """Energy by rail, counted up from any starting point; empty without a meter."""

    def memory(self, pid: int) -> int | None:
        """Bytes of device memory that a process holds; None where nobody tells."""

    def close(self) -> None:
        """Let go of what was opened."""


BOARD_INPUTS = ("VDD_IN", "POM_5V_IN", "VIN")
"""Rails that feed a whole Jetson module; the others that it reports are parts of them."""


def whole(joules: Mapping[str, float]) -> float | None:
    """The machine's energy from its rails, none counted twice; None without a rail.

    The input of a Jetson module stands for its other rails, and RAPL's platform (`psys`) for its packages; a
    package holds its cores (`core`, `uncore`) and not its memory (`dram`). Everything else is added.
    """
    if not joules:
        return None
    rapl = {rail.rpartition(" ")[2]: rail for rail in joules if rail.startswith("rapl ")}
    inputs = [rail for rail in BOARD_INPUTS if rail in joules]
    found = 0.0
    for rail, value in joules.items():
        if rail.startswith("rapl "):
            zone = rail.rpartition(" ")[2]
            part = zone in ("core", "uncore") or ("psys" in rapl and zone != "psys")
        else:
            part = bool(inputs) and not rail.startswith("gpu") and rail not in inputs
        found += 0.0 if part else value
    return found


def available() -> list[Sensor]:
    """Those that this machine has."""
    from edgetx.benchmark.sensors.linux import LinuxSensor
    from edgetx.benchmark.sensors.nvml import NvmlSensor
    from edgetx.benchmark.sensors.tegra import TegraSensor

    found: list[Sensor] = [LinuxSensor()]
    for make in (NvmlSensor.find, TegraSensor.find):
        sensor = make()
        if sensor is not None:
            found.append(sensor)
    return found
