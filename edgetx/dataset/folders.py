"""What a folder of pictures holds: pairs of low and high resolution, or one sub-folder per class."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgetx.errors import InputError

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"))
HIGH = ("HR", "GT", "HQ", "target", "GTmod12", "high")
LOW = (
    "LR_bicubic/X{scale}",
    "LRbicx{scale}",
    "LR/X{scale}",
    "LR_x{scale}",
    "LR_bicubic",
    "LR",
    "LQ",
    "input",
    "low",
)
"""Folders that are looked for, in this order, without regard to case; also after a name and `_`."""

_ROLE = r"hr|gt|hq|target|high|lr|lq|input|low"


@dataclass(frozen=True, slots=True)
class Pair:
    """The degraded picture that a restoration model gets, and the one that it should give back."""

    name: str
    low: Path
    high: Path


@dataclass(frozen=True, slots=True)
class Labelled:
    """A picture and the index of its class."""

    name: str
    path: Path
    label: int


def pairs(folder: Path, scale: int) -> tuple[list[Pair], list[Path]]:
    """The pairs in a data set's folder for a model of `scale`, by name, and the pictures without a partner.

    `baby.png` is paired with `baby.png`, `babyx2.png`, `baby_x2.png`, and `baby_HR.png` with `baby_LR.png`.

    Raises:
        InputError: no such folder, none of the known layouts, two folders of one role, or no pair at all.
    """
    _check(folder)
    high, low = _role(folder, HIGH, scale), _role(folder, LOW, scale)
    if high is None or low is None:
        missing = " and ".join(
            f"{what} ({', '.join(pattern.format(scale=scale) for pattern in patterns)})"
            for what, patterns, found in (("high", HIGH, high), ("low", LOW, low))
            if found is None
        )
        held = (
            ", ".join(sorted(f"{path.name}/" for path in folder.iterdir() if path.is_dir())) or "no folders"
        )
        raise InputError(
            f"{folder} holds {held}: no folder with pictures of {missing} resolution for scale {scale}; "
            "put the pairs into HR and LR"
        )
    highs = _by_name(high, lambda stem: stem)
    lows = _by_name(low, lambda stem: stem if stem in highs else re.sub(rf"[_-]?x{scale}$", "", stem))
    both = sorted(highs.keys() & lows.keys())
    if not both:
        raise InputError(
            f"no picture of {high} has a partner in {low}: {_some(highs)} against {_some(lows)}; "
            f"give both the same name, or the low one NAMEx{scale}"
        )
    alone = [path for files in (highs, lows) for name, path in files.items() if name not in both]
    return [Pair(highs[name].stem, lows[name], highs[name]) for name in both], alone


def _check(folder: Path) -> None:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"data set {folder} {what}; give the folder that holds the pictures' folders")


def pictures(folder: Path) -> list[Path]:
    """The picture files directly inside, by name; hidden ones are none."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _role(folder: Path, patterns: Sequence[str], scale: int) -> Path | None:
    """The first pattern's folder that holds pictures."""
    for pattern in patterns:
        candidates = [folder]
        for depth, part in enumerate(pattern.format(scale=scale).lower().split("/")):
            candidates = [
                path
                for parent in candidates
                for path in sorted(parent.iterdir())
                if path.is_dir()
                and (path.name.lower() == part or (not depth and path.name.lower().endswith(f"_{part}")))
            ]
        candidates = [path for path in candidates if pictures(path)]
        if len(candidates) > 1:
            raise InputError(
                f"{folder} holds {' and '.join(path.name for path in candidates)}, which both fit {pattern}; "
                "give a folder with one data set"
            )
        if candidates:
            return candidates[0]
    return None


def _by_name(folder: Path, shared: Callable[[str], str]) -> dict[str, Path]:
    """Pictures by the name that both halves of a pair have: `shared` of the file's, without its role."""
    named: dict[str, Path] = {}
    for path in pictures(folder):
        name = shared(re.sub(rf"[_-](?:{_ROLE})$", "", path.stem.lower()))
        if name in named:
            raise InputError(
                f"{named[name]} and {path} would both be the picture {name!r}; keep one file per picture"
            )
        named[name] = path
    return named


def _some(files: dict[str, Path]) -> str:
    names = [path.name for path in files.values()]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def labelled(folder: Path, labels: Sequence[str] | None, classes: int | None) -> list[Labelled]:
    """The pictures of a folder with one sub-folder per class, by class and name.

    A sub-folder is named after a label (spaces, `_` and `-` are alike; of "tench, Tinca tinca" any part
    will do) or has the class's index as its name.

    Raises:
        InputError: no such folder, no sub-folders with pictures, or one that names no class.
    """
    _check(folder)
    indices = _indices(labels or ())
    count = classes if classes is not None else len(labels) if labels is not None else None
    found: list[Labelled] = []
    for directory in sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."):
        files = pictures(directory)
        if not files:
            continue
        label = indices.get(_plain(directory.name))
        if label is None and directory.name.isdecimal():
            label = int(directory.name)
        if label is None or (count is not None and label >= count):
            raise InputError(
                f"{directory} names no class of the model: {_accepted(directory.name, labels, count)}"
            )
        found += [Labelled(f"{directory.name}/{path.name}", path, label) for path in files]
    if not found:
        raise InputError(
            f"{folder} holds no sub-folder with pictures; put each class's pictures into a folder that is "
            "named after the label or the class's index"
        )
    return found


def _plain(text: str) -> str:
    return re.sub(r"[\s_-]+", " ", text).strip().lower()


def _indices(labels: Sequence[str]) -> dict[str, int]:
    """Class by label and by each of its synonyms; what several classes share as a synonym names none."""
    indices = {_plain(label): index for index, label in reversed(list(enumerate(labels)))}
    synonyms: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        for part in {_plain(part) for part in label.split(",")}:
            synonyms.setdefault(part, []).append(index)
    return {part: owners[0] for part, owners in synonyms.items() if len(owners) == 1} | indices


def _accepted(name: str, labels: Sequence[str] | None, count: int | None) -> str:
    numbers = f"an index from 0 to {count - 1}" if count is not None else "an index"
    if not labels:
        return f"the package has no labels, so give {numbers}"
    close = difflib.get_close_matches(name.lower(), labels, n=3, cutoff=0.3) or list(labels[:3])
    return f"give {numbers} or a label such as {', '.join(map(repr, close))}"
