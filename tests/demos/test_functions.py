"""What the demos' buttons call, and how their models are kept."""

from __future__ import annotations

import functools
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import edgetx
from edgetx import _torchvision, demos

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
_torchvision.install()
pytest.importorskip("spandrel")
if (reason := demos.why_not()) is not None:
    pytest.skip(reason, allow_module_level=True)

from edgetx.cli import app  # noqa: E402
from edgetx.demos import classify, models, site, upscale  # noqa: E402
from edgetx.demos.models import Store  # noqa: E402
from edgetx.demos.sessions import Sessions  # noqa: E402
from edgetx.errors import EdgetxError, InputError, SourceError  # noqa: E402


def silent(*_: Any, **__: Any) -> None:
    pass


def restore(store: Store, picture: Path | None, **changes: Any) -> Any:
    settings = {"model": "tiny x2", "checkpoint": None, "runtime": "automatic", "precision": "float32"}
    settings |= {"budget": 0, **changes}
    return upscale.run(store, None if picture is None else str(picture), progress=silent, **settings)


def test_upscale_is_the_public_api(store: Store, small: Path) -> None:
    (before, after), report = restore(store, small)
    assert before.size == after.size == (96, 64)
    (folder,) = store.packages.glob("spandrel*.float32")
    assert np.array_equal(np.asarray(after), np.asarray(edgetx.restore(folder, str(small)).image))
    assert "random weights" in report and "48x32 to 96x64" in report


def test_upscale_in_half_precision(store: Store, small: Path) -> None:
    _, report = restore(store, small, precision="float16")
    assert "float16" in report
    (folder,) = store.packages.glob("spandrel*.float16")
    assert edgetx.Package.open(folder).manifest.precision == "float16"


def test_budget_that_nothing_fits_is_refused(store: Store, small: Path) -> None:
    with pytest.raises(InputError, match="needs about"):
        restore(store, small, budget=1)


def test_classes_and_windows(store: Store, photograph: Path) -> None:
    best, image, report = classify.run(store, str(photograph), "tiny Swin", "none", silent)
    assert len(best) == 5 and 0 < sum(best.values()) <= 1 and image.size == (56, 56)
    assert "random" in report
    for overlay, moved in (("windows", "0x0"), ("shifted windows", "12x12")):
        _, image, report = classify.run(store, str(photograph), "tiny Swin", overlay, silent)
        assert image.size == (112, 112)
        assert f"28x28 pixels, moved by {moved}" in report


def test_grid_lies_where_windows_meet() -> None:
    grey = Image.new("RGB", (56, 56), (128, 128, 128))
    lines = {
        at for at, pixel in enumerate(np.asarray(classify.draw(grey, (28, 28), (0, 0)))[0]) if pixel[0] > 200
    }
    assert lines and all(abs(at - 56) <= 2 for at in lines)
    shifted = np.asarray(classify.draw(grey, (28, 28), (12, 12)))[0]
    lines = {at for at, pixel in enumerate(shifted) if pixel[0] > 200}
    assert lines and all(min(abs(at - 24), abs(at - 80)) <= 2 for at in lines)


def test_text_named_png(store: Store, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"notes\.png is not an image"):
        restore(store, tmp_path / "notes.png")


def test_no_picture(store: Store) -> None:
    with pytest.raises(InputError, match="upload one"):
        restore(store, None)


def test_picture_of_30000_by_30000_is_refused_undecoded(store: Store, huge: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too large"):
        restore(store, huge)
    Image.new("1", (9000, 10)).save(tmp_path / "long.png")
    with pytest.raises(InputError, match="9000x10; this demo takes up to 8192"):
        restore(store, tmp_path / "long.png")


def test_checkpoints_that_are_none(store: Store, small: Path, tmp_path: Path) -> None:
    ran, kept = tmp_path / "ran", {*store.packages.glob("upload*")}

    class Payload:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(ran),)

    (tmp_path / "payload.pth").write_bytes(pickle.dumps({"params": Payload()}))
    (tmp_path / "corrupt.pth").write_bytes(b"PK\x03\x04" + bytes(1000))
    for name in ("payload.pth", "corrupt.pth"):
        with pytest.raises(SourceError):
            restore(store, small, model=upscale.OWN, checkpoint=str(tmp_path / name))
    assert not ran.exists() and {*store.packages.glob("upload*")} == kept
    with pytest.raises(InputError, match="none was uploaded"):
        restore(store, small, model=upscale.OWN)


