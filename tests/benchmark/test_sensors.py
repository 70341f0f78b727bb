"""Parsers on text as the tools print it; sensors on files as Linux has them."""

import sys
import types
import typing

import pytest

from edgetx.benchmark import sensors
from edgetx.benchmark.sensors import Reading, linux, nvml, tegra
from edgetx.benchmark.state import Watch

ORIN_JETPACK_5 = (
    "11-23-2022 07:48:31 RAM 6172/30535MB (lfb 4x4MB) SWAP 0/15267MB (cached 0MB) "
    "CPU [1%@1190,0%@729,off,off] EMC_FREQ 0%@2133 GR3D_FREQ 0%@[611,0] VIC_FREQ 729 "
    "APE 174 CV0@-256C CPU@49.343C Tboard@37C GPU@45.781C "
    "tj@49.343C VDD_GPU_SOC 2392mW/2390mW VDD_CPU_CV 798mW/798mW VIN_SYS_5V0 3020mW/3020mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 604mW/604mW"
)
ORIN_JETPACK_6 = (
    "01-02-2025 03:04:05 RAM 1343/7620MB (lfb 157x4MB) SWAP 165/3810MB (cached 3MB) CPU [0%@1497,0%@729] "
    "EMC_FREQ 15%@204 GR3D_FREQ 99%@[612] NVENC 79%@166 NVDEC off NVJPG off VIC off OFA off PVA0_FREQ off "
    "APE 200 cpu@48.562C soc2@46.593C gpu@49.625C tj@49.312C VDD_IN 5251mW/8535mW VDD_CPU_GPU_CV 512mW/1944mW"
)
XAVIER_JETPACK_4 = (
    "RAM 1903/31919MB (lfb 7098x4MB) SWAP 0/15960MB (cached 0MB) CPU [1%@1190,off] EMC_FREQ 0%@665 "
    "GR3D_FREQ 0%@318 APE 150 MTS fg 0% bg 0% AO@37.5C GPU@37C Tdiode@41.75C PMIC@50C thermal@37.4C "
    "GPU 0/0 CPU 311/311 SOC 932/932 CV 0/0 VDDRQ 155/155 SYS5V 1554/1554"
)
XAVIER_NX_JETPACK_5 = (
    "07-09-2024 13:31:31 RAM 3168/6851MB (lfb 2x4MB) SWAP 161/3426MB (cached 0MB) CPU [23%@1397,17%@1192] "
    "EMC_FREQ 2%@204 GR3D_FREQ 0%@[114] VIC_FREQ 115 APE 150 AUX@45C CPU@46.5C AO@45C VDD_IN 2763mW/2846mW"
)
THOR_JETPACK_7 = (
    "03-04-2026 05:06:07 RAM 3021/125772MB (lfb 1x4MB) SWAP 0/0MB (cached 0MB) CPU [0%@972,2%@2601] EMC_FREQ "
    "0%@4266 GR3D_FREQ @[0,0,0] NVENC0_FREQ off VIC off cpu@53.7C soc012@55.1C soc345@53.7C tj@55.1C "
    "VDD_GPU 0mW/0mW VDD_CPU_SOC_MSS 6510mW/6400mW VIN_SYS_5V0 6520mW/6500mW VIN 13030mW/13000mW"
)


def test_orin_jetpack_5():
    reading = tegra.parse_tegrastats(ORIN_JETPACK_5)
    assert reading.clocks == {
        "cpu0": 1190,
        "cpu1": 729,
        "emc": 2133,
        "gpu0": 611,
        "gpu1": 0,
        "vic": 729,
        "ape": 174,
    }
    assert reading.temperatures == {"CPU": 49.343, "Tboard": 37, "GPU": 45.781, "tj": 49.343}
    assert reading.watts == {
        "VDD_GPU_SOC": 2.392,
        "VDD_CPU_CV": 0.798,
        "VIN_SYS_5V0": 3.020,
        "VDDQ_VDD2_1V8AO": 0.604,
    }
    assert reading.unknown == ()


