"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from edgetx.errors import InputError


@contextlib.contextmanager
def writing(path: Path, *, force: bool = False) -> Iterator[IO[bytes]]:
    """A binary stream to a temporary file beside `path`, which gets its name when the block ends well.

    Folders on the way are made.

    Raises:
        InputError: the file exists without `force`, or the folder or disk cannot be written.
    """
    import tempfile  # here, since a start-up that writes nothing does without it

    if path.exists() and not force:
        raise InputError(f"{path} exists; choose another name, or --force to replace it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; give a file in a writable folder with space"
        ) from error


def write_text(path: Path, text: str, *, force: bool = False) -> None:
    """Write UTF-8 text; see `writing`."""
    with writing(path, force=force) as stream:
        stream.write(text.encode())


def replace_folder(draft: Path, final: Path) -> None:
    """Give a finished folder beside `final` its name; what had the name goes once the new one is in place.

    Raises:
        OSError: `final` is as it was.
    """
    import shutil

    old = draft.with_name(f"{draft.name}.old")
    if final.exists():
        final.rename(old)
    try:
        draft.rename(final)
    except OSError:
        if old.exists():
            old.rename(final)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
