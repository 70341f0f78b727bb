"""Pages that show what edgetx does, each a thin layer over its Python API; ships as edgetx.demos.

Gradio is imported when a page is built, not before.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetx.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from edgetx.demos.models import Store

NAMES = {
    "upscale": "a picture in, a larger one out, with a slider between the two",
    "classify": "the five best classes of a photograph, and the windows that attention looks through",
    "points": "the boxes in a LiDAR sweep in 3D, windows and groups in colours, and the time of every stage",
    "workbench": "a checkpoint through the whole line: export, verify, build, measure; report and package",
}
"""Every demo, and what it shows."""


def why_not() -> str | None:
    """None if the demos can run here, else what is missing and how to get it."""
    # Read by Gradio when it is imported: it reports to nobody.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        return f"the demos need Gradio ({error}); pip install 'edgetx[demo]'"
    if int(gradio.__version__.partition(".")[0]) < 6:
        return f"the demos need Gradio 6, this is {gradio.__version__}; pip install 'edgetx[demo]'"
    return None


def page(name: str, store: Store) -> Any:
    """The `gradio.Blocks` of a demo, whose models come from `store`.

    Raises:
        InputError: there is no such demo.
        UnavailableError: Gradio is not installed.
    """
    if name not in NAMES:
        raise InputError(f"unknown demo {name!r}; accepted: {', '.join(NAMES)}")
    if (reason := why_not()) is not None:
        raise UnavailableError(reason)
    return import_module(f"edgetx.demos.{name}").page(store)


def serve(
    name: str,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    packages: Sequence[str | os.PathLike[str]] = (),
    examples: str | os.PathLike[str] | None = None,
) -> None:
    """Serve a demo until it is interrupted or terminated; its packages, files and processes are gone then.

    Args:
        name: one of `NAMES`.
        host, port: where; without a port, the first free one from 7860.
        share: also open a tunnel through Gradio's servers, which anyone with its address can use.
        packages: what `classify` and `points` offer instead of their own models.
        examples: a folder of pictures or sweeps to offer as examples.

    Raises:
        InputError: there is no such demo, the port is taken, or the demo cannot use a package or the folder.
        PackageError: see `edgetx.Package.open`.
        UnavailableError: Gradio is not installed.
    """
    if name not in NAMES:
        raise InputError(f"unknown demo {name!r}; accepted: {', '.join(NAMES)}")
    if examples is not None and name == "workbench":
        raise InputError("workbench has no examples; leave out --examples")
    from edgetx.demos.models import Store, own

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    _share_memory()
    folder = None if examples is None else Path(examples)
    with Store(**own(name, packages), examples=folder) as store:
        built = page(name, store)
        from edgetx.demos import site

        site.launch(built, store.packages, host=host, port=port, share=share).block_thread()


def _share_memory() -> None:
    """Let the server's threads share two of glibc's arenas.

    Requests run in any of 40 threads. With an arena each, every one of them would keep what the weights of a
    closed session took.
    """
    if sys.platform == "linux":
        arena_max = -8  # M_ARENA_MAX of malloc.h
        with suppress(AttributeError):  # other C libraries have no mallopt
            ctypes.CDLL(None).mallopt(arena_max, 2)
