"""What holds for the project as a whole: cheap imports, the run side without torch, what a wheel contains."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import edgetx
from edgetx import demos

FRAMEWORKS = ("torch", "torchvision", "timm", "transformers", "onnx", "onnx_ir", "onnxscript")
HEAVY = (*FRAMEWORKS, "PIL", "msgspec", "numpy", "onnxruntime", "rich", "typer")
FOLDERS = {
    "edgetx": "edgetx",
    "demos": "edgetx.demos",
    "exporters": "edgetx.exporters",
    "runtimes": "edgetx.runtimes",
}
DEMO_PAGES = tuple(f"edgetx.demos.{name}" for name in ("site", *demos.NAMES))
"""They import Gradio, which is an extra of its own."""
EXPORT_SIDE = (
    "_torchvision",
    "capture",
    "exporters",
    "fusion",
    "precision",
    "quantization",
    "sources",
    "tracing",
)
BUILD_SIDE = ("edgetx.engines.graph", "edgetx.engines.sizes", "edgetx.runtimes.nvidia.worker")
"""What prepares graphs for engines, in a process of its own."""
EXPORT_SIDE_OF_AN_OPERATOR = (
    "bodies",
    "builder",
    "definition",
    "quick_kernel",
    "stable_sort",
    "translation",
    "triton_kernel",
)

PLUGINS = {"edgetx/ops/libedgetx_trt.so", "edgetx/ops/libtensorrt_rtx.so"}
"""Built where TensorRT's headers are."""
KERNELS = {"edgetx/ops/edgetx_kernels.bin"}
"""Where `make kernels` compiled them."""
DATA = {
    "edgetx/capi/include/edgetx.h",
    "edgetx/capi/lib/cmake/edgetx/edgetxConfig-release.cmake",
    "edgetx/capi/lib/cmake/edgetx/edgetxConfig.cmake",
    "edgetx/capi/lib/cmake/edgetx/edgetxConfigVersion.cmake",
    "edgetx/capi/lib/pkgconfig/edgetx.pc",
    "edgetx/points/viewer.html",
    "edgetx/py.typed",
}

installed = pytest.mark.skipif(
    not list(importlib.metadata.distributions(name="edgetx")),
    reason="edgetx is not installed in this environment; `make test` installs it",
)


