"""`table.html` of a real model in a real browser: every number leads to its pictures, by mouse and by keyboard."""

import json
import re

import numpy as np
import pytest
import torch
from support.browser import CHROMIUM, CONTRASTS, launched, watch

from dcam_core.evaluation import evaluate
from dcam_core.evaluation.pictures import SamplePictures
from dcam_core.results.picture_maps import stretch_map
from dcam_core.results.report.overlay import heat_palette

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install dcam[dev]"
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]
METRICS = ("obj-iou", "pointing-game:tolerance=half-cell")
METHODS = ["dcam", "grad-cam", "centre-prior", "random-map", "mask-on-token-grid"]
PIXELS = """(canvas) => [canvas.width, canvas.height,
  ...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of an evaluation on three scenes."""
    out = tmp_path_factory.mktemp("run") / "out"
    evaluate(
        "tiny-llada-v",
        "scenes",
        METHODS[:2],
        out,
        limit=3,
        metrics=METRICS,
        dataset_parameters={"split": "test"},
    )
    return out


@pytest.fixture(scope="module")
def rows(run):
    return [json.loads(line) for line in (run / "words.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def browser():
    with launched() as chromium:
        yield chromium


@pytest.fixture
def visit(browser, run):
    """Opens the page; afterwards nothing may have gone wrong or been fetched."""
    contexts, complaints, fetched = [], [], []

    def open_page(anchor="", width=1280, height=900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        watch(page, complaints, fetched)
        page.goto((run / "table.html").as_uri() + anchor)
        if options.get("java_script_enabled", True):
            page.locator(".tiles .stage[data-drawn]").first.wait_for(state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in fetched if not url.startswith(("data:", (run / "table.html").as_uri()))] == []


def number(page, method, metric, kind="mean"):
    return page.locator(f'a[href="#{kind}-{method}-{metric}"]')


def values(page):
    """The numbers of the tiles, as they stand."""
    return [float(text.replace("\u2212", "-")) for text in page.locator(".tiles .value").all_inner_texts()]


def scores(rows, method, metric):
    return [row["scores"][metric] for row in rows if row["method"] == method]


def test_a_number_leads_to_its_words_from_the_worst_to_the_best(visit, rows):
    page = visit()
    number(page, 1, 0).click()
    playwright.expect(page.locator("#behind")).to_have_text("grad-cam: obj-iou")
    playwright.expect(page.locator("#behind")).to_be_in_viewport()
    playwright.expect(page.locator("#behind")).to_be_focused()
    own = scores(rows, "grad-cam", "obj-iou")
    assert values(page) == [float(f"{value:.3f}") for value in sorted(own)]
    assert page.locator(".about").inner_text() == f"{len(own)} words, mean {np.mean(own):.3f}."
    playwright.expect(page.locator(".tiles .stage[data-drawn]")).to_have_count(len(own))
    page.get_by_label("Order").select_option("best first")
    assert values(page) == [float(f"{value:.3f}") for value in sorted(own, reverse=True)]


def test_heat_is_drawn_as_it_was_scored_and_the_outline_round_the_mask(visit, run, rows):
    page = visit("#mean-1-0-word-1")
    made = page.locator("dialog figure")
    playwright.expect(made.locator(".stage[data-drawn]")).to_have_count(len(METHODS))
    kept = SamplePictures.read(run / "pictures/000000.npz")
    assert rows[1]["sample"] == rows[0]["sample"]
    for method, name in enumerate(METHODS):
        width, height, *pixels = made.nth(method).locator("canvas.heat").evaluate(PIXELS)
        grid = torch.from_numpy(kept.maps[name][1].astype(np.float32) / 255)
        expected = heat_palette()[(stretch_map(grid, (width, height)) * 255).round().long().numpy()]
        found = np.array(pixels).reshape(height, width, 4)
        # A value may be rounded to its neighbour, where opacity is low 4 apart. There colours are not compared:
        # browsers keep them multiplied by the opacity.
        assert np.abs(found[..., 3] - expected[..., 3].astype(int)).max() <= 4, name
        strong = expected[..., 3] > 100
        assert strong.any()
        assert np.abs(found - expected)[strong].max() <= 6, name
    width, height, *pixels = made.first.locator("canvas.outline").evaluate(PIXELS)
    line = np.array(pixels).reshape(height, width, 4)[..., 3] > 0
    mask = torch.from_numpy(kept.masks[1].astype(np.float32))[None, None]
    mask = torch.nn.functional.interpolate(mask, (height, width))[0, 0].bool().numpy()
    ys, xs = np.nonzero(mask)
    ly, lx = np.nonzero(line)
    assert [ly.min(), ly.max(), lx.min(), lx.max()] == pytest.approx(
        [ys.min(), ys.max(), xs.min(), xs.max()], abs=3
    )
    assert line.sum() < mask.sum()


def test_a_word_shows_all_methods_and_its_place_in_the_answer(visit, rows):
    page = visit("#mean-0-1")
    page.locator(".tiles a").nth(2).click()
    dialog = page.get_by_role("dialog")
    word = dialog.locator("h2").inner_text()
    assert dialog.locator("mark").inner_text() == word
    assert dialog.locator("figcaption strong").all_inner_texts() == METHODS
    cells = dialog.locator("table.scores tbody tr").first.locator("td").all_inner_texts()
    playwright.expect(page).to_have_url(re.compile(r"#mean-0-1-word-\d+$"))
    chosen = int(page.url.rsplit("-", 1)[1])
    assert cells == [f"{scores(rows, 'dcam', metric)[chosen]:.3f}" for metric in METRICS]
    assert dialog.locator(".place").inner_text() == f"3 of {len(scores(rows, 'dcam', METRICS[0]))}"
    dialog.get_by_label("Close").click()
    playwright.expect(page).to_have_url(re.compile("#mean-0-1$"))


def test_everything_can_be_done_by_keyboard(visit):
    page = visit()
    number(page, 0, 0).focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    playwright.expect(number(page, 1, 1)).to_be_focused()
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#behind")).to_have_text(f"grad-cam: {METRICS[1]}")
    assert number(page, 1, 1).get_attribute("aria-current") == "true"
    first = page.locator(".tiles a").first
    for _ in range(40):
        page.keyboard.press("Tab")
        if first.evaluate("(one) => one === document.activeElement"):
            break
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    place = dialog.locator(".place")
    for key, expected in (("ArrowRight", "2 of"), ("ArrowRight", "3 of"), ("ArrowLeft", "2 of")):
        page.keyboard.press(key)
        assert place.inner_text().startswith(expected)
    page.keyboard.press("Escape")
    playwright.expect(dialog).not_to_be_visible()
    playwright.expect(page.locator(".tiles a").nth(1)).to_be_focused()
    page.go_back()
    playwright.expect(page.locator("#behind")).to_have_text("dcam: obj-iou")


def test_differences_show_both_methods_of_a_word(visit, rows):
    page = visit()
    page.get_by_label("Differences to dcam").check()
    playwright.expect(page.locator('[data-kind="mean"]')).to_be_hidden()
    number(page, 1, 0, "difference").click()
    playwright.expect(page.locator("#behind")).to_have_text("grad-cam minus dcam: obj-iou")
    pairs = zip(scores(rows, "grad-cam", "obj-iou"), scores(rows, "dcam", "obj-iou"), strict=True)
    assert values(page) == pytest.approx(sorted(one - other for one, other in pairs), abs=6e-4)
    assert page.locator(".tiles li").first.locator(".stage").count() == 2


def test_the_table_sorts_by_a_column_and_back(visit):
    page = visit()
    rows = page.locator('[data-kind="mean"] tbody tr th')
    heading = page.locator('[data-kind="mean"] thead th').nth(1)
    before = rows.all_inner_texts()
    means = dict(
        zip(before, page.locator('[data-kind="mean"] td:nth-child(2) b').all_inner_texts(), strict=True)
    )
    for state, order in (
        ("descending", sorted(before, key=lambda name: -float(means[name]))),
        ("ascending", sorted(before, key=lambda name: float(means[name]))),
        ("none", before),
    ):
        heading.get_by_role("button").click()
        assert heading.get_attribute("aria-sort") == state
        assert rows.all_inner_texts() == order


def test_a_bar_and_a_word_narrow_the_gallery(visit, rows):
    page = visit("#mean-1-0")
    own = scores(rows, "grad-cam", "obj-iou")
    bar = page.locator(".bars button:enabled").first
    bar.click()
    assert 1 <= len(values(page)) < len(own)
    assert bar.get_attribute("aria-label").startswith(f"{len(values(page))} word")
    assert page.locator(".found").inner_text() == f"{len(values(page))} of {len(own)} words"
    bar.click()
    word = rows[0]["word"]
    page.get_by_role("searchbox", name="Word").fill(word)
    assert set(page.locator(".tiles strong").all_inner_texts()) == {word}


def test_heat_and_outlines_can_be_faded(visit):
    page = visit()
    page.get_by_label("Heat").fill("25")
    assert (
        page.locator(".tiles canvas.heat").first.evaluate("(one) => getComputedStyle(one).opacity") == "0.25"
    )
    page.get_by_label("outlines").uncheck()
    assert page.locator(".tiles canvas.outline").first.is_hidden()


def test_without_script_the_tables_are_there(visit):
    page = visit(java_script_enabled=False)
    assert page.locator("table.numbers").count() == 2
    for table in page.locator("table.numbers").all():
        assert table.is_visible()
    assert page.locator("noscript .note").is_visible()
    assert page.locator(".behind").is_hidden()


@pytest.mark.parametrize("width", [320, 768, 1280, 2560])
def test_no_screen_scrolls_sideways(visit, width):
    page = visit("#mean-0-0-word-0", width=width)
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        dialog = page.locator("dialog")
        if dialog.is_visible():
            assert dialog.evaluate("(one) => one.scrollWidth - one.clientWidth") <= 0
            page.keyboard.press("Escape")
        for summary in page.locator("summary").all():
            summary.click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(visit, scheme):
    page = visit("#difference-1-0", color_scheme=scheme)
    for summary in page.locator("summary").all():
        summary.click()
    contrasts = page.evaluate(CONTRASTS)
    page.locator(".tiles a").first.click()
    contrasts += page.evaluate(CONTRASTS)
    assert len(contrasts) > 100
    assert [entry for entry in contrasts if entry[1] < 4.5] == []
