"""What is kept for `table.html`, and the page as text: whole, the same after a restart, safe whatever a word is."""

import json
import shutil
import zlib
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcam_core.errors import SavedExplanationError
from dcam_core.evaluation import CEILING, EvaluatedSample, RunFolder, UnscoredWord, evaluate, summarise
from dcam_core.evaluation.page import render_page
from dcam_core.evaluation.page.choice import most_telling_first
from dcam_core.evaluation.pictures import LARGEST_MAP, LARGEST_PICTURE, SamplePictures
from dcam_core.plugins import PluginManager
from dcam_core.testing.toy import toy_adapter

PLUGINS = ("dcam_plugins.plugin", "dcam_core.testing.plugin", "support.toy_things")
EVIL = '"><img src=x onerror=alert(1)></script><!--<script>alert(2)</script>{{ 7*7 }}\u2028'


class Page(HTMLParser):
    """A page's elements, its text outside of scripts, and the scripts' content by their type."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.scripts, self._in = [], "", {}, None
        self.feed(text)
        self.data = json.loads(self.scripts["application/json"])

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "script":
            self._in = dict(attributes).get("type", "")

    def handle_endtag(self, tag):
        if tag == "script":
            self._in = None

    def handle_data(self, content):
        if self._in is None:
            self.text += content
        else:
            assert self._in not in self.scripts, "one script and one block of data"
            self.scripts[self._in] = content

    @property
    def scores(self):
        shape = len(self.data["methods"]), len(self.data["metrics"]), len(self.data["words"])
        return np.frombuffer(zlib.decompress(b64decode(self.data["scores"])), "<f4").reshape(shape)


def run(root, out="out", **more):
    """Evaluate the toy on its things; gives the summary and the folder."""
    summary = evaluate(
        toy_adapter(),
        "toy-things",
        ["grad-cam", "hires-cam"],
        root / out,
        dataset_parameters={"root": "."},
        manager=PluginManager(autoload=False, extra=PLUGINS),
        **more,
    )
    return summary, root / out


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A summary and its folder, which tests leave as it is."""
    return run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def out(finished, tmp_path):
    """A copy of the folder, `out` in the test's own."""
    return Path(shutil.copytree(finished[1], tmp_path / "out"))


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- what is kept --------------------------------------------------------------------------------------------


def kept(size=(600, 300), rows=192):
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
    mask = torch.zeros(size[1], size[0], dtype=torch.bool)
    mask[7, 11] = True
    maps = torch.rand(2, rows, 30, generator=torch.manual_seed(0))
    positions, spans = [(3,), (5, 6)], [(0, 4), (9, 12)]
    return SamplePictures.of(
        noise, positions, spans, [mask, None], {"a": maps, f"maps: {EVIL}": maps[:, :9, :7]}
    )


def test_what_is_kept_is_small_and_comes_back(tmp_path):
    pictures = kept()
    (tmp_path / "x.npz").write_bytes(pictures.to_bytes())
    assert pictures.to_bytes() == kept().to_bytes()
    found = SamplePictures.read(tmp_path / "x.npz")
    assert found.picture == pictures.picture
    assert found.picture[:2] == b"\xff\xd8", "noise is smaller as JPEG"
    assert found.size == (LARGEST_PICTURE, LARGEST_PICTURE // 2)
    assert found.positions == ((3,), (5, 6))
    assert found.spans.tolist() == [[0, 4], [9, 12]]
    assert found.maps.keys() == pictures.maps.keys()
    assert found.maps["a"].shape == (2, LARGEST_MAP, 15)
    np.testing.assert_array_equal(found.maps[f"maps: {EVIL}"], pictures.maps[f"maps: {EVIL}"])


def test_a_mask_of_one_pixel_is_still_there_when_small_and_none_is_nowhere():
    masks = kept().masks
    assert masks.shape == (2, 128, 256)
    assert 1 <= masks[0].sum() <= 4
    row, column = np.argwhere(masks[0])[0]
    assert (row, column) == (int(7.5 * 128 / 300), int(11.5 * 256 / 600))
    assert not masks[1].any()


def test_maps_are_rounded_and_no_more():
    maps = torch.rand(1, 6, 5)
    own = SamplePictures.of(Image.new("RGB", (10, 12)), [(0,)], [(0, 1)], [None], {"m": maps})
    np.testing.assert_allclose(own.maps["m"] / 255, maps.numpy(), atol=0.5 / 255 + 1e-6)
    assert own.picture.startswith(b"\x89PNG")
    assert own.size == (10, 12)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.95])
