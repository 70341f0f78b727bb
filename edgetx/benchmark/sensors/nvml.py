"""NVIDIA GPUs through NVML (PyPI: nvidia-ml-py)."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from edgetx.benchmark.sensors import Reading

THROTTLE: dict[int, str] = {
    0x002: "application clocks",
    0x004: "software power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "hardware power brake",
    0x100: "display clocks",
}
"""NVML's bits of reasons for lower clocks, without idleness (0x001), which holds nothing back."""


def throttle_reasons(bits: int) -> tuple[str, ...]:
    """The reasons in words; bits of a newer driver are kept as numbers."""
    named = tuple(name for bit, name in THROTTLE.items() if bits & bit)
    rest = bits & ~(sum(THROTTLE) | 0x001)
    return (*named, f"unknown reason {rest:#x}") if rest else named


class NvmlSensor:
    """Every GPU that the driver lists; a figure that one does not give is left out."""

    name = "nvml"

    def __init__(self, nvml: Any) -> None:
        """`nvml` is the module `pynvml`, after `nvmlInit`."""
        self._nvml = nvml
        self._gpus = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]

    @classmethod
    def find(cls) -> NvmlSensor | None:
        """None without nvidia-ml-py, without a driver or without a GPU."""
        try:
            import pynvml

            pynvml.nvmlInit()
        except Exception:  # not installed, or no driver: NVMLError has no common base with ImportError
            return None
        sensor = cls(pynvml)
        return sensor if sensor._gpus else None

    def settings(self) -> dict[str, str]:
        """What does not change during a run: limits and modes."""
        nvml = self._nvml
        found: dict[str, str] = {}
        for index, gpu in enumerate(self._gpus):
            asked = {
                "power limit mW": self._ask("nvmlDeviceGetEnforcedPowerLimit", gpu),
                "highest SM MHz": self._ask("nvmlDeviceGetMaxClockInfo", gpu, nvml.NVML_CLOCK_SM),
                "persistence": self._ask("nvmlDeviceGetPersistenceMode", gpu),
                "cores": self._ask("nvmlDeviceGetNumGpuCores", gpu),
            }
            found |= {f"gpu{index} {key}": str(value) for key, value in asked.items() if value is not None}
        return found

    def read(self) -> Reading:
        """Clocks, temperature, power and throttle reasons of every GPU."""
        nvml, reading = self._nvml, Reading()
        for index, gpu in enumerate(self._gpus):
            sm = self._ask("nvmlDeviceGetClockInfo", gpu, nvml.NVML_CLOCK_SM)
            memory = self._ask("nvmlDeviceGetClockInfo", gpu, nvml.NVML_CLOCK_MEM)
            heat = self._ask("nvmlDeviceGetTemperature", gpu, nvml.NVML_TEMPERATURE_GPU)
            power = self._ask("nvmlDeviceGetPowerUsage", gpu)
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", gpu)
            reading |= Reading(
                clocks=_given({f"gpu{index} sm": sm, f"gpu{index} memory": memory}),
                temperatures=_given({f"gpu{index}": heat}),
                watts={} if power is None else {f"gpu{index}": power / 1000},
                throttle=tuple(f"gpu{index}: {reason}" for reason in throttle_reasons(bits or 0)),
            )
        return reading

    def joules(self) -> dict[str, float]:
        """The driver's energy counter (Volta and later)."""
        found = {}
        for index, gpu in enumerate(self._gpus):
            millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption", gpu)
            if millijoules is not None:
                found[f"gpu{index}"] = millijoules / 1000
        return found

    def memory(self, pid: int) -> int | None:
        """What the process holds on all GPUs."""
        held = None
        for gpu in self._gpus:
            for process in self._ask("nvmlDeviceGetComputeRunningProcesses", gpu) or ():
                if process.pid == pid and process.usedGpuMemory is not None:
                    held = (held or 0) + process.usedGpuMemory
        return held

    def close(self) -> None:
        """Leave NVML."""
        with suppress(Exception):
            self._nvml.nvmlShutdown()

    def _ask(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, function)(*arguments)
        except Exception:  # NVMLError: not supported by this GPU, not permitted, or gone from a newer NVML
            return None


def _given(values: dict[str, float | None]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if value is not None}
