"""Which folders are recognised as what, and what the error says of the others."""

import pytest

from edgetx.dataset.folders import labelled, pairs
from edgetx.errors import InputError


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.mark.parametrize(
    "low",
    [
        "LR_bicubic/X2/{}x2.png",
        "LR/X2/{}_x2.png",
        "LRbicx2/{}.png",
        "LR_x2/{}.jpg",
        "lr/{}.png",
        "lq/{}.png",
        "input/{}_LR.png",
        "DIV2K_valid_LR_bicubic/X2/{}X2.PNG",
    ],
)
@pytest.mark.parametrize("high", ["HR/{}.png", "gt/{}.png", "Target/{}_HR.png", "DIV2K_valid_HR/{}.png"])
def test_layouts(tmp_path, high, low):
    names = ("baby", "max2", "0801")
    folder = touch(tmp_path, *(role.format(name) for role in (high, low) for name in names))
    found, alone = pairs(folder, 2)
    assert not alone
    assert [pair.name.removesuffix("_HR") for pair in found] == ["0801", "baby", "max2"]
    assert all(pair.low == folder / low.format(pair.name.removesuffix("_HR")) for pair in found)


def test_the_packages_scale_chooses(tmp_path):
    names = [f"LR_bicubic/X{scale}/baby{f'x{scale}'}.png" for scale in (2, 3, 4)]
    folder = touch(tmp_path, "HR/baby.png", *names)
    for scale in (2, 3, 4):
        ((pair,), _) = pairs(folder, scale)
        assert pair.low.name == f"babyx{scale}.png"


def test_scale_one(tmp_path):
    folder = touch(tmp_path, "target/rain-1.png", "input/rain-1.png")
    ((pair,), alone) = pairs(folder, 1)
    assert (pair.low, pair.high) == (folder / "input" / "rain-1.png", folder / "target" / "rain-1.png")
    assert not alone


def test_pictures_without_a_partner_are_told(tmp_path):
    folder = touch(tmp_path, "HR/a.png", "HR/b.png", "LR/a.png", "LR/c.png", "LR/notes.txt", "LR/.d.png")
    found, alone = pairs(folder, 2)
    assert [pair.name for pair in found] == ["a"]
    assert [path.name for path in alone] == ["b.png", "c.png"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "no folders: no folder with pictures of high .HR, GT"),
        (("HR/a.png",), r"no folder with pictures of low \(LR_bicubic/X2, LRbicx2,"),
        (("HR/a.png", "LR_bicubic/X4/ax4.png"), "holds HR/, LR_bicubic/: no folder .* for scale 2"),
        (("HR/a.png", "LR/b.png"), "no picture of .*HR has a partner in .*a.png against b.png"),
        (("HR/a.png", "HR/a.jpg", "LR/a.png"), "would both be the picture 'a'"),
        (("t_HR/a.png", "v_HR/a.png", "LR/a.png"), "holds t_HR and v_HR, which both fit HR"),
    ],
)
def test_other_folders(tmp_path, names, message):
    with pytest.raises(InputError, match=message):
        pairs(touch(tmp_path, *names), 2)


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        pairs(tmp_path / "none", 2)
    with pytest.raises(InputError, match="is a file"):
        labelled(touch(tmp_path, "file") / "file", None, None)


def test_labels_synonyms_and_indices(tmp_path):
    labels = ("tench, Tinca tinca", "crane, machine", "crane, bird", "ice-cream")
    touch(tmp_path, "tinca_tinca/1.png", "crane, bird/2.jpg", "ICE cream/3.png", "1/4.png", "empty/x.txt")
    found = labelled(tmp_path, labels, 4)
    assert {item.name: item.label for item in found} == {
        "tinca_tinca/1.png": 0,
        "crane, bird/2.jpg": 2,
        "ICE cream/3.png": 3,
        "1/4.png": 1,
    }


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("crane", ("crane, machine", "crane, bird"), "an index from 0 to 1 or a label such as"),
        ("7", ("red", "green"), "an index from 0 to 1"),
        ("red", None, "has no labels, so give an index from 0 to 1"),
    ],
)
def test_folders_that_name_no_class(tmp_path, name, labels, message):
    with pytest.raises(InputError, match=f"{name} names no class of the model.*{message}"):
        labelled(touch(tmp_path, f"{name}/1.png"), labels, 2)


def test_no_classes(tmp_path):
    with pytest.raises(InputError, match="no sub-folder with pictures"):
        labelled(touch(tmp_path, "1.png"), None, 2)
