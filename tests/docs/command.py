"""Run by `test_documentation` in a fresh child of a process that has imported torch already.

Globals that the caller sets: `WORDS`, the command line, and `OUTPUT`, the file that takes stdout and stderr.
"""

import os
import sys

sys.argv = WORDS  # type: ignore[name-defined]  # noqa: F821
descriptor = os.open(OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)  # type: ignore[name-defined]  # noqa: F821
os.dup2(descriptor, 1)
os.dup2(descriptor, 2)
for number, name in ((1, "stdout"), (2, "stderr")):
    stream = os.fdopen(number, "w", buffering=1, encoding="utf-8", closefd=False)
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)

from edgetx.cli import main  # noqa: E402

main()
