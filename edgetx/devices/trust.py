"""Host keys: a machine is talked to only if its key is known; what to say where it is not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetx.devices import registry
from edgetx.errors import DeviceError, UnavailableError

if TYPE_CHECKING:
    import asyncssh

    from edgetx.devices.registry import Device


def library() -> Any:
    """asyncssh.

    Raises:
        UnavailableError: it is not installed.
    """
    try:
        import asyncssh
    except ImportError as error:
        raise UnavailableError(
            f"devices need asyncssh, which cannot be imported ({error}); pip install 'edgetx[devices]'"
        ) from error
    return asyncssh


class HostKeys:
    """What is known of host keys, and which key the host has shown."""

    def __init__(self, device: Device, accept: str | None = None) -> None:
        """`accept` is the fingerprint of a key that is not known yet and that the user wants to trust."""
        self.device = device
        self.accept = accept
        self.seen: tuple[str, int, asyncssh.SSHKey] | None = None

    @property
    def files(self) -> list[str]:
        """The files that host keys are read from: ours and OpenSSH's."""
        places = (
            registry.known_hosts(),
            Path.home() / ".ssh" / "known_hosts",
            Path("/etc/ssh/ssh_known_hosts"),
        )
        return [str(file) for file in places if file.is_file() and os.access(file, os.R_OK)]

    def client(self) -> Any:
        """The class of the connection: asyncssh asks it about keys that no file knows."""
        keys = self

        class Client(library().SSHClient):  # type: ignore[misc]
            def validate_host_public_key(self, host: str, addr: str, port: int, key: Any) -> bool:
                keys.seen = (host, port, key)
                return keys.accept is not None and key.get_fingerprint() == keys.accept

        return Client

    def remember(self) -> None:
        """Write the accepted key down, if it was not known before."""
        if self.seen is not None:
            host, port, key = self.seen
            registry.accept(host, port, " ".join(key.export_public_key().decode().split()[:2]))

    def refusal(self) -> DeviceError:
        """Why the key that was seen is not trusted, and the next step."""
        assert self.seen is not None
        host, port, key = self.seen
        name, address = self.device.name, self.device.address
        shown = f"{key.get_algorithm()} {key.get_fingerprint()}"
        if self.accept is not None:
            return DeviceError(
                f"{address} has the host key {shown}, not {self.accept}, which you accept; nothing was sent. "
                "Compare with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the device itself"
            )
        known = self._known(host, port)
        if known:
            return DeviceError(
                f"the host key of {address} has changed: known is {', '.join(known)}, it shows {shown}; this "
                "is another machine, a reinstalled one, or somebody in between; nothing was sent. If the new "
                f"key is right: edgetx device remove {name} --forget, ssh-keygen -R for ~/.ssh/known_hosts, "
                f"then edgetx device add {name} --ssh {address} --accept-key {key.get_fingerprint()}"
            )
        return DeviceError(
            f"the host key of {address} is not known: it shows {shown}; nothing was sent. Compare it with "
            "`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the device itself, then: edgetx device "
            f"add {name} --ssh {address} --accept-key {key.get_fingerprint()}"
        )

    async def are_of_other_kinds(self) -> bool:
        """Whether the host shows no key of a kind that is known: then it hangs up before it shows any."""
        host, port = self.device.host, self.device.port or 22
        known = self._trusted(host, port)
        if not known:
            return False
        try:
            shown = await library().get_server_host_key(host, port)
        except (library().Error, OSError):
            return False
        if shown is None or shown.get_algorithm() in {key.get_algorithm() for key in known}:
            return False
        self.seen = (host, port, shown)
        return True

    def _known(self, host: str, port: int) -> list[str]:
        return [f"{key.get_algorithm()} {key.get_fingerprint()}" for key in self._trusted(host, port)]

    def _trusted(self, host: str, port: int) -> list[Any]:
        if not self.files:
            return []
        return list(library().match_known_hosts(self.files, host, "", None if port == 22 else port)[0])
