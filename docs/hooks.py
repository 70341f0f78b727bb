"""Pages that live beside what they describe are added to the site as it is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent


def on_files(files: Files, config: Any) -> Files:
    """Add CONTRIBUTING, CHANGELOG and the README of every operator."""
    pages = {"contributing.md": ROOT / "CONTRIBUTING.md", "changelog.md": ROOT / "CHANGELOG.md"}
    for readme in sorted(ROOT.glob("edgetx/ops/*/README.md")):
        pages[f"operators/{readme.parent.name}.md"] = readme
    for uri, page in pages.items():
        files.append(File.generated(config, uri, content=page.read_text(encoding="utf-8")))
    return files
