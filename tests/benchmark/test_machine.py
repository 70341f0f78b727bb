import os
import subprocess
import sys

from edgetx.benchmark import machine


def test_record_of_this_machine():
    record = machine.MachineRecord.read()
    assert record.cpu and record.os and record.kernel and record.python
    assert 1 <= record.cores_available <= record.cores_physical <= record.cores_logical
    assert record.time_utc.endswith("+00:00")
    assert record.libraries["edgetx"] and record.libraries["numpy"]
    assert set(record.cpu_features) <= set(machine.FEATURES)


def test_peak_memory_grows_with_what_is_held():
    # In a process of its own: what ran here before may have needed more.
    code = (
        "import os\nfrom edgetx.benchmark.machine import peak_memory\n"
        "before = peak_memory()\nheld = os.urandom(64 << 20)\nprint(peak_memory() - before)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert int(done.stdout) > 32 << 20


def test_no_driver_means_no_gpus(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert machine.gpus() == ()


def test_a_container_quota_bounds_the_default_threads(monkeypatch):
    real = machine._read
    files = {"/sys/fs/cgroup/cpu.max": "150000 100000"}
    monkeypatch.setattr(machine, "_read", lambda path: files.get(str(path)) or real(path))
    monkeypatch.setattr(machine, "physical_cores", lambda: 8)
    assert machine.available_cores() == 1
    files["/sys/fs/cgroup/cpu.max"] = "max 100000"
    assert machine.available_cores() == 8
