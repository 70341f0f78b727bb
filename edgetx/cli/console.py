"""Printing: reports on stdout, progress and errors on stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import monotonic
from types import TracebackType
from typing import Any

import msgspec
import typer

PLAIN_WIDTH = 160
"""Columns where stdout is no terminal, so that logs are not cut."""


def say(text: str) -> None:
    """One message on stderr, as it is."""
    typer.echo(text, err=True)


def emit_json(value: Any) -> None:
    """Write `value` (structs, dataclasses, numpy values, paths) as indented JSON on stdout; NaN is null."""
    encoded = msgspec.json.encode(value, enc_hook=_plain)
    typer.echo(msgspec.json.format(encoded, indent=2).decode())


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "items"):
        return dict(value)
    return str(value)


def show_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """A table on stdout."""
    from rich import box
    from rich.table import Table

    table = Table(*header, title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=any(header))
    for row in rows:
        table.add_row(*(_literal(cell) for cell in row))
    _stdout().print(table)


def show_facts(rows: Iterable[tuple[str, str]], *, title: str | None = None) -> None:
    """A two-column table of names and values on stdout."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, _literal(value))
    _stdout().print(table)


def show(text: str) -> None:
    """One paragraph on stdout, without markup."""
    _stdout().print(_literal(text), highlight=False)


def _literal(text: str) -> Any:
    from rich.text import Text

    return Text(text)


def _stdout() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)


class Progress:
    """Steps on stderr: a spinner with the running step on a terminal, one line per step elsewhere.

    Whatever libraries print while it is open goes to stderr too, so stdout carries the report alone.
    """

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._status = self._console.status("") if self._console.is_terminal else None
        self._step: str | None = None
        self._started = 0.0
        self._redirect = contextlib.redirect_stdout(sys.stderr)

    def __call__(self, step: str) -> None:
        """Begin a step; the one before is done."""
        self._finish("done")
        self._step, self._started = step, monotonic()
        if self._status is not None:
            self._status.update(_literal(step))
            self._status.start()

    def _finish(self, how: str) -> None:
        if self._step is not None:
            self._console.print(_literal(f"{how:>7}  {self._step}  {monotonic() - self._started:.1f} s"))
        self._step = None

    def __enter__(self) -> Progress:
        self._redirect.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()
        self._finish("stopped" if error else "done")
        self._redirect.__exit__(kind, error, trace)


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Send what libraries print to stderr, for short steps without progress."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def show_prediction(answer: Any, *, title: str) -> None:
    """A processor's answer: a table where it is a list of records, JSON otherwise."""
    if isinstance(answer, list) and answer and all(isinstance(record, dict) for record in answer):
        show(title)
        header = list(dict.fromkeys(key for record in answer for key in record))
        show_table(header, [[_cell(record.get(key)) for key in header] for record in answer])
        return
    show(f"{title}: {msgspec.json.encode(answer, enc_hook=_plain).decode()}")


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def place(ran_on: Mapping[str, str]) -> str:
    """One line of what a session ran on, from `Session.describe`."""
    facts = dict(ran_on)
    head = [facts.pop(key) for key in ("runtime", "engine") if key in facts]
    return ", ".join([": ".join(head), *(f"{key} {value}" for key, value in facts.items())])
