"""Names, addresses and the file of devices; needs no SSH."""

from __future__ import annotations

import stat

import pytest

from edgetx import devices
from edgetx.devices import registry
from edgetx.errors import DeviceError, InputError


@pytest.mark.parametrize(
    ("text", "host", "port", "user"),
    [
        ("orin.local", "orin.local", None, None),
        ("me@orin", "orin", None, "me"),
        ("me@10.0.0.7:2222", "10.0.0.7", 2222, "me"),
        ("me@[fe80::1%eth0]:22", "fe80::1%eth0", 22, "me"),
    ],
)
def test_addresses(text, host, port, user):
    device = registry.parse("orin", text)
    assert (device.host, device.port, device.user) == (host, port, user)
    assert device.address == text


@pytest.mark.parametrize("text", ["", "a b", "me@", "orin:http", "orin:0", "orin:70000", "fe80::1"])
def test_bad_addresses(text):
    with pytest.raises(InputError, match=r"expected \[user@\]host\[:port\]"):
        registry.parse("orin", text)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "CPU"])
def test_reserved_names(name):
    with pytest.raises(InputError, match="means a processor of this machine"):
        registry.parse(name, "orin.local")


@pytest.mark.parametrize("name", ["", "0", "a/b", "a b", "-x"])
def test_bad_names(name):
    with pytest.raises(InputError, match="accepted are letters"):
        registry.parse(name, "orin.local")


def test_device_and_processor():
    assert registry.split("cuda:1") == (None, "cuda:1")
    assert registry.split("orin") == ("orin", "cpu")
    assert registry.split("orin/cuda:0") == ("orin", "cuda:0")
    with pytest.raises(InputError, match="behind the slash"):
        registry.split("orin/gpu")


def test_file_is_private_and_whole(home):
    registry.store(registry.parse("orin", "me@orin.local"))
    registry.store(registry.parse("nano", "nano.local:2222"))
    assert list(devices.devices()) == ["orin", "nano"]
    registry.accept("nano.local", 2222, "ssh-ed25519 AAAA")
    registry.accept("nano.local", 2222, "ssh-ed25519 BBBB")
    assert registry.known_hosts().read_text() == "[nano.local]:2222 ssh-ed25519 BBBB\n"
    for file in ("devices.json", "known_hosts"):
        assert stat.S_IMODE((home / "edgetx" / file).stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "edgetx").stat().st_mode) == 0o700
    registry.forget("nano")
    assert list(devices.devices()) == ["orin"]
    assert registry.known_hosts().read_text() == ""
    assert sorted(file.name for file in (home / "edgetx").iterdir()) == ["devices.json", "known_hosts"]


def test_damaged_file_names_the_field(home):
    registry.write_private(
        home / "edgetx" / "devices.json", '{"devices": {"a": {"name": "a", "host": "h", "port": "x"}}}'
    )
    with pytest.raises(DeviceError, match=r"is damaged .*port"):
        devices.devices()


def test_unknown_device(home):
    with pytest.raises(InputError, match=r"no device is registered.*edgetx device add"):
        devices.get("orin")
    registry.store(registry.parse("nano", "nano.local"))
    with pytest.raises(InputError, match=r"unknown device 'orin'; accepted: cpu, cuda, .*registered: nano"):
        devices.get("orin")