def test_orin_jetpack_6():
    reading = tegra.parse_tegrastats(ORIN_JETPACK_6)
    assert reading.clocks["gpu"] == 612 and reading.clocks["emc"] == 204 and reading.clocks["nvenc"] == 166
    assert reading.temperatures["tj"] == 49.312
    assert reading.watts == {"VDD_IN": 5.251, "VDD_CPU_GPU_CV": 0.512}
    assert reading.unknown == ()


def test_xavier_of_both_releases():
    old = tegra.parse_tegrastats(XAVIER_JETPACK_4)
    assert old.watts == {"GPU": 0, "CPU": 0.311, "SOC": 0.932, "CV": 0, "VDDRQ": 0.155, "SYS5V": 1.554}
    assert old.clocks == {"cpu0": 1190, "emc": 665, "gpu": 318, "ape": 150}
    new = tegra.parse_tegrastats(XAVIER_NX_JETPACK_5)
    assert new.clocks["gpu"] == 114 and new.watts == {"VDD_IN": 2.763}
    assert old.unknown == new.unknown == ()


def test_thor_jetpack_7():
    reading = tegra.parse_tegrastats(THOR_JETPACK_7)
    assert reading.watts["VDD_CPU_SOC_MSS"] == 6.51 and reading.watts["VIN"] == 13.03
    assert reading.temperatures["soc012"] == 55.1 and reading.clocks["cpu1"] == 2601
    assert reading.unknown == ()


def test_unknown_fields_are_kept_and_the_rest_is_read():
    line = ORIN_JETPACK_6.replace("EMC_FREQ", "QUANTUM 7qubits <new> EMC_FREQ")
    reading = tegra.parse_tegrastats(line)
    assert reading.unknown == ("QUANTUM", "7qubits", "<new>")
    assert reading.watts == tegra.parse_tegrastats(ORIN_JETPACK_6).watts
    assert reading.clocks == tegra.parse_tegrastats(ORIN_JETPACK_6).clocks


def test_jtop():
    stats = {
        "time": "x",
        "uptime": "y",
        "CPU1": 14,
        "CPU2": "OFF",
        "RAM": 0.16,
        "SWAP": 0,
        "EMC": 0.0,
        "GPU": 7,
        "APE": 174,
        "NVDEC": "OFF",
        "Fan pwmfan0": 30.0,
        "Temp cpu": 45.0,
        "Temp cv0": -256,
        "Temp tj": 46.5,
        "Power VDD_CPU_CV": 798,
        "Power TOT": 4500,
        "jetson_clocks": "ON",
        "nvp model": "MAXN",
        "odd key": 3,
    }
    reading, settings = tegra.parse_jtop(stats)
    assert reading.temperatures == {"cpu": 45.0, "tj": 46.5}
    assert reading.watts == {"VDD_CPU_CV": 0.798, "TOT": 4.5}
    assert reading.unknown == ("odd key=3",)
    assert settings == {"jetson_clocks": "ON", "nvpmodel": "MAXN"}


def test_jtop_is_asked_where_this_user_may_not(monkeypatch):
    class Jtop:
        stats: typing.ClassVar = {"jetson_clocks": "ON", "nvp model": "30W"}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def ok(self):
            return True

    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "jtop", types.SimpleNamespace(jtop=Jtop))
    sensor = tegra.TegraSensor([sys.executable, "-c", "pass"])
    assert sensor.settings() == {"nvpmodel": "30W", "jetson_clocks": "ON"}
    monkeypatch.setitem(sys.modules, "jtop", None)
    assert set(sensor.settings().values()) == {"cannot be read (needs root, or jtop)"}
    sensor.close()