def test_own_checkpoint_and_how_long_it_is_kept(
    store: Store, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from edgetx import sources

    module = sources.load(next(iter(store.upscalers.values())).source, pretrained=False).module
    monkeypatch.setattr(models, "MOST_UPLOADS", 1)
    kept, closed = [], []
    for index in range(2):
        state = {name: each.clone() for name, each in module.model.state_dict().items()}
        next(each for each in state.values() if each.is_floating_point()).add_(index)
        torch.save({"params": state}, tmp_path / f"{index}.pth")
        _, report = restore(store, small, model=upscale.OWN, checkpoint=str(tmp_path / f"{index}.pth"))
        assert "checkpoint weights" in report
        kept.append([*store.packages.glob("upload*")])
        with store.sessions.of(edgetx.Package.open(kept[-1][0])) as session:
            monkeypatch.setattr(session, "close", functools.partial(closed.append, index))
    assert closed == [0]
    assert len(kept[0]) == len(kept[1]) == 1 and kept[0] != kept[1]


def packages(parent: Path, number: int, **fields: Any) -> list[edgetx.Package]:
    """Packages that negate `x`."""
    import onnx

    from edgetx.core import IOSpec, TensorSpec
    from edgetx.package import create
    from tests.manifests import manifest

    io = IOSpec((TensorSpec("x", "float32", (2,)),), (TensorSpec("y", "float32", (2,)),))
    made = []
    for index in range(number):
        with create(parent / f"{index}", force=True) as draft:
            text = (
                '<ir_version: 10, opset_import: ["" : 20]> negate (float[2] x) => (float[2] y) { y = Neg(x) }'
            )
            onnx.save(onnx.parser.parse_model(text), draft.model_path)
            draft.save_golden([])
            draft.seal(manifest(f"negate{index}", io, **fields))
            made.append(draft.publish())
    return made


class Opened:
    """`edgetx.load`, and which sessions it opened and which of them are closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all: list[Any] = []
        self.closed: list[Any] = []
        load = edgetx.load

        def opening(package: Any) -> Any:
            session = load(package)
            close = session.close
            self.all.append(session)

            def closing() -> None:
                self.closed.append(session)
                close()

            session.close = closing  # type: ignore[method-assign]
            return session

        monkeypatch.setattr(edgetx, "load", opening)


def test_sessions_stay_open_and_the_oldest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = packages(tmp_path, 3)
    opened, sessions = Opened(monkeypatch), Sessions(most=2)
    for package in (one, two, one, three, one):
        with sessions.of(package) as session:
            assert session.run({"x": np.ones(2, np.float32)})["y"].tolist() == [-1, -1]
    assert len(opened.all) == 3 and opened.closed == [opened.all[1]]
    (again,) = packages(tmp_path, 1, created="2026-01-02T00:00:00+00:00")  # in the folder of the first
    with sessions.of(again) as session:
        assert session is opened.all[3] and opened.closed == [opened.all[1], opened.all[0]]
    sessions.close()
    assert len(opened.closed) == 4


def test_a_session_in_use_is_closed_by_its_last_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = packages(tmp_path, 2)
    opened, sessions = Opened(monkeypatch), Sessions(most=1)

    def ask(index: int) -> None:
        with sessions.of((one, two)[index % 2]) as session:
            assert session not in opened.closed
            session.run({"x": np.ones(2, np.float32)})
            assert session not in opened.closed

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(64)))
    with sessions.of(one) as session:
        sessions.forget(one.path)
        assert session not in opened.closed
    assert sorted(map(id, opened.closed)) == sorted(map(id, opened.all))


def test_errors_reach_the_page_without_the_folders_of_the_server() -> None:
    import gradio as gr

    @site.shown
    def fails(path: str) -> None:
        raise EdgetxError(f"{path} is no good")

    with pytest.raises(gr.Error, match=r"^'?x\.pth is no good"):
        fails("/tmp/secret/x.pth")


def test_everything_is_removed() -> None:
    with Store() as store:
        folder = store.folder
        site.photographs(store)
        assert folder.is_dir()
    assert not folder.exists()


def test_command_lists_demos_and_refuses_others() -> None:
    listed = CliRunner().invoke(app, ["demo"])
    assert listed.exit_code == 0 and all(name in listed.output for name in demos.NAMES)
    refused = CliRunner().invoke(app, ["demo", "nonsense"])
    assert refused.exit_code == 2 and "accepted: upscale" in refused.output


def test_without_gradio_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    refused = CliRunner().invoke(app, ["demo", "upscale"])
    assert refused.exit_code == 2 and "pip install 'edgetx[demo]'" in refused.output
