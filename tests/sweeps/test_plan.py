"""`sweep.toml`, the journal and the fronts; runs no model."""

from __future__ import annotations

import numpy as np
import pytest

from edgetx.errors import InputError
from edgetx.package import Package
from edgetx.sweeps import plan, report
from edgetx.sweeps.journal import Entry, Figures, Journal, ends, parse


def test_cells(write, classifier):
    file = write('models = ["classifier"]\nshapes = [{}, {batch = 2}]\nruntimes = ["auto", "ort"]')
    cells = plan.cells(file, plan.read(file))
    assert [cell.name for cell in cells] == [
        "classifier float32 auto cpu",
        "classifier float32 auto batch=2 cpu",
        "classifier float32 ort cpu",
        "classifier float32 ort batch=2 cpu",
    ]
    assert len({cell.id for cell in cells}) == 4
    assert [cell.id for cell in plan.cells(file, plan.read(file))] == [cell.id for cell in cells]
    # Other settings are other cells; another order or more of them leaves those that are there.
    other = write('models = ["classifier"]\nshapes = [{batch = 2}, {}, {batch = 3}]')
    same = {cell.id for cell in plan.cells(other, plan.read(other))} & {cell.id for cell in cells}
    assert len(same) == 2
    longer = write('models = ["classifier"]', measure="runs = 3")
    assert not {cell.id for cell in plan.cells(longer, plan.read(longer))} & {cell.id for cell in cells}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"missing required field `models`"),
        ("models = []", r"\$\.models"),
        ('models = "classifier"', r"\$\.models"),
        ('models = ["classifier"]\nshape = []', r"unknown field `shape`.*the file has the fields models, "),
        ('models = ["classifier"]\nshapes = [{batch = 0}]', r"\$\.shapes\[0\]\[\.\.\.\]"),
        ('models = ["classifier"]\n[limits]\ncell = "long"', r"\$\.limits\.cell"),
        ('models = ["classifier"\n', r"is no sweep"),
        ('models = ["classifier", "classifier"]', r"models has 'classifier' twice"),
        (
            'models = ["classifier"]\nprecisions = ["float8"]',
            r"precisions: unknown 'float8'; accepted: float32",
        ),
        (
            'models = ["classifier"]\nprecisions = ["int8"]',
            r"'int8' needs data to calibrate with: \[quantize\]",
        ),
        ('models = ["classifier"]\n[quantize]\ncalib = "cats"', r"quantize\.calib: .*cats is no folder"),
        ('models = ["classifier"]\nruntimes = ["fast"]', r"unknown runtime 'fast'"),
        ('models = ["classifier"]\ndevices = ["orin"]', r"unknown device 'orin'"),
        ('models = ["nothing.edgetx"]', r"nothing.edgetx does not exist"),
        ('models = ["./no where"]', r"does not exist; give a package's folder or a SOURCE"),
        ('models = ["classifier"]\n[accuracy]\ndataset = "cats"', r"accuracy\.dataset: .*cats is no folder"),
    ],
)
def test_bad_sweeps(write, classifier, monkeypatch, tmp_path, text, says):
    monkeypatch.setenv("EDGETX_HOME", str(tmp_path / "home"))
    with pytest.raises(InputError, match=says):
        plan.read(write(text, measure=""))
    with pytest.raises(InputError, match="cannot read the sweep"):
        plan.read(tmp_path / "nothing.toml")


def test_feeds_of_another_shape(classifier):
    package = Package.open(classifier)
    golden = package.golden()[0].inputs["image"]
    (image,) = plan.feeds(package, {"batch": 3}).values()
    assert image.shape == (3, 3, 8, 8) and (image == np.concatenate([golden] * 3)).all()
    with pytest.raises(InputError, match=r"has no size 'height' to choose; it has batch: 1 to any size"):
        plan.feeds(package, {"height": 8})


def entry(cell: str, event: str = "end", **fields) -> Entry:
    return Entry(event=event, cell=cell, at="now", **fields)


def test_journal(tmp_path):
    file = tmp_path / "journal.jsonl"
    with Journal(file) as journal:
        journal.append(entry("a", "start"))
        journal.append(entry("a", status="failed", error="so"))
        with pytest.raises(InputError, match="another process works on the sweep"):
            Journal(file)
    with file.open("ab") as stream:
        stream.write(b'{"event":"end","cel')  # killed while it wrote
    with Journal(file) as journal:
        assert journal.notes == ["the last line of the journal was not complete and is dropped"]
        assert ends(journal.entries)["a"].error == "so"
        journal.append(entry("a", status="done"))
    entries, whole = parse(file)
    assert [each.status for each in entries] == [None, "failed", "done"] and whole == file.stat().st_size
    assert ends(entries)["a"].status == "done"
    file.write_bytes(b"{}\n" + file.read_bytes())
    with pytest.raises(InputError, match=r"journal.jsonl, line 1 is damaged \(.*`event`"):
        parse(file)


def cell(name: str, **changes) -> plan.Cell:
    given = {"model": "m", "precision": "float32", "runtime": "ort", "shape": {}, "device": "cpu", **changes}
    return plan.Cell(id=name, **given)


def done(name: str, median: float, error: float, size: int = 1, **more) -> Entry:
    figures = Figures(median_ns=median, p90_ns=median, error=error, size=size, **more)
    return entry(name, status="done", figures=figures)


def best(rows) -> list[str]:
    return [line.cell.id for line in report.make(rows).cells if line.best]


def test_front():
    rows = [
        (cell("slow and exact"), done("", 3, 0.0)),
        (cell("fast and rough"), done("", 1, 0.1)),
        (cell("between"), done("", 2, 0.05)),
        (cell("worse than between"), done("", 2, 0.06)),
        (cell("as good as between"), done("", 2, 0.05)),
        (cell("larger"), done("", 3, 0.0, size=2)),
        (cell("failed"), entry("", status="failed", error="so")),
        (cell("waiting"), None),
    ]
    assert best(rows) == ["slow and exact", "fast and rough", "between", "as good as between"]
    made = report.make(rows)
    assert made.objectives == {"m cpu": ["latency", "accuracy", "size"]}  # energy was not measured
    assert made.counts() == "6 done, 1 failed, 1 waiting" and not made.complete
    assert "| failed: so |" in made.to_markdown() and "not measured" in made.to_markdown()


def test_front_with_energy_and_by_group():
    rows = [
        (cell("fast"), done("", 1, 0.0, joules=2.0)),
        (cell("frugal"), done("", 2, 0.0, joules=1.0)),
        (cell("neither"), done("", 2, 0.0, joules=2.0)),
        (cell("another shape", shape={"batch": 4}), done("", 9, 0.0)),
        (cell("another model", model="n"), done("", 9, 0.5)),
        (cell("another device", device="orin"), done("", 9, 0.0)),
    ]
    assert best(rows) == ["fast", "frugal", "another shape", "another model", "another device"]


def test_models_compete_where_the_task_is_measured():
    rows = [
        (cell("large", model="l"), done("", 5, 1e-6, metric=82.0)),
        (cell("small", model="s"), done("", 2, 1e-3, metric=78.0)),
        (cell("useless", model="u"), done("", 3, 0.0, metric=70.0)),
    ]
    assert best(rows) == ["large", "small"]