def test_a_damaged_file_is_named(tmp_path, share):
    content = kept().to_bytes()
    (tmp_path / "000007.npz").write_bytes(content[: int(share * len(content))])
    with pytest.raises(SavedExplanationError, match=r"000007\.npz is damaged.*delete it"):
        SamplePictures.read(tmp_path / "000007.npz")


# -- the choice ----------------------------------------------------------------------------------------------


def test_every_number_has_its_worst_best_and_middle_words_before_any_has_more():
    scores = np.array([[5, 1, 2, 3, 4, np.nan, 9, 8], [0, 0, 7, 1, 2, 3, 4, np.nan]], dtype=np.float32)
    order = list(most_telling_first(scores))
    # The first row's worst, best and middle; the second's worst and best (its middle was given); the next of each ...
    assert order == [1, 6, 4, 0, 2, 7, 3, 5]
    assert list(most_telling_first(np.full((2, 3), np.nan, dtype=np.float32))) == [0, 1, 2]


# -- the page ------------------------------------------------------------------------------------------------


def test_the_page_has_every_number_and_every_word(finished):
    summary, out = finished
    page = Page((out / "table.html").read_text())
    assert page.data["methods"] == ["grad-cam", "hires-cam", "centre-prior", "random-map", CEILING]
    lines = [json.loads(line) for line in (out / "words.jsonl").read_text().splitlines()]
    assert len(page.data["words"]) == summary.words == len(lines) / 5
    for method, name in enumerate(page.data["methods"]):
        own = [row for row in lines if row["method"] == name]
        for metric, label in enumerate(summary.metrics):
            expected = [row["scores"][label] for row in own]
            np.testing.assert_allclose(page.scores[method, metric], np.array(expected, float), rtol=1e-6)
            estimate = summary.methods[name][label]
            assert f"{estimate.mean:.3f}" in page.text
            assert np.nanmean(page.scores[method, metric]) == pytest.approx(estimate.mean, abs=1e-5)
    links = {values["href"] for tag, values in page.elements if tag == "a" and "href" in values}
    width = len(summary.metrics)
    assert links == {f"#mean-{m}-{k}" for m in range(5) for k in range(width)} | {
        f"#difference-{m}-{k}" for m in range(1, 5) for k in range(width)
    }
    for word in page.data["words"]:
        answer = page.data["samples"][word["sample"]]["answer"]
        start, stop = word["drawn"]["span"]
        assert answer[start:stop] == word["text"]
        assert all(word["drawn"]["grids"])


def test_maps_in_the_page_are_those_that_were_kept(finished):
    _, out = finished
    page = Page((out / "table.html").read_text())
    pictures = SamplePictures.read(out / "pictures/000000.npz")
    words = [word for word in page.data["words"] if word["sample"] == 0]
    assert len(words) == len(pictures.positions) > 1
    for place, word in enumerate(words):
        content = zlib.decompress(b64decode(word["drawn"]["pack"]))
        parts = [pictures.masks[place], *(pictures.maps[name][place] for name in page.data["methods"])]
        assert content == b"".join(part.astype(np.uint8).tobytes() for part in parts)


def test_a_run_that_was_cut_off_ends_with_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("dcam_core.evaluation.sample.time.perf_counter", lambda: 0.0)
    _, whole = run(tmp_path, "whole")
    cut = Path(shutil.copytree(whole, tmp_path / "cut"))
    ledger = cut / "samples.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:2]))
    (cut / "pictures/000003.npz").rename(cut / "pictures/000003.npz.part")
    (cut / "pictures/000002.npz").write_bytes(b"cut off")
    (cut / "table.html").unlink()
    run(tmp_path, "cut")
    assert files(cut) == files(whole)
    assert {name for name in files(whole) if name.startswith("pictures")} == {
        f"pictures/{index:06d}.npz" for index in range(4)
    }


def test_the_page_of_a_finished_run_is_made_from_its_folder_alone(out, monkeypatch):
    before = files(out)
    (out / "table.html").unlink()

    def refuse(*_, **__):
        raise AssertionError("a sample was evaluated")

    monkeypatch.setattr("dcam_core.evaluation.sample.SampleEvaluator.evaluate", refuse)
    run(out.parent)
    assert files(out) == before


def test_without_pictures_the_numbers_are_the_same_and_the_page_says_what_is_missing(finished, tmp_path):
    summary, out = run(tmp_path, "bare", pictures=False)
    page = Page((out / "table.html").read_text())
    assert not (out / "pictures").exists()
    assert all(word["drawn"] is None for word in page.data["words"])
    assert f"Pictures: 0 of {summary.words} words; of the others none were kept" in page.text
    assert summary.methods == finished[0].methods
    # Numbers do not depend on pictures, so the folder of a run without them may be asked for as one with them.
    assert run(tmp_path, "bare")[0].methods == summary.methods


