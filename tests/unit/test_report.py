"""Overlays and the report page: colours, alignment, escaping, and that nothing is fetched from anywhere."""

import base64
import dataclasses
import hashlib
import io
import re
import subprocess
import sys
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from dcam_core.errors import SavedExplanationError
from dcam_core.results.explanation import ExplainedTarget, Explanation, PictureMaps, Word, stretch_map
from dcam_core.results.report.html import render_fragment, render_report
from dcam_core.results.report.overlay import (
    blend,
    display_picture,
    display_size,
    heat_layer,
    heat_palette,
    overlay_figure,
    percent,
    rasterise,
)

EVIL = '"><img src=x onerror=alert(1)></script><script>alert(2)</script>{{ 7*7 }}'


def scene():
    picture = Image.new("RGB", (96, 64), "#8899aa")
    ImageDraw.Draw(picture).ellipse((10, 10, 40, 40), fill="#cc2222")
    return picture


def target(word, *positions, step=2, **changes):
    count = len(positions)
    values = {
        "word": word,
        "positions": positions,
        "token_ids": tuple(range(70, 70 + count)),
        "tokens": tuple(f"▁t{p}" for p in positions),
        "commit_steps": (step,) * count,
        "probed_steps": (step,) * count,
        "state": "commit",
        "probability": 0.973,
        "score": 4.5,
    }
    return ExplainedTarget(**(values | changes))


def make(**changes):
    """ "a red circle, a red dog" with maps for both "red", for "red circle", and an empty one for "dog"."""
    maps = torch.zeros(4, 4, 6)
    maps[:3, 1, 1] = 1.0
    answer = "a red circle, a red dog"
    spans = [(m.start(), m.end()) for m in re.finditer(r"\w+|,", answer)]
    steps = (0, 2, 1, 5, None, 3, 4)
    words = tuple(
        Word(answer[start:stop], start, stop, (i,), steps[i]) for i, (start, stop) in enumerate(spans)
    )
    values = {
        "pictures": (PictureMaps(scene(), maps, maps),),
        "prompt": "What is there?",
        "answer": answer,
        "words": words,
        "targets": (
            target("red", 1),
            target("red circle", 1, 2, probed_steps=(2, 1)),
            target("red", 5, state="infill", probed_steps=(None,)),
            target("dog", 6, commit_steps=(-1,), probability=0.0, notes=("the map is zero everywhere",)),
        ),
        "settings": {"attribution": {"name": "grad-cam"}, "refiners": {}, "sampler": {"guidance": None}},
        "seed": 3,
        "model": {"name": "tiny"},
        "versions": {"dcam": "0.1.0"},
        "steps": ("▁ ▁", "a ▁", "a red"),
    }
    part = {name: changes.pop(name) for name in ("picture", "raw", "maps") if name in changes}
    values["pictures"] = tuple(dataclasses.replace(one, **part) for one in values["pictures"])
    return Explanation(**(values | changes))


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text inside each kind of element."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "input"):
            self.open.append((tag, (dict(attributes).get("class") or "").split(" ")[0]))

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self.handle_data(" ")
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for tag, kind in set(self.open):
            key = f"{tag}.{kind}" if kind else tag
            self.text[key] = self.text.get(key, "") + data

    def all(self, tag, kind=None):
        return [
            values
            for name, values in self.elements
            if name == tag and (kind is None or kind in (values.get("class") or "").split())
        ]


# -- colours and overlays ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "text"),
    [(0.0, "0.0 %"), (1e-6, "< 0.1 %"), (0.9731, "97.3 %"), (0.99999, "> 99.9 %"), (1.0, "100.0 %")],
)
def test_percent(probability, text):
    assert percent(probability) == text


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((96, 96), (480, 480)),
        ((96, 64), (480, 320)),
        ((1, 1), (480, 480)),
        ((479, 100), (958, 200)),
        ((480, 300), (480, 300)),
        ((1024, 10), (1024, 10)),
        ((4000, 3000), (1024, 768)),
        ((5, 50_000), (1, 1024)),
    ],
)
def test_display_size(size, shown):
    assert display_size(*size) == shown