def test_power_mode_and_clocks():
    assert tegra.parse_nvpmodel("NV Fan Mode:quiet\nNV Power Mode: MAXN\n0\n") == "MAXN"
    assert tegra.parse_nvpmodel("NVPM VERB: Current mode: NV Power Mode: 25W\n1\n") == "25W"
    assert tegra.parse_nvpmodel("permission denied") is None
    shown = (
        "SOC family:tegra234  Machine:Orin\nOnline CPUs: 0-1\n"
        "cpu0:  Online=1 Governor=schedutil MinFreq={low} MaxFreq=2201600 CurrentFreq=2201600 "
        "IdleStates: WFI=1\n"
        "GPU MinFreq={gpu} MaxFreq=1300500000 CurrentFreq=306000000\n"
        "EMC MinFreq=204000000 MaxFreq=3199000000 CurrentFreq=3199000000 FreqOverride=0\n"
    )
    assert tegra.parse_jetson_clocks(shown.format(low=2201600, gpu=1300500000)) == "on"
    assert tegra.parse_jetson_clocks(shown.format(low=729600, gpu=306000000)) == "off"
    assert tegra.parse_jetson_clocks("Error: Run this script as a root user") is None


def test_tegrastats_is_followed_and_its_power_summed(tmp_path):
    script = tmp_path / "tegrastats"
    script.write_text(f"#!/bin/sh\nfor i in 1 2 3; do echo '{ORIN_JETPACK_6}'; sleep 0.1; done\nsleep 60\n")
    script.chmod(0o755)
    with Watch([tegra.TegraSensor([str(script)])], interval=0.1) as watch:
        import time

        deadline = time.monotonic() + 30
        while watch.joules().get("VDD_IN", 0.0) < 5.251 * 0.15:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert watch.log.after.watts["VDD_IN"] == 5.251
    assert watch.log.mean_watts().keys() >= {"VDD_IN"}


def test_no_rail_is_counted_twice():
    assert sensors.whole({}) is None
    assert sensors.whole({"VDD_IN": 8.0, "VDD_CPU_GPU_CV": 3.0, "VDD_SOC": 2.0}) == 8
    assert sensors.whole({"VDD_GPU_SOC": 3.0, "VDD_CPU_CV": 1.0, "VIN_SYS_5V0": 2.0}) == 6
    packages = {"rapl 0 package-0": 10.0, "rapl 0:0 core": 6.0, "rapl 0:1 uncore": 1.0, "rapl 0:2 dram": 2.0}
    assert sensors.whole(packages) == 12
    assert sensors.whole({**packages, "rapl 1 package-1": 9.0, "gpu0": 100.0}) == 121
    assert sensors.whole({**packages, "rapl 1 psys": 20.0, "gpu0": 100.0}) == 120


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_linux_files(tmp_path):
    for core, mhz in ((0, 1500000), (1, 2500000)):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        write(folder / "scaling_cur_freq", f"{mhz}\n")
        write(folder / "scaling_governor", "performance\n")
        write(folder / "scaling_max_freq", "3000000\n")
    write(tmp_path / "sys/devices/system/cpu/smt/control", "off\n")
    for index, (kind, heat) in enumerate((("x86_pkg_temp", "45500"), ("acpitz", "-5000"), ("bad", "n/a"))):
        write(tmp_path / f"sys/class/thermal/thermal_zone{index}/type", kind)
        write(tmp_path / f"sys/class/thermal/thermal_zone{index}/temp", heat)
    sensor = linux.LinuxSensor(tmp_path)
    assert sensor.settings() == {"governor": "performance", "highest MHz": "3000", "smt": "off"}
    reading = sensor.read()
    assert reading.clocks == {"cpu0": 1500, "cpu1": 2500}
    assert reading.temperatures == {"x86_pkg_temp": 45.5, "acpitz": -5}
    assert linux.LinuxSensor(tmp_path / "nowhere").read().clocks == {}