def test_pictures_keep_to_a_budget_and_the_page_says_so(finished):
    summary, out = finished
    request = json.loads((out / "run.json").read_text())["request"]
    whole = Page((out / "table.html").read_text())
    costs = [len(word["drawn"]["pack"]) for word in whole.data["words"]]
    text = render_page(summary, RunFolder(out, request), request, budget=sum(costs) // 2)
    page = Page(text)
    drawn = [word for word in page.data["words"] if word["drawn"]]
    assert 0 < len(drawn) < summary.words
    assert sum(len(word["drawn"]["pack"]) for word in drawn) <= sum(costs) // 2
    assert {word["sample"] for word in drawn} == {
        number for number, sample in enumerate(page.data["samples"]) if sample["picture"]
    }
    assert f"Pictures: {len(drawn)} of {summary.words} words, so that the page can be sent" in page.text


def test_a_lost_file_of_pictures_leaves_a_page_and_a_damaged_one_is_named(out):
    path = out / "pictures/000001.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SavedExplanationError, match="000001"):
        run(out.parent)
    path.unlink()
    run(out.parent)
    page = Page((out / "table.html").read_text())
    assert [sample["picture"] is None for sample in page.data["samples"]].count(True) == 1


# -- whatever a text is --------------------------------------------------------------------------------------


def hostile(tmp_path):
    """A run in which every text that comes from outside is hostile; one word has no mask, one no score."""
    request = {"model": EVIL, "methods": {EVIL: {"a": EVIL}}, "versions": {EVIL: EVIL}}
    folder = RunFolder(tmp_path / "run", request)
    facts = {"samples": 2, "left_out_of_the_dataset": {"its mask is empty": 1}}
    folder.settle({**facts, "methods": {EVIL: {EVIL: [EVIL]}}})
    positions, maps = [(0,), (1,)], torch.rand(2, 3, 4)
    mask = torch.zeros(9, 12, dtype=torch.bool)
    mask[2:5, 3:6] = True
    pictures = SamplePictures.of(
        Image.new("RGB", (12, 9)), positions, [(0, len(EVIL)), (len(EVIL) + 1, 2 * len(EVIL) + 1)], [mask, None],
        {EVIL: maps, "b": maps},
    )  # fmt: skip
    rows = tuple(
        {
            "sample": EVIL,
            "method": method,
            "word": EVIL,
            "positions": list(own),
            "object": EVIL,
            "scores": {EVIL: 0.25 if own == (0,) else None, "lower": 2.5},
            "probability": None,
        }
        for method in (EVIL, "b")
        for own in positions
    )
    unscored = (UnscoredWord(EVIL, (7,), EVIL),)
    folder.add(0, EvaluatedSample(EVIL, f"{EVIL} {EVIL}", unscored, rows, {EVIL: 1.0}, pictures=pictures))
    folder.skip(1, EVIL)
    summary = summarise(
        folder.rows, folder.samples, 1, model=EVIL, dataset=EVIL, methods=[EVIL, "b"],
        metrics={EVIL: True, "lower": False},
    )  # fmt: skip
    return render_page(summary, folder, request)


def test_texts_are_escaped_wherever_they_come_from(tmp_path):
    text = hostile(tmp_path)
    page = Page(text)
    assert len(page.scripts) == 2
    assert [values for tag, values in page.elements if tag == "img"] == [{"alt": ""}]
    assert not any(name.startswith("on") for _, values in page.elements for name in values)
    assert "49" not in page.text
    assert page.data["words"][0]["text"] == page.data["methods"][0] == page.data["samples"][0]["key"] == EVIL
    for place in ("h1", "th", "td", "option"):
        assert f"<{place}>{EVIL}" not in text
    policy = next(values["content"] for _, values in page.elements if "http-equiv" in values)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe-inline" not in policy.split("script-src")[1]


def test_a_word_without_a_mask_and_one_without_a_score(tmp_path):
    page = Page(hostile(tmp_path))
    assert [word["drawn"]["masked"] for word in page.data["words"]] == [True, False]
    assert page.scores[0, 0, 0] == 0.25
    assert np.isnan(page.scores[:, 0, 1]).all()
    assert "1 word without a score" in page.text


def test_nothing_is_fetched_from_anywhere(finished):
    text = (finished[1] / "table.html").read_text()
    assert "http:" not in text
    assert "https:" not in text
    page = Page(text)
    assert not [values for _, values in page.elements if values.get("src")]
    assert {values["href"] for tag, values in page.elements if tag == "link"} == {"data:,"}
    assert "@import" not in text
    assert "url(" not in text
