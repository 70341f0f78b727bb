"""Wheels for a device: made from what is installed here, or found in a folder that the user gives."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgetx.errors import DeviceError, UnavailableError

if TYPE_CHECKING:
    from packaging.tags import Tag

_SOURCES = (".cc", ".cpp", ".cu", ".h", ".hpp", ".pyc")
"""What `wheel.exclude` in pyproject.toml leaves out too."""


class Place(NamedTuple):
    """What decides which wheels fit a device: environment markers of PEP 508 and the C library."""

    markers: Mapping[str, str]
    libc: tuple[str, str]

    @property
    def python(self) -> tuple[int, int]:
        """Major and minor version."""
        major, minor = self.markers["python_version"].split(".")
        return int(major), int(minor)

    @property
    def platforms(self) -> list[str]:
        """Platform tags, newest first."""
        machine = self.markers["platform_machine"]
        if self.markers["sys_platform"] != "linux" or self.libc[0] != "glibc":
            return [f"{self.markers['sys_platform']}_{machine}"]
        minor = int(self.libc[1].split(".")[1])
        legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
        tags = []
        for at in range(minor, 4, -1):
            tags.append(f"manylinux_2_{at}_{machine}")
            tags += [f"{legacy[at]}_{machine}"] if at in legacy else []
        return [*tags, f"linux_{machine}"]

    def tags(self) -> frozenset[Tag]:
        """Every tag that the device's interpreter takes."""
        from packaging import tags

        interpreter = f"cp{self.python[0]}{self.python[1]}"
        return frozenset(
            (
                *tags.cpython_tags(self.python, platforms=self.platforms),
                *tags.compatible_tags(self.python, interpreter=interpreter, platforms=self.platforms),
            )
        )


class Needed(NamedTuple):
    """A distribution that the device needs; `installed` is the one of this machine, if there is one."""

    name: str
    specifier: str
    installed: metadata.Distribution | None


def needed(extras: Iterable[str], place: Place) -> list[Needed]:
    """edgetx, pip, and what edgetx with `extras` needs on the device, with what that needs, and so on.

    Versions are those of this machine where they fit.

    Raises:
        UnavailableError: the library that reads requirements is not installed.
    """
    try:
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name
    except ImportError as error:
        raise UnavailableError("devices need packaging; pip install 'edgetx[devices]'") from error
    found: dict[str, Needed] = {}
    asked: set[tuple[str, str]] = set()
    queue = [(Requirement(f"edgetx[{','.join(extras)}]")), Requirement("pip")]
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        installed = next(iter(metadata.distributions(name=requirement.name)), None)
        if installed is not None and not requirement.specifier.contains(installed.version, prereleases=True):
            installed = None
        found.setdefault(name, Needed(name, str(requirement.specifier), installed))
        for extra in ("", *requirement.extras):
            if (name, extra) in asked or installed is None:
                continue
            asked.add((name, extra))
            for text in installed.requires or ():
                child = Requirement(text)
                if child.marker is None or child.marker.evaluate({**place.markers, "extra": extra}):
                    queue.append(child)
    return [found[name] for name in sorted(found)]


def collect(wanted: Iterable[Needed], place: Place, folder: Path | None) -> list[Path]:
    """A wheel for each: from `folder` where one fits, else made from what is installed here.

    Raises:
        DeviceError: some fit neither way; lists them and how to get them.
    """
    tags = place.tags()
    given = _given(folder, tags)
    chosen, missing = [], []
    for each in wanted:
        if each.name in given:
            chosen.append(given[each.name])
        elif each.installed is not None and (_tags(each.installed) & tags) and _can_repack(each.installed):
            chosen.append(repack(each.installed))
        else:
            version = each.specifier if each.installed is None else f"=={each.installed.version}"
            missing.append(f"{each.name}{version}")
    if missing:
        python = ".".join(map(str, place.python))
        platform = place.platforms[0]
        raise DeviceError(
            f"the device is {place.markers['platform_machine']} with Python {python} and "
            f"{' '.join(place.libc) or 'an unknown C library'}; no wheels for it are here of: "
            f"{', '.join(missing)}. Collect them in a folder (pip download --only-binary=:all: "
            f"--python-version {python} --platform {platform} --dest DIR NAME...; edgetx's own with `make "
            "wheel` on such a machine) and give it: edgetx device add ... --wheels DIR --replace; or install "
            "edgetx on the device and name its Python: --python PATH --replace"
        )
    return chosen


def _given(folder: Path | None, tags: frozenset[Tag]) -> dict[str, Path]:
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    if folder is None:
        return {}
    if not folder.is_dir():
        raise DeviceError(
            f"the folder of wheels {folder} does not exist; name it anew: edgetx device add ... --wheels DIR"
        )
    best: dict[str, tuple[Any, Path]] = {}
    for file in sorted(folder.glob("*.whl")):
        try:
            name, version, _, offered = parse_wheel_filename(file.name)
        except InvalidWheelFilename:
            continue
        if offered & tags and (name not in best or version > best[name][0]):
            best[name] = (version, file)
    return {name: file for name, (_, file) in best.items()}


def _tags(distribution: metadata.Distribution) -> frozenset[Tag]:
    from packaging.tags import parse_tag

    lines = (distribution.read_text("WHEEL") or "").splitlines()
    given = [parse_tag(line.partition(":")[2].strip()) for line in lines if line.startswith("Tag:")]
    return frozenset().union(*given)


def _can_repack(distribution: metadata.Distribution) -> bool:
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
    import base64

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
