"""Faithfulness: exact on a word whose log-probability is linear in the picture, and on the toy model."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image

from dcam_core.errors import UsageError
from dcam_core.faithfulness import (
    AskedWords,
    blurred,
    deletion_insertion,
    drop_and_increase,
    mean_coloured,
    noisy,
    random_maps,
    road,
)
from dcam_core.faithfulness.curves import area_under
from dcam_core.faithfulness.perturbing import cells_over_picture, composed, picture_of, pixels_of
from dcam_core.probing.targets import read_answer, select_targets
from dcam_core.testing.toy import toy_adapter, toy_picture

GRID = (3, 4)
SIZE = (48, 36)
BLACK = Image.new("RGB", SIZE)
WHITE = Image.new("RGB", SIZE, "white")


@dataclasses.dataclass(frozen=True, eq=False)
class LinearWords(AskedWords):
    """Words whose log-probability is a weighted sum of the cells' mean brightness."""

    weights: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0))

    def with_picture(self, picture, words=None):
        cells = pixels_of(picture).mean(0).view(GRID[0], 12, GRID[1], 12).mean((1, 3))
        scores = (self.weights * cells).sum((1, 2)) - self.weights.clamp(min=0).sum((1, 2))
        return scores if words is None else scores[list(words)]


def linear_words(weights, picture=WHITE):
    return LinearWords(None, picture, "", None, [None] * len(weights), weights=weights)


@pytest.fixture(scope="module")
def asked():
    """Every word of an answer of the toy."""
    adapter, picture = toy_adapter(15), toy_picture(SIZE)
    inputs = adapter.prepare(picture, "the red circle")
    trajectory = adapter.denoise(inputs, adapter.default_sampler)
    answer = read_answer(trajectory.answer_ids, adapter.tokenizer)
    return AskedWords(adapter, picture, "the red circle", trajectory, select_targets(answer, None)[:4])


def covering_effect(asked, baseline):
    """[T, h, w] in [0, 1]: by how much covering a cell alone lowers each word's log-probability: a right map."""
    effects = []
    for cell in range(GRID[0] * GRID[1]):
        shown = torch.ones(GRID[0] * GRID[1], dtype=torch.bool)
        shown[cell] = False
        covered = composed(asked.picture, baseline, cells_over_picture(shown.view(GRID), SIZE))
        effects.append(asked.with_picture(asked.picture) - asked.with_picture(covered))
    maps = torch.stack(effects, dim=1).view(-1, *GRID)
    low = maps.amin((1, 2), keepdim=True)
    return (maps - low) / (maps.amax((1, 2), keepdim=True) - low)


# -- exact ---------------------------------------------------------------------------------------------------


def test_the_area_under_a_straight_line_is_exact_at_uneven_fractions():
    at = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=torch.float64)
    assert float(area_under(3 - 2 * at, at)) == pytest.approx(2)


