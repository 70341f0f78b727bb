"""The statistics of a comparison, deterministic; and what two reports must share to be compared."""

import itertools
import json
import random
import re
import shutil

import msgspec
import pytest
from typer.testing import CliRunner

import edgetx
from edgetx.benchmark import BenchReport, EngineSpec, comparing, history, selfcheck, significance
from edgetx.benchmark.sensors import Reading
from edgetx.cli.app import app
from edgetx.errors import InputError

QUICK = {"threads": 1, "runs": 10, "rounds": 10, "warmup": 1}


def rounds(seed, *, count=30, runs=10, slower=0.0, jitter=0.02, drift=0.3, burst=0.1):
    """Two engines' rounds on a machine that drifts, jitters and is disturbed, often only in one half."""
    chance = random.Random(seed)
    ours, theirs = [], []
    for _ in range(count):
        level = 1e6 * (1 + drift * chance.random())
        for side, factor in ((ours, 1.0), (theirs, 1.0 + slower)):
            disturbed = 1.5 if chance.random() < burst else 1.0
            side.append(
                [level * factor * disturbed * (1 + jitter * chance.expovariate(1)) for _ in range(runs)]
            )
    return ours, theirs


def test_an_injected_slowdown_is_found_and_no_slowdown_is_not():
    for seed in range(20):
        assert significance.paired(*rounds(seed, slower=0.10)).regression
        assert not significance.paired(*rounds(100 + seed)).regression
        assert significance.paired(*rounds(seed, slower=-0.10)).improvement


def test_a_comparison_is_settled_where_its_interval_lies_on_one_side():
    at_the_threshold = []
    for seed in range(20):
        assert significance.paired(*rounds(seed, slower=0.10)).settled
        assert significance.paired(*rounds(seed)).settled
        at_the_threshold.append(significance.paired(*rounds(seed, slower=0.05)).settled)
    # By chance, in one of twenty on either side.
    assert sum(at_the_threshold) <= 4


def test_drift_alone_is_no_difference_where_rounds_are_paired():
    found = significance.paired(*rounds(7, drift=3.0, burst=0.0))
    assert not found.significant and found.interval[0] <= 1 <= found.interval[1]


def test_separate_rounds():
    ours, theirs = rounds(3, slower=0.10, drift=0.0)
    found = significance.separate(ours, theirs)
    assert found.regression and found.test == "separate" and found.interval[0] > 1
    assert not significance.separate(ours, ours).significant


def test_sign_test_is_exact():
    for positive in range(7):
        values = [0.1] * positive + [-0.2] * (6 - positive)
        splits = [sum(signs) for signs in itertools.product((0, 1), repeat=6)]
        uneven = abs(positive - 3)
        expected = sum(abs(split - 3) >= uneven for split in splits) / len(splits)
        assert significance.sign_test([*values, 0.0]) == pytest.approx(expected)
    assert significance.sign_test([0.0, 0.0]) == 1.0


def test_rank_sum_is_exact():
    a, b = [1.0, 2.0, 4.0], [3.0, 5.0, 6.0, 7.0]
    sums = [sum(chosen) for chosen in itertools.combinations(range(1, 8), 3)]
    observed, mean = 1 + 2 + 4, 12
    expected = sum(abs(value - mean) >= abs(observed - mean) for value in sums) / len(sums)
    assert significance.rank_sum(a, b) == pytest.approx(expected)
    assert significance.rank_sum([1.0] * 5, [1.0] * 5) == 1.0


def test_too_few_rounds():
    few = [[1.0]] * 4
    with pytest.raises(InputError, match=r"interleaved comparison .* --rounds"):
        significance.paired(few, few)
    with pytest.raises(InputError, match="5 rounds of each at least"):
        significance.separate(few, few)


@pytest.fixture(scope="module")
def report():
    specs = [
        EngineSpec(name=name, kind="null", path="net", model="net", products=1) for name in ("one", "two")
    ]
    return edgetx.benchmark.compare(specs, **QUICK)


def side(report, name="one", **machine):
    changed = msgspec.structs.replace(report, machine=msgspec.structs.replace(report.machine, **machine))
    return comparing.Side(name="b.json", report=changed, engine=changed[name])


def test_machines_and_states_must_match(report):
    ours = comparing.Side(name="a.json", report=report, engine=report["one"])
    assert comparing.state_differences(ours, side(report, time_utc="2026-01-01T00:00:00+00:00")) == []
    for field, value in (("cpu", "Another CPU"), ("governor", "powersave"), ("kernel", "Linux 1.0")):
        other = side(report, **{field: value})
        with pytest.raises(InputError, match=f"{field}: .* and {value}.*--force"):
            comparing.compare_sides(ours, other, threshold=0.05)
        assert comparing.compare_sides(ours, other, threshold=0.05, force=True).test == "separate"


