"""Every code block of the documentation runs.

In `README.md` and `docs/`, the blocks of one page run in order, in a folder that holds a small package
`swin_tiny.edgetx`, the photograph `photo.png` and the `my_models.py` of `docs/sources.md`:

    python      executed, all blocks of a page in one namespace; the README's Swin-T, whose full size
                `docs/quickstart.md` deploys, has two small stages
    bash        lines that call `edgetx` are run, lines that call `make` name a recipe that exists

In `CONTRIBUTING.md` the walks are followed in a copy of the checkout: a block whose first line names a file
is that file, a diff is applied, and then the tests that it wrote run.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "CONTRIBUTING.md"
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("edgetx/ops/*/README.md")),
]
FULL_SIZE = ("quickstart.md",)
SLOW = ("README.md", *FULL_SIZE)

_BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^\W?# (?P<path>[\w./]+\.py)$")


@dataclass(frozen=True)
class Block:
    """A fenced block; `path` is the file that its first line names (`# path/file.py`), if it does."""

    language: str
    text: str
    line: int
    path: str | None


def blocks(page: Path) -> list[Block]:
    """Every block of a page, in order."""
    markdown = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(markdown):
        named = _FILE.match(match["text"].partition("\n")[0])
        line = markdown.count("\n", 0, match.start("text"))
        found.append(Block(match["language"], match["text"], line, named["path"] if named else None))
    fences = re.findall(r"^```", markdown, re.MULTILINE)
    assert len(fences) == 2 * len(found), f"{page}: a block is not closed"
    return found


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory, photograph: Path) -> Path:
    """A folder with what the pages use."""
    pytest.importorskip("torch", reason="the documentation exports models")
    import edgetx
    from edgetx import _torchvision

    _torchvision.install()
    import timm
    import torch

    folder = tmp_path_factory.mktemp("workplace")
    torch.manual_seed(0)
    model = timm.create_model(SWIN, pretrained=False, **SMALL)
    edgetx.export(model, output=folder / "swin_tiny.edgetx", images=[photograph])
    shutil.copy(photograph, folder / "photo.png")
    for block in blocks(ROOT / "docs" / "sources.md"):
        if block.path is not None:
            (folder / block.path).write_text(block.text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=str(page.relative_to(ROOT)), marks=[pytest.mark.slow] * (page.name in SLOW))
        for page in PAGES
    ],
)
def test_page(page: Path, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "here"
    shutil.copytree(workplace, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    if page.name not in FULL_SIZE:
        _small_swin(monkeypatch)
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks(page):
        if block.path is not None:
            continue
        if block.language == "python":
            # Blank lines first, so that a traceback shows the page's own line.
            exec(compile("\n" * block.line + block.text, str(page), "exec"), namespace)
        elif block.language == "bash":
            for line in block.text.splitlines():
                _shell(line)
        else:
            assert block.language in ("text", "json", "diff"), (
                f"{page}:{block.line}: what is {block.language!r}?"
            )


SWIN = "swin_tiny_patch4_window7_224"
SMALL: dict[str, object] = {"embed_dim": 24, "depths": (1, 1), "num_heads": (1, 2)}


def _small_swin(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    create = timm.create_model

    def small(name: str, *args: object, **settings: object) -> object:
        return create(name, *args, **(SMALL | settings if name == SWIN else settings))

    monkeypatch.setattr(timm, "create_model", small)


def _shell(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "make":
        subprocess.run(["make", "--dry-run", "-C", str(ROOT), *words[1:]], check=True, capture_output=True)
        return
    assert Path(words[0]).name == "edgetx", f"the documentation runs {line!r}, which no test knows"
    output = Path(tempfile.mkdtemp()) / "output"
    # A child of its own for each command, of a server that has the frameworks imported: seconds each time.
    start = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
    if hasattr(os, "fork"):
        start.set_forkserver_preload(
            ["edgetx.cli", "edgetx.sources", "edgetx.capture", "edgetx.sources._timm"]
        )
    process = start.Process(
        target=runpy.run_path,
        args=(str(Path(__file__).with_name("command.py")),),
        kwargs={"init_globals": {"WORDS": words, "OUTPUT": str(output)}, "run_name": "__main__"},
    )
    process.start()
    process.join()
    written = output.read_text(encoding="utf-8") if output.is_file() else ""
    assert process.exitcode == 0, f"{line}\n{written}"


def test_contributing(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the walks export models")
    tree = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", "exporters", "runtimes")
    shutil.copytree(ROOT / "edgetx", tree / "edgetx", ignore=ignore)
    for name in ("exporters", "runtimes"):
        shutil.copytree(ROOT / name, tree / "edgetx" / name, ignore=shutil.ignore_patterns("__pycache__"))
    written = []
    for block in blocks(GUIDE):
        if block.language == "bash":
            for line in block.text.splitlines():
                _shell(line)
            continue
        assert block.path is not None, f"{GUIDE}:{block.line}: which file is this?"
        inside = re.sub(r"^(exporters|runtimes)/", r"edgetx/\1/", block.path)
        file = tree / inside
        if block.language == "diff":
            _apply(block, file)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text.partition("\n")[2], encoding="utf-8")
            written.append(inside)
    tests = [path for path in written if path.startswith("tests/")]
    assert len(tests) == 3
    (tree / "run.py").write_text(
        "import sys\n"
        # The finder of an editable install would lead back to this checkout.
        "sys.meta_path[:] = [each for each in sys.meta_path if 'ScikitBuild' not in type(each).__name__]\n"
        "import pytest\n"
        f"sys.exit(pytest.main(['-q', '--import-mode=importlib', '-p', 'no:cacheprovider', *{tests!r}]))\n",
        encoding="utf-8",
    )
    result = subprocess.run(
        [sys.executable, "run.py"],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tree)},
    )
    assert result.returncode == 0, result.stdout + result.stderr


def _apply(block: Block, file: Path) -> None:
    lines = block.text.splitlines()[1:]
    before = "\n".join(line[1:] for line in lines if line[0] in " -")
    after = "\n".join(line[1:] for line in lines if line[0] in " +")
    text = file.read_text(encoding="utf-8")
    assert text.count(before) == 1, (
        f"{GUIDE}:{block.line}: {before!r} stands {text.count(before)} times in {block.path}"
    )
    file.write_text(text.replace(before, after), encoding="utf-8")


def test_every_recipe_has_a_description(root: Path) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert sorted(phony.split()) == sorted(re.findall(r"^([a-z0-9-]+):.*?## \S", makefile, re.MULTILINE))


def test_relative_links_lead_somewhere(root: Path) -> None:
    for page in (root / "README.md", GUIDE, root / "CHANGELOG.md"):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