@pytest.mark.parametrize("intervals", [12, 5, 1])
def test_deletion_and_insertion_of_a_linear_word(intervals):
    weights = torch.rand(2, *GRID, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    curves = deletion_insertion(linear_words(weights), weights, BLACK, intervals=intervals)
    step = -(-12 // intervals)
    counts = [*range(0, 12, step), 12]
    assert curves.fractions.tolist() == pytest.approx([count / 12 for count in counts])
    ordered = weights.flatten(1).sort(dim=1, descending=True).values
    for column, count in enumerate(counts):
        gone = ordered[:, :count].sum(1)
        torch.testing.assert_close(curves.deleted[:, column], -gone)
        torch.testing.assert_close(curves.inserted[:, column], gone - ordered.sum(1))
    by_hand = torch.trapezoid(curves.inserted.exp(), curves.fractions, dim=1)
    torch.testing.assert_close(curves.insertion_auc, by_hand)


def test_a_step_of_one_of_an_even_word_follows_the_exponential():
    weights = torch.full((1, *GRID), 0.25, dtype=torch.float64)
    curves = deletion_insertion(linear_words(weights), weights, BLACK)
    expected = torch.exp(-0.25 * torch.arange(13, dtype=torch.float64))
    assert float(curves.deletion_auc) == pytest.approx(float(torch.trapezoid(expected, dx=1 / 12)))
    assert float(curves.difference) == pytest.approx(0, abs=1e-12)
    assert float(curves.log_difference) == pytest.approx(0, abs=1e-12)


def test_a_map_turned_round_has_the_opposite_difference():
    weights = torch.rand(3, *GRID, dtype=torch.float64)
    words = linear_words(weights)
    curves, inverse = (deletion_insertion(words, each, BLACK) for each in (weights, 1 - weights))
    assert (curves.difference > 0).all()
    torch.testing.assert_close(inverse.difference, -curves.difference)
    torch.testing.assert_close(inverse.deletion_auc, curves.insertion_auc)
    there, back = (road(words, each, noise=0) for each in (weights, 1 - weights))
    torch.testing.assert_close(there.score, -back.score)


def test_equal_cells_go_in_reading_order():
    weights = torch.zeros(1, *GRID, dtype=torch.float64)
    weights[0, 0, 0], weights[0, 2, 3] = 1, 2
    curves = deletion_insertion(linear_words(weights), torch.zeros(1, *GRID), BLACK)
    assert curves.deleted[0].tolist() == pytest.approx([0.0] + [-1.0] * 11 + [-3.0])


def test_no_map_beats_the_right_one():
    weights = torch.rand(1, *GRID, dtype=torch.float64)
    words = linear_words(weights)
    right = deletion_insertion(words, weights, BLACK).difference
    for seed in range(5):
        assert right >= deletion_insertion(words, random_maps(1, GRID, seed), BLACK).difference


def test_road_of_a_linear_word_on_a_black_cell():
    """All but one cell is black: removing it takes the light away, removing the others spreads it over them."""
    weights = torch.zeros(1, *GRID, dtype=torch.float64)
    weights[0, 1, 1] = 4
    lit = composed(WHITE, BLACK, cells_over_picture(weights[0] > 0, SIZE))
    found = road(linear_words(weights, lit), weights, percentiles=(50, 90), noise=0)
    assert found.whole.tolist() == [0]
    torch.testing.assert_close(found.most_relevant, torch.full((1, 2), -4.0, dtype=torch.float64))
    torch.testing.assert_close(found.least_relevant, torch.zeros(1, 2, dtype=torch.float64))
    assert float(found.log_score) == pytest.approx(2)
    assert float(found.score) == pytest.approx((1 - torch.tensor(-4.0).exp().item()) / 2)


def test_road_never_removes_all_of_a_small_grid():
    weights = torch.ones(1, *GRID, dtype=torch.float64)
    found = road(linear_words(weights), torch.rand(1, 1, 2), noise=0)
    torch.testing.assert_close(found.most_relevant, torch.zeros(1, 9, dtype=torch.float64))


def test_drop_and_increase_of_linear_words():
    weights = torch.stack([torch.ones(GRID), -torch.ones(GRID), torch.ones(GRID)]).double()
    maps = torch.zeros(3, *GRID, dtype=torch.float64)
    maps[2] = 1
    found = drop_and_increase(linear_words(weights), maps)
    assert found.drop.tolist() == pytest.approx([1 - torch.tensor(-12.0).exp().item(), 0, 0])
    assert found.increase.tolist() == [0, 1, 0]


# -- pictures ------------------------------------------------------------------------------------------------


def test_cells_divide_the_picture():
    cells = torch.eye(3, dtype=torch.bool)
    assert cells_over_picture(cells, (6, 3)).tolist() == cells.repeat_interleave(2, 1).tolist()
    parts = [cells_over_picture(torch.arange(12).view(3, 4) == i, (50, 31)) for i in range(12)]
    assert (torch.stack(parts).sum(0) == 1).all()


def test_a_picture_goes_to_numbers_and_back():
    picture = toy_picture()
    assert picture_of(pixels_of(picture)).tobytes() == picture.tobytes()


def test_noise_follows_its_seed_and_leaves_the_global_state():
    state = torch.get_rng_state()
    first, again, other = (noisy(toy_picture(), 0.1, seed).tobytes() for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


# -- the toy model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [mean_coloured, blurred])
def test_a_right_map_is_more_faithful_than_a_random_one(asked, baseline):
    instead = baseline(asked.picture)
    right = deletion_insertion(asked, covering_effect(asked, instead), instead, intervals=6)
    random = deletion_insertion(asked, random_maps(len(asked.targets), GRID, 0), instead, intervals=6)
    assert (right.log_difference > 0).all()
    assert right.log_difference.mean() > random.log_difference.mean()
    assert right.deleted.shape == (len(asked.targets), 7)
    torch.testing.assert_close(right.deleted[:, 0], random.inserted[:, -1])


def test_a_right_map_beats_its_inverse_where_nothing_tells_of_the_hole(asked):
    grey = mean_coloured(asked.picture)
    found = road(asked, covering_effect(asked, grey), percentiles=(30, 70))
    assert float(found.log_score.mean()) > 0
    again = road(asked, covering_effect(asked, grey), percentiles=(30, 70))
    assert torch.equal(found.most_relevant, again.most_relevant)


def test_a_map_of_ones_loses_nothing_and_words_are_asked_together_as_alone(asked):
    found = drop_and_increase(asked, torch.ones(len(asked.targets), *GRID))
    torch.testing.assert_close(found.whole, found.lit, atol=1e-5, rtol=0)
    assert found.drop.tolist() == pytest.approx([0] * len(asked.targets), abs=1e-5)
    assert (found.whole <= 0).all()


def test_the_model_is_left_as_it_was_found(asked):
    model = asked.adapter.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    try:
        drop_and_increase(asked, torch.ones(len(asked.targets), *GRID))
        assert all(module.training for module in model.modules())
    finally:
        model.eval()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (
            lambda asked: asked.with_picture(Image.new("RGB", (5, 5))),
            r"\(5, 5\) pixels cannot stand in place",
        ),
        (lambda asked: deletion_insertion(asked, torch.rand(1, *GRID), BLACK), r"maps are \[1, 3, 4\]"),
        (lambda asked: road(asked, torch.full((4, *GRID), torch.nan)), "not finite"),
        (lambda asked: road(asked, torch.rand(4, *GRID), percentiles=(0, 50)), r"percentiles are \[0, 50\]"),
        (lambda asked: deletion_insertion(asked, torch.rand(4, *GRID), BLACK, intervals=0), "intervals is 0"),
        (lambda asked: drop_and_increase(asked, 2 * torch.ones(4, *GRID)), "from 2 to 2"),
        (lambda asked: composed(asked.picture, Image.new("RGB", (5, 5)), torch.ones(36, 48) > 0), "one size"),
    ],
)
def test_what_does_not_fit_is_refused(asked, call, found):
    with pytest.raises(UsageError, match=found):
        call(asked)
