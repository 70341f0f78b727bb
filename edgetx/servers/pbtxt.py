"""Protobuf's text format: written from plain values, and read with Triton's own definitions."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from edgetx.errors import EdgetxError, UnavailableError

INSTALL = "pip install 'edgetx[triton]'"


class Word(str):
    """The name of an enumeration's value, which is written without quotes."""


def dump(message: Mapping[str, Any], indent: str = "") -> str:
    """A message as text, a field or a bracket per line.

    Values are numbers, booleans, strings, `Word`s, mappings (messages) and lists of these (repeated fields;
    a map is a list of `{"key": ..., "value": ...}`). Fields that are None are left out.
    """
    lines = []
    for name, value in message.items():
        values = value if isinstance(value, list) else [value]
        if value is None or (isinstance(value, list) and not value):
            continue
        if isinstance(value, list) and not isinstance(values[0], Mapping):
            lines.append(f"{indent}{name}: [{', '.join(map(_scalar, values))}]\n")
            continue
        for each in values:
            if not isinstance(each, Mapping):
                lines.append(f"{indent}{name}: {_scalar(each)}\n")
            elif each:
                lines.append(f"{indent}{name} {{\n{dump(each, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{name} {{ }}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Word) or not isinstance(value, str):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def why_not_parse() -> str | None:
    """None if Triton's definitions are installed, else how to get them."""
    if _definitions() is None:
        return f"tritonclient, which carries Triton's definitions, is not installed; {INSTALL}"
    if importlib.util.find_spec("google") is None or importlib.util.find_spec("google.protobuf") is None:
        return f"protobuf is not installed; {INSTALL}"
    return None


def parse(text: str) -> Any:
    """`config.pbtxt` as a `ModelConfig` message of the installed tritonclient.

    Raises:
        UnavailableError: see `why_not_parse`.
        EdgetxError: the text is no `ModelConfig`.
    """
    if (reason := why_not_parse()) is not None:
        raise UnavailableError(reason)
    text_format = import_module("google.protobuf.text_format")
    try:
        return text_format.Parse(text, _module().ModelConfig())
    except text_format.ParseError as error:
        raise EdgetxError(f"Triton's definitions do not take this config.pbtxt: {error}") from error


def _definitions() -> Path | None:
    found = importlib.util.find_spec("tritonclient")
    folders = [] if found is None else list(found.submodule_search_locations or ())
    files = (Path(folder) / "grpc" / "model_config_pb2.py" for folder in folders)
    return next((file for file in files if file.is_file()), None)


@cache
def _module() -> Any:
    """The definitions alone: importing `tritonclient.grpc` would need a gRPC client."""
    spec = importlib.util.spec_from_file_location("edgetx_triton_definitions", _definitions())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
