"""Wheels made again from installed distributions, edgetx in a checkout included."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from edgetx.errors import DeviceError

_SOURCES = (".cc", ".cpp", ".cu", ".h", ".hpp", ".pyc")
"""What `wheel.exclude` in pyproject.toml leaves out too."""


def can_repack(distribution: metadata.Distribution) -> bool:
    """Whether all its files are known and here."""
    return distribution.files is not None and (not _is_editable(distribution) or _is_edgetx(distribution))


def _is_editable(distribution: metadata.Distribution) -> bool:
    url = distribution.read_text("direct_url.json")
    return url is not None and bool(json.loads(url).get("dir_info", {}).get("editable"))


def _is_edgetx(distribution: metadata.Distribution) -> bool:
    return str(distribution.metadata["Name"]) == "edgetx"


def repack(distribution: metadata.Distribution) -> Path:
    """The wheel that a distribution was installed from, made from its installed files.

    Kept in edgetx's cache folder; equal files give an equal wheel, byte for byte.

    Raises:
        DeviceError: the cache folder cannot be written.
    """
    files = dict(sorted(_files(distribution)))
    digest = hashlib.sha256()
    for name, path in files.items():
        entry = path.stat()
        digest.update(f"{name} {entry.st_size} {entry.st_mtime_ns}\n".encode())
    name = str(distribution.metadata["Name"]).replace("-", "_")
    folder = cache() / "wheels" / f"{name}-{digest.hexdigest()[:16]}"
    wheel = folder / f"{name}-{distribution.version}-{_tag(distribution)}.whl"
    if wheel.is_file():
        return wheel
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft = wheel.with_suffix(f".{os.getpid()}")
        _write(draft, files, f"{name}-{distribution.version}.dist-info/RECORD")
        draft.replace(wheel)
    except OSError as error:
        raise DeviceError(
            f"cannot write {wheel} ({error.strerror}); set XDG_CACHE_HOME to another folder"
        ) from error
    return wheel


def cache() -> Path:
    """Where things are kept that can be made again."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgetx"


def _tag(distribution: metadata.Distribution) -> str:
    """The compressed tag of the file's name, such as `cp311-cp311-manylinux_2_28_x86_64`."""
    lines = (distribution.read_text("WHEEL") or "").splitlines()
    parts = [line.partition(":")[2].strip().split("-") for line in lines if line.startswith("Tag:")]
    return "-".join(".".join(dict.fromkeys(column)) for column in zip(*parts, strict=True))


def _files(distribution: metadata.Distribution) -> Iterator[tuple[str, Path]]:
    """Name in the wheel and path here, without what the installer made."""
    info = f"{str(distribution.metadata['Name']).replace('-', '_')}-{distribution.version}.dist-info"
    made = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
    editable = _is_editable(distribution)
    for file in distribution.files or ():
        name = file.as_posix()
        folder, _, rest = name.partition("/")
        if name.startswith("..") or name.endswith(".pyc") or (editable and "/" not in name):
            continue  # commands, compiled code; the redirection of an editable installation
        if folder.endswith(".dist-info"):
            if rest in made:
                continue
            name = f"{info}/{rest}"
        yield name, Path(str(distribution.locate_file(file)))
    if editable:
        yield from _checkout()


def _checkout() -> Iterator[tuple[str, Path]]:
    """edgetx's own files where it runs from a checkout: three folders, as pyproject.toml maps them."""
    import edgetx
    from edgetx import exporters, runtimes

    for module, prefix in (
        (edgetx, "edgetx"),
        (exporters, "edgetx/exporters"),
        (runtimes, "edgetx/runtimes"),
    ):
        assert module.__file__ is not None
        root = Path(module.__file__).parent
        for file in root.rglob("*"):
            inside = file.relative_to(root)
            linked = prefix == "edgetx" and inside.parts[0] in ("exporters", "runtimes")
            if (
                file.is_file()
                and not linked
                and file.suffix not in _SOURCES
                and file.name != "CMakeLists.txt"
            ):
                yield f"{prefix}/{inside.as_posix()}", file


def _write(wheel: Path, files: Mapping[str, Path], record: str) -> None:
    lines = []
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:

        def add(name: str, data: bytes) -> None:
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, data)

        for name, path in files.items():
            data = path.read_bytes()
            add(name, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            lines.append(f"{name},sha256={digest},{len(data)}\n")
        add(record, "".join([*lines, f"{record},,\n"]).encode())
