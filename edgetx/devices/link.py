"""The connection to a device: calls of its agent, and a way back where the line is cut."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shlex
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic
from typing import Any

from edgetx.devices.registry import Device
from edgetx.devices.trust import HostKeys, library
from edgetx.errors import DeviceError

PATIENCE = 600.0
"""Seconds for which a lost connection is tried again."""
LONGEST_PAUSE = 30.0
PYTHON = (3, 10)

_FACTS = """
import hashlib, json, os, platform, sys
lines = {"version": list(sys.version_info[:3]), "folder": os.path.abspath(os.path.expanduser(sys.argv[1]))}
try:
    lines["agent"] = hashlib.sha256(open(lines["folder"] + "/agent.py", "rb").read()).hexdigest()
except (IOError, OSError):
    lines["agent"] = None
lines["libc"] = platform.libc_ver()
i = sys.implementation
lines["markers"] = {
    "implementation_name": i.name, "implementation_version": platform.python_version(), "os_name": os.name,
    "platform_machine": platform.machine(), 
    "platform_python_implementation": platform.python_implementation(),
    "platform_release": platform.release(), "platform_system": platform.system(),
    "platform_version": platform.version(), "python_full_version": platform.python_version(),
    "python_version": "%d.%d" % sys.version_info[:2], "sys_platform": sys.platform,
}
print(json.dumps(lines))
"""

_SETTLE = """
import os, sys
folder, mark = sys.argv[1], os.path.join(sys.argv[1], ".edgetx-device")
if not os.path.isdir(folder):
    os.mkdir(folder, 0o700)
elif os.listdir(folder) and not os.path.isfile(mark):
    sys.exit("it holds files that edgetx did not make; give another --folder")
open(mark, "a").close()
draft = os.path.join(folder, "agent.new")
with open(draft, "wb") as stream:
    stream.write(sys.stdin.buffer.read())
