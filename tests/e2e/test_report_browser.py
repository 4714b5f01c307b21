"""The report in a real browser: it fetches nothing, fits every screen, and its words lead to their maps."""

import re

import pytest
import torch
from PIL import Image, ImageDraw
from support.browser import CHROMIUM, CONTRASTS, launched, watch

from dcam_core.results.explanation import ExplainedTarget, Explanation, PictureMaps, VisualReliance, Word
from dcam_core.results.reliance import WordReliance

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install dcam[dev]"
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]


def make(*more):
    """A red circle and a blue square, a map for each, and a word too long for any screen.

    Args:
        more: further pictures of the same prompt, (width, height); the evidence for "square" lies in the last.
    """
    long = "antidisestablishmentarianism" * 4
    parts_of_answer = [("red", 0), ("circle", 1), ("blue", 3), ("square", 2), (long, None)]
    answer = " ".join(text for text, _ in parts_of_answer)
    words = tuple(
        Word(text, answer.index(text), answer.index(text) + len(text), (i,), step)
        for i, (text, step) in enumerate(parts_of_answer)
    )
    picture = Image.new("RGB", (96, 72), "#98a0a8")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((8, 8, 40, 40), fill="#c42b2b")
    draw.rectangle((60, 40, 88, 64), fill="#2b4bc4")
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(12.0), indexing="ij")
    maps = torch.stack(
        [torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 4) for x, y in ((2.5, 2.5), (9, 6), (5, 5))]
    )
    targets = tuple(
        ExplainedTarget(text, (i,), (i,), (f"▁{text}",), (step,), (step,), "commit", 0.9, 1.5, notes)
        for text, i, step, notes in (
            ("circle", 1, 1, ()),
            ("square", 3, 2, ("a remark",)),
            (long, 4, 3, ()),
        )
    )
    if more:
        maps[1] *= 0.05
    parts = [PictureMaps(picture, maps, maps)]
    for size in more:
        other = torch.zeros(3, 7, 5)
        other[1, 5, 2] = 1.0 if size == more[-1] else 0.0
        parts.append(PictureMaps(Image.new("RGB", size, "#2b4bc4"), other, other))
    return Explanation(
        pictures=tuple(parts),
        prompt="What is there?",
        answer=answer,
        words=words,
        targets=targets,
        settings={"a" * 60: "b" * 200},
        seed=0,
        model={"name": "tiny"},
        versions={"dcam": "0"},
        steps=("▁ " * 40, answer),
        reliance=VisualReliance(
            ("mean-colour", "a" * 80),
            0.7,
            tuple(
                WordReliance(text, (i,), -0.1, (-nats, -nats))
                for i, ((text, _), nats) in enumerate(
                    zip(parts_of_answer, (0.2, 5, 0.3, 4, 0.4), strict=True)
                )
            ),
        ),
    )


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    """Of the report about one picture, and of one about three in one prompt."""
    folder = tmp_path_factory.mktemp("report")
    reports = {"one": make(), "three": make((60, 100), (300, 40))}
    return {name: report.to_html(folder / f"{name}.html").as_uri() for name, report in reports.items()}


@pytest.fixture(scope="module")
def browser():
    with launched() as chromium:
        yield chromium


@pytest.fixture
def visit(browser, addresses):
    """Opens a report; afterwards nothing may have gone wrong or been fetched."""
    contexts, complaints, visited = [], [], []

    def open_page(width=1280, height=900, report="one", **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        watch(page, complaints, fetched)
        page.goto(addresses[report])
        visited.append(addresses[report])
        return page

    fetched = []
    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in fetched if not url.startswith("data:")] == visited


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_all_pictures_are_decoded_and_words_lead_to_their_maps(visit, script):
    page = visit(java_script_enabled=script)
    images = page.locator("img").all()
    assert len(images) == 4
    for image in images:
        assert image.evaluate("async (image) => { await image.decode(); return image.naturalWidth }") > 0
        assert image.is_visible()
    assert page.locator(".strength").is_visible() == script
    for word in ("square", "circle"):
        page.get_by_role("link", name=word).click()
        card = page.get_by_role("article", name=word)
        playwright.expect(page).to_have_url(re.compile(f"#{card.get_attribute('id')}$"))
        playwright.expect(card.get_by_role("img")).to_be_in_viewport(ratio=0.9)


def test_heat_lies_exactly_on_the_picture(visit):
    page = visit()
    for stage in page.locator(".stage").all():
        box, inner = stage.bounding_box(), stage.locator("img").first.bounding_box()
        assert inner == pytest.approx(box, abs=0.6)
        assert box["width"] / box["height"] == pytest.approx(96 / 72, rel=0.01)


