"""Wheels for a device: made from what is installed here, or found in a folder that the user gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgetx.devices.repack import can_repack, repack
from edgetx.errors import DeviceError, UnavailableError

if TYPE_CHECKING:
    from packaging.tags import Tag


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


def needed(extras: Iterable[str], also: Iterable[str], place: Place) -> list[Needed]:
    """edgetx, pip, what `also` names, and what edgetx with `extras` needs on the device, and so on.

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
    queue = [Requirement(text) for text in (f"edgetx[{','.join(extras)}]", "pip", *also)]
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
        elif each.installed is not None and (_tags(each.installed) & tags) and can_repack(each.installed):
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
