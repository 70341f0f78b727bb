"""A model's folder in a repository: planned, then put in place in one step."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgetx import files
from edgetx.errors import EdgetxError, InputError

CONFIG = "config.pbtxt"


@dataclass
class Plan:
    """What will be written: `config`, files to copy and bytes, by their place in the model's folder."""

    config: dict[str, Any]
    copies: dict[str, Path] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)


def write(folder: Path, plan: Plan, text: str, version: int, force: bool) -> None:
    """Put the model in place in one step; other versions of it stay."""
    previous = _previous(folder, text, version, force)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _draft(folder) as draft:
            for kept in previous:
                shutil.copytree(kept, draft / kept.name, copy_function=_link)
            for place, source in plan.copies.items():
                (draft / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, draft / place)
            for place, content in {**plan.contents, CONFIG: text.encode()}.items():
                (draft / place).parent.mkdir(parents=True, exist_ok=True)
                (draft / place).write_bytes(content)
            files.replace_folder(draft, folder)
    except OSError as error:
        raise EdgetxError(
            f"cannot write {folder}: {error.strerror or error}; nothing there was changed; give a repository "
            "that can be written and has space"
        ) from error


def _previous(folder: Path, text: str, version: int, force: bool) -> list[Path]:
    """The folders of other versions, which stay.

    Raises:
        InputError: what is there is no model, or would be replaced without `force`.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return []
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} is there and is no model of a repository, so it is not replaced")
    if (folder / str(version)).exists() and not force:
        raise InputError(
            f"{folder / str(version)} exists; give another --model-version or --name, or --force"
        )
    there = (folder / CONFIG).read_text(encoding="utf-8", errors="replace")
    # What is served of the versions is last, and may change.
    if not force and there.partition("version_policy")[0] != text.partition("version_policy")[0]:
        raise InputError(
            f"{folder} is a model with another {CONFIG}, and a repository has one for all versions; give "
            "another --name, or --force to replace the configuration"
        )
    numbered = (each for each in sorted(folder.iterdir()) if each.is_dir() and each.name.isdigit())
    return [each for each in numbered if each.name != str(version)]


@contextlib.contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    draft = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.draft"
    draft.mkdir()
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _link(source: str, target: str) -> None:
    """A second name for a large file, or a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
