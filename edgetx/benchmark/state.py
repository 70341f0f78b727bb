"""The machine's state before, during and after a measurement, and whether two states may be compared."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import suppress
from threading import Event, Lock, Thread
from time import monotonic, perf_counter_ns

import msgspec

from edgetx.benchmark.sensors import Reading, Sensor, available

INTERVAL = 1.0
"""Seconds between readings: each costs a fraction of a millisecond of one core."""


class StateLog(msgspec.Struct, frozen=True, kw_only=True):
    """What the sensors said.

    Attributes:
        sensors: which there were.
        settings: what stays as it is during a run: governor, limits, power mode.
        before, after: readings around the measurement.
        during: one per second, while it ran.
        reading_ns: what one reading took, median; the load that watching put on the machine.
    """

    sensors: tuple[str, ...]
    settings: dict[str, str]
    before: Reading
    after: Reading
    during: list[Reading]
    reading_ns: float

    @property
    def throttled(self) -> tuple[str, ...]:
        """Every reason for lower clocks that any reading gave."""
        readings = (self.before, *self.during, self.after)
        return tuple(dict.fromkeys(reason for each in readings for reason in each.throttle))

    @property
    def unknown(self) -> tuple[str, ...]:
        """What no parser knew, once each."""
        readings = (self.before, *self.during, self.after)
        return tuple(dict.fromkeys(field for each in readings for field in each.unknown))

    def hottest(self) -> tuple[str, float] | None:
        """The sensor with the highest temperature of all readings."""
        readings = (self.before, *self.during, self.after)
        pairs = [pair for each in readings for pair in each.temperatures.items()]
        return max(pairs, key=lambda pair: pair[1]) if pairs else None

    def mean_clocks(self) -> dict[str, float]:
        """MHz by what runs at them, means over the measurement."""
        return _means([reading.clocks for reading in self.during or [self.before, self.after]])

    def mean_watts(self) -> dict[str, float]:
        """By rail, means over the measurement."""
        return _means([reading.watts for reading in self.during or [self.before, self.after]])


def _means(many: Sequence[dict[str, float]]) -> dict[str, float]:
    keys = dict.fromkeys(key for each in many for key in each)
    return {key: statistics.fmean(each[key] for each in many if key in each) for key in keys}


class Watch:
    """Watches the machine from entry to exit; then `log` says what was seen.

    A thread reads every second; `joules()` and `memory(pid)` may be asked in between.
    """

    def __init__(self, sensors: Sequence[Sensor] | None = None, *, interval: float = INTERVAL) -> None:
        self._sensors = list(available() if sensors is None else sensors)
        self._interval = interval
        self._during: list[Reading] = []
        self._spent: list[int] = []
        self._memory: dict[int, int] = {}
        self._pids: set[int] = set()
        self._lock = Lock()
        self._stop = Event()
        self._start = monotonic()
        self._thread = Thread(target=self._follow, daemon=True)
        self.log: StateLog | None = None

    def __enter__(self) -> Watch:
        self._settings: dict[str, str] = {}
        for sensor in self._sensors:
            self._settings |= sensor.settings()
        self._before = self.read()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.log = StateLog(
            sensors=tuple(sensor.name for sensor in self._sensors),
            settings=self._settings,
            before=self._before,
            after=self.read(),
            during=self._during,
            reading_ns=statistics.median(self._spent),
        )
        for sensor in self._sensors:
            with suppress(Exception):
                sensor.close()

    def read(self) -> Reading:
        """All sensors, now."""
        start = perf_counter_ns()
        reading = Reading(seconds=monotonic() - self._start)
        for sensor in self._sensors:
            reading |= sensor.read()
        self._spent.append(perf_counter_ns() - start)
        return reading

    def joules(self) -> dict[str, float]:
        """Energy by rail so far."""
        found: dict[str, float] = {}
        for sensor in self._sensors:
            found |= sensor.joules()
        return found

    def follow(self, pid: int) -> None:
        """Keep the most device memory that this process holds."""
        with self._lock:
            self._pids.add(pid)

    def memory(self, pid: int) -> int | None:
        """The most device memory that the process was seen to hold."""
        self._look()
        return self._memory.get(pid)

    def _look(self) -> None:
        with self._lock:
            for pid in self._pids:
                for sensor in self._sensors:
                    if (held := sensor.memory(pid)) is not None:
                        self._memory[pid] = max(held, self._memory.get(pid, 0))

    def _follow(self) -> None:
        while not self._stop.wait(self._interval):
            self._during.append(self.read())
            self._look()
