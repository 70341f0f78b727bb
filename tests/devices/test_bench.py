"""Benchmarks on a device, end to end over a real sshd: copies, cuts of the line, locks, space, wheels."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgetx import devices
from edgetx.benchmark import BenchReport, Load
from edgetx.devices import registry, remote, transfer
from edgetx.devices.job import Request
from edgetx.devices.link import Link
from edgetx.devices.locking import locked
from edgetx.errors import DeviceError, EdgetxError, InputError, VerificationError

QUICK = {"runs": 3, "rounds": 1, "warmup": 1}
BASE = getattr(sys, "_base_executable", sys.executable)


def measure(device, package, lines=None, **options):
    request = Request(packages=[str(package)], options={**QUICK, **options})
    told = (lambda line: None) if lines is None else lines.append
    return asyncio.run(remote.measure(device, request, told))


def take(device, lines) -> None:
    """Lock the device and let it go."""

    async def work() -> None:
        async with Link(device, lines.append) as link:
            await link.settle()
            async with locked(link):
                pass

    asyncio.run(work())


def wrapper(tmp_path: Path, text: str) -> str:
    file = tmp_path / "python-of-the-device"
    file.write_text(text)
    file.chmod(0o755)
    return str(file)


def add(server, tmp_path, **changes):
    given = {"key": server.key, "python": sys.executable, "folder": str(tmp_path / "there"), **changes}
    return devices.add("orin", server.address, accept=server.fingerprint, **given)


def test_second_run_sends_no_package_bytes(device, classifier):
    size = sum(file.stat().st_size for file in classifier.iterdir() if file.is_file())
    first = measure(device, classifier)
    assert (first.package.sent, first.package.kept) == (size, 0)
    again = measure(device, classifier)
    assert (again.package.sent, again.package.kept) == (0, size)
    assert (again.runtime.sent, again.runtime.kept) == (0, 0)
    report = again.result.report
    assert [engine.name for engine in report.engines] == ["classifier"]
    assert report.engines[0].path.startswith(device.folder) and report.machine.cores_logical == os.cpu_count()
    assert len(report.engines[0].rounds_ns[0]) == 3 and again.result.verdicts[0].to_core().passed


def test_command_line(device, classifier, tmp_path, processes_with):
    def edgetx(*arguments):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "edgetx", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    quick = ("--runs", "2", "--rounds", "1", "--warmup", "0")
    done = edgetx("bench", classifier, "--device", "orin", *quick, "--output", tmp_path / "report.json")
    assert done.returncode == 0, done.stderr
    assert "orin: measuring, round 1 of 1" in done.stderr and "classifier" in done.stdout
    report = BenchReport.from_json((tmp_path / "report.json").read_text())
    assert report.engines[0].path.startswith(str(tmp_path / "there"))
    listed = json.loads(edgetx("device", "list", "--json").stdout)
    assert [(each["name"], each["port"]) for each in listed] == [("orin", device.port)]
    shown = edgetx("device", "doctor", "orin")
    assert (
        shown.returncode == 0
        and "ready" in shown.stdout
        and "in use  no" in " ".join(shown.stdout.split("   "))
    )
    failed = edgetx("bench", classifier, "--device", "nano", *quick)
    assert failed.returncode == 2 and "registered: orin" in failed.stderr
    removed = edgetx("device", "remove", "orin")
    assert removed.returncode == 0 and "nothing is left there" in removed.stdout
    assert not (tmp_path / "there").exists()
    assert processes_with(str(tmp_path / "there")) == []


def test_wrong_outputs_are_not_measured(device, classifier):
    import numpy as np

    from edgetx.package import Case, Package, create

    manifest = Package.open(classifier).manifest
    with create(classifier, force=True) as draft:
        draft.model_path.write_bytes((classifier / "model.onnx").read_bytes())
        image = np.ones((1, 3, 8, 8), np.float32)
        draft.save_golden([Case({"image": image}, {"logits": np.zeros((1, 3), np.float32)})])
        draft.seal(manifest)
        draft.publish()
    with pytest.raises(VerificationError, match=r"on orin the outputs of .*classifier differ .*logits by 5"):
        devices.bench("orin", classifier, **QUICK)


def test_errors_come_back_in_words(device, classifier):
    with pytest.raises(InputError, match="unknown runtime 'nonsense'"):
        devices.bench("orin", classifier, runtime="nonsense")
    with pytest.raises(DeviceError, match=r"on orin: accepted: runs >= 1"):
        devices.bench("orin", classifier, runs=0)
    with pytest.raises(EdgetxError, match="does not exist"):
        devices.bench("orin", classifier / "nothing")


def test_job_that_takes_too_long_is_given_up(device, classifier):
    request = Request(packages=[str(classifier)], options={"seconds": 60.0}, limit=3.0)
    with pytest.raises(DeviceError, match="not done after 3 s"):
        asyncio.run(remote.measure(device, request, lambda line: None))


def test_connection_that_breaks_while_a_file_is_copied(device, server, tmp_path):
    big = tmp_path / "weights.bin"
    big.write_bytes(os.urandom(48 << 20))
    item = transfer.Item.of(big)
    part = tmp_path / "there" / "objects" / f"{item.sha256}.part"
    traffic, lines, cuts = transfer.Traffic(), [], []

    def cut() -> None:
        deadline = time.monotonic() + 60
        for share in (0.2, 0.5):
            while time.monotonic() < deadline:
                with contextlib.suppress(FileNotFoundError):
                    if part.stat().st_size >= share * item.size:
                        break
                time.sleep(0.001)
            cuts.append(server.cut())

    async def send() -> None:
        async with Link(device, lines.append) as link:
            await link.settle()
            async with locked(link):
                await transfer.send(link, [item], traffic)

    thread = threading.Thread(target=cut)
    thread.start()
    asyncio.run(send())
    thread.join()
    assert cuts == [1, 1]
    whole = tmp_path / "there" / "objects" / item.sha256
    assert hashlib.sha256(whole.read_bytes()).hexdigest() == item.sha256 and not part.exists()
    resumed = [line for line in lines if "goes on at" in line]
    assert len(resumed) == 2, lines
    # Only what was on its way when the line broke went twice.
    assert item.size <= traffic.sent < 1.5 * item.size


def test_connection_that_breaks_during_a_run(device, server, classifier):
    lines = []
    cuts = []

    def told(line: str) -> None:
        lines.append(line)
        if "measuring, round 2" in line:
            cuts.append(server.cut())

    request = Request(packages=[str(classifier)], options={"runs": 4000, "rounds": 4, "warmup": 1})
    outcome = asyncio.run(remote.measure(device, request, told))
    assert cuts == [1] and "connected to orin again" in lines
    steps = [line for line in lines if line.startswith("orin: measuring")]
    assert steps == [f"orin: measuring, round {n} of 4" for n in range(1, 5)]  # each once, nothing again
    assert sum(map(len, outcome.result.report.engines[0].rounds_ns)) == 4000


def test_device_that_stays_away(device, server, classifier):
    lines = []

    def told(line: str) -> None:
        lines.append(line)
        if "replaying" in line:
            server.stop()

    request = Request(packages=[str(classifier)], options=QUICK)
    try:
        with pytest.raises(DeviceError, match=r"cannot be reached.*given up after 1 s"):
            asyncio.run(remote.measure(device, request, told, patience=1))
    finally:
        server.start()
    assert any("trying again in 1 s" in line for line in lines)
    # The job went on there; this process lives, but no longer uses the device.
    again = []
    take(device, again)
    assert any("is broken: this process gave the device up" in line for line in again)


HOLD = """
import asyncio, sys
from edgetx import devices
from edgetx.devices.link import Link
from edgetx.devices.locking import locked

