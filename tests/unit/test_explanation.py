"""Explanation: what it accepts, how targets are found, and the way to disk and back."""

import dataclasses
import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dcam_core.errors import DcamError, SavedExplanationError, TargetError, UsageError
from dcam_core.results.explanation import (
    ExplainedTarget,
    Explanation,
    PictureMaps,
    Word,
    load_explanation,
    peak_cell,
    stretch_map,
)
from dcam_core.results.storage import overlay_name

OLD = (
    Path(__file__).parents[1] / "fixtures/saved/schema-1"
)  # as dcam 0.1.0 saved it before it read several pictures
ANSWER = "a red circle, a red Square and 圆"
STEPS = (0, 2, 1, 0, 3, 4, 5, 6)


def words_of(answer, steps):
    words, start = [], 0
    for position, (text, step) in enumerate(zip(answer.replace(",", "").split(), steps, strict=True)):
        start = answer.index(text, start)
        words.append(Word(text, start, start + len(text), (position,), step))
        start += len(text)
    return tuple(words)


def target(word, *positions, **changes):
    values = {
        "word": word,
        "positions": positions,
        "token_ids": tuple(40 + p for p in positions),
        "tokens": tuple(f"▁{part}" for part in word.split()),
        "commit_steps": tuple(STEPS[p] for p in positions),
        "probed_steps": tuple(STEPS[p] for p in positions),
        "state": "commit",
        "probability": 0.1 + 0.2,  # a float whose shortest decimal is long: it must survive JSON
        "score": -1.25,
    }
    return ExplainedTarget(**(values | changes))


TARGETS = (
    target("red", 1),
    target("red circle", 1, 2),
    target("red", 4),
    target("Square", 5, probed_steps=(None,), state="infill"),
    target("圆", 7, notes=("the map is zero everywhere",)),
)


def make(**changes):
    """An explanation of five targets on a 5 x 7 grid over a 40 x 30 picture, with changes.

    `picture`, `raw` and `maps` change the part of the only picture.
    """
    generator = torch.Generator().manual_seed(1)
    maps = torch.rand(len(TARGETS), 5, 7, generator=generator)
    maps[4] = 0
    pixels = torch.randint(0, 256, (30, 40, 3), dtype=torch.uint8, generator=generator)
    values = {
        "pictures": (PictureMaps(Image.fromarray(pixels.numpy()), maps * 37.5, maps),),
        "prompt": 'What is "there"?\n<b>&',
        "answer": ANSWER,
        "words": words_of(ANSWER, STEPS),
        "targets": TARGETS,
        "settings": {"attribution": {"name": "grad-cam"}, "sampler": {"stop": ("a", "b"), "scale": 0.0}},
        "seed": 11,
        "model": {"name": "tiny", "parameters": 12, "source": None},
        "versions": {"dcam": "0.1.0", "torch": torch.__version__, "plugins": {}},
        "steps": ("▁ ▁", "a ▁"),
    }
    part = {name: changes.pop(name) for name in ("picture", "raw", "maps") if name in changes}
    values["pictures"] = tuple(dataclasses.replace(one, **part) for one in values["pictures"])
    return Explanation(**(values | changes))


def make_one(**changes):
    """The same with one target only: quick to save."""
    return make(targets=TARGETS[:1], maps=torch.ones(1, 5, 7), raw=torch.ones(1, 5, 7), **changes)


def make_two(targets=TARGETS[:2]):
    """Two targets over two pictures: 40 x 30 with a 5 x 7 grid, and 20 x 60 with 6 x 2."""
    first = torch.linspace(0, 1, 5 * 7).view(1, 5, 7).repeat(2, 1, 1)
    second = torch.zeros(2, 6, 2)
    second[1, 4, 1] = 0.25
    return make(
        targets=targets,
        pictures=(
            PictureMaps(Image.linear_gradient("L").resize((40, 30)), 3 * first - 1, first),
            PictureMaps(Image.new("RGB", (20, 60), "navy"), 8 * second, second),
        ),
    )


def assert_same_pictures(before, after):
    for one, other in zip(before.pictures, after.pictures, strict=True):
        assert (one.picture.mode, one.picture.size) == (other.picture.mode, other.picture.size)
        assert one.picture.tobytes() == other.picture.tobytes()
        for name in ("raw", "maps"):
            saved, restored = getattr(one, name), getattr(other, name)
            assert saved.equal(restored)
            assert saved.dtype == restored.dtype == torch.float32


