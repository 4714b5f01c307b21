"""A really trained model over its denoising: exact replay, and the player of the report in a real browser."""

import io

import pytest
import torch
from PIL import Image, ImageChops, ImageStat
from support.browser import CHROMIUM, CONTRASTS, launched, watch

from dcam_core import Explainer
from dcam_core.results.picture_maps import stretch_map
from dcam_core.results.report.overlay import blend

QUESTION = "describe the picture"


@pytest.fixture(scope="module")
def explanation():
    """Two words of the demo picture's answer, at a few of the steps."""
    explainer = Explainer("tiny-mmada", "grad-cam", overrides=["mask_step=commit"])
    picture = explainer.manager.registries.models.entry("tiny-mmada").metadata["demo_picture"]
    return explainer.explain(picture, QUESTION, ["triangle", "circle"], baselines=(), over_time=5)


def test_the_words_of_a_trained_model_over_time(explanation):
    over_time = explanation.over_time
    assert over_time.steps[0] == 0
    assert over_time.steps[-1] == over_time.taken == len(explanation.steps)
    for index, target in enumerate(explanation.targets):
        at = over_time.steps.index(target.last_step)
        assert float(over_time.probabilities[at, index]) == pytest.approx(target.probability, abs=1e-5)
        torch.testing.assert_close(over_time.raw[at, index], explanation.raw[index], atol=1e-6, rtol=1e-3)
    assert over_time.texts[-1].replace(" ", "") == explanation.answer.replace(" ", "")
    assert "circle" not in over_time.texts[0]
    assert over_time.probabilities[-1].min() > 0.9, "in the finished answer the model is sure of what it said"


@pytest.fixture(scope="module")
def address(explanation, tmp_path_factory):
    return explanation.to_html(tmp_path_factory.mktemp("moving") / "report.html").as_uri()


@pytest.fixture(scope="module")
def chromium():
    with launched() as browser:
        yield browser


@pytest.fixture
def visit(chromium, address):
    """Opens the report; afterwards nothing may have gone wrong or been fetched."""
    contexts, complaints, fetched = [], [], []

    def open_page(width=1280, **options):
        context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        watch(page, complaints, fetched)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url for url in fetched if not url.startswith("data:")} == {address}


browser = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]


def shown(page):
    """The number of the one frame that each card shows, and the words that stand."""
    frames = page.locator(".moving").evaluate_all(
        "all => all.map((card) => [...card.querySelectorAll('.frame')].flatMap((one, i) => one.hidden ? [] : [i]))"
    )
    words = page.locator(".writing .word:not(.blank)").evaluate_all(
        "all => all.map((one) => one.firstChild.data.trim())"
    )
    return frames, words


class TestPlayer:
    pytestmark = browser

    def test_without_a_script_it_shows_the_finished_answer(self, visit, explanation):
        page = visit(java_script_enabled=False)
        assert not page.locator(".controls").is_visible()
        last = len(explanation.over_time.steps) - 1
        for card in page.locator(".moving").all():
            visible = [number for number, one in enumerate(card.locator(".frame").all()) if one.is_visible()]
            assert visible == [last]
        assert page.locator(".writing .blank").count() == 0

    def test_the_keyboard_moves_through_the_steps(self, visit, explanation):
        page = visit()
        over_time = explanation.over_time
        slider = page.get_by_label("Denoising step")
        slider.focus()
        page.keyboard.press("Home")
        assert shown(page) == ([[0], [0]], [])
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        standing = [word.text for word in explanation.words if word.step < over_time.steps[2]]
        assert shown(page) == ([[2], [2]], standing)
        named = f"step {over_time.steps[2]} of {over_time.taken}"
        assert page.locator(".now").inner_text() == slider.get_attribute("aria-valuetext") == named
        value = float(page.locator(".moving .value").first.inner_text().split()[-2].strip("<>"))
        assert value == pytest.approx(100 * float(over_time.probabilities[2, 0]), abs=0.1)
        page.keyboard.press("End")
        assert shown(page)[1] == [word.text for word in explanation.words]

    def test_it_plays_to_the_end_and_can_be_paused(self, visit, explanation):
        page = visit()
        last = len(explanation.over_time.steps) - 1
        page.get_by_role("button", name="Play").click()
        assert shown(page)[0] == [[0], [0]]
        page.get_by_role("button", name="Pause").click()
        page.get_by_role("button", name="Play").click()
        page.get_by_role("button", name="Play").wait_for(timeout=15_000)  # it has come to its end by itself
        assert shown(page)[0] == [[last], [last]]

    def test_who_wants_no_motion_gets_the_slider_alone(self, visit):
        page = visit(reduced_motion="reduce")
        assert page.get_by_label("Denoising step").is_visible()
        assert page.get_by_role("button", name="Play").count() == 0

    def test_heat_has_the_colours_and_places_of_the_overlays(self, visit, explanation):
        """The page enlarges and colours small grey pictures by itself: that must come out as it does in Python."""
        page = visit()
        stage = page.locator(".moving .stage").first
        stage.evaluate("(one) => { one.style.background = '#808080'; one.style.borderRadius = 0; }")
        for number in (0, 2):
            page.get_by_label("Denoising step").fill(str(number))
            with Image.open(io.BytesIO(stage.screenshot())) as taken:
                seen = taken.convert("RGB")
            heat = stretch_map(explanation.over_time.maps[number, 0], seen.size)
            expected = blend(Image.new("RGB", seen.size, "#808080"), heat)
            apart = ImageStat.Stat(ImageChops.difference(seen, expected)).mean
            assert max(apart) < 4, "of 255"
            assert min(ImageStat.Stat(expected).stddev) > 4, "there is something to be seen"

    @pytest.mark.parametrize("width", [320, 768, 2560])
    def test_no_screen_scrolls_sideways(self, visit, width):
        page = visit(width=width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_stands_out(self, visit, scheme):
        page = visit(color_scheme=scheme)
        contrasts = page.evaluate(CONTRASTS)
        assert [entry for entry in contrasts if entry[1] < 4.5] == []
