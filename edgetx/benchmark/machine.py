"""A record of the machine that a measurement was made on; whatever cannot be read is None."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import msgspec

FEATURES = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve",
    "sve2",
)  # fmt: skip
"""The CPU flags of /proc/cpuinfo that decide which kernels run."""


LIBRARIES = (
    "edgetx", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "torch",
    "mlcommons-loadgen",
)  # fmt: skip
"""Distributions whose versions can change a figure."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One NVIDIA GPU, as nvidia-smi reports it."""

    name: str
    driver: str
    memory: str
    compute_capability: str


class MachineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The machine at the start of a measurement; sizes in bytes, load averages over 1 minute.

    `libraries` are the versions of what is installed, whether or not it took part.
    """

    cpu: str
    cpu_features: tuple[str, ...]
    cores_physical: int
    cores_logical: int
    cores_available: int
    ram_bytes: int | None
    os: str
    kernel: str
    architecture: str
    python: str
    governor: str | None
    gpus: tuple[Gpu, ...]
    time_utc: str
    libraries: dict[str, str] = {}
    load_before: float | None
    load_after: float | None = None

    @classmethod
    def read(cls) -> MachineRecord:
        """Read this machine now."""
        return cls(
            cpu=cpu_model(),
            cpu_features=cpu_features(),
            cores_physical=physical_cores(),
            cores_logical=os.cpu_count() or 1,
            cores_available=available_cores(),
            ram_bytes=_memory("MemTotal"),
            os=_os_name(),
            kernel=f"{platform.system()} {platform.release()}",
            architecture=platform.machine(),
            python=platform.python_version(),
            governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            gpus=gpus(),
            time_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            libraries=libraries(),
            load_before=load_average(),
        )


def libraries() -> dict[str, str]:
    """Versions of those of `LIBRARIES` that are installed; nothing is imported for it."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def _cpuinfo(*fields: str) -> str | None:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in fields and value.strip():
            return value.strip()
    return None


def cpu_model() -> str:
    """The CPU's marketing name, or a board's name where Linux gives no other."""
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(
                command, capture_output=True, text=True, timeout=5, check=True
            ).stdout.strip()
    return (
        _cpuinfo("model name", "Model", "Hardware")
        or _read("/proc/device-tree/model")
        or platform.processor()
        or "unknown"
    )


def cpu_features() -> tuple[str, ...]:
    """Those of `FEATURES` that this CPU has; empty where the system does not tell."""
    present = set((_cpuinfo("flags", "Features") or "").split())
    return tuple(feature for feature in FEATURES if feature in present)


def _affinity() -> set[int]:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return set(affinity(0)) if affinity else set(range(os.cpu_count() or 1))


def physical_cores() -> int:
    """Physical cores that this process may run on: SMT siblings count once."""
    cores = _affinity()
    siblings = {_read(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list") for core in cores}
    return len(cores) if None in siblings else len(siblings)


def available_cores() -> int:
    """Cores for one engine by default: the physical ones, no more than the container's CPU quota."""
    quota, _, period = (_read("/sys/fs/cgroup/cpu.max") or "").partition(" ")
    limit = int(quota) // int(period) if quota.isdigit() and period.isdigit() else physical_cores()
    return max(1, min(physical_cores(), limit))


def _memory(field: str) -> int | None:
    for line in (_read("/proc/meminfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key == field:
            return int(value.split()[0]) * 1024
    return None


def memory_available() -> int | None:
    """Bytes of memory that a new process could take, or None where the system does not tell."""
    return _memory("MemAvailable")


def _os_name() -> str:
    for line in (_read("/etc/os-release") or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.platform(terse=True)


def gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that nvidia-smi lists; empty without a driver."""
    query = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total,compute_cap",
        "--format=csv,noheader",
    ]
    try:
        text = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    found = []
    for line in text.splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) == 4:
            name, driver, memory, capability = values
            found.append(Gpu(name=name, driver=driver, memory=memory, compute_capability=capability))
    return tuple(found)


def load_average() -> float | None:
    """The load average over the last minute, or None (Windows)."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def peak_memory() -> int | None:
    """The largest resident size of this process so far, in bytes.

    VmHWM where Linux gives it: `ru_maxrss` survives exec and so would report the parent's size.
    """
    for line in (_read("/proc/self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