def python(code: str, **environment: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def sources(root: Path) -> dict[str, str]:
    """Path inside an installed edgetx -> module name, for every Python file of the three folders."""
    found = {}
    for folder, package in FOLDERS.items():
        for file in sorted((root / folder).rglob("*.py")):
            inside = Path(*package.split("."), file.relative_to(root / folder))
            parts = inside.with_suffix("").parts
            found[inside.as_posix()] = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return {path: module for path, module in found.items() if not module.endswith(".__main__")}


def importable(root: Path) -> list[str]:
    """The modules."""
    return [*sources(root).values()]


def is_run_side(module: str) -> bool:
    """Whether a module must import where no export-side framework is installed."""
    parts = module.split(".")
    if module in BUILD_SIDE or module in DEMO_PAGES:
        return False
    return not any(part in EXPORT_SIDE for part in parts[1:2]) and parts[-1] not in EXPORT_SIDE_OF_AN_OPERATOR


def test_import_loads_nothing() -> None:
    loaded = json.loads(python("import sys, json, edgetx; print(json.dumps(sorted(sys.modules)))"))
    assert not {name.partition(".")[0] for name in loaded} & set(HEAVY)


def test_every_public_name_exists_and_is_documented() -> None:
    for name in edgetx.__all__:
        assert (getattr(edgetx, name).__doc__ or "").strip(), f"edgetx.{name} has no docstring"
    with pytest.raises(AttributeError, match=r"it has .*export"):
        edgetx.nonsense  # noqa: B018


def test_run_side_imports_where_no_framework_is_installed(root: Path) -> None:
    run_side = [module for module in importable(root) if is_run_side(module)]
    assert {"edgetx.cli", "edgetx.package", "edgetx.runtimes", "edgetx.verification"} <= {*run_side}
    python(
        f"""
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FRAMEWORKS!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
for module in {run_side!r}:
    importlib.import_module(module)
"""
    )


def test_every_module_imports(root: Path) -> None:
    pytest.importorskip("torch", reason="the export side needs torch")
    modules = importable(root)
    if importlib.util.find_spec("gradio") is None:
        modules = [module for module in modules if module not in DEMO_PAGES]
    python(f"import importlib\nfor module in {modules!r}: importlib.import_module(module)")


@installed
def test_version_and_command() -> None:
    assert importlib.metadata.version("edgetx") == edgetx.__version__
    command = Path(sys.executable).with_name("edgetx")
    printed = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    assert edgetx.__version__ in printed


@installed
def test_native_library_is_found() -> None:
    found = python("from edgetx.ops import library; print(library.path(), library.why_not())")
    assert found.split()[0].endswith("libedgetx_ort.so") and found.split()[1] == "None"


@pytest.fixture(scope="session")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make wheels` made of the sdist, else a wheel of the checkout."""
    if given := os.environ.get("EDGETX_WHEEL"):
        return Path(given).resolve()
    pytest.importorskip("scikit_build_core", reason="building a wheel needs scikit-build-core")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(
        [*build, "--wheel-dir", str(folder), str(root)], check=True, env={**os.environ, "PATH": path}
    )
    (built,) = folder.glob("edgetx-*.whl")
    return built


@installed
@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(root: Path, wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name and name[-1] != "/"}
        archive.extractall(tmp_path / "site")
    libraries = {name for name in names if name.endswith((".so", ".dll", ".dylib"))}
    assert libraries - PLUGINS == {"edgetx/capi/lib/libedgetx.so", "edgetx/ops/libedgetx_ort.so"}
    assert libraries & PLUGINS in (set(), PLUGINS)
    other = {name for name in names if not name.endswith(".py")} - libraries - KERNELS
    assert {name for name in other if not name.endswith((".md", ".json", ".txt"))} == DATA
    written = {name for name in names if name.endswith(".py") and not name.endswith("/__main__.py")}
    assert written == {*sources(root)}
    # Without the finder of an editable install, which would lead back to the checkout.
    found = python(
        f"import sys; sys.path[:] = [{str(tmp_path / 'site')!r}, *[p for p in sys.path if p]]\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'ScikitBuild' not in type(f).__name__]\n"
        "from edgetx.ops import library; import edgetx.exporters, edgetx.runtimes; print(library.path())"
    )
    assert found.strip().startswith(str(tmp_path / "site"))


@pytest.mark.slow
@pytest.mark.skipif("EDGETX_WHEEL" not in os.environ, reason="make wheels makes a wheel for it")
def test_wheel_runs_packages_in_a_bare_environment(
    wheel: Path, root: Path, swin: Path, photograph: Path, tmp_path: Path
) -> None:
    """`edgetx[ort]` and what it asks for, nothing else: our kernels, the processor and the C library work."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    bare = tmp_path / "bare" / "bin" / "python"
    answer = tmp_path / "answer.json"
    constraints = str(root / "constraints" / "dev.txt")
    for command in (
        [sys.executable, "-m", "venv", str(tmp_path / "bare")],
        [str(bare), "-m", "pip", "install", "-q", "-c", constraints, f"edgetx[ort] @ {wheel.as_uri()}"],
        [str(bare), "-I", "-c", BARE, str(swin), str(photograph), str(answer)],
        [str(bare.with_name("edgetx")), "verify", str(swin)],
    ):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(answer.read_text())
    with edgetx.load(swin) as session:
        feeds = session.processor.preprocess(str(photograph), session.io)
        assert found["answer"] == session.processor.postprocess(session.run(feeds))
    assert found["described"]["kernels"].startswith("edgetx (WindowAttention")
    assert found["c"] == edgetx.__version__
    # The environment's own setuptools, and what Pillow takes where it is there.
    modules = set(found["modules"]) - {"_distutils_hack", "typing_extensions"}
    assert modules == {"PIL", "edgetx", "msgspec", "numpy", "onnxruntime"}


BARE = """
import ctypes, json, sys
import edgetx
from edgetx import demos
from edgetx import capi

library = ctypes.CDLL(str(capi.library()))
library.edgetx_version.restype = ctypes.c_char_p
package, picture, answer = sys.argv[1:]
with edgetx.load(package) as session:
    feeds = session.processor.preprocess(picture, session.io)
    found = {
        "answer": session.processor.postprocess(session.run(feeds)),
        "described": session.describe(),
        "c": library.edgetx_version().decode(),
    }
installed = {
    name.partition(".")[0]
    for name, module in sys.modules.items()
    if "site-packages" in (getattr(module, "__file__", None) or "")
}
open(answer, "w").write(json.dumps({**found, "modules": sorted(installed)}))
"""