os.replace(draft, os.path.join(folder, "agent.py"))
"""

Progress = Callable[[str], None]


class LostError(Exception):
    """The connection ended before an answer came."""


class Link:
    """One device, connected. An asynchronous context manager."""

    def __init__(
        self, device: Device, progress: Progress, *, patience: float = PATIENCE, accept: str | None = None
    ) -> None:
        self.device = device
        self.progress = progress
        self.keys = HostKeys(device, accept)
        self.facts: dict[str, Any] = {}
        self.token = ""
        self._patience = patience
        self._connection: Any = None
        self._gone: DeviceError | None = None

    async def __aenter__(self) -> Link:
        await self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.abort()

    @property
    def folder(self) -> str:
        """The device's folder, absolute."""
        return str(self.facts["folder"])

    async def _connect(self) -> None:
        asyncssh = library()
        device, keys = self.device, self.keys
        who = f"device {device.name} ({device.address})"
        try:
            self._connection = await asyncssh.connect(
                device.host,
                device.port or (),
                username=device.user or (),
                client_keys=() if device.key is None else [str(Path(device.key).expanduser())],
                agent_path=() if device.key is None else None,
                known_hosts=keys.files or b"",
                client_factory=keys.client(),
                preferred_auth="publickey",
                compression_algs=["none"],  # weights do not get smaller
                connect_timeout=20,
                login_timeout=30,
                keepalive_interval=10,
                keepalive_count_max=3,
            )
        except asyncssh.HostKeyNotVerifiable:
            if keys.seen is None:
                raise DeviceError(f"{who}: its host key is revoked; nothing was sent") from None
            raise keys.refusal() from None
        except asyncssh.PermissionDenied as error:
            tried = f"the key {device.key}" if device.key else "the keys of the SSH agent and ~/.ssh"
            raise DeviceError(
                f"{who} refused {tried}: {error.reason}; put the public key into ~/.ssh/authorized_keys "
                "there, or name another: edgetx device add ... --key FILE --replace"
            ) from error
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, FileNotFoundError) as error:
            raise DeviceError(
                f"the key {device.key} cannot be used ({error}); give an OpenSSH private key without a "
                "passphrase, or add it to the SSH agent and leave --key out"
            ) from error
        except (asyncssh.Error, OSError, asyncio.TimeoutError) as error:
            if await keys.are_of_other_kinds():
                raise keys.refusal() from None
            what = str(error) or "no answer within 20 s"
            raise UnreachableError(
                f"{who} cannot be reached: {what}; check that it is on, and the address: edgetx device list"
            ) from error

    async def reconnect(self) -> None:
        """Come back, with longer and longer pauses; raises `DeviceError` when patience ends."""
        if self._gone is not None:
            raise self._gone
        deadline = monotonic() + self._patience
        pause = 0.5
        while True:
            self.progress(f"connection to {self.device.name} lost; trying again in {pause:g} s")
            await asyncio.sleep(pause)
            try:
                await self._connect()
            except UnreachableError as error:
                if monotonic() > deadline:
                    self._gone = DeviceError(
                        f"{error}; given up after {self._patience:g} s, what was copied stays there"
                    )
                    raise self._gone from error
            else:
                self.progress(f"connected to {self.device.name} again")
                return
            pause = min(LONGEST_PAUSE, pause * 2)

    async def settle(self) -> None:
        """Look at the device and put the agent into its folder.

        Raises:
            DeviceError: no Python there or too old a one, or the folder cannot be used.
        """
        device = self.device
        code, out, tail = await self._again(device.python, "-SE", "-c", _FACTS, self._home(device.folder))
        where = f"device {device.name}: {device.python}"
        if code in (126, 127):
            raise DeviceError(
                f"{where} cannot be run there ({tail or 'not found'}); install Python "
                f"{PYTHON[0]}.{PYTHON[1]} or newer on the device, or name another: "
                "edgetx device add ... --python PATH --replace"
            )
        try:
            self.facts = json.loads(out)
        except ValueError:
            raise DeviceError(f"{where} is no Python: {tail or out.decode(errors='replace')[:200]}") from None
        version = tuple(self.facts["version"])
        if version < PYTHON:
            raise DeviceError(
                f"{where} is Python {'.'.join(map(str, version))}; edgetx needs {PYTHON[0]}.{PYTHON[1]} "
                "or newer, name another: edgetx device add ... --python PATH --replace"
            )
        source = Path(__file__).with_name("agent.py").read_bytes()
        if self.facts["agent"] == hashlib.sha256(source).hexdigest():
            return
        code, _, tail = await self._again(device.python, "-SE", "-c", _SETTLE, self.folder, data=source)
        if code:
            raise DeviceError(f"device {device.name}: the folder {self.folder} cannot be used: {tail}")

    @staticmethod
    def _home(folder: str) -> str:
        return folder if folder.startswith(("/", "~")) else f"~/{folder}"

    async def _again(self, *command: str, data: bytes = b"") -> tuple[int | None, bytes, str]:
        while True:
            try:
                return await self._run(*command, data=data)
            except LostError:
                await self.reconnect()

    async def _run(self, *command: str, data: bytes) -> tuple[int | None, bytes, str]:
        process = await self._open(command)
        try:
            process.stdin.write(data)
            process.stdin.write_eof()
            out = await process.stdout.read()
        except (library().Error, OSError) as error:
            raise LostError from error
        return await self._end(process), out, await self._tail(process)

    async def _open(self, command: tuple[str, ...]) -> Any:
        try:
            return await self._connection.create_process(shlex.join(command), encoding=None)
        except (library().Error, OSError) as error:
            raise LostError from error

    async def _end(self, process: Any) -> int | None:
        try:
            await process.wait_closed()
        except (library().Error, OSError) as error:
            raise LostError from error
        if process.exit_status is None and process.exit_signal is None:
            raise LostError
        code: int | None = process.exit_status
        return code

    @staticmethod
    async def _tail(process: Any) -> str:
        text = (await process.stderr.read()).decode(errors="replace").strip()
        return " / ".join(text.splitlines()[-3:])

    async def call(self, verb: str, **given: Any) -> dict[str, Any]:
        """Call the agent; after a lost connection, again.

        Raises:
            DeviceError: the agent refuses or fails, or the device stays away.
        """
        while True:
            try:
                async for answer in self.lines(verb, None, **given):
                    if "ok" in answer:
                        ok: dict[str, Any] = answer["ok"]
                        return ok
            except LostError:
                await self.reconnect()

    async def follow(self, job: str, told: Progress) -> dict[str, Any]:
        """What a job found; its lines go to `told` as they come, each once."""
        offset = 0
        while True:
            try:
                async for answer in self.lines("follow", None, job=job, offset=offset):
                    if "ok" in answer:
                        ok: dict[str, Any] = answer["ok"]
                        return ok
                    offset = answer["offset"]
                    told(answer["event"]["step"])
            except LostError:
                await self.reconnect()

    async def lines(
        self, verb: str, data: AsyncIterator[bytes] | None, **given: Any
    ) -> AsyncIterator[dict[str, Any]]:
        """The agent's answers, once; `data` goes to its stdin. The last one has `ok`.

        Raises:
            LostError: the connection was lost; call again.
            DeviceError: the agent refuses or fails.
        """
        agent = f"{self.folder}/agent.py"
        process = await self._open((self.device.python, "-SEu", agent, verb))
        rest = b""
        try:
            await self._feed(process, json.dumps({**given, "token": self.token}).encode() + b"\n", data)
            while block := await process.stdout.read(1 << 20):
                *complete, rest = (rest + block).split(b"\n")
                for line in complete:
                    answer = json.loads(line)
                    if "error" in answer:
                        raise self._failure(answer)
                    yield answer
                    if "ok" in answer:
                        return
            code = await self._end(process)
        except (library().Error, OSError) as error:
            raise LostError from error
        finally:
            process.close()
        raise DeviceError(
            f"device {self.device.name}: its agent ended with {code or process.exit_signal} at {verb}: "
            f"{await self._tail(process) or 'without a word'}"
        )

    @staticmethod
    async def _feed(process: Any, head: bytes, data: AsyncIterator[bytes] | None) -> None:
        try:
            process.stdin.write(head)
            if data is not None:
                async for block in data:
                    process.stdin.write(block)
                    await process.stdin.drain()
                process.stdin.write_eof()
        except BrokenPipeError:
            pass  # the agent has ended early; its answer says why

    def _failure(self, answer: dict[str, Any]) -> DeviceError:
        if answer.get("errno") in ("ENOSPC", "EDQUOT", "EFBIG"):
            return DeviceError(
                f"device {self.device.name} has no space left in {self.folder} ({answer['error']}); what was "
                "copied stays there, free some space or choose another --folder, then run the command again"
            )
        return DeviceError(f"device {self.device.name}: {answer['error']}")


class UnreachableError(DeviceError):
    """Nobody answered, or the answer broke off."""
