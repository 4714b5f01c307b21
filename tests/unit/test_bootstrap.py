"""Intervals against other ways to get them: words copied picture by picture, all draws listed, the normal law."""

import itertools

import numpy as np
import pytest

from dcam_core.evaluation import bootstrap_intervals

NAN = float("nan")


def test_as_if_the_words_of_every_drawn_picture_were_copied():
    random = np.random.default_rng(5)
    pictures = np.repeat(np.arange(7), [1, 4, 2, 3, 1, 5, 2])
    scores = random.random((len(pictures), 3))
    scores[::4, 1] = NAN
    draws = np.random.default_rng(11).multinomial(7, np.full(7, 1 / 7), size=300)
    means = []
    for drawn in draws:
        copied = [scores[pictures == picture] for picture in range(7) for _ in range(drawn[picture])]
        means.append(np.nanmean(np.concatenate(copied), axis=0))
    expected = np.quantile(np.array(means), [0.025, 0.975], axis=0).T
    found = bootstrap_intervals(scores, pictures, resamples=300, seed=11)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_converges_to_the_list_of_all_draws():
    values, pictures = np.array([0.1, 0.3, 0.9, 0.2, 0.7]), np.array([0, 0, 1, 2, 3])
    means = sorted(
        np.concatenate([values[pictures == each] for each in draw]).mean()
        for draw in itertools.product(range(4), repeat=4)
    )
    expected = np.quantile(means, [0.1, 0.9])
    found = bootstrap_intervals(values[:, None], pictures, resamples=40_000, level=0.8, seed=0)
    np.testing.assert_allclose(found[0], expected, atol=0.01)


def test_many_pictures_give_the_interval_of_the_normal_law():
    scores = np.random.default_rng(1).normal(0.5, 0.2, size=(900, 1))
    low, high = bootstrap_intervals(scores, np.arange(900))[0]
    half = 1.96 * scores.std() / 30
    assert low == pytest.approx(scores.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(scores.mean() + half, abs=0.1 * half)


def test_pictures_are_drawn_and_not_words():
    """Twenty equal words in each of five pictures say no more than one."""
    values = np.array([0.0, 0.2, 0.5, 0.6, 1.0])
    one = bootstrap_intervals(values[:, None], np.arange(5), seed=3)
    many = bootstrap_intervals(np.repeat(values, 20)[:, None], np.repeat(np.arange(5), 20), seed=3)
    np.testing.assert_allclose(one, many, atol=1e-12)


def test_all_columns_see_the_same_draws_however_many_are_drawn_at_once(monkeypatch):
    from dcam_core.evaluation import bootstrap

    scores = np.random.default_rng(2).random((12, 1))
    pictures = np.arange(12) // 2
    both = bootstrap_intervals(np.concatenate([scores, scores + 1], axis=1), pictures, seed=4)
    np.testing.assert_allclose(both[1], both[0] + 1)
    monkeypatch.setattr(bootstrap, "_AT_A_TIME", 50)
    np.testing.assert_array_equal(bootstrap_intervals(scores, pictures, seed=4)[0], both[0])


def test_what_has_no_score_has_no_interval():
    found = bootstrap_intervals(np.array([[NAN, 1.0], [NAN, NAN]]), np.array([0, 1]))
    assert np.isnan(found[0]).all()
    assert found[1].tolist() == [1.0, 1.0]
    assert np.isnan(bootstrap_intervals(np.zeros((0, 2)), np.zeros(0, dtype=np.int64))).all()