def test_colours_grow_lighter_and_more_opaque_with_the_map():
    palette = heat_palette().astype(float)
    assert palette.shape == (256, 4)
    luminance = palette[:, :3] / 255
    luminance = np.where(luminance <= 0.04045, luminance / 12.92, ((luminance + 0.055) / 1.055) ** 2.4)
    luminance = luminance @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(luminance) > -1e-3).all()
    assert luminance[-1] - luminance[0] > 0.7
    assert (np.diff(palette[:, 3]) >= 0).all()
    assert palette[0, 3] == 0
    assert 200 < palette[-1, 3] < 255  # the picture shows through even at 1


def test_without_heat_the_picture_is_untouched_and_with_heat_red_exceeds_blue():
    picture = scene()
    assert blend(picture, torch.zeros(64, 96)).tobytes() == picture.tobytes()
    heat = torch.zeros(64, 96)
    heat[20, 50] = 0.6
    red, _, blue = blend(picture, heat).getpixel((50, 20))
    assert red > blue + 60
    assert blend(picture, heat).getpixel((20, 50)) == picture.getpixel((20, 50))


def test_a_layer_survives_png():
    heat = torch.linspace(0, 1, 256).reshape(16, 16)
    buffer = io.BytesIO()
    heat_layer(heat).save(buffer, "PNG", optimize=True)
    pixels = np.asarray(Image.open(buffer).convert("RGBA")).reshape(256, 4)
    np.testing.assert_array_equal(pixels, heat_palette())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_layer_of_any_floating_dtype(dtype):
    heat = torch.tensor([[0.0, 0.5, 1.0]], dtype=dtype)
    assert list(np.asarray(heat_layer(heat)).ravel()) == [0, 128, 255]


def test_the_figure_shows_the_blended_picture_pixel_by_pixel():
    picture = scene()
    size = display_size(*picture.size)
    heat = stretch_map(make().maps[0], size)
    drawn = rasterise(overlay_figure(picture, heat, "circle", "decided at step 2"))
    assert drawn.mode == "RGB"
    assert drawn.size == (480 + 24 + 86, 320 + 24 + 70)
    inside = drawn.crop((24, 70, 24 + 480, 70 + 320))
    assert inside.tobytes() == blend(display_picture(picture, size), heat).tobytes()


def test_the_colour_bar_shows_what_lies_on_the_picture():
    drawn = np.asarray(rasterise(overlay_figure(scene(), torch.zeros(320, 480), "x")))
    bar = drawn[70 : 70 + 320, 24 + 480 + 20 + 7].astype(int)
    top, bottom = bar[4], bar[-4]
    assert top[0] > 200
    assert top[1] > 200
    assert top[2] < 200
    assert abs(bottom - 0xB9).max() < 16  # transparent at 0: the grey beneath
    assert drawn[75:400, 24 + 480 + 20 + 16 : -4].min() < 120  # the numbers beside it


@pytest.mark.parametrize(
    "word", ["$x^2$", "$", "\\frac", "圆 猫", "🐈", "a\nb\tc", "a" * 500, "", "مرحبا", "{0} %s _^"]
)
def test_any_word_can_be_a_title(word):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = np.asarray(rasterise(overlay_figure(scene(), torch.zeros(320, 480), word, "caption")))
    assert (drawn[:, -6:] == 255).all()  # nothing runs over the edge
    assert (drawn[12:44].min() < 128) == bool(word)


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (1, 1), (2000, 3)])
def test_narrow_pictures(size):
    explanation = make(picture=Image.new("RGB", size, "navy"))
    assert min(explanation.overlay("dog").size) > 200
    assert 'alt="Heat map of “dog”' in render_report(explanation)


def test_overlay_names_the_occurrence_step_and_probability():
    texts = [text.get_text() for text in make().figure("red#2").texts]
    assert texts == ["red#2", "decided at step 2, probability 97.3 %"]
    assert make().figure("dog").texts[1].get_text() == "not decided in this run, probability 0.0 %"


