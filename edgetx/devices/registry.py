"""The devices that the user registered: `devices.json` in edgetx's configuration folder.

The folder is `$EDGETX_HOME`, else `edgetx` in `$XDG_CONFIG_HOME`, `%APPDATA%` or `~/.config`. It also holds
`known_hosts` with the host keys that were accepted. Both files are readable by their owner alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
from pathlib import Path
from typing import Literal

import msgspec

from edgetx.errors import DeviceError, InputError

FOLDER = ".edgetx-device"
"""Where a device keeps its files by default, below the user's home."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_RESERVED = re.compile(r"(cpu|cuda)(:\d+)?", re.IGNORECASE)
_ADDRESS = re.compile(
    r"((?P<user>[^@\s]+)@)?(\[(?P<v6>[0-9A-Fa-f:%.\w]+)\]|(?P<host>[^@:\s\[\]]+))(:(?P<port>\d+))?"
)


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine over SSH.

    Attributes:
        name: how the user calls it.
        host, port, user: where it is; None leaves port or user to `~/.ssh/config` and its defaults.
        key: a private key's file; None tries the SSH agent and the usual keys of `~/.ssh`.
        python: the interpreter there, which has a suitable edgetx or is new enough to install it.
        folder: everything that edgetx keeps there; relative to the user's home.
        wheels: a folder here with more wheels for it, such as those of another architecture.
    """

    name: str
    host: str
    port: int | None = None
    user: str | None = None
    key: str | None = None
    python: str = "python3"
    folder: str = FOLDER
    wheels: str | None = None

    @property
    def address(self) -> str:
        """`user@host:port`, as far as it is given."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = "" if self.user is None else f"{self.user}@"
        return f"{user}{host}" + ("" if self.port is None else f":{self.port}")


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema: Literal[1] = 1
    devices: dict[str, Device] = {}


def home() -> Path:
    """The configuration folder; it may not exist yet."""
    if given := os.environ.get("EDGETX_HOME"):
        return Path(given)
    base = os.environ.get("APPDATA" if sys.platform == "win32" else "XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "edgetx"


def devices() -> dict[str, Device]:
    """Every registered device by name.

    Raises:
        DeviceError: the file cannot be read or is damaged; names the field.
    """
    file = home() / "devices.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=_File).devices
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DeviceError(f"cannot read {file}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DeviceError(
            f"{file} is damaged ({error}); repair it, or remove it and add the devices again"
        ) from error


def is_reserved(name: str) -> bool:
    """Whether `name` means a processor of this machine: `cpu`, `cuda` or `cuda:INDEX`."""
    return _RESERVED.fullmatch(name) is not None


def get(name: str) -> Device:
    """The device of that name.

    Raises:
        InputError: there is none; names those there are.
    """
    known = devices()
    if name in known:
        return known[name]
    these = f"registered: {', '.join(known)}" if known else "no device is registered"
    raise InputError(
        f"unknown device {name!r}; accepted: cpu, cuda, cuda:INDEX or a registered device ({these}); "
        "register one: edgetx device add NAME --ssh USER@HOST"
    )


def split(device: str) -> tuple[str | None, str]:
    """`--device` as a registered device's name, or None, and the processor there: `orin/cuda:0`.

    Raises:
        InputError: the part behind the slash is no processor.
    """
    if is_reserved(device):
        return None, device
    name, slash, processor = device.partition("/")
    if slash and not is_reserved(processor):
        raise InputError(f"device {device!r}: behind the slash stands cpu, cuda or cuda:INDEX")
    return name, processor or "cpu"


def parse(name: str, ssh: str) -> Device:
    """A device from its name and `[user@]host[:port]`.

    Raises:
        InputError: the name is taken by a processor or has other characters, or the address has another form.
    """
    if is_reserved(name):
        raise InputError(
            f"a device cannot be called {name!r}, which means a processor of this machine; "
            "take another name, such as orin"
        )
    if not _NAME.fullmatch(name):
        raise InputError(f"device name {name!r}: accepted are letters, digits, - and _, a letter first")
    match = _ADDRESS.fullmatch(ssh)
    port = int(match["port"]) if match and match["port"] else None
    if match is None or (port is not None and not 0 < port < 65536):
        raise InputError(
            f"cannot read the address {ssh!r}; expected [user@]host[:port], such as me@orin.local"
        )
    return Device(name=name, host=match["v6"] or match["host"], port=port, user=match["user"])


def store(device: Device) -> None:
    """Add or replace a device."""
    _write({**devices(), device.name: device})


def forget(name: str) -> None:
    """Take a device out of the list; the host key that was accepted for it goes too."""
    known = devices()
    gone = known.pop(name, None)
    _write(known)
    if gone is not None and all(gone.host != other.host for other in known.values()):
        lines = _known_lines()
        write_private(
            known_hosts(), "".join(line for line in lines if not _is_for(line, gone.host, gone.port))
        )


def known_hosts() -> Path:
    """The accepted host keys, in OpenSSH's format."""
    return home() / "known_hosts"


def accept(host: str, port: int, key: str) -> None:
    """Trust `key` (a line `type base64`) for a host; a key accepted before is replaced."""
    lines = [line for line in _known_lines() if not _is_for(line, host, port)]
    pattern = host if port == 22 else f"[{host}]:{port}"
    write_private(known_hosts(), "".join([*lines, f"{pattern} {key.strip()}\n"]))


def _known_lines() -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return known_hosts().read_text(encoding="utf-8").splitlines(keepends=True)
    return []


def _is_for(line: str, host: str, port: int | None) -> bool:
    pattern = line.partition(" ")[0]
    return pattern == (host if port in (None, 22) else f"[{host}]:{port}")


def _write(known: dict[str, Device]) -> None:
    text = msgspec.json.format(msgspec.json.encode(_File(devices=known)), indent=2).decode()
    write_private(home() / "devices.json", text + "\n")


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner can read, in one step."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise DeviceError(f"cannot write {file} ({error.strerror}); nothing was changed") from error
