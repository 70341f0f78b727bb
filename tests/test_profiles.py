"""Shape profiles: proposed from counts, picked, kept to, stored in a package."""

import json

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from edgetx import profiles
from edgetx.cli.app import app
from edgetx.cli.profile import histogram
from edgetx.core import IOSpec, SymbolRange, TensorSpec
from edgetx.errors import InputError, PackageError
from edgetx.package import IOEntry, Package, amend
from edgetx.processors import PointCloudDetection, Tensors, to_dict
from edgetx.profiles import Profile, Range

PROCESSOR = PointCloudDetection(
    columns=4,
    point_range=(0.0, -32.0, -3.0, 64.0, 32.0, 1.0),
    pillar=(0.5, 0.5, 4.0),
    window=5,
    group=12,
    classes=("Car",),
)
IO = IOSpec(
    inputs=(TensorSpec("points", "float32", ("points", 4)),),
    outputs=(TensorSpec("boxes", "float32", ("detections", 7)),),
    symbols={"points": SymbolRange(min=0)},
)


def drawn(center, count, spread=0.1, seed=0):
    """Counts of sweeps around one size; pillars and groups follow the points."""
    points = np.random.default_rng(seed).lognormal(np.log(center), spread, count).astype(int)
    return [{"points": int(p), "pillars": int(p) // 4, "groups": -(-(int(p) // 4) // 36)} for p in points]


def only(**sizes):
    return Profile({name: Range(*size) for name, size in sizes.items()}, 1.0)


def test_one_hump_gives_one_profile_that_holds_every_sweep():
    counts = drawn(17_000, 200)
    (profile,) = profiles.propose(counts)
    assert profile.share == 1.0
    points = [each["points"] for each in counts]
    allowed = profile.ranges["points"]
    assert allowed.min <= min(points) / 2 and max(points) * profiles.HEADROOM <= allowed.max
    assert allowed.max < max(points) * profiles.HEADROOM * 1.1
    assert allowed.opt == pytest.approx(np.median(points), rel=0.05)


@pytest.mark.parametrize("spread", [0.02, 0.1, 0.3])
def test_two_humps_give_two_profiles(spread):
    near, wide = drawn(17_000, 150, spread, seed=1), drawn(120_000, 50, spread, seed=2)
    small, large = profiles.propose(near + wide)
    assert (small.share, large.share) == (0.75, 1.0)
    assert small.ranges["points"].opt == pytest.approx(17_000, rel=0.1)
    assert large.ranges["points"].opt == pytest.approx(120_000, rel=0.1)
    assert small.ranges["points"].max < large.ranges["points"].max
    # A sweep between the humps, or small in one count and large in another, has a profile too.
    assert profiles.pick([small, large], {"points": 60_000, "pillars": 15_000, "groups": 400}) is large
    assert profiles.pick([small, large], {"points": 15_000, "pillars": 28_000, "groups": 800}) is large


def test_three_humps_and_fewer_profiles():
    counts = [*drawn(5_000, 50, seed=1), *drawn(30_000, 50, seed=2), *drawn(60_000, 50, seed=3)]
    assert len(profiles.propose(counts)) == 3
    two = profiles.propose(counts, profiles=2)
    assert [round(each.share, 2) for each in two] == [0.33, 1.0]  # the deepest valley is the widest gap
    (one,) = profiles.propose(counts, profiles=1)
    assert one.share == 1.0


def test_more_profiles_than_humps_cut_the_widest():
    counts = drawn(20_000, 100, 0.3)
    found = profiles.propose(counts, profiles=3)
    assert len(found) == 3 and found[-1].share == 1.0
    assert [each.volume for each in found] == sorted(each.volume for each in found)
    assert [each.share for each in found] == sorted(each.share for each in found)


def test_the_order_of_sweeps_does_not_matter():
    counts = [*drawn(17_000, 30, seed=1), *drawn(120_000, 30, seed=2)]
    assert profiles.propose(counts) == profiles.propose(counts[::-1])


def test_a_single_outlier_is_no_hump_but_is_held():
    (profile,) = profiles.propose([*drawn(17_000, 100), *drawn(120_000, 1)])
    assert profile.share == 1.0 and profile.ranges["points"].max > 120_000


def test_a_single_sweep():
    (profile,) = profiles.propose([{"points": 17_238, "pillars": 3_945, "groups": 28}])
    assert profile.ranges == {
        "points": Range(8_600, 17_000, 21_000),
        "pillars": Range(1_900, 3_900, 4_800),
        "groups": Range(14, 28, 34),
    }
    assert profile.share == 1.0


def test_identical_counts_cannot_be_divided():
    counts = [{"points": 5_000, "pillars": 900, "groups": 7}] * 20
    assert len(profiles.propose(counts)) == len(profiles.propose(counts, profiles=4)) == 1


def test_empty_sweeps():
    (profile,) = profiles.propose([{"points": 0, "pillars": 0, "groups": 0}] * 3)
    assert profile.ranges["points"] == Range(0, 0, 1)
    found = profiles.propose([{"points": 0, "pillars": 0, "groups": 0}, *drawn(9_000, 20)])
    assert profiles.pick(found, {"points": 0, "pillars": 0, "groups": 0}) is found[0]


@pytest.mark.parametrize(
    ("counts", "wanted", "message"),
    [
        ([], None, "no sweep could be read"),
        ([{"points": 1}], 0, "is 0; accepted: 1 or more"),
        ([{"points": 1}, {"pillars": 1}], None, "the same counts; the first has points"),
    ],
)
def test_what_cannot_be_proposed(counts, wanted, message):
    with pytest.raises(InputError, match=message):
        profiles.propose(counts, profiles=wanted)


def test_ranges_are_in_order():
    for bad in ((-1, 1, 2), (3, 2, 4), (1, 5, 4), (0, 0, 0)):
        with pytest.raises(InputError, match="0 <= min <= opt <= max"):
            Range(*bad)


def test_the_smallest_that_holds_is_picked():
    small, large = only(points=(1, 5, 10), pillars=(1, 2, 5)), only(points=(1, 50, 100), pillars=(1, 20, 50))
    for order in ([small, large], [large, small]):
        assert profiles.pick(order, {"points": 10, "pillars": 5}) is small
        assert profiles.pick(order, {"points": 10, "pillars": 6}) is large
        assert profiles.pick(order, {"points": 101, "pillars": 6}) is None
    assert (
        profiles.pick([small], {"pillars": 3, "groups": 900}) is small
    )  # counts without a range do not matter
    assert profiles.pick([], {"points": 1}) is None


def test_the_reason_names_the_symbol_the_excess_and_what_would_hold():
    profile = only(points=(1_000, 50_000, 150_000), pillars=(100, 5_000, 12_000))
    assert profile.why_not({"points": 2_000, "pillars": 200}) is None
    counts = {"points": 90, "pillars": 15_035}
    assert profile.why_not(counts) == "points 90 is 910 below 1,000, pillars 15,035 exceeds 12,000 by 3,035"
    message = profiles.why_none([profile], counts)
    assert (
        "of the largest profile; a profile of points 90 to 150,000, pillars 100 to 16,000 would hold"
        in message
    )
    with pytest.raises(InputError, match="there are no shape profiles"):
        profiles.why_none([], counts)


def scene(count, seed=0):
    """Points in rings around the sensor, dense near it, all in range."""
    random = np.random.default_rng(seed)
    distance, angle = random.uniform(1, 60, count), random.uniform(-0.4, 0.4, count)
    points = np.stack(
        [distance * np.cos(angle), distance * np.sin(angle), random.uniform(-2, 0, count), angle], axis=1
    )
    return points.astype(np.float32)


def test_limit_leaves_out_the_farthest_and_says_so():
    points = scene(4_000)
    allowed = only(points=(1, 1_000, 3_000), pillars=(1, 500, 900), groups=(1, 40, 70))
    limited = profiles.limit(points, PROCESSOR, [allowed])
    counts = PROCESSOR.counts(limited.points)
    assert allowed.why_not(counts) is None
    assert limited.left_out == 4_000 - len(limited.points) > 0
    kept = {row.tobytes() for row in limited.points}
    far = np.linalg.norm([row[:3] for row in points if row.tobytes() not in kept], axis=1)
    assert np.linalg.norm(limited.points[:, :3], axis=1).max() <= far.min()
    # One more point would be too much, and the order is kept.
    order = np.argsort(np.linalg.norm(points[:, :3].astype(np.float64), axis=1), kind="stable")
    assert allowed.why_not(PROCESSOR.counts(points[order[: len(limited.points) + 1]])) is not None
    assert [row.tobytes() for row in points if row.tobytes() in kept] == [r.tobytes() for r in limited.points]
    assert f"left out {limited.left_out:,} of 4,000 points, those beyond" in limited.message
    assert "points 4,000 exceeds 3,000 by 1,000" in limited.message and "would hold it" in limited.message


def test_limit_touches_nothing_that_fits():
    points = scene(50)
    wide = only(points=(0, 50, 100))
    assert profiles.limit(points, PROCESSOR, [only(points=(0, 5, 10)), wide]) == (points, 0, None)
    points, left_out, message = profiles.limit(points, PROCESSOR, [only(points=(60, 70, 100))])
    assert len(points) == 50 and left_out == 0 and "50 is 10 below 60" in message


def test_points_that_do_not_count_are_not_left_out():
    points = scene(100)
    points[:7] = np.nan
    points[7:20, 0] = 1_000
    limited = profiles.limit(points, PROCESSOR, [only(points=(0, 40, 50))])
    assert limited.left_out == 30 and "30 of 80 points" in limited.message
    assert PROCESSOR.counts(limited.points)["points"] == 50


def test_an_empty_sweep_fits():
    empty = np.zeros((0, 4), np.float32)
    assert profiles.limit(empty, PROCESSOR, [only(points=(0, 40, 50))]).message is None


def test_histogram_counts_every_value_once():
    for values in ([3, 3, 3], [1, 2, 2, 5], list(range(100, 200)), [0, 10, 100_000], [7, 8]):
        rows = histogram(values)
        assert sum(int(number) for _, number, _ in rows) == len(values)
    (row,) = histogram([5, 5])
    assert row[0] == "5"


@pytest.fixture
def package(classifier):
    """A package that reads sweeps; its graph is never run here."""
    opened = Package.open(classifier)
    manifest = msgspec.structs.replace(opened.manifest, io=IOEntry.of(IO), processor=to_dict(PROCESSOR))
    return amend(opened, manifest)


@pytest.fixture
def sweeps(tmp_path):
    folder = tmp_path / "sweeps" / "velodyne"
    folder.mkdir(parents=True)
    for index, count in enumerate((400, 500, 600)):
        scene(count, seed=index).tofile(folder / f"{index}.bin")
    (folder / "labels.txt").write_text("Car")
    return tmp_path / "sweeps"


def run(*arguments):
    return CliRunner().invoke(app, ["profile-data", *map(str, arguments)])


def test_profiles_are_stored_and_shown(package, sweeps, tmp_path):
    result = run(sweeps, "--package", package.path, "-o", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    assert "█" in result.stdout and "20% headroom" in result.stdout and "stored in" in result.stdout
    (profile,) = Package.open(package.path).profiles
    assert profile.ranges["points"] == Range(200, 500, 720)
    report = json.loads((tmp_path / "report.json").read_text())
    assert [sweep["points"] for sweep in report["sweeps"]] == [400, 500, 600]
    assert report["profiles"][0]["ranges"]["points"] == {"min": 200, "opt": 500, "max": 720}
    assert [file.name for file in package.path.iterdir() if file.name.startswith(".")] == []
    shown = CliRunner().invoke(app, ["inspect", str(package.path)]).stdout
    assert "profile 1" in shown and "points 200 to 720, mostly 500" in shown


def test_unreadable_files_are_named_and_the_rest_is_done(package, sweeps):
    (sweeps / "truncated.bin").write_bytes(bytes(33))
    result = run(sweeps, "--package", package.path, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert len(report["sweeps"]) == 3 and len(Package.open(package.path).profiles) == 1
    assert report["unreadable"][0]["file"].endswith("truncated.bin") and report["unreadable"][0]["reason"]
    shown = run(sweeps / "truncated.bin", "--package", package.path)
    assert shown.exit_code == 1 and "not read: " in shown.stdout and "stored" not in shown.stdout
    assert len(Package.open(package.path).profiles) == 1


def test_bad_use(package, sweeps, tmp_path, classifier):
    existing = tmp_path / "report.json"
    existing.write_text("mine")
    for arguments, message in (
        ([sweeps], "give --package PKG or --arch NAME, one of both"),
        ([sweeps, "--package", package.path, "-o", existing], "exists; choose another name, or --force"),
        ([tmp_path / "nowhere", "--package", package.path], "does not exist"),
        ([classifier, "--package", package.path], "holds nothing to read"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2 and message in " ".join(result.output.split()), result.output
    assert existing.read_text() == "mine"
    assert Package.open(package.path).profiles == ()


def test_a_processor_without_counts():
    with pytest.raises(InputError, match="which the processor tensors does not have"):
        profiles.count(["x.npy"], Tensors(), IO)


def test_profiles_that_are_not_in_order_are_refused(package):
    path = package.path / "manifest.json"
    raw = json.loads(path.read_text())
    entry = {"ranges": {"points": {"min": 5, "opt": 3, "max": 9}}, "share": 1.0}
    for change, message in (
        (entry, r"field profiles\[0\]: a range takes"),
        ({**entry, "share": 2.0}, r"profiles\[0\]\.share: expected float <= 1"),
        (
            {**entry, "ranges": {"a": {"min": 1, "opt": 3, "max": 9}, "b": {"min": 1, "opt": 2}}},
            r"profiles\[0\]\.ranges\['b'\]: object missing required field max",
        ),
    ):
        path.write_text(json.dumps({**raw, "profiles": [change]}))
        with pytest.raises(PackageError, match=message):
            Package.open(package.path)


def test_a_preset_reads_sweeps_too(sweeps):
    pytest.importorskip("torch", reason="an architecture's settings need torch")
    result = run(sweeps, "--arch", "flatformer_tiny", "--json")
    assert result.exit_code == 0, result.output
    assert [each["points"] for each in json.loads(result.stdout)["sweeps"]] == [400, 500, 600]
    result = run(sweeps, "--arch", "x")
    assert result.exit_code == 2 and "unknown architecture 'x'" in result.output


def test_an_architecture_is_its_first_preset_that_reads_the_sweeps(tmp_path):
    pytest.importorskip("torch", reason="an architecture's settings need torch")
    # The Waymo preset takes five columns, and 401 points of four are no whole number of those.
    scene(401, seed=0).tofile(tmp_path / "sweep.bin")
    result = run(tmp_path, "--arch", "flatformer", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["arch"] == "flatformer_kitti"


def test_real_sweeps(shared_data, package):
    result = run(*sorted((shared_data / "lidar").glob("kitti*.bin")), "--package", package.path, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert len(report["sweeps"]) == 3
    found = Package.open(package.path).profiles
    for sweep in report["sweeps"]:
        assert profiles.pick(found, {key: sweep[key] for key in ("points", "pillars", "groups")}) is not None
    full = next(each for each in report["sweeps"] if "360" in each["file"])
    (points,) = PROCESSOR.preprocess(full["file"], IO).values()
    allowed = only(points=(1, 10_000, 20_000), pillars=(1, 1_000, 2_000))
    limited = profiles.limit(points, PROCESSOR, [allowed])
    assert allowed.why_not(PROCESSOR.counts(limited.points)) is None
    assert limited.left_out == full["points"] - len(limited.points) > 0