def test_neither_pyplot_nor_matplotlib_is_imported_before_it_is_needed():
    code = (
        "import sys, dcam_core.results.explanation; assert 'matplotlib' not in sys.modules\n"
        "import dcam_core.results.report.html; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- the page ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page():
    return Page(render_report(make()))


def test_all_pictures_are_inside_the_page_and_described(page):
    images = page.all("img")
    assert len(images) == 1 + 4
    sizes = []
    for image in images:
        head, _, data = image["src"].partition(",")
        assert head == "data:image/png;base64"
        sizes.append(Image.open(io.BytesIO(base64.b64decode(data, validate=True))).size)
    assert sizes == [(480, 320)] + [(320, 213)] * 4
    alts = [image["alt"] for image in images]
    assert alts[0] == "The picture that was explained, 96 by 64 pixels"
    assert alts[1] == "Heat map of “red#1” over the picture, strongest at x 24, y 24"
    assert alts[4] == "Heat map of “dog” over the picture, empty"


def test_nothing_is_fetched_from_anywhere():
    text = re.sub(r"data:image/png;base64,[\w+/=]+", "DATA", render_report(make()))
    assert text.count("DATA") == 1 + 1 + 4  # the picture, the same behind the cards, the maps
    assert re.findall(r"https?:|\s(?:src|href)=\"(?!DATA|#|data:,)|//\w|@import|url\((?!DATA)", text) == []


def test_the_policy_allows_the_scripts_own_text_and_no_other(page):
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.text["script"].encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}';" in policy
    assert "img-src data:;" in policy


def test_every_word_with_a_map_leads_to_its_card(page):
    ids = [values["id"] for _, values in page.elements if "id" in values]
    assert len(ids) == len(set(ids))
    links = [link["href"] for link in page.all("a")]
    assert {link[1:] for link in links} <= set(ids)
    # The first "red" has a map of its own and shares one with "circle", which leads there.
    assert [link.rsplit("-", 1)[1] for link in links] == ["0", "1", "2", "3"]
    assert [card["id"].rsplit("-", 1)[1] for card in page.all("article")] == ["0", "1", "2", "3"]
    assert len(page.all("span", "word")) == 3  # "a", ",", "a"


def test_the_answer_is_whole_and_steps_are_written_beside_its_words(page):
    written = page.text["p.answer"]
    steps = re.sub(r"\s+", " ", page.text["small"]).strip()
    assert steps == "step 0 step 2 step 1 step 3 step 4"  # none at the comma, none where it was not recorded
    assert re.sub(r" step \d", "", written) == "a red circle, a red dog"


def test_cards_tell_the_facts(page):
    assert re.findall(r"red#\d|red circle|dog", page.text["h3"]) == ["red#1", "red circle", "red#2", "dog"]
    facts = page.text["dd"]
    for fact in (
        "step 2",
        "97.3 %",
        "commit: steps 1, 2",
        "infill",
        "x 24, y 24 px",
        "nowhere",
        "not in this run",
    ):
        assert fact in facts
    assert page.text["p.note"] == "the map is zero everywhere"


def test_settings_are_written_as_on_the_command_line(page):
    rows = re.findall(r"\S+", page.text["table"])
    for key, value in (("attribution.name", "grad-cam"), ("refiners", "{}"), ("sampler.guidance", "null")):
        assert rows[rows.index(key) + 1] == value
    assert rows[rows.index("seed") + 1] == "3"
    assert len(page.all("li")) == 3


def test_many_replayed_steps_are_summed_up():
    explanation = make(
        targets=(target("red", 1, state="all", probed_steps=tuple(range(16))),),
        maps=torch.zeros(1, 4, 6),
        raw=torch.zeros(1, 4, 6),
    )
    text = Page(render_report(explanation)).text
    assert "all: 16 steps, 0 to 15" in text["dd"]
    assert "Heat map" in text["h2"]


