"""Triton's interpreter without the work that it repeats: it takes milliseconds for each step of a kernel."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

Interpreting = Callable[[bool], contextlib.AbstractContextManager[None]]


@pytest.fixture(scope="session")
def interpreting() -> Interpreting:
    """A context in which kernels are interpreted, with every sum and product of integers checked or not.

    The checks, for overflows, take two fifths of the time. At every call of one jitted function by another
    the interpreter also patches Triton's language again, which takes a fifth: once for each module is enough.
    """

    @contextlib.contextmanager
    def context(overflows: bool) -> Iterator[None]:
        if not os.environ.get("TRITON_INTERPRET"):
            yield
            return
        from triton.runtime import interpreter

        patched = set()

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if self.fn.__module__ not in patched:
                patched.add(self.fn.__module__)
                interpreter._patch_lang(self.fn)
            return self.rewrite()(*args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(interpreter.InterpretedFunction, "__call__", call)
            builder = interpreter.interpreter_builder
            patch.setattr(
                builder, "options", dataclasses.replace(builder.options, sanitize_overflow=overflows)
            )
            yield

    return context
