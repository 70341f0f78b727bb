"""A model in three stages whose sizes depend on the data: split, verified, run, measured, inspected."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import edgetx
from edgetx import exporters
from edgetx.benchmark import BenchReport
from edgetx.benchmark.report import joined
from edgetx.cli.app import app
from edgetx.core import Architecture, IOSpec, Reference, Rewrite, Stage, SymbolRange, TensorSpec
from edgetx.errors import ExportError, InputError, PackageError, VerificationError
from edgetx.pipeline import export_reference
from edgetx.runtimes.chain import Chain
from edgetx.verification import verify

ANY = SymbolRange(min=0)
POINTS = TensorSpec("points", "float32", ("points", 4))
ROWS = TensorSpec("rows", "float32", ("kept", 4))
WHERE = TensorSpec("where", "int64", ("kept",))
SCORES = TensorSpec("scores", "float32", ("detections",))
LABELS = TensorSpec("labels", "int64", ("detections",))
TOKENS = TensorSpec("tokens", "float32", ("kept", 8))


class Select(nn.Module):
    """The points with positive x, and which they are."""

    def forward(self, points):
        where = torch.nonzero(points[:, 0] > 0)[:, 0]
        return points[where], where


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 8)

    def forward(self, rows):
        return torch.nn.functional.gelu(self.layer(rows))


class Decode(nn.Module):
    """The scores above a threshold, and the points that they belong to."""

    def forward(self, tokens, where):
        scores = tokens.sum(1)
        chosen = torch.nonzero(scores > 0.5)[:, 0]
        return {"scores": scores[chosen], "labels": where[chosen]}


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.select, self.network, self.decode = Select(), Network(), Decode()

    def forward(self, points):
        rows, where = self.select(points)
        return self.decode(self.network(rows), where)


class Toy(Architecture):
    id, title, paper, presets = "toy", "Toy", "", {}

    def recognises(self, module):
        return isinstance(module, Detector)

    def describe(self, module, example=None):
        return IOSpec((POINTS,), (SCORES, LABELS), {"points": ANY})

    def rewrite(self, module):
        return Rewrite(exporters.clone(module), ())

    def stages(self, module):
        kept = {"kept": ANY}
        return (
            Stage("select", module.select, IOSpec((POINTS,), (ROWS, WHERE), {"points": ANY})),
            Stage("network", module.network, IOSpec((ROWS,), (TOKENS,), kept)),
            Stage("decode", module.decode, IOSpec((TOKENS, WHERE), (SCORES, LABELS), kept)),
        )


class Broken(Toy):
    """Its stages compute something else than the whole."""

    def stages(self, module):
        first, second, third = super().stages(module)
        return first, Stage("network", Network(), second.io), third


def points(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


def reference():
    torch.manual_seed(0)
    module = Detector().eval()
    samples = [{"points": points(count, seed=count)} for count in (40, 7)]
    return Reference(module, Toy().describe(module), samples, "toy", "tests", "toy", "random")


@pytest.fixture
def known(monkeypatch):
    """The architectures `toy` and those of the table."""

    def register(architecture):
        table = (*exporters.architectures(), architecture)
        monkeypatch.setattr(exporters, "architectures", lambda: table)

    return register


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        table = (*exporters.architectures(), Toy())
        patch.setattr(exporters, "architectures", lambda: table)
        return export_reference(reference(), output=tmp_path_factory.mktemp("split") / "toy", split=True)


def test_stages_are_written_listed_and_verified(package):
    assert package.stages == ("select", "network", "decode")
    assert {f"stages/{name}.onnx" for name in package.stages} <= package.manifest.files.keys()
    verdict = package.manifest.stages_verdict.to_core()
    assert verdict.passed and verdict.cases == 2
    assert verdict.ran_on["stages"] == "select, network, decode"
    assert edgetx.Package.open(package.path).manifest == package.manifest


@pytest.mark.parametrize("count", [0, 1, 2, 40, 1000])
def test_the_chain_gives_what_the_whole_gives(package, count):
    feeds = {"points": points(count, seed=3)}
    with edgetx.load(package) as whole, edgetx.load(package, stages=True) as chain:
        expected, actual = whole.run(feeds), chain.run(feeds)
    assert list(actual) == ["scores", "labels"]
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype
        np.testing.assert_array_equal(actual[name], value)


def test_nothing_kept_and_nothing_found(package):
    far = -np.abs(points(20))
    with edgetx.load(package, stages=True) as chain:
        outputs = chain.run({"points": far})
    assert outputs["scores"].shape == (0,) and outputs["labels"].shape == (0,)


def test_torch_tensors_pass_through(package):
    feeds = {"points": torch.from_numpy(points(30))}
    with edgetx.load(package) as whole, edgetx.load(package, stages=True) as chain:
        expected, actual = whole.run(feeds), chain.run(feeds)
        empty = chain.run({"points": -feeds["points"].abs()})
    assert isinstance(actual["scores"], torch.Tensor) and torch.equal(actual["scores"], expected["scores"])
    assert tuple(empty["scores"].shape) == (0,)


def test_a_chain_checks_its_inputs_and_can_be_closed(package):
    chain = edgetx.load(package, stages=True)
    with pytest.raises(InputError, match="holds NaN"):
        chain.run({"points": np.full((3, 4), np.nan, np.float32)})
    with pytest.raises(InputError, match="has 1 dimensions"):
        chain.run({"points": np.zeros(4, np.float32)})
    chain.close()
    chain.close()
    with pytest.raises(edgetx.EdgetxError, match="closed"):
        chain.run({"points": points(3)})


def test_tensors_are_freed_after_their_last_stage(package, monkeypatch):
    alive = []
    with edgetx.load(package, stages=True) as chain:
        for _, session in chain._sessions:
            run = session.run
            monkeypatch.setattr(
                session, "run", lambda feeds, run=run: alive.append(sorted(feeds)) or run(feeds)
            )
        chain.run({"points": points(9)})
        assert alive == [["points"], ["rows"], ["tokens", "where"]]
        assert chain._needed[0] == {"rows", "where", "tokens", "scores", "labels"}
        assert chain._needed[1] == {"tokens", "where", "scores", "labels"}


def test_a_chain_says_where_stages_differ(package):
    class Fake(edgetx.Session):
        def __init__(self, stage):
            self.io, self.stage = stage.io, stage.name

        def run(self, feeds):
            raise NotImplementedError

        def describe(self):
            return {"device": "cpu", "engine": "A" if self.stage == "toy.network" else "B"}

    assert Chain(package, Fake).describe() == {
        "device": "cpu",
        "engine": "select, decode: B; network: A",
        "stages": "select, network, decode",
    }


def test_a_stage_can_be_opened_alone(package):
    stage = package.stage("network")
    assert stage.is_stage and stage.name == "toy.network" and stage.processor is None
    assert [*stage.manifest.files] == ["stages/network.onnx"]
    with edgetx.load(stage) as session:
        assert session.run({"rows": np.ones((2, 4), np.float32)})["tokens"].shape == (2, 8)
    with pytest.raises(InputError, match="has no stage 'neck'; it has select, network, decode"):
        package.stage("neck")


def test_verify_judges_the_chain_too(package):
    verdict = verify(package, stages=True)
    assert verdict.passed and "stages" in verdict.ran_on
    result = CliRunner().invoke(app, ["verify", str(package.path)])
    assert result.exit_code == 0, result.output
    assert result.stdout.count("passed, 2 cases") == 2 and "stage by stage: passed" in result.stdout
    report = json.loads(CliRunner().invoke(app, ["verify", str(package.path), "--json"]).stdout)
    assert report["stages"]["ran_on"]["stages"] == "select, network, decode"


def test_a_chain_that_differs_is_not_written(known, tmp_path):
    known(Broken())
    with pytest.raises(VerificationError, match="run stage by stage; nothing was written"):
        export_reference(reference(), output=tmp_path / "toy", split=True)
    assert list(tmp_path.iterdir()) == []


def test_without_stages(known, tmp_path, classifier):
    known(Toy())
    plain = export_reference(reference(), output=tmp_path / "plain")
    assert plain.stages == () and not (plain.path / "stages").exists()
    with pytest.raises(InputError, match="has no stages; export the model again with --split"):
        edgetx.load(classifier, stages=True)
    with pytest.raises(
        ExportError, match=r"generic has no stages, .*architectures with stages: .*toy; export without"
    ):
        edgetx.export(nn.Linear(4, 2), torch.zeros(1, 4), output=tmp_path / "linear", split=True)
    assert not (tmp_path / "linear").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw["stages"].pop(0), r"stages\[0\]\.io\.inputs: .* gives rows"),
        (
            lambda raw: raw["stages"][1]["io"]["outputs"][0].update(name="points"),
            r"stages\[1\]\.io\.outputs: points is there already",
        ),
        (lambda raw: raw["stages"].pop(), "stages: no stage gives scores, labels"),
        (
            lambda raw: raw["stages"][1].update(name="select"),
            r"stages\[1\]\.name: 'select' is the name of two",
        ),
        (lambda raw: raw["stages"][1].update(file="x.onnx"), r"stages\[1\]\.file: 'x\.onnx' is not among"),
        (
            lambda raw: raw["stages"][1]["io"]["symbols"]["kept"].update(min=-1),
            r"stages\[1\]\.io\.symbols\['kept'\]\.min: expected int >= 0",
        ),
    ],
)
def test_stages_that_are_no_chain(package, tmp_path, change, message):
    raw = json.loads((package.path / "manifest.json").read_text())
    change(raw)
    (tmp_path / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(PackageError, match=message):
        edgetx.package.Manifest.read(tmp_path / "manifest.json")


def test_bench_times_every_stage_and_the_whole(package):
    report = edgetx.bench(package, threads=1, runs=4, rounds=2, warmup=1)
    whole, chain = report.engines
    assert (whole.name, chain.name) == ("toy", "toy, in stages")
    assert whole.stages == [] and chain.difference == 0 and chain.file_bytes > 0
    assert [stage.name for stage in chain.stages] == ["select", "network", "decode"]
    assert sum(stage.share for stage in chain.stages) == pytest.approx(1)
    for stage in chain.stages:
        assert [len(each) for each in stage.rounds_ns] == [2, 2] and stage.latency.count == 4
    spent = [sum(run) for run in zip(*(joined(stage.rounds_ns) for stage in chain.stages), strict=True)]
    assert all(part <= total for part, total in zip(spent, joined(chain.rounds_ns), strict=True))
    header, rows = report.stages_table(chain)
    assert header == ["stage", "median", "p90", "p99", "share"]
    assert [row[0] for row in rows] == [*package.stages, "sum of the stages", "whole, in one session"]
    assert BenchReport.from_json(report.to_json()) == report
    only = edgetx.bench(package, stages=False, threads=1, runs=2, rounds=1, warmup=0)
    assert [engine.name for engine in only.engines] == ["toy"]


def test_bench_shows_the_stages(package):
    arguments = ["bench", str(package.path), "--runs", "2", "--rounds", "1", "--warmup", "0"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "share" in shown.stdout and "sum of the stages" in shown.stdout


def test_inspect_names_the_stages(package):
    shown = CliRunner().invoke(app, ["inspect", str(package.path)]).stdout
    assert "stage select" in shown and "points=float32[points,4] -> rows=float32[kept,4]" in shown
    assert "parity of stages" in shown


def test_a_chain_needs_no_torch(package):
    code = (
        "import sys, edgetx, numpy\n"
        f"with edgetx.load({str(package.path)!r}, stages=True) as chain:\n"
        "    chain.run({'points': numpy.ones((3, 4), numpy.float32)})\n"
        "print('torch' in sys.modules, 'onnx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