def test_texts_are_escaped_wherever_they_come_from():
    explanation = make(
        prompt=EVIL,
        answer=EVIL,
        words=(Word(EVIL, 0, len(EVIL), (0,), 1),),
        targets=(target(EVIL, 0, tokens=(EVIL,), state=EVIL, notes=(EVIL,)),),
        maps=torch.ones(1, 4, 6),
        raw=torch.ones(1, 4, 6),
        settings={EVIL: EVIL},
        model={EVIL: [EVIL]},
        steps=(EVIL,),
    )
    page = Page(render_report(explanation))
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 2
    assert not any(name.startswith("on") for _, values in page.elements for name in values)
    for place in ("p.prompt", "p.note", "code", "li", "th", "td", "h3"):
        assert EVIL in page.text[place], place
    assert all(image["alt"] for image in page.all("img"))


def test_it_is_a_page_for_everyone(page):
    assert page.all("html")[0]["lang"] == "en"
    assert [len(page.all(tag)) for tag in ("main", "header", "h1")] == [1, 1, 1]
    assert "width=device-width" in str(page.all("meta"))
    ids = {values["id"] for _, values in page.elements if "id" in values}
    assert {values["aria-labelledby"] for _, values in page.elements if "aria-labelledby" in values} <= ids


# -- several pictures --------------------------------------------------------------------------------------


def several():
    """The four targets over two pictures; the evidence of "dog" alone lies in the second, which is upright."""
    second = torch.zeros(4, 6, 3)
    second[3, 4, 1] = 0.5
    parts = (*make().pictures, PictureMaps(Image.new("RGB", (48, 96), "navy"), 3 * second, second))
    return make(pictures=parts)


def test_the_pictures_of_a_word_stand_side_by_side():
    page = Page(render_report(several()))
    images = page.all("img")
    assert len(images) == 2 + 4 * 2
    assert images[1]["alt"] == "Picture 1 that was explained, 48 by 96 pixels"
    assert images[2]["alt"] == "Heat map of “red#1” over picture 0, strongest at x 24, y 24"
    assert images[3]["alt"] == "Heat map of “red#1” over picture 1, empty"
    assert images[9]["alt"] == "Heat map of “dog” over picture 1, strongest at x 24, y 72"
    sizes = [
        Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))).size for image in images
    ]
    assert sizes[:4] == [(480, 320), (240, 480), (320, 213), (160, 320)]
    behind = [stage["style"] for stage in page.all("div", "view")]
    assert [re.search(r"var\(--picture-(\d)\)", style)[1] for style in behind] == list("01") * 5


def test_shares_and_the_strongest_place_name_their_picture():
    page = Page(render_report(several()))
    assert "Picture 0: 100.0 % of the evidence" in page.text["p.share"]
    assert re.findall(r"Picture 1: ([\d.]+) %", page.text["p.share"]) == ["0.0", "0.0", "0.0", "100.0"]
    assert "picture 1, x 24, y 72 px" in page.text["dd"]
    assert len(page.all("span", "peak")) == 4  # one for each word, not one for each picture


def test_several_pictures_are_inside_the_page_once():
    text = re.sub(r"data:image/png;base64,[\w+/=]+", "DATA", render_report(several()))
    assert text.count("DATA") == 2 * 2 + 4 * 2
    assert "The maps of a word share one scale" in text
    assert "The maps of a word share one scale" not in render_report(make())


def test_the_same_explanation_gives_the_same_page():
    assert render_report(make()) == render_report(make())


def test_a_fragment_for_notebooks_has_its_style_and_no_script():
    explanation = make()
    page = Page(explanation._repr_html_())
    assert explanation._repr_html_() == render_fragment(explanation)
    assert not page.all("script")
    assert not page.all("html")
    assert not page.all("input")
    assert len(page.all("style")) == 1
    assert len(page.all("img")) == 5
    other = Page(render_fragment(make(maps=torch.ones(4, 4, 6))))
    assert {card["id"] for card in page.all("article")}.isdisjoint(
        card["id"] for card in other.all("article")
    )


def test_to_html(tmp_path):
    explanation = make(prompt="圆?")
    path = explanation.to_html(tmp_path / "page.html")
    assert path.read_text(encoding="utf-8") == render_report(explanation)
    with pytest.raises(SavedExplanationError, match=r"missing/page.html: No such file"):
        explanation.to_html(tmp_path / "missing" / "page.html")
