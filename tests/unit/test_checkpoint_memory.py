"""Loading holds the weights in memory once, whatever the file's form and dtype."""

from __future__ import annotations

import sys

import pytest
from benchmarks.bench_loading import CASES, measure

HARDEST = ("shards", "bfloat16", "float32")
"""A file that is converted is in memory beside its result, unless its pages are given back."""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize(
    ("form", "stored", "loaded"),
    [pytest.param(*case, marks=[] if case == HARDEST else pytest.mark.slow) for case in CASES],
)
def test_loading_peaks_at_the_size_of_the_weights(form, stored, loaded):
    found = measure(form, stored, loaded, mib=320)
    assert 0.95 < found["ratio"] < 1.15, found
