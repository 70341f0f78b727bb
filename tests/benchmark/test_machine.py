import os

from edgetx.benchmark import machine


def test_record_of_this_machine():
    record = machine.MachineRecord.read()
    assert record.cpu and record.os and record.kernel and record.python
    assert 1 <= record.cores_available <= record.cores_physical <= record.cores_logical
    assert record.time_utc.endswith("+00:00")
    assert set(record.cpu_features) <= set(machine.FEATURES)


def test_peak_memory_grows_with_what_is_held():
    before = machine.peak_memory()
    held = os.urandom(64 << 20)
    after = machine.peak_memory()
    assert before is not None and after is not None and len(held) == 64 << 20
    assert after - before > 32 << 20


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