request = {"packages": [sys.argv[1]], "options": {"seconds": 60.0}}

async def hold():
    async with Link(devices.get("orin"), print) as link:
        await link.settle()
        async with locked(link):
            start = {"python": sys.executable, "module": "edgetx.devices.job", "request": request}
            await link.call("start", job="left", **start)
            print("held", flush=True)
            await asyncio.sleep(60)

asyncio.run(hold())
"""


def test_lock(device, classifier, tmp_path, processes_with):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(classifier)], stdout=subprocess.PIPE, env=environment
    ) as holder:
        try:
            assert holder.stdout is not None
            assert b"held" in holder.stdout.readline()
            whose = rf"in use by \S+ on \S+ \(process {holder.pid}\), since \d{{4}}-"
            with pytest.raises(DeviceError, match=whose):
                take(device, [])
            with pytest.raises(DeviceError, match=whose):
                devices.remove("orin")
            assert devices.examine("orin")["running"] == ["left"]
        finally:
            holder.kill()
    lines = []
    take(device, lines)
    (said,) = [line for line in lines if "is broken" in line]
    assert re.search(rf"process {holder.pid}\), since .* is broken: that process runs no more", said)
    # What the dead owner had left running is gone too.
    assert not (tmp_path / "there" / "jobs" / "left").exists()
    assert devices.examine("orin")["running"] == []
    assert processes_with(str(tmp_path / "there" / "jobs" / "left")) == []


def test_work_stops_when_the_lock_was_taken_away(device, tmp_path):
    async def work() -> None:
        async with Link(device, lambda line: None) as link:
            await link.settle()
            async with locked(link):
                file = tmp_path / "there" / "lock.json"
                file.write_text(json.dumps({**json.loads(file.read_text()), "token": "x", "user": "eve"}))
                await link.call("place", path="packages/x", files={})

    with pytest.raises(DeviceError, match="the lock on the device was broken by eve"):
        asyncio.run(work())


def test_device_without_space(server, tmp_path, classifier):
    """A file system of 8 MB: refused before anything is sent."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        device = add(server, tmp_path, folder=str(small / "there"))
        with pytest.raises(
            DeviceError, match=r"has 8\.\d MB free in .*, 16\.8 MB are needed; .*nothing was sent"
        ):
            measure(device, classifier)
        assert not (small / "there" / "objects").exists() and not (small / "there" / "lock.json").exists()
        devices.remove("orin")
        assert list(small.iterdir()) == []
    finally:
        # Lazily: the device's last process may still be on its way out, and has files open there.
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def test_space_that_ends_while_a_file_is_copied(server, tmp_path):
    """A limit of 2 MB on the size of files, set on the device's interpreter."""
    limited = wrapper(tmp_path, f'#!/bin/sh\nulimit -f 4096\nexec {sys.executable} "$@"\n')
    device = add(server, tmp_path, python=limited)
    big = tmp_path / "weights.bin"
    big.write_bytes(os.urandom(6 << 20))
    item = transfer.Item.of(big)

    async def send() -> None:
        async with Link(device, lambda line: None) as link:
            await link.settle()
            async with locked(link):
                await transfer.send(link, [item], transfer.Traffic())

    with pytest.raises(DeviceError, match=r"no space left in .*File too large.*what was copied stays"):
        asyncio.run(send())
    there = tmp_path / "there" / "objects" / f"{item.sha256}.part"
    assert 0 < there.stat().st_size <= 4096 * 512 and not there.with_suffix("").exists()
    registry.store(add(server, tmp_path, replace=True))  # the same folder without the limit: it goes on
    traffic = transfer.Traffic()
    device = devices.get("orin")

    async def again() -> None:
        async with Link(device, lambda line: None) as link:
            await link.settle()
            async with locked(link):
                await transfer.send(link, [item], traffic)

    asyncio.run(again())
    assert traffic.kept > 0 and traffic.sent == item.size - traffic.kept


