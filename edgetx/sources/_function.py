"""`module:function`: any `nn.Module` that a Python function of the user's returns."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from edgetx.errors import SourceError


def load(source: str, arguments: Mapping[str, Any] | None = None) -> torch.nn.Module:
    """Import the module, with the current directory on `sys.path` as for `python -m`, and call the function.

    Args:
        source: `module:function`; the function may be a class, and may be nested in one.
        arguments: keyword arguments to call it with.

    Raises:
        SourceError: no such module or function, an error inside it, or a result that is no `nn.Module`.
    """
    module_name, _, function_name = source.partition(":")
    with _current_directory_importable():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
                raise SourceError(
                    f"there is no Python module {module_name!r} for SOURCE {source!r} "
                    f"(looked in {Path.cwd()} and the installed packages); accepted: module:function"
                ) from error
            raise SourceError(f"importing {module_name} failed: {error}") from error
        except Exception as error:  # the user's code
            raise SourceError(f"importing {module_name} failed: {_describe(error)}") from error
        try:
            function = reduce(getattr, function_name.split("."), module)
        except AttributeError as error:
            raise SourceError(
                f"Python module {module_name} has no {function_name!r}; check SOURCE {source!r}"
            ) from error
        if isinstance(function, torch.nn.Module):
            return function
        if not callable(function):
            raise SourceError(
                f"{source} is a {type(function).__name__}; "
                "expected a function without arguments that returns an nn.Module"
            )
        try:
            result = function(**(arguments or {}))
        except Exception as error:  # the user's code
            raise SourceError(f"{source}() failed: {_describe(error)}") from error
    if not isinstance(result, torch.nn.Module):
        raise SourceError(f"{source}() returned a {type(result).__name__}; expected an nn.Module")
    return result


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
