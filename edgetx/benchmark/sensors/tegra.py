"""Jetson boards: tegrastats, jtop, nvpmodel and jetson_clocks.

The fields of `tegrastats` are those of NVIDIA's Jetson Linux Developer Guide (releases 32 to 38); they differ
between boards and releases, so a field that is not known is kept as it was printed.
"""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from threading import Lock, Thread
from time import monotonic
from typing import Any

from edgetx.benchmark.sensors import Reading

INTERVAL_MS = 200
LATE = 1.0
"""Seconds that the latest line speaks for at most."""

_NUMBER = r"-?\d+(?:\.\d+)?"
_NAME = r"(?P<name>[A-Z][A-Z0-9]*)(?:_FREQ)?"
_DATE = re.compile(r"^\d\d-\d\d-\d{4} \d\d:\d\d:\d\d\s*")
_FIELDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("ram", re.compile(r"RAM \d+/\d+[kMG]?B(?: \(lfb \d+x\d+[kMG]?B\))?")),
    ("swap", re.compile(r"(?:SWAP|IRAM) \d+/\d+[kMG]?B ?(?:\((?:cached|lfb) \d+[kMG]?B\))?")),
    ("mts", re.compile(r"MTS fg \d+% bg \d+%")),
    ("cpu", re.compile(r"CPU \[(?P<cores>[^\]]*)\]")),
    ("engine", re.compile(rf"{_NAME} (?:(?P<load>\d+)%)?@?\[(?P<mhz>{_NUMBER}(?:,{_NUMBER})*)\]")),
    ("engine", re.compile(rf"{_NAME} (?P<load>\d+)%(?:@(?P<mhz>{_NUMBER}))?(?=\s|$)")),
    ("rail", re.compile(r"(?P<name>[A-Za-z]\w*) (?P<now>\d+)(?P<unit>mW)?/(?P<mean>\d+)(?:mW)?(?=\s|$)")),
    ("heat", re.compile(rf"(?P<name>[A-Za-z]\w*)@(?P<degrees>{_NUMBER})C(?=\s|$)")),
    ("off", re.compile(rf"{_NAME} off(?=\s|$)")),
    ("engine", re.compile(rf"{_NAME} (?P<mhz>{_NUMBER})(?=\s|$)")),
)  # fmt: skip
ABSENT = -256.0
"""What a sensor that is powered down reports, in degrees."""


def parse_tegrastats(line: str) -> Reading:
    """One line of `tegrastats`: clocks in MHz, temperatures, rails in watts.

    Rails without a unit (JetPack 4) are milliwatts, as those with one. Sensors that are powered down
    (-256 C) and rails without a name (`NC`) are left out. Whatever fits no known field ends up in `unknown`.
    """
    rest = _DATE.sub("", line.strip())
    clocks: dict[str, float] = {}
    temperatures: dict[str, float] = {}
    watts: dict[str, float] = {}
    unknown: list[str] = []
    while rest:
        for kind, pattern in _FIELDS:
            match = pattern.match(rest)
            if match is None:
                continue
            if kind == "cpu":
                for index, core in enumerate(match["cores"].split(",")):
                    _, _, mhz = core.partition("@")
                    if mhz:
                        clocks[f"cpu{index}"] = float(mhz)
            elif kind == "engine" and match["mhz"]:
                values = match["mhz"].split(",")
                name = {"GR3D": "gpu"}.get(match["name"], match["name"].lower())
                for index, mhz in enumerate(values):
                    clocks[name if len(values) == 1 else f"{name}{index}"] = float(mhz)
            elif kind == "rail" and match["name"] != "NC":
                watts[match["name"]] = int(match["now"]) / 1000
            elif kind == "heat" and float(match["degrees"]) != ABSENT:
                temperatures[match["name"]] = float(match["degrees"])
            rest = rest[match.end() :].lstrip()
            break
        else:
            word, _, rest = rest.partition(" ")
            unknown.append(word)
            rest = rest.lstrip()
    return Reading(clocks=clocks, temperatures=temperatures, watts=watts, unknown=tuple(unknown))


