"""The SOURCE strings: what a user may type for a model, split into its parts without loading anything."""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from edgetx.errors import SourceError

Kind = Literal["timm", "torchvision", "hf", "spandrel", "resource", "file", "function", "name"]

FORMS = (
    "timm:NAME[?option=value&...], torchvision:NAME, hf:ID or a transformers folder, spandrel:ID, "
    "a .pth/.pt/.safetensors checkpoint, resource:PACKAGE/FILE, module:function, or a known name such as "
    "swin_tiny"
)
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors", ".bin", ".ckpt", ".tar")

_LIBRARY = re.compile(r"^(timm|torchvision|hf|spandrel|resource):(.*)$", re.DOTALL)
_FUNCTION = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")
_NAME = re.compile(r"^[A-Za-z0-9][\w.\-]*$")
_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None}


@dataclass(frozen=True, slots=True)
class Parsed:
    """A SOURCE taken apart: `name` is a model's name, a path, `module:function` or a known name."""

    kind: Kind
    name: str
    options: dict[str, Any] = field(default_factory=dict)


def parse(source: str) -> Parsed:
    """Split a SOURCE string.

    Options follow a `?` as `key=value` pairs joined by `&`; values are Python literals, `true`, `false`,
    `none`, or plain text. A checkpoint takes one option, `?model=SOURCE`, whose value runs to the end.

    Raises:
        SourceError: the text has none of the accepted forms, or names a file that does not exist.
    """
    text = source.strip()
    if not text:
        raise SourceError(f"SOURCE is empty; accepted: {FORMS}")
    if match := _LIBRARY.match(text):
        name, options = _split_options(match[2], source)
        if not name:
            raise SourceError(f"SOURCE {source!r} names no model after {match[1]}:; accepted: {FORMS}")
        return Parsed(match[1], name, options)  # type: ignore[arg-type]
    path = os.path.expanduser(text)
    if os.path.exists(path):
        return Parsed("file", path)
    stem, mark, model = path.partition("?model=")
    if mark and model and (os.path.exists(stem) or _looks_like_path(stem)):
        _check_exists(stem)
        return Parsed("file", stem, {"model": model})
    if _looks_like_path(path):
        folder, options = _split_options(path, source)
        if options and os.path.isdir(folder):
            return Parsed("file", folder, options)
        _check_exists(folder if options else path)
    if _FUNCTION.match(text):
        return Parsed("function", text)
    name, options = _split_options(text, source)
    if _NAME.match(name):
        return Parsed("name", name, options)
    raise SourceError(f"cannot read SOURCE {source!r}; accepted: {FORMS}")


def _looks_like_path(text: str) -> bool:
    return text.lower().endswith(CHECKPOINT_SUFFIXES) or "/" in text or os.sep in text


def _check_exists(path: str) -> None:
    if os.path.exists(path):
        return
    hint = "check the path"
    if not path.lower().endswith(CHECKPOINT_SUFFIXES) and path.count("/") == 1 and not path.startswith("."):
        hint += f", or write hf:{path} for a model on the Hugging Face hub"
    raise SourceError(f"{path} does not exist (looked in {os.getcwd()}); {hint}")


def _split_options(text: str, source: str) -> tuple[str, dict[str, Any]]:
    name, mark, query = text.partition("?")
    options: dict[str, Any] = {}
    for pair in query.split("&") if mark else ():
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise SourceError(
                f"cannot read the option {pair!r} in SOURCE {source!r}; "
                "expected ?key=value&key=value, for example timm:NAME?features_only=true&img_size=256"
            )
        if key in options:
            raise SourceError(f"the option {key!r} appears twice in SOURCE {source!r}; give it once")
        options[key] = _value(value)
    return name.strip(), options


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
