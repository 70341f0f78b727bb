"""Files that a command line names: files, folders and globs to read, and where to write."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from edgetx.errors import InputError


def find(inputs: Sequence[str], suffixes: Collection[str], what: str) -> tuple[list[Path], bool]:
    """The files, each once, and whether a folder, a glob or several inputs named them.

    Of a folder those with one of the `suffixes` are taken; a file that is named itself need not exist.

    Raises:
        InputError: a folder or glob holds none, or a path is empty; `what` says of what.
    """
    files: list[Path] = []
    several = len(inputs) > 1
    for text in inputs:
        if not text:
            raise InputError(f"a path is empty; give a file, a folder or a glob of {what}")
        path = Path(text)
        if path.is_dir():
            found = sorted(each for each in path.iterdir() if each.suffix.lower() in suffixes)
        elif not path.exists() and glob.has_magic(text):
            found = sorted(Path(each) for each in glob.glob(text, recursive=True) if Path(each).is_file())
        else:
            files.append(path)
            continue
        several = True
        if not found:
            raise InputError(f"{text} holds no {what}; looked for {', '.join(suffixes)}")
        files += found
    return list(dict.fromkeys(files)), several


def why_not_write(path: Path, *, force: bool) -> str | None:
    """None if a file can be written there, as far as is known before the work, else the reason."""
    if path.is_dir():
        return f"{path} is a folder; give the name of a file"
    if path.exists() and not force:
        return f"{path} exists; choose another name, or --force to replace it"
    parent = next(each for each in path.absolute().parents if each.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        return f"cannot write {path}: {parent} is no folder that you may write to; choose another"
    return None
