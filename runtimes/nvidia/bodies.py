"""What stands for edgetx's operators in an engine: standard ONNX operators, or plugins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgetx import __version__
from edgetx.errors import InputError, UnavailableError
from edgetx.ops import VARIANTS, Variant
from edgetx.runtimes.nvidia.library import Library

if TYPE_CHECKING:
    from edgetx.package import Package

PLUGIN, QUICK = "plugin", "quick"
CHOICES = (*VARIANTS, PLUGIN, QUICK)
"""`primitive` and `attention` are bodies; `plugin` keeps the operators that have one as plugin layers, and
`quick` as plugin layers whose kernels the engine carries."""
QUICK_OPERATORS = ("WindowAttention", "GroupAttention")
ATTENTION_OPSET = 23


@dataclass(frozen=True, slots=True)
class Bodies:
    """A choice for one package: the body of operators, and the operators that are plugins instead."""

    variant: Variant
    plugins: tuple[str, ...] = ()
    any: bool = True
    quick: tuple[str, ...] = ()

    def for_graph(self) -> dict[str, Any]:
        """The part of a request to a child process."""
        return {"bodies": self.variant, "plugins": list(self.plugins), "quick": list(self.quick)}

    @property
    def nodes(self) -> tuple[str, ...]:
        """The operators that stay nodes of the graph."""
        return (*self.plugins, *self.quick)

    @property
    def text(self) -> str:
        """For the key of an engine."""
        if self.quick:
            return f"{QUICK}, {self.variant} of edgetx {__version__}"
        return f"{self.variant} of edgetx {__version__}" if self.any else "none"

    @property
    def plugin_text(self) -> str:
        """For the key: the plugins that the engine needs to run, and their version."""
        return f"{', '.join(self.plugins)} of edgetx {__version__}" if self.plugins else "none"


def usual(package: Package, library: Library) -> Variant:
    """The bodies where nobody says which.

    In half precision `Attention` becomes a fused layer; in float32 there is none, so that it would only be
    taken apart again.
    """
    half = package.manifest.precision in ("float16", "bfloat16")
    return "attention" if half and _why_no_attention(package, library) is None else "primitive"


def choose(package: Package, library: Library, wanted: str) -> Bodies:
    """What `wanted` (one of `CHOICES`, or "" for the usual bodies) means for this package.

    Raises:
        InputError: another word; or the package has no operator with a plugin.
        UnavailableError: the library does not take the choice, or the plugins are not there; says why.
    """
    operators = package.manifest.operators
    if wanted == PLUGIN:
        plugins = tuple(name for name in with_plugin() if name in operators)
        if not plugins:
            raise InputError(
                f"{package.name} has no operator with a plugin ({', '.join(with_plugin())}); it has "
                f"{', '.join(operators) or 'none'}; give --bodies primitive or attention"
            )
        if (reason := why_no_plugin(library)) is not None:
            raise UnavailableError(reason)
        return Bodies("primitive", plugins, any=len(plugins) < len(operators))
    if wanted == QUICK:
        quick = tuple(name for name in QUICK_OPERATORS if name in operators)
        if not quick:
            raise InputError(
                f"{package.name} has no operator whose kernel an engine can carry "
                f"({', '.join(QUICK_OPERATORS)}); it has {', '.join(operators) or 'none'}; "
                "give --bodies primitive or attention"
            )
        if (reason := library.why_no_quick()) is not None:
            raise UnavailableError(f"{reason}; give --bodies plugin")
        return Bodies("primitive", quick=quick)
    if wanted and wanted not in VARIANTS:
        raise InputError(f"unknown bodies {wanted!r}; accepted: {', '.join(CHOICES)}")
    if wanted == "attention" and (reason := _why_no_attention(package, library)) is not None:
        raise UnavailableError(f"{reason}; give --bodies primitive")
    variant: Variant = next((each for each in VARIANTS if each == wanted), usual(package, library))
    return Bodies(variant, any=bool(operators))


def available(package: Package, library: Library) -> dict[str, str | None]:
    """Every choice and why it is none for this package here; None where it is one."""
    reasons: dict[str, str | None] = {}
    for choice in CHOICES:
        try:
            choose(package, library, choice)
        except (InputError, UnavailableError) as error:
            reasons[choice] = str(error)
        else:
            reasons[choice] = None
    return reasons


def current(key: Mapping[str, str]) -> bool:
    """Whether an engine with this key was built from the bodies and plugins of this edgetx."""
    texts = [key.get(name, "none") for name in ("bodies", "plugin")]
    return all(text == "none" or text.endswith(f" of edgetx {__version__}") for text in texts)


def of_key(key: Mapping[str, str]) -> Bodies:
    """The bodies and plugins that an engine with this key was built from."""
    text, _, _ = key.get("bodies", "none").partition(" of edgetx ")
    variant: Variant = next((each for each in VARIANTS if text.endswith(each)), "primitive")
    words, _, _ = key.get("plugin", "none").partition(" of edgetx ")
    quick = QUICK_OPERATORS if text.startswith(QUICK) else ()
    return Bodies(variant, () if words == "none" else tuple(words.split(", ")), quick=quick)


def with_plugin() -> tuple[str, ...]:
    """The operators that have a plugin."""
    from edgetx.ops import plugin

    return plugin.CREATORS


def why_no_plugin(library: Library) -> str | None:
    """None if `library` can load edgetx's plugins, else how to get them."""
    from edgetx.ops import plugin

    return plugin.why_not(library.id)


def why_no_run(key: Mapping[str, str], library: Library) -> str | None:
    """None if the plugins that an engine with this key needs are here, else how to get them."""
    if key.get("plugin", "none") == "none":
        return None
    from edgetx.ops import plugin

    return plugin.why_not(library.id) or plugin.why_no_kernels()


def _why_no_attention(package: Package, library: Library) -> str | None:
    if package.manifest.opset < ATTENTION_OPSET:
        return f"{package.name} has opset {package.manifest.opset}; Attention begins with {ATTENTION_OPSET}"
    return library.why_no_attention()