def test_clocks_from_cpuinfo():
    text = "processor : 0\ncpu MHz\t\t: 2499.998\nprocessor : 1\ncpu MHz\t\t: 1200.0\n"
    assert linux.cpuinfo_clocks(text) == {"cpu0": 2499.998, "cpu1": 1200.0}


def test_rapl_counts_on_when_it_wraps(tmp_path):
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    write(zone / "name", "package-0")
    write(zone / "max_energy_range_uj", "10000000")
    sensor = linux.LinuxSensor(tmp_path)
    counted = []
    for micro in (9_000_000, 9_500_000, 500_000, 2_000_000):
        write(zone / "energy_uj", str(micro))
        counted.append(sensor.joules()["rapl 0 package-0"])
    assert counted == pytest.approx([9.0, 9.5, 10.5, 12.0])


def test_throttling_is_told_when_its_counters_grow(tmp_path):
    counts = [tmp_path / f"sys/devices/system/cpu/cpu{core}/thermal_throttle" for core in (0, 1)]
    alarm = tmp_path / "sys/class/hwmon/hwmon2/oc3_event_cnt"
    for folder in counts:
        write(folder / "core_throttle_count", "7\n")
        write(folder / "package_throttle_count", "9\n")
    write(alarm, "1\n")
    sensor = linux.LinuxSensor(tmp_path)
    assert sensor.read().throttle == ()  # that was before
    write(counts[1] / "core_throttle_count", "8\n")
    for folder in counts:
        write(folder / "package_throttle_count", "12\n")
    write(alarm, "2\n")
    grown = ("cpu1: thermal slowdown", "cpu package: thermal slowdown", "over-current oc3")
    assert sensor.read().throttle == grown
    assert sensor.read().throttle == ()


def test_throttle_reasons():
    assert nvml.throttle_reasons(0x1) == ()
    assert nvml.throttle_reasons(0x24) == ("software power cap", "software thermal slowdown")
    assert nvml.throttle_reasons(0x1008) == ("hardware slowdown", "unknown reason 0x1000")


def test_what_a_gpu_does_not_give_is_left_out():
    def refuse(*_):
        raise RuntimeError("not supported")

    process = types.SimpleNamespace(pid=7, usedGpuMemory=1 << 30)
    fake = types.SimpleNamespace(
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetClockInfo=lambda gpu, kind: 1500 if kind == 1 else refuse(),
        nvmlDeviceGetTemperature=lambda gpu, kind: 61,
        nvmlDeviceGetPowerUsage=lambda gpu: 250_500,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda gpu: 0x4,
        nvmlDeviceGetTotalEnergyConsumption=refuse,
        nvmlDeviceGetComputeRunningProcesses=lambda gpu: [process],
    )
    sensor = nvml.NvmlSensor(fake)
    assert sensor.read() == Reading(
        clocks={"gpu0 sm": 1500},
        temperatures={"gpu0": 61},
        watts={"gpu0": 250.5},
        throttle=("gpu0: software power cap",),
    )
    assert sensor.joules() == {} and sensor.settings() == {}
    assert sensor.memory(7) == 1 << 30 and sensor.memory(8) is None


def test_a_watch_reads_before_during_and_after():
    class Warming:
        name = "warming"
        heat = 40.0

        def settings(self):
            return {"governor": "performance"}

        def read(self):
            self.heat += 1
            return Reading(temperatures={"cpu": self.heat}, throttle=("hot",) if self.heat > 43 else ())

        def joules(self):
            return {}

        def memory(self, pid):
            return None

        def close(self):
            self.closed = True

    sensor = Warming()
    with Watch([sensor], interval=0.01) as watch:
        import time

        while sensor.heat < 45:
            time.sleep(0.01)
    log = watch.log
    assert log.before.temperatures["cpu"] == 41 and log.after.temperatures["cpu"] == sensor.heat
    assert len(log.during) >= 3 and log.hottest() == ("cpu", sensor.heat)
    assert log.throttled == ("hot",) and sensor.closed and log.reading_ns > 0