def test_pointing_at_a_word_or_tabbing_to_it_previews_its_map(visit):
    page = visit()
    hero = page.locator(".hero")
    assert hero.locator(".heat").count() == 0
    page.get_by_role("link", name="square").hover()
    assert hero.locator("img.heat").count() == 1
    assert hero.locator("img.heat").get_attribute("alt").startswith("Heat map of “square”")
    assert hero.locator(".shown").inner_text() == "“square”"
    page.keyboard.press("Tab")  # the slider comes first
    page.keyboard.press("Tab")
    assert hero.locator(".shown").inner_text() == "“circle”"
    assert hero.locator("img.heat, .peak").count() == 2


def test_words_that_are_not_grounded_are_told_from_those_that_are(visit):
    page = visit()
    words = page.locator(".answer .word")
    assert words.evaluate_all("all => all.map((one) => one.classList.contains('ungrounded'))") == [
        *(True, False, True, False, True),
    ]
    assert words.first.get_attribute("title") == "visual reliance 0.10 nats"
    sentence = page.locator(".grounding").inner_text()
    assert sentence.startswith("Not grounded in the picture: red, blue, antidis")
    noted = page.locator(".card", has_text="not grounded in the picture")
    assert noted.count() == 1, "the one word that was explained although it is not grounded"
    page.get_by_text("How much each word depends on the picture").click()
    rows = page.locator(".dependence tr").all_inner_texts()
    assert [row.split("\t")[-1] for row in rows] == ["Grounded", "no", "yes", "no", "yes", "no"]
    assert rows[2].split("\t")[:4] == ["circle", "90.5 %", "0.7 %", "4.90 nats"]


def test_the_slider_fades_all_maps(visit):
    page = visit()
    page.get_by_label("Strength of the heat maps").fill("25")
    shown = page.locator("img.heat").evaluate_all("all => all.map((one) => getComputedStyle(one).opacity)")
    assert shown == ["0.25"] * 3


def test_several_pictures_stand_side_by_side(visit):
    page = visit(report="three")
    assert page.locator("img").count() == 3 + 3 * 3
    for stages in page.locator(".stages").all():
        boxes = [stage.bounding_box() for stage in stages.locator(".stage").all()]
        shapes = [box["width"] / box["height"] for box in boxes]
        assert shapes == pytest.approx([96 / 72, 60 / 100, 300 / 40], rel=0.02)
    assert min(stage.bounding_box()["width"] for stage in page.locator(".hero .stage").all()) >= 110
    card = page.get_by_role("article", name="square")
    assert card.locator(".share").all_inner_texts()[1] == "Picture 1: 0.0 % of the evidence"
    assert [stage.locator(".peak").count() for stage in card.locator(".stage").all()] == [0, 0, 1]


def test_a_preview_shows_every_picture_its_own_map(visit):
    page = visit(report="three")
    page.get_by_role("link", name="square").hover()
    shown = [stage.locator("img.heat") for stage in page.locator(".hero .stage").all()]
    assert [heat.count() for heat in shown] == [1, 1, 1]
    for number, heat in enumerate(shown):
        assert heat.get_attribute("alt").startswith(f"Heat map of “square” over picture {number}")
    page.get_by_role("link", name="circle").hover()
    assert page.locator(".hero img.heat").count() == 3


@pytest.mark.parametrize("report", ["one", "three"])
@pytest.mark.parametrize("width", [320, 375, 768, 1280, 2560])
def test_no_screen_scrolls_sideways(visit, width, report):
    page = visit(width=width, report=report)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    right = page.locator(".dcam-report *:not(.spoken)").evaluate_all(
        "all => Math.max(...all.map((one) => one.getBoundingClientRect().right))"
    )
    assert right <= width


@pytest.mark.parametrize(("scheme", "report"), [("light", "one"), ("dark", "one"), ("dark", "three")])
def test_text_stands_out_from_its_ground(visit, scheme, report):
    page = visit(color_scheme=scheme, report=report)
    for summary in page.locator("summary").all():
        summary.click()
    ground = page.locator(".dcam-report").evaluate("(one) => getComputedStyle(one).backgroundColor")
    assert ground == {"light": "rgb(247, 247, 245)", "dark": "rgb(20, 20, 23)"}[scheme]
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 30
    assert [entry for entry in contrasts if entry[1] < 4.5] == []
