"""Reaching a device: keys of hosts and of users, addresses, interpreters, folders. Against a real sshd."""

from __future__ import annotations

import re
import socket
import sys

import pytest

from edgetx import devices
from edgetx.devices import registry
from edgetx.errors import DeviceError, InputError


def add(server, tmp_path, **changes):
    given = {
        "key": server.key,
        "python": sys.executable,
        "folder": str(tmp_path / "there"),
        "accept": server.fingerprint,
        **changes,
    }
    return devices.add("orin", given.pop("ssh", server.address), **given)


def test_unknown_host_is_refused_until_its_key_is_accepted(server, tmp_path):
    with pytest.raises(DeviceError, match="not known") as refused:
        add(server, tmp_path, accept=None)
    assert server.fingerprint in str(refused.value)
    assert f"--accept-key {server.fingerprint}" in str(refused.value)
    assert not (tmp_path / "there").exists() and devices.devices() == {}
    add(server, tmp_path)
    assert "orin" in devices.devices()
    # From now on the key is known.
    add(server, tmp_path, accept=None, replace=True)


def test_another_key_than_the_accepted_one(server, tmp_path):
    with pytest.raises(DeviceError, match=f"has the host key .*{re.escape(server.fingerprint)}"):
        add(server, tmp_path, accept="SHA256:somethingelse")
    assert devices.devices() == {}


def test_changed_host_key_is_refused(server, tmp_path, classifier):
    device = add(server, tmp_path)
    before = server.fingerprint
    server.stop()
    old = (server.folder / "host").read_bytes(), (server.folder / "host.pub").read_bytes()
    server.new_key("host")
    server.start()
    try:
        with pytest.raises(DeviceError, match="has changed") as refused:
            devices.bench("orin", classifier)
        assert before in str(refused.value) and server.fingerprint in str(refused.value)
        with pytest.raises(DeviceError, match="has changed"):
            devices.remove("orin")
        assert devices.get("orin") == device
        # As the message says: forget it, then accept the new key.
        devices.remove("orin", forget=True)
        add(server, tmp_path, accept=server.fingerprint)
    finally:
        server.stop()
        (server.folder / "host").write_bytes(old[0])
        (server.folder / "host.pub").write_bytes(old[1])
        server.start()


def test_key_of_another_kind_is_a_changed_key(server, tmp_path):
    """The host shows an Ed25519 key where an RSA key is known: there is no common algorithm at all."""
    import asyncssh

    key = asyncssh.generate_private_key("ssh-rsa", key_size=2048).export_public_key().decode()
    registry.accept("127.0.0.1", server.port, key)
    with pytest.raises(DeviceError, match=r"has changed: known is ssh-rsa SHA256:.*it shows ssh-ed25519"):
        add(server, tmp_path, accept=None)


def test_wrong_key(server, tmp_path):
    other = server.new_key("other")
    with pytest.raises(DeviceError, match=f"refused the key {other}.*authorized_keys"):
        add(server, tmp_path, key=other)
    assert devices.devices() == {}


def test_key_that_cannot_be_used(server, tmp_path):
    with pytest.raises(DeviceError, match="cannot be used"):
        add(server, tmp_path, key=tmp_path / "nothing")
    (tmp_path / "text").write_text("no key\n")
    with pytest.raises(DeviceError, match="cannot be used"):
        add(server, tmp_path, key=tmp_path / "text")


def test_unreachable_host(server, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DeviceError, match="cannot be reached"):
        add(server, tmp_path, ssh=f"me@127.0.0.1:{port}")
    with pytest.raises(DeviceError, match="cannot be reached"):
        add(server, tmp_path, ssh="me@nowhere.invalid")


def test_without_python(server, tmp_path):
    with pytest.raises(DeviceError, match=r"no-such-python cannot be run there .*--python PATH"):
        add(server, tmp_path, python="no-such-python")
    with pytest.raises(DeviceError, match="/bin/echo is no Python"):
        add(server, tmp_path, python="/bin/echo")
    assert devices.devices() == {} and not (tmp_path / "there").exists()


def test_old_python(server, tmp_path):
    """A wrapper that says it is Python 3.8, as on JetPack 5."""
    old = tmp_path / "python3.8"
    old.write_text(
        f"#!{sys.executable}\nimport sys\nsys.argv.pop(0)\nsys.version_info = (3, 8, 10)\n"
        "code = sys.argv.pop(sys.argv.index('-c') + 1)\n"
        "sys.argv[:] = ['-c', *sys.argv[2:]]\nexec(code)\n"
    )
    old.chmod(0o755)
    with pytest.raises(DeviceError, match=r"is Python 3\.8\.10; edgetx needs 3\.10 or newer"):
        add(server, tmp_path, python=str(old))


def test_folder_of_somebody_else(server, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "thesis.txt").write_text("mine")
    with pytest.raises(DeviceError, match="edgetx did not make"):
        add(server, tmp_path)
    assert [each.name for each in (tmp_path / "there").iterdir()] == ["thesis.txt"]
    with pytest.raises(DeviceError, match=r"cannot be used.*No such file"):
        add(server, tmp_path, folder=str(tmp_path / "not" / "there"))


def test_name_is_taken(device, server, tmp_path):
    with pytest.raises(InputError, match="registered already"):
        add(server, tmp_path)


def test_remove_leaves_nothing(device, tmp_path):
    there = tmp_path / "there"
    size = there.joinpath("agent.py").stat().st_size
    assert devices.remove("orin") >= size
    assert not there.exists()
    assert devices.devices() == {} and registry.known_hosts().read_text() == ""
    with pytest.raises(InputError, match="unknown device 'orin'"):
        devices.remove("orin")
