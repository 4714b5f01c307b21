"""Every metric gives the same mean in each of two processes as in one that has seen all maps."""

import pytest
from support.metrics_on_two_processes import given, mean_scores, names


def test_two_processes_know_the_mean_over_the_maps_of_both(tmp_path):
    first, second = mean_scores(tmp_path)
    assert first == second
    assert len(first) > 10
    for name in names():
        alone = given(name)
        assert first[name] == [pytest.approx(float(alone.compute()), abs=1e-12), int(alone.undefined)], name
        assert int(alone.undefined) >= 1, name
        assert float(given(name, slice(0, None, 2)).compute()) != pytest.approx(first[name][0], abs=1e-6)
