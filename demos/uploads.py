"""Uploads that are cancelled leave no file.

Gradio writes an upload to a temporary file and removes it where the request is refused, but not where it
breaks off.
"""

from __future__ import annotations

import functools
from contextlib import suppress
from pathlib import Path
from typing import Any

from gradio.route_utils import GradioMultiPartParser


def tidy() -> None:
    """From now on; once is enough."""
    parse = GradioMultiPartParser.parse
    if hasattr(parse, "__wrapped__"):
        return

    @functools.wraps(parse)
    async def tidied(self: Any) -> Any:
        try:
            return await parse(self)
        except BaseException:
            for file in self._files_to_close_on_error:
                with suppress(OSError):
                    file.close()
                Path(file.name).unlink(missing_ok=True)
            raise

    GradioMultiPartParser.parse = tidied
