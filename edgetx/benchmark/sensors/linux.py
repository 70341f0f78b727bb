"""Clocks, governor, temperatures, throttling and RAPL energy from Linux' own files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from edgetx.benchmark.sensors import Reading

THROTTLING = (
    ("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count", "{cpu}: thermal slowdown"),
    (
        "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/package_throttle_count",
        "cpu package: thermal slowdown",
    ),
    ("sys/class/hwmon/hwmon*/oc[0-9]*_event_cnt", "over-current {file}"),
)
"""Counters of what holds clocks down, and what it means when one grows: Intel's kernel driver counts per core
and package, a Jetson's its over-current alarms (Jetson Linux Developer Guide)."""


class LinuxSensor:
    """Reads under `root`, which is another folder in tests; files that are not there give nothing."""

    name = "linux"

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._counted: dict[str, tuple[int, float]] = {}
        self._throttled: dict[Path, int] = {}

    def settings(self) -> dict[str, str]:
        """Governor, frequency limits, turbo and SMT; cores with equal values are told once."""
        found: dict[str, str] = {}
        for key, file in (
            ("governor", "scaling_governor"),
            ("lowest MHz", "scaling_min_freq"),
            ("highest MHz", "scaling_max_freq"),
        ):
            values = {
                _read(path) for path in self._glob(f"sys/devices/system/cpu/cpu[0-9]*/cpufreq/{file}")
            } - {""}
            if values:
                scale = 1000 if "MHz" in key else None
                found[key] = ", ".join(
                    sorted(str(int(each) // scale) if scale and each.isdigit() else each for each in values)
                )
        for key, file in (
            ("boost", "sys/devices/system/cpu/cpufreq/boost"),
            ("no turbo", "sys/devices/system/cpu/intel_pstate/no_turbo"),
            ("smt", "sys/devices/system/cpu/smt/control"),
        ):
            if value := _read(self._root / file):
                found[key] = value
        return found

    def read(self) -> Reading:
        """Clocks by core, temperatures by zone, throttling since the last reading, the load average."""
        return Reading(
            clocks=self._clocks(),
            temperatures=self._temperatures(),
            throttle=self._throttle(),
            load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        )

    def joules(self) -> dict[str, float]:
        """RAPL's counters, which only root may read on most systems; they wrap, and the wraps are counted."""
        found: dict[str, float] = {}
        for zone in self._glob("sys/class/powercap/*-rapl:*"):
            value, top = _read(zone / "energy_uj"), _read(zone / "max_energy_range_uj")
            if not value.isdigit():
                continue
            name = f"rapl {zone.name.partition(':')[2]} {_read(zone / 'name')}".strip()
            last, wrapped = self._counted.get(name, (0, 0.0))
            if int(value) < last and top.isdigit():
                wrapped += int(top) / 1e6
            self._counted[name] = (int(value), wrapped)
            found[name] = int(value) / 1e6 + wrapped
        return found

    def memory(self, pid: int) -> int | None:
        """None: these files know of no device memory."""
        return None

    def close(self) -> None:
        """Nothing is held."""

    def _glob(self, pattern: str) -> list[Path]:
        return sorted(self._root.glob(pattern))

    def _clocks(self) -> dict[str, float]:
        files = self._glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
        found = {file.parts[-3]: int(text) / 1000 for file in files if (text := _read(file)).isdigit()}
        if found:
            return found
        return cpuinfo_clocks(_read(self._root / "proc/cpuinfo"))

    def _throttle(self) -> tuple[str, ...]:
        """What was throttled since the last reading; the first reading only begins to count."""
        found: dict[str, None] = {}
        for pattern, text in THROTTLING:
            for path in self._glob(pattern):
                value = _read(path)
                if not value.isdigit():
                    continue
                last, self._throttled[path] = self._throttled.get(path), int(value)
                if last is not None and int(value) > last:
                    found[text.format(cpu=path.parts[-3], file=path.name.partition("_")[0])] = None
        return tuple(found)

    def _temperatures(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for zone in self._glob("sys/class/thermal/thermal_zone*"):
            text = _read(zone / "temp")
            if re.fullmatch(r"-?\d+", text):
                name = _read(zone / "type") or zone.name
                found[name if name not in found else f"{name} ({zone.name})"] = int(text) / 1000
        return found


def cpuinfo_clocks(text: str) -> dict[str, float]:
    """MHz by core from /proc/cpuinfo, where x86 tells them."""
    return {
        f"cpu{index}": float(value)
        for index, value in enumerate(re.findall(r"^cpu MHz\s*:\s*([\d.]+)", text, re.MULTILINE))
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""