# -- what is accepted --------------------------------------------------------------------------------------


def test_it_keeps_nothing_of_what_it_was_made_from():
    maps, settings, picture = torch.full((5, 5, 7), 0.5), {"a": {"b": [1]}}, Image.new("RGB", (4, 4))
    explanation = make(maps=maps, settings=settings, picture=picture)
    maps.fill_(0)
    settings["a"]["b"].append(2)
    picture.putpixel((0, 0), (9, 9, 9))
    assert explanation.maps.eq(0.5).all()
    assert explanation.settings == {"a": {"b": [1]}}
    assert explanation.picture.getpixel((0, 0)) == (0, 0, 0)


def test_maps_become_float32_on_the_cpu_without_a_graph():
    maps = torch.full((5, 5, 7), 0.5, dtype=torch.float64, requires_grad=True)
    explanation = make(maps=maps, raw=maps.bfloat16())
    assert explanation.maps.dtype == explanation.raw.dtype == torch.float32
    assert not explanation.maps.requires_grad


def test_rounding_beyond_the_range_is_clamped():
    explanation = make(maps=torch.full((5, 5, 7), 1 + 1e-6))
    assert explanation.maps.max() == 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_the_picture_becomes_rgb(mode):
    assert make(picture=Image.new(mode, (4, 3))).picture.mode == "RGB"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"maps": torch.zeros(4, 5, 7)}, r"maps has shape \[4, 5, 7\].*5 targets"),
        ({"maps": torch.zeros(5, 7)}, r"maps has shape \[5, 7\]"),
        ({"raw": torch.zeros(5, 5, 8)}, r"raw maps are \[5, 5, 8\] but maps are \[5, 5, 7\]"),
        ({"maps": torch.full((5, 5, 7), 1.1)}, r"from 1.1 to 1.1.*\[0, 1\]"),
        ({"maps": torch.full((5, 5, 7), -0.1)}, r"from -0.1 to -0.1"),
        ({"raw": torch.full((5, 5, 7), torch.nan)}, "raw of target 'red' holds NaN"),
        ({"raw": torch.zeros(5, 5, 0), "maps": torch.zeros(5, 5, 0)}, "at least one cell"),
        ({"words": (Word("red", 0, 3, (0,), 0),)}, "which is 'a r'"),
        ({"settings": {"sampler": {"eta": float("nan")}}}, "settings.sampler.eta is nan"),
        ({"settings": {"list": [1, torch.float32]}}, r"settings.list\[1\] is torch.float32 \(dtype\)"),
        ({"model": {3: "x"}}, "model has the key 3"),
        ({"pictures": ()}, "at least one picture"),
        ({"pictures": (make_one().pictures[0],) * 2}, r"picture 0: raw has shape \[1, 5, 7\].*5 targets"),
    ],
)
def test_what_does_not_fit_is_refused(changes, complaint):
    with pytest.raises(DcamError, match=complaint):
        make(**changes)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"token_ids": (1, 2)}, "1 positions, 2 token ids"),
        ({"probability": 1.5}, "probability 1.5"),
        ({"probability": float("nan")}, "probability nan"),
        ({"score": float("inf")}, "score inf"),
    ],
)
def test_a_target_that_contradicts_itself_is_refused(changes, complaint):
    with pytest.raises(DcamError, match=complaint):
        target("red", 1, **changes)


def test_a_token_that_was_never_committed_has_no_last_step():
    assert target("red circle", 1, 2).last_step == 2
    assert target("red circle", 1, 2, commit_steps=(3, -1)).last_step is None


# -- finding a target --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        ("red circle", 1),
        ("Red Circle", 1),
        ("square", 3),
        ("圆", 4),
        (2, 2),
        (-1, 4),
        ("red#1", 0),
        ("red#2", 2),
    ],
)
def test_a_target_is_found(wanted, index):
    assert make().index(wanted) == index


def test_labels_find_their_targets():
    explanation = make()
    labels = [explanation.label(i) for i in range(5)]
    assert labels == ["red#1", "red circle", "red#2", "Square", "圆"]
    assert [explanation.index(label) for label in labels] == list(range(5))


