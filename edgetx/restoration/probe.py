"""`python -m edgetx.restoration.probe REQUEST`: what one tile adds to the peak memory of a process.

REQUEST is a JSON object of `package`, `runtime`, `target` and `side`; the answer, one line on stdout, is
`{"growth": bytes}` or `{"error": text}`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def measure(request: dict[str, Any]) -> int:
    """Bytes by which the peak grows while a noisy square tile is run, after the package is opened."""
    import numpy as np

    from edgetx.benchmark.machine import peak_memory
    from edgetx.core import Target
    from edgetx.processors import ImageRestoration
    from edgetx.restoration.memory import reset_peak, resident
    from edgetx.runtimes import load

    side = int(request["side"])
    target = Target(**request["target"])
    with load(request["package"], runtime=request["runtime"], target=target, check=False) as session:
        processor = session.processor
        assert isinstance(processor, ImageRestoration)
        rows, columns = processor.input_spec(session.io).shape[2:]
        height = rows if isinstance(rows, int) else side
        width = columns if isinstance(columns, int) else side
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, processor.channels), np.uint8)
        regions = processor.region_map(pixels)
        base = resident()
        reset_peak()
        batch = processor.input_spec(session.io).shape[0]
        feeds = processor.feeds(pixels, regions, session.io)
        if isinstance(batch, int):
            feeds = {name: np.repeat(array, batch, axis=0) for name, array in feeds.items()}
        processor.restored(session.run(feeds))
        peak = peak_memory()
    assert base is not None and peak is not None, "see edgetx.restoration.memory.why_not"
    return peak - base


def main() -> int:
    """Answer the request in `sys.argv[1]`."""
    from edgetx.errors import EdgetxError

    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print to stdout, from C too
    try:
        answer: dict[str, Any] = {"growth": measure(json.loads(sys.argv[1]))}
    except EdgetxError as error:
        answer = {"error": str(error)}
    channel.write(json.dumps(answer) + "\n")
    channel.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
