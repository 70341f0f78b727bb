"""A real OpenSSH server of this user on 127.0.0.1, and a device behind it: a folder on this machine."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


class Server:
    """`sshd -D` with a configuration, host key and port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.user = getpass.getuser()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"{self.user}@127.0.0.1:{self.port}"
        self.key = self.new_key("client")
        shutil.copy(self.key.with_suffix(".pub"), folder / "authorized_keys")
        self.new_key("host")
        self._process: subprocess.Popen[bytes] | None = None

    def new_key(self, name: str) -> Path:
        file = self.folder / name
        for old in (file, file.with_suffix(".pub")):
            old.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
        return file

    @property
    def fingerprint(self) -> str:
        shown = subprocess.run(
            ["ssh-keygen", "-lf", str(self.folder / "host.pub")], capture_output=True, text=True, check=True
        )
        return shown.stdout.split()[1]

    def start(self) -> None:
        if os.geteuid() == 0:  # its privilege separation
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        settings = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": self.folder / "host",
            "AuthorizedKeysFile": self.folder / "authorized_keys",
            "PidFile": self.folder / "pid",
            "UsePAM": "no",
            "StrictModes": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "yes",
            "MaxStartups": "100",
        }
        config = self.folder / "sshd_config"
        config.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
        assert SSHD is not None
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=log)
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)
        raise AssertionError("sshd does not listen")

    def stop(self) -> None:
        self.cut()
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def sessions(self) -> list[int]:
        """The processes that serve a connection, children of the listening one."""
        assert self._process is not None
        return children(self._process.pid)

    def cut(self) -> int:
        """Kill the processes of all connections, as a line that breaks; returns how many there were."""
        if self._process is None:
            return 0
        gone = 0
        for session in self.sessions():
            for pid in (*children(session), session):  # as root a child drops its privileges
                with contextlib.suppress(ProcessLookupError):
                    if pid == session or Path(f"/proc/{pid}/comm").read_text().startswith("sshd"):
                        os.kill(pid, signal.SIGKILL)
            gone += 1
        return gone


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@pytest.fixture(scope="session")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if SSHD is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no OpenSSH server here; Debian has it in openssh-server")
    pytest.importorskip("asyncssh", reason="devices need asyncssh")
    if os.geteuid() == 0 and re.search("^root:!", Path("/etc/shadow").read_text(), re.MULTILINE):
        pytest.skip("root's account is locked here, so sshd lets nobody in as root")
    server = Server(tmp_path_factory.mktemp("sshd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """edgetx's configuration and the user's home, both empty."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("EDGETX_HOME", str(folder / "edgetx"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return folder


@pytest.fixture
def server(running_server: Server, home: Path) -> Server:
    return running_server


@pytest.fixture
def device(server: Server, tmp_path: Path):
    """A registered device `orin`, whose Python is this one, so that nothing has to be installed there."""
    from edgetx import devices

    return devices.add(
        "orin",
        server.address,
        key=server.key,
        python=sys.executable,
        folder=str(tmp_path / "there"),
        accept=server.fingerprint,
    )


@pytest.fixture
def processes_with() -> Callable[[str], list[int]]:
    """Processes with a word in their command line."""

    def find(word: str) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if word.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
        return [pid for pid in found if pid != os.getpid()]

    return find