def parse_jtop(stats: Mapping[str, Any]) -> tuple[Reading, dict[str, str]]:
    """jtop's `stats` (jetson-stats 4): a reading, and the settings `nvpmodel` and `jetson_clocks`.

    Its rails are milliwatts. Keys that are none of these stay in `unknown` as `key=value`.
    """
    temperatures: dict[str, float] = {}
    watts: dict[str, float] = {}
    settings: dict[str, str] = {}
    unknown: list[str] = []
    for key, value in stats.items():
        kind, _, name = key.partition(" ")
        number = isinstance(value, (int, float))
        if key == "nvp model":
            settings["nvpmodel"] = str(value)
        elif key == "jetson_clocks":
            settings["jetson_clocks"] = str(value)
        elif kind == "Temp" and number:
            if value != ABSENT:
                temperatures[name] = float(value)
        elif kind == "Power" and number:
            watts[name] = value / 1000
        elif re.fullmatch(r"time|uptime|CPU\d+|GPU\d*|RAM|SWAP|EMC|IRAM|Fan.*|[A-Z0-9]+", key):
            continue  # loads and sizes, which a benchmark has from elsewhere
        else:
            unknown.append(f"{key}={value}")
    return Reading(temperatures=temperatures, watts=watts, unknown=tuple(unknown)), settings


def parse_nvpmodel(text: str) -> str | None:
    """The power mode of `nvpmodel -q`, such as `MAXN`; None where it prints another thing."""
    match = re.search(r"NV Power Mode:\s*(\S.*)", text)
    return match[1].strip() if match else None


def parse_jetson_clocks(text: str) -> str | None:
    """`on` where `jetson_clocks --show` has the lowest clock of every core and the GPU at its highest.

    Else `off`; None where it shows no clocks, which takes root on most releases.
    """
    pairs = re.findall(r"^(?:cpu\d+|GPU)\b[^\n]*?MinFreq=(\d+) MaxFreq=(\d+)", text, re.MULTILINE)
    if not pairs:
        return None
    return "on" if all(low == high for low, high in pairs) else "off"


class TegraSensor:
    """A running `tegrastats`; energy is its power summed over time."""

    name = "tegrastats"

    def __init__(self, command: list[str]) -> None:
        self._lock = Lock()
        self._latest, self._since = Reading(), monotonic()
        self._joules: dict[str, float] = {}
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True
        )
        Thread(target=self._follow, daemon=True).start()

    @classmethod
    def find(cls) -> TegraSensor | None:
        """None where there is no `tegrastats`."""
        path = shutil.which("tegrastats")
        return None if path is None else cls([path, "--interval", str(INTERVAL_MS)])

    def _follow(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        for line in stdout:
            reading = parse_tegrastats(line)
            with self._lock:
                now = monotonic()
                for rail, watts in reading.watts.items():
                    self._joules[rail] = self._joules.get(rail, 0.0) + watts * (now - self._since)
                self._latest, self._since = reading, now

    def settings(self) -> dict[str, str]:
        """Power mode and whether clocks are fixed, as far as this user may ask."""
        asked = {
            "nvpmodel": parse_nvpmodel(_output(["nvpmodel", "-q"])),
            "jetson_clocks": parse_jetson_clocks(_output(["jetson_clocks", "--show"])),
        }
        if None in asked.values():
            # jtop's service runs as root and tells every user.
            told = _jtop_settings()
            asked = {key: value or told.get(key) for key, value in asked.items()}
        return {key: value or "cannot be read (needs root, or jtop)" for key, value in asked.items()}

    def read(self) -> Reading:
        """The latest line."""
        with self._lock:
            return self._latest

    def joules(self) -> dict[str, float]:
        """Since the start, by rail; since the latest line at its power."""
        with self._lock:
            seconds = min(monotonic() - self._since, LATE)
            return {
                rail: joules + self._latest.watts.get(rail, 0.0) * seconds
                for rail, joules in self._joules.items()
            }

    def memory(self, pid: int) -> int | None:
        """None: a Jetson's GPU shares the host's memory."""
        return None

    def close(self) -> None:
        """End `tegrastats`."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)


def _jtop_settings() -> dict[str, str]:
    """The settings that jtop tells (PyPI: jetson-stats), {} without it or its service."""
    try:
        jtop = importlib.import_module("jtop").jtop
        with jtop() as jetson:
            return parse_jtop(jetson.stats)[1] if jetson.ok() else {}
    except Exception:  # not installed, or JtopException: its service does not run
        return {}


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