def test_occurrences_count_in_the_answer_not_among_the_targets():
    explanation = make(targets=TARGETS[2:3], maps=torch.ones(1, 5, 7), raw=torch.ones(1, 5, 7))
    assert (
        explanation.index("red") == explanation.index("red#2") == explanation.index("red", occurrence=2) == 0
    )
    with pytest.raises(TargetError, match=r"occurrence 1 of 'red' was not explained.*answer position 4"):
        explanation.index("red#1")


def test_the_same_place_twice_is_not_ambiguous():
    explanation = make(targets=(TARGETS[0], TARGETS[0]), maps=torch.ones(2, 5, 7), raw=torch.ones(2, 5, 7))
    assert explanation.index("red") == 0
    assert explanation.label(1) == "red"


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ("dog", r"'dog' was not explained: the targets are 'red#1' \(index 0.*'Square'.*'圆'"),
        ("red", r"'red' is not clear.*'red#1' \(index 0, answer position 1\), 'red#2' \(index 2"),
        ("red#3", "occurrence 3 of 'red'"),
        ("", "'' was not explained"),
        (5, "no target 5"),
        (-6, "no target -6"),
    ],
)
def test_a_target_that_is_not_there_or_not_clear(wanted, complaint):
    explanation = make()
    for method in (explanation.heatmap, explanation.peak, explanation.overlay):
        with pytest.raises(TargetError, match=complaint):
            method(wanted)


# -- maps at the size of the picture -----------------------------------------------------------------------


def test_a_heatmap_covers_the_whole_picture():
    maps = torch.zeros(5, 2, 4)
    maps[0, 0, 0] = 1
    heat = make(maps=maps, raw=maps, picture=Image.new("RGB", (40, 20))).heatmap(0)
    assert heat.shape == (20, 40)
    assert heat.dtype == torch.float32
    # Cells are 10 x 10 pixels: full at and outside the cell's centre, zero from the neighbours' centres on.
    assert heat[:5, :5].eq(1).all()
    assert heat[15:].eq(0).all()
    assert heat[:, 15:].eq(0).all()
    # Between the centres at 4.5 and 14.5 pixels (5 and 15 in edge coordinates) it falls linearly.
    assert heat[0, 5:15] == pytest.approx([(15 - (x + 0.5)) / 10 for x in range(5, 15)], abs=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (7, 5)])
def test_stretched_maps_stay_in_range(size):
    grid = make().maps[0]
    stretched = stretch_map(grid, size)
    assert stretched.shape == size[::-1]
    assert grid.min() <= stretched.min() <= stretched.max() <= grid.max()
    if size == (7, 5):
        assert stretched.equal(grid)


def test_the_peak_is_the_centre_of_the_highest_cell():
    maps = torch.zeros(5, 5, 7)
    maps[0, 3, 2] = 0.5
    explanation = make(maps=maps, picture=Image.new("RGB", (70, 100)))
    assert explanation.peak(0) == (25.0, 70.0)
    assert explanation.peak(1) is None
    assert peak_cell(torch.tensor([[0.0, 0.2], [0.7, 0.7]])) == (1, 0)


def test_its_repr_is_one_short_line():
    text = repr(make())
    assert text.startswith("<Explanation of 'a red circle")
    assert "5 maps of 5 x 7" in text
    assert len(text) < 200


# -- to disk and back --------------------------------------------------------------------------------------


def test_everything_comes_back(tmp_path):
    explanation = make()
    assert explanation.save(tmp_path / "new" / "out") == tmp_path / "new" / "out"
    restored = load_explanation(tmp_path / "new" / "out")
    for field in dataclasses.fields(Explanation):
        before, after = getattr(explanation, field.name), getattr(restored, field.name)
        if field.name == "pictures":
            assert_same_pictures(explanation, restored)
        else:
            assert before == after, field.name
            assert type(before) is type(after)