def test_device_of_another_architecture(server, tmp_path, classifier):
    """An interpreter without edgetx that says it runs on aarch64 with Python 3.10, as on JetPack 6."""
    foreign = wrapper(
        tmp_path,
        f"#!{BASE}\nimport os, platform, sys\n"
        "arguments = sys.argv[1:]\n"
        "if arguments[:2] == ['-SE', '-c'] and 'libc_ver' in arguments[2]:\n"
        "    platform.machine = lambda: 'aarch64'\n"
        "    platform.python_version = lambda: '3.10.12'\n"
        "    sys.version_info = (3, 10, 12)\n"
        "    sys.argv[:] = ['-c', *arguments[3:]]\n"
        "    exec(arguments[2])\n"
        f"else:\n    os.execv({BASE!r}, [{BASE!r}, *arguments])\n",
    )
    device = add(server, tmp_path, python=foreign)
    with pytest.raises(DeviceError, match=r"aarch64 with Python 3\.10") as refused:
        measure(device, classifier)
    message = str(refused.value)
    for name in ("edgetx==", "numpy", "msgspec", "onnxruntime"):
        assert name in message, message
    assert "rich" not in message.partition("Collect")[0]  # pure Python: the wheel of this machine fits
    assert re.search(r"--python-version 3\.10 --platform manylinux_2_\d+_aarch64", message)
    assert not (tmp_path / "there" / "objects").exists()


def test_damaged_files_are_found_and_sent_again(device, classifier, tmp_path):
    measure(device, classifier)
    sha = hashlib.sha256((classifier / "model.onnx").read_bytes()).hexdigest()
    file = tmp_path / "there" / "objects" / sha
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(DeviceError, match=r"on orin: .*model.onnx has changed.*edgetx device doctor orin"):
        measure(device, classifier)
    assert devices.examine("orin")["damaged"] == [sha]
    again = measure(device, classifier)
    assert again.package.sent == file.stat().st_size and again.result.report is not None


def test_inputs_baseline_and_scenarios_go_along(device, classifier, photograph):
    pytest.importorskip("mlperf_loadgen", reason="scenarios need MLPerf LoadGen")
    loads = [Load(scenario="single-stream", seconds=0.2)]
    report = devices.bench(
        "orin", classifier, baseline=classifier / "model.onnx", inputs=[photograph], loads=loads, **QUICK
    )
    assert [engine.kind for engine in report.engines] == ["package", "onnx"]
    assert Path(report.engines[0].inputs[0].name).name == photograph.name
    assert report.engines[1].path.startswith(device.folder)
    assert [each.load.scenario for each in report.engines[0].loads] == ["single-stream"]


@pytest.mark.slow
def test_installs_without_a_network(server, tmp_path, classifier, home):
    """An interpreter that has nothing: edgetx and what it needs come as wheels from this machine."""
    bare = tmp_path / "bare"
    subprocess.run([BASE, "-m", "venv", "--without-pip", str(bare)], check=True)
    device = add(server, tmp_path, python=str(bare / "bin" / "python"))
    assert devices.examine("orin")["why_not"] == "it has no edgetx"
    lines = []
    first = measure(device, classifier, lines)
    assert first.result.report is not None and first.runtime.sent > 10e6
    assert any("installing edgetx[ort] on orin, without a network" in line for line in lines)
    engine = first.result.report.engines[0]
    assert engine.ran_on["runtime"] == "ort"
    again = measure(device, classifier)
    assert again.runtime.sent == 0 and again.package.sent == 0
    assert devices.examine("orin")["why_not"] is None
    assert not list((bare / "lib").glob("python*/site-packages/edgetx*"))  # nothing outside the folder
    devices.remove("orin")
    assert not (tmp_path / "there").exists()