def test_settings_temperature_and_throttling_belong_to_the_state(report):
    ours = comparing.Side(name="a.json", report=report, engine=report["one"])

    def changed(report, **fields):
        found = msgspec.structs.replace(report, state=msgspec.structs.replace(report.state, **fields))
        return comparing.Side(name="b.json", report=found, engine=found["one"])

    jetson = changed(report, settings={"nvpmodel": "15W"})
    assert "nvpmodel: unknown and 15W" in comparing.state_differences(ours, jetson)
    hot = changed(report, after=Reading(temperatures={"tj": 90.0}, throttle=("hardware thermal slowdown",)))
    cool = changed(report, before=Reading(temperatures={"tj": 40.0}), after=Reading(), during=[])
    found = comparing.state_differences(cool, hot)
    assert "throttling: none and hardware thermal slowdown" in found
    assert any(each.startswith("hottest sensor: tj at 40.0 °C and ") for each in found)


def test_different_models_are_refused(report):
    ours = comparing.Side(name="a.json", report=report, engine=report["one"])
    engines = [msgspec.structs.replace(each, model="other") for each in report.engines]
    other = msgspec.structs.replace(report, engines=engines)
    theirs = comparing.Side(name="b.json", report=other, engine=other["one"])
    with pytest.raises(InputError, match=r"a\.json measured the model 'net' and b\.json the model 'other'"):
        comparing.compare_sides(ours, theirs, threshold=0.05, force=True)
    shaped = msgspec.structs.replace(report, engines=[msgspec.structs.replace(report["one"], inputs=[])])
    theirs = comparing.Side(name="b.json", report=shaped, engine=shaped["one"])
    with pytest.raises(InputError, match="ran on inputs of the shapes"):
        comparing.compare_sides(ours, theirs, threshold=0.05, force=True)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_compare_command(report, tmp_path):
    slow = [[round(1.2 * ns) for ns in each] for each in report["one"].rounds_ns]
    engines = [report["one"], msgspec.structs.replace(report["two"], rounds_ns=slow)]
    msgspec.structs.replace(report, engines=engines).save(tmp_path / "r.json")
    path = tmp_path / "r.json"
    worse = invoke("bench", "compare", f"{path}#one", f"{path}#two")
    assert worse.exit_code == 1 and "REGRESSION: B takes +20.0%" in worse.stdout
    allowed = invoke("bench", "compare", f"{path}#one", f"{path}#two", "--threshold", "30", "--json")
    assert allowed.exit_code == 0 and json.loads(allowed.stdout)["ratio"] == pytest.approx(1.2, rel=1e-3)
    assert invoke("bench", "compare", f"{path}#two", f"{path}#one").exit_code == 0
    for wrong, message in (
        ((path, path), "holds several engines"),
        ((f"{path}#none", f"{path}#one"), "has no engine 'none'"),
        ((tmp_path, path), "a report and a package"),
        ((tmp_path / "no.json", path), "cannot read"),
    ):
        result = invoke("bench", "compare", *wrong)
        assert result.exit_code == 2 and message in result.stderr


def test_compare_command_measures_packages(classifier, tmp_path):
    copy = shutil.copytree(classifier, tmp_path / "copy")
    options = ("--threads", 1, "--runs", 16, "--rounds", 8, "--threshold", 500)
    result = invoke("bench", "compare", classifier, copy, *options)
    assert result.exit_code == 0, result.stderr
    took = re.search(r"(\d+) and \1 interleaved rounds", result.stdout)  # the noisier, the more
    assert took is not None and 8 <= int(took[1]) <= 8 * significance.MOST, result.stdout


def test_packages_of_different_models_are_not_measured(classifier, tmp_path):
    copy = shutil.copytree(classifier, tmp_path / "copy")
    fields = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(fields | {"name": "another"}))
    result = invoke("bench", "compare", classifier, copy)
    assert result.exit_code == 2 and "'classifier'" in result.stderr and "'another'" in result.stderr


def test_history(report, tmp_path, monkeypatch):
    monkeypatch.setenv(history.VARIABLE, str(tmp_path / "kept"))
    assert invoke("bench", "history", "net").exit_code == 2
    for day in (2, 1):
        machine = msgspec.structs.replace(report.machine, time_utc=f"2026-01-0{day}T00:00:00+00:00")
        history.keep(msgspec.structs.replace(report, machine=machine))
    (tmp_path / "kept" / "net" / "0-broken.json").write_text("{")
    found = history.of("net")
    assert [entry.report.machine.time_utc[9] for entry in found.entries] == ["1", "1", "2", "2"]
    assert len(found.unreadable) == 1
    pytest.importorskip("plotly")
    result = invoke("bench", "history", "net", "-o", tmp_path / "plot.html")
    assert result.exit_code == 0 and "4 measurements" in result.stdout and "0-broken" in result.stdout
    assert "Plotly.newPlot" in (tmp_path / "plot.html").read_text()


def test_self_check():
    found = selfcheck.self_check(rounds=10, runs=50)
    assert found.timer_ns > 0 and found.loop_ns > 0 and found.work_ns > 0
    assert found.spread > 0 and found.least > 0
    assert (found.query_ns is None) == (found.no_loadgen is not None)
    assert any("smallest difference" in name for name, _ in selfcheck.lines(found))
    assert invoke("bench", "--self-check", "PKG").exit_code == 2


def test_reports_are_compared_by_what_they_hold(report):
    assert BenchReport.from_json(report.to_json()) == report