def test_the_files(tmp_path):
    explanation = make()
    folder = explanation.save(tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == {
        "explanation.json",
        "maps.safetensors",
        "picture.png",
        "report.html",
        "overlay-00-red.png",
        "overlay-01-red-circle.png",
        "overlay-02-red.png",
        "overlay-03-square.png",
        "overlay-04-word.png",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    facts = json.loads((folder / "explanation.json").read_text(encoding="utf-8"))
    assert facts["schema_version"] == 1
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["seed"] == 11
    first = facts["targets"][0]
    assert (first["word"], first["positions"], first["token_ids"]) == ("red", [1], [41])
    assert first["commit_steps"] == [2]
    assert first["raw"]["max"] == explanation.raw[0].max().item()
    assert first["map"]["mean"] == pytest.approx(explanation.maps[0].mean().item())
    row, column = first["map"]["argmax"]
    assert explanation.maps[0, row, column] == first["map"]["max"]
    assert facts["targets"][4]["map"]["argmax"] is None
    with Image.open(folder / first["overlay"]) as overlay:
        assert overlay.mode == "RGB"


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_what_is_saved_can_be_read_by_others_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        folder = make_one().save(tmp_path / "out")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}


def test_an_empty_folder_is_filled_a_full_one_is_left_alone(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    explanation = make_one()
    explanation.save(folder)
    saved = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(SavedExplanationError, match="out is not empty: choose a new folder"):
        explanation.save(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == saved


def test_a_relative_path_a_link_and_a_home_are_followed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert make_one().save("here") == tmp_path / "here"
    assert make_one().save("link") == tmp_path / "real"
    assert make_one().save("~/there") == tmp_path / "there"
    assert load_explanation("link").answer == ANSWER


@pytest.mark.parametrize("place", ["file", "file/out"])
def test_a_place_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SavedExplanationError, match="choose"):
        make_one().save(tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written_stays(tmp_path, monkeypatch, failure):
    """The third file fails: no folder, no temporary folder."""
    written = []

    def save(picture, path, *rest, **options):
        written.append(sorted(entry.name for entry in path.parent.iterdir()))
        raise failure

    monkeypatch.setattr(Image.Image, "save", save)
    expected = SavedExplanationError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left" if isinstance(failure, OSError) else None):
        make_one().save(tmp_path / "out")
    assert written == [["explanation.json", "maps.safetensors"]]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("circle", "overlay-07-circle.png"),
        ("../../etc/passwd", "overlay-07-etc-passwd.png"),
        ("Crème brûlée!", "overlay-07-creme-brulee.png"),
        ("圆", "overlay-07-word.png"),
        ("\0\n", "overlay-07-word.png"),
        ("x" * 400, f"overlay-07-{'x' * 40}.png"),
    ],
)
def test_overlays_have_plain_names(word, name):
    assert overlay_name(7, word) == name


def test_what_an_older_version_saved_is_read_and_written_as_it_was(tmp_path):
    explanation = load_explanation(OLD)
    assert explanation.maps.shape == explanation.raw.shape == (4, 3, 4)
    folder = explanation.save(tmp_path / "again")
    for name in ("explanation.json", "maps.safetensors"):
        assert (folder / name).read_bytes() == (OLD / name).read_bytes(), name
    assert Image.open(folder / "picture.png").tobytes() == Image.open(OLD / "picture.png").tobytes()


# -- several pictures in one prompt ------------------------------------------------------------------------


def test_every_picture_has_its_own_map():
    explanation = make_two()
    assert explanation.heatmap("red circle", picture=0).shape == (30, 40)
    heat = explanation.heatmap("red circle", picture=1)
    assert heat.shape == (60, 20)
    assert heat.equal(explanation.heatmap("red circle", picture=-1))
    # Cells of the second picture are 10 x 10 pixels.
    assert explanation.peak("red circle", picture=1) == (15.0, 45.0)
    assert explanation.peak("red", picture=1) is None
    assert explanation.peak("red", picture=0) is not None
    assert "2 maps of 5 x 7, 6 x 2 over 2 pictures" in repr(explanation)


def test_which_picture_is_meant_must_be_said():
    explanation = make_two()
    for name in ("picture", "raw", "maps"):
        with pytest.raises(UsageError, match=rf"there are 2 pictures .* write pictures\[0\].{name}"):
            getattr(explanation, name)
    for name in ("heatmap", "peak", "figure", "overlay"):
        with pytest.raises(UsageError, match=r"it is not said which is meant.*picture=0"):
            getattr(explanation, name)("red")
        with pytest.raises(UsageError, match="no picture 2: there is pictures 0 to 1"):
            getattr(explanation, name)("red", picture=2)
    with pytest.raises(UsageError, match="no picture 1: there is only picture 0"):
        make().heatmap("square", picture=1)
    assert make().heatmap("square", picture=0).equal(make().heatmap("square"))


def test_shares_of_the_evidence_are_of_its_positive_part():
    explanation = make_two()
    assert explanation.evidence_shares("red") == (1.0, 0.0)
    positive = (3 * torch.linspace(0, 1, 35).double() - 1).clamp(min=0).sum().item()
    expected = (positive / (positive + 2), 2 / (positive + 2))
    assert explanation.evidence_shares("red circle") == pytest.approx(expected, rel=1e-6)
    assert make().evidence_shares("square") == (1.0,)
    assert make().evidence_shares("圆") == (0.0,)


def test_overlays_tell_picture_and_share():
    texts = [text.get_text() for text in make_two().figure("red", picture=1).texts]
    assert texts[0] == "red, picture 1"
    assert texts[1].startswith("0.0 % of the evidence; decided at step 2")


def test_several_pictures_come_back(tmp_path):
    explanation = make_two()
    folder = explanation.save(tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == {
        "explanation.json",
        "maps.safetensors",
        "picture-0.png",
        "picture-1.png",
        "report.html",
        "overlay-00-red-picture-0.png",
        "overlay-00-red-picture-1.png",
        "overlay-01-red-circle-picture-0.png",
        "overlay-01-red-circle-picture-1.png",
    }
    restored = load_explanation(folder)
    assert_same_pictures(explanation, restored)
    assert restored.targets == explanation.targets
    facts = json.loads((folder / "explanation.json").read_text(encoding="utf-8"))
    assert facts["schema_version"] == 2
    assert facts["pictures"][1] == {
        "picture": {"width": 20, "height": 60},
        "grid": {"rows": 6, "columns": 2},
    }
    told = facts["targets"][1]["pictures"]
    assert [one["evidence_share"] for one in told] == list(explanation.evidence_shares(1))
    assert told[1]["overlay"] == "overlay-01-red-circle-picture-1.png"
    assert told[1]["map"]["argmax"] == [4, 1]

    for number, complaint in (
        (1, "'pictures' in explanation.json does not list them"),
        (3, "no picture-2.png"),
    ):
        rewrite(folder, pictures=[facts["pictures"][0]] * number)
        with pytest.raises(SavedExplanationError, match=complaint):
            load_explanation(folder)
    rewrite(folder, pictures=facts["pictures"])
    (folder / "picture-1.png").unlink()
    with pytest.raises(SavedExplanationError, match=r"has no picture-1\.png"):
        load_explanation(folder)


# -- damaged folders ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return make_one().save(tmp_path_factory.mktemp("saved") / "out")


@pytest.fixture
def saved(pristine, tmp_path):
    return Path(shutil.copytree(pristine, tmp_path / "out"))


def rewrite(folder, **changes):
    path = folder / "explanation.json"
    facts = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(
        json.dumps({key: value for key, value in facts.items() if value != "gone"}), encoding="utf-8"
    )


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(SavedExplanationError, match="nothing is not a folder"):
        load_explanation(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["explanation.json", "maps.safetensors", "picture.png"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(SavedExplanationError, match=f"has no {name}"):
        load_explanation(saved)


@pytest.mark.parametrize("name", ["explanation.json", "maps.safetensors", "picture.png"])
def test_a_damaged_file_is_refused(saved, name):
    (saved / name).write_bytes(b"\xff\xfe not what it was")
    with pytest.raises(SavedExplanationError, match="save it again"):
        load_explanation(saved)


def test_pictures_and_the_report_are_not_needed(saved):
    for path in [*saved.glob("overlay-*"), saved / "report.html"]:
        path.unlink()
    assert load_explanation(saved).answer == ANSWER


@pytest.mark.parametrize("version", [0, 3, "1", None])
def test_another_schema_version_is_refused(saved, version):
    rewrite(saved, schema_version=version)
    with pytest.raises(SavedExplanationError, match=f"schema version {version}, this dcam reads 1 and 2"):
        load_explanation(saved)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"seed": "gone"}, "'seed' is missing"),
        ({"answer": "something else"}, "which is"),
        ({"targets": [{"word": "red"}]}, "'positions' is missing"),
        ({"targets": 3}, "damaged"),
        ({"words": [None]}, "damaged"),
        ({"targets": []}, "0 targets"),
    ],
)
def test_facts_that_contradict_each_other_are_refused(saved, changes, complaint):
    rewrite(saved, **changes)
    with pytest.raises(SavedExplanationError, match=complaint):
        load_explanation(saved)


def test_maps_that_lack_one_tensor_are_refused(saved):
    path = saved / "maps.safetensors"
    save_file({"maps": load_file(path)["maps"].clone()}, path)
    with pytest.raises(SavedExplanationError, match="'raw' is missing"):
        load_explanation(saved)
