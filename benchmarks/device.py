"""A benchmark over SSH, twice: to an OpenSSH server on this machine, which plays the device.

The device's interpreter is this one, so that no wheels are sent. The server runs as an ordinary process of
this user, with a host key and a port of its own. Needs Debian's `openssh-server`.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.record import Goal, Progress, Record
from edgetx import devices, pipeline
from edgetx.devices import remote
from edgetx.devices.job import Request

TITLE = "A device over SSH, twice"


def run(folder: Path, *, threads: int, runs: int, rounds: int, progress: Progress) -> Record:
    """Bytes of the package that go over the line, and the time from the command to the report."""
    progress("exporting")
    package = pipeline.export("swin_tiny", pretrained=False, output=folder / "swin_tiny.edgetx").path
    os.environ["EDGETX_HOME"] = str(folder / "home")
    size = sum(file.stat().st_size for file in package.iterdir() if file.is_file())
    outcomes, seconds = [], []
    with _server(folder) as (address, key, fingerprint):
        devices.add(
            "loopback",
            address,
            key=key,
            python=sys.executable,
            folder=str(folder / "device"),
            accept=fingerprint,
        )
        for time_ in ("first", "second"):
            progress(f"the {time_} benchmark")
            request = Request(
                packages=[str(package)],
                options={"runs": runs, "rounds": rounds, "threads": threads},
            )
            started = time.monotonic()
            outcomes.append(asyncio.run(remote.measure(devices.get("loopback"), request, lambda line: None)))
            seconds.append(time.monotonic() - started)
        devices.remove("loopback")
    first, second = outcomes
    assert second.result.report is not None
    return Record(
        title=TITLE,
        reports={"The second time, on the device": second.result.report},
        goals=[
            Goal(what="size of the package", measured=size / 1e6, unit="MB"),
            Goal(what="bytes of the package sent, first time", measured=first.package.sent, at_least=size),
            Goal(what="bytes of the package sent, second time", measured=second.package.sent, at_most=0),
            Goal(what="from the command to the report, first time", measured=seconds[0], unit="s"),
            Goal(what="from the command to the report, second time", measured=seconds[1], unit="s"),
            Goal(
                what="files left on the device after `edgetx device remove`",
                measured=len(list((folder / "device").rglob("*"))),
                at_most=0,
            ),
        ],
    )


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[tuple[str, Path, str]]:
    """Address, private key and the host key's fingerprint of a running server."""
    sshd = shutil.which("sshd", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
    if sshd is None:
        raise SystemExit("this benchmark needs an OpenSSH server: apt-get install openssh-server")
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    if os.geteuid() == 0:  # its privilege separation
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\n"
        f"AuthorizedKeysFile {folder / 'client.pub'}\nPidFile none\nUsePAM no\nStrictModes no\n"
        "PasswordAuthentication no\nPermitRootLogin yes\n"
    )
    shown = subprocess.run(
        ["ssh-keygen", "-lf", str(folder / "host.pub")], capture_output=True, text=True, check=True
    )
    process = subprocess.Popen([sshd, "-D", "-e", "-f", str(config)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield f"{getpass.getuser()}@127.0.0.1:{port}", folder / "client", shown.stdout.split()[1]
    finally:
        process.terminate()
        process.wait()
