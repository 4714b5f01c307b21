"""The test kit: for every promise of every kind there is something that breaks it, and the kit says how."""

from __future__ import annotations

import dataclasses
import importlib.util
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from dcam_core import Attribution, ExplanationDataset, Metric, Refiner, Sample, SampleObject
from dcam_core.conformance import NotApplicableError
from dcam_core.testing import attributions, datasets, metrics, refiners

pytest_plugins = ["pytester"]


# -- attributions --------------------------------------------------------------------------------------------


class ProperAttribution(Attribution):
    def __init__(self, *, power=1):
        super().__init__()
        self.power = power

    def forward(self, activations, gradients):
        wide = torch.promote_types(activations.dtype, torch.float32)
        return (activations.to(wide) * gradients.to(wide)).abs().sum(-1) ** self.power


def an_attribution(change, proper=ProperAttribution()):
    """Proper, but for a change of (evidence, activations, gradients)."""

    class Changed(ProperAttribution):
        def forward(self, activations, gradients):
            return change(proper(activations, gradients), activations, gradients)

    return Changed()


class Counting(ProperAttribution):
    calls = 0

    def forward(self, activations, gradients):
        self.calls += 1
        return super().forward(activations, gradients) + self.calls


class PositionalAttribution(ProperAttribution):
    def __init__(self, power, /):
        super().__init__(power=power)


class Trained(ProperAttribution):
    def forward(self, activations, gradients):
        with torch.inference_mode(False), torch.enable_grad():
            return super().forward(activations.clone(), gradients.clone().requires_grad_())


class KnowsItself(ProperAttribution):
    def __init__(self):
        super().__init__()
        self.me = id(self)

    def forward(self, activations, gradients):
        return super().forward(activations, gradients) * (2 if self.me == id(self) else 1)


def summed_in_half_precision(evidence, activations, gradients):
    return (activations * gradients).abs().sum(-1).to(evidence.dtype)


BROKEN_ATTRIBUTIONS = {
    "shape": (
        an_attribution(lambda e, a, g: e[..., None]),
        r"gave \[3, 10, 1\] torch.float32 on cpu .* \[3, 10\]",
    ),
    "empty-batch": (an_attribution(lambda e, a, g: e if len(e) else e.sum()), r"no readings gave \[\]"),
    "range": (
        an_attribution(lambda e, a, g: e / e.amax(1, keepdim=True)),
        r"zero gradients: 30 of 30 values",
    ),
    "dtype": (an_attribution(lambda e, a, g: e.float()), r"torch.float64 inputs gave torch.float32"),
    "half-precision": (an_attribution(summed_in_half_precision), r"float16, 4096 channels .* 10 values"),
    "batch": (an_attribution(lambda e, a, g: e / e.max()), r"readings one by one, against all at once"),
    "token-order": (an_attribution(lambda e, a, g: e.cumsum(1)), r"tokens in another order"),
    "inputs-untouched": (an_attribution(lambda e, a, g: g.relu_().sum(-1)), r"into its inputs: number 1 has"),
    "memory-layout": (an_attribution(lambda e, a, g: e + g.view(-1).sum()), r"view size is not compatible"),
    "determinism": (Counting(), r"second call .* 30 of 30 values differ, largest difference 1"),
    "random-state": (an_attribution(lambda e, a, g: e + torch.rand(1).item()), r"random state of torch: use"),
    "device": (an_attribution(lambda e, a, g: e + torch.ones(1)), r"without saying on which device"),
    "inference": (Trained(), r"its result requires gradients"),
    "copies": (KnowsItself(), r"a deep copy gives something else"),
    "keywords": (PositionalAttribution(2), r"takes power by position alone"),
}


# -- refiners ------------------------------------------------------------------------------------------------


class ProperRefiner(Refiner):
    def forward(self, maps, context):
        return maps * context.raw


def a_refiner(change):
    """A change of (maps, context)."""

    class Changed(Refiner):
        def forward(self, maps, context):
            return change(maps, context)

    return Changed()


def noisy(maps, context):
    return (maps * (1 + 0.1 * np.random.rand())).clamp(0, 1)


def write_into_the_context(maps, context):
    context.raw.mul_(0.5)
    return maps


class CountingRefiner(Refiner):
    calls = 0

    def forward(self, maps, context):
        self.calls += 1
        return maps / self.calls


class TrainedRefiner(Refiner):
    def forward(self, maps, context):
        with torch.inference_mode(False), torch.enable_grad():
            return maps.clone().requires_grad_() * 1


class Remembering(Refiner):
    """Keeps what it learnt where no copy finds it."""

    learnt = {}

    def __init__(self):
        super().__init__()
        self.learnt[id(self)] = 0.5

    def forward(self, maps, context):
        return maps * self.learnt.get(id(self), 1)


class PositionalRefiner(ProperRefiner):
    def __init__(self, *sigmas):
        super().__init__()


BROKEN_REFINERS = {
    "shape": (
        a_refiner(lambda m, c: m.float()),
        r"maps \[4, 6, 5\] torch.float64 on cpu became .* torch.float32",
    ),
    "empty-batch": (a_refiner(lambda m, c: m if len(m) else m.sum(0)), r"\[0, 6, 5\] .* became \[6, 5\]"),
    "range": (
        a_refiner(lambda m, c: m / m.amax((1, 2), keepdim=True)),
        r"zeros: 120 of 120 values are not finite",
    ),
    "zero-map": (
        a_refiner(lambda m, c: (m + 0.1) / 1.1),
        r"on a 6 x 5 grid in torch.float64 zeros became 0.0909",
    ),
    "batch": (a_refiner(lambda m, c: m / m.max().clamp(min=1e-3) * m.mean()), r"maps one by one"),
    "inputs-untouched": (
        a_refiner(write_into_the_context),
        r"wrote into its inputs: number 1 has other values",
    ),
    "memory-layout": (
        a_refiner(lambda m, c: m.view(len(m), -1).view(m.shape)),
        r"view size is not compatible",
    ),
    "determinism": (CountingRefiner(), r"the second call"),
    "random-state": (a_refiner(noisy), r"random state of numpy.random"),
    "device": (a_refiner(lambda m, c: m * torch.full((1,), 0.5)), r"without saying on which device"),
    "inference": (TrainedRefiner(), r"its result requires gradients"),
    "copies": (Remembering(), r"a deep copy gives something else"),
    "keywords": (PositionalRefiner(), r"takes sigmas by position alone"),
}


# -- metrics -------------------------------------------------------------------------------------------------


class ProperMetric(Metric):
    """Share of the map on the object, less the share beside it."""

    def score(self, maps, masks):
        maps = maps.double()
        on, beside = (maps * masks).sum((1, 2)), (maps * ~masks).sum((1, 2))
        return on / masks.sum((1, 2)) - beside / masks[0].numel() + 0 * on


def changed(change):
    """A class of metrics: proper, but for a change of (scores, maps, masks)."""

    class Changed(ProperMetric):
        def score(self, maps, masks):
            return change(super().score(maps, masks), maps, masks)

    return Changed


def a_metric(change):
    return changed(change)()


class AlsoCountsEmptyOnes(ProperMetric):
    """Its mean has a zero for what it cannot score."""

    def update(self, maps, masks):
        self.total += self.score(maps, masks).nan_to_num().sum()
        self.defined += len(maps)


class NumberForNothing(ProperMetric):
    def compute(self):
        return self.total / self.defined.clamp(min=1)


class LastBatchOnly(ProperMetric):
    def update(self, maps, masks):
        self.reset()
        super().update(maps, masks)


class OneSize(ProperMetric):
    def update(self, maps, masks):
        self.size = getattr(self, "size", maps.shape[1:])
        super().update(maps[:, : self.size[0], : self.size[1]], masks[:, : self.size[0], : self.size[1]])


class KeepsACount(ProperMetric):
    seen = 0

    def update(self, maps, masks):
        super().update(maps, masks)
        self.seen += len(maps)
        self.total += 0.1 * (self.seen > 4)


class CannotBeMerged(ProperMetric):
    full_state_update = True


class Credulous(ProperMetric):
    def update(self, maps, masks):
        self.total += 1.0
        self.defined += len(maps)


class HoldsAFunction(ProperMetric):
    def __init__(self):
        super().__init__()
        self.weigh = lambda scores: scores


class PositionalMetric(ProperMetric):
    def __init__(self, tolerance, /):
        super().__init__()


class CountingMetric(ProperMetric):
    calls = 0

    def score(self, maps, masks):
        self.calls += 1
        return super().score(maps, masks) + self.calls


def lower_is_better(metric):
    metric.higher_is_better = False
    return metric


BROKEN_METRICS = {
    "scores": (
        a_metric(lambda s, x, m: s.to(x.dtype)),
        r"gave \[4\] torch.float32 on cpu, expected \[4\] torch.float64",
    ),
    "finite": (a_metric(lambda s, x, m: s / x.double().std((1, 2))), r"infinite scores"),
    "empty-mask": (a_metric(lambda s, x, m: s.nan_to_num()), r"an empty mask gave the score 0, expected NaN"),
    "nothing": (NumberForNothing(), r"four maps without a score have the mean 0"),
    "best": (a_metric(lambda s, x, m: s - (x == 1).sum((1, 2))), r"better than the masks themselves"),
    "direction": (lower_is_better(ProperMetric()), r"but higher_is_better is False"),
    "batch": (a_metric(lambda s, x, m: s - s.nanmean()), r"maps one by one, against all at once"),
    "accumulation": (LastBatchOnly(), r"after 4 maps it counted 3 with and 0 without"),
    "picture-sizes": (OneSize(), r"12 x 10 and 10 x 12 pictures"),
    "reset": (KeepsACount(), r"after reset, against a new metric"),
    "merging": (CannotBeMerged(), r"its states cannot be merged: give each a dist_reduce_fx"),
    "refusals": (Credulous(), r"masks of another size are scored as if nothing were wrong"),
    "inputs-untouched": (
        a_metric(lambda s, x, m: s + 0 * x.mul_(0.5).sum((1, 2))),
        r"number 0 has other values",
    ),
    "memory-layout": (
        a_metric(lambda s, x, m: s + 0 * x.view(len(x), -1).sum(1)),
        r"view size is not compatible",
    ),
    "determinism": (CountingMetric(), r"the second call"),
    "random-state": (a_metric(lambda s, x, m: s + random.random()), r"random state of random: use"),
    "device": (a_metric(lambda s, x, m: s + torch.ones(1)), r"without saying on which device"),
    "pickling": (HoldsAFunction(), r"it cannot be pickled: "),
    "keywords": (PositionalMetric(1), r"takes tolerance by position alone"),
}


# -- datasets ------------------------------------------------------------------------------------------------


class ProperDataset(ExplanationDataset):
    """Three pictures with a dot."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError(index)
        mask = torch.zeros(4, 6, dtype=torch.bool)
        mask[index, 2] = True
        picture = Image.new("RGB", (6, 4), "white")
        picture.putpixel((2, index), (255, 0, 0))
        return Sample(
            f"dot-{index}", picture, "what is it?", (SampleObject(("red dot", "dot"), mask),), "a dot"
        )


class WithSamples(ProperDataset):
    """Proper, but for a change of its samples."""

    def __init__(self, *, change):
        self.change = change

    def __getitem__(self, index):
        return self.change(index, super().__getitem__(index))


def with_fields(**fields):
    return WithSamples(change=lambda index, sample: dataclasses.replace(sample, **fields))


def with_object(**fields):
    def change(index, sample):
        return dataclasses.replace(sample, objects=(dataclasses.replace(sample.objects[0], **fields),))

    return WithSamples(change=change)


def as_a_dictionary(index, sample):
    return {"key": sample.key, "image": sample.image}


class Nothing(ProperDataset):
    def __len__(self):
        return 0


class Endless(ProperDataset):
    def __getitem__(self, index):
        return super().__getitem__(index % 3)


class Wandering(ProperDataset):
    calls = 0

    def __getitem__(self, index):
        self.calls += 1
        return dataclasses.replace(super().__getitem__(index), prompt=f"question {self.calls}")


class DrawsGlobally(ProperDataset):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        random.seed(index)
        return sample


class PositionalDataset(ProperDataset):
    def __init__(self, *roots):
        pass


EMPTY = torch.zeros(4, 6, dtype=torch.bool)

BROKEN_DATASETS = {
    "length": [(Nothing(), r"len is 0")],
    "end": [(Endless(), r"sample 3 of 3 is 'dot-0': raise an IndexError")],
    "types": [
        (WithSamples(change=as_a_dictionary), r"sample 0 is a dict, expected a Sample"),
        (with_fields(objects=({"words": ("dot",)},)), r"sample 0 has objects of type dict"),
    ],
    "keys": [
        (with_fields(key="dot"), r"samples 0 and 1 have the same key 'dot'"),
        (with_fields(key="a\nb"), r"the key of sample 0 is 'a\\nb'"),
        (with_fields(key=7), r"the key of sample 0 is 7"),
    ],
    "again": [
        (Wandering(), r"sample 2, asked for twice, has different prompt 'question 3' and 'question 4'")
    ],
    "workers": [(with_fields(caption="a dot"), r"it cannot be pickled, as a DataLoader's workers need it")],
    "pictures": [
        (with_fields(image=Image.new("L", (6, 4))), r"the picture of sample 0 is L: convert it to RGB"),
        (with_fields(image=np.zeros((4, 6, 3))), r"the picture of sample 0 is a ndarray"),
    ],
    "prompts": [(with_fields(prompt=" "), r"the prompt of sample 0 is ' '")],
    "words": [
        (with_object(words=()), r"object 0 of sample 0 has the words \(\)"),
        (with_object(words="dot"), r"has the words 'dot': give a tuple"),
        (with_object(words=("Red Dot",)), r"write them in lower case"),
        (with_object(words=("dot", "dot")), r"has a word twice"),
    ],
    "masks": [
        (with_object(mask=EMPTY), r"the mask of object 0 of sample 0 \('red dot'\) is empty"),
        (with_object(mask=EMPTY.mT), r"is \[6, 4\], but its picture is \[height, width\] = \[4, 6\]"),
        (with_object(mask=EMPTY.float()), r"\[4, 6\] torch.float32 on cpu, expected a bool tensor"),
        (with_object(mask=EMPTY.numpy()), r"is a ndarray, expected a bool tensor"),
    ],
    "captions": [
        (with_fields(caption="a cat"), r"in none of 3 captions occurs a word of the sample's objects"),
        (with_fields(caption="two polkadots"), r"in none of 3 captions"),
        (with_fields(caption=""), r"the caption of sample 0 is ''"),
    ],
    "random-state": [(DrawsGlobally(), r"random state of random: use")],
    "keywords": [(PositionalDataset(), r"takes roots by position alone")],
}


# -- all kinds -----------------------------------------------------------------------------------------------

KINDS = {
    "attributions": (attributions.CHECKS, ProperAttribution(), BROKEN_ATTRIBUTIONS),
    "refiners": (refiners.CHECKS, ProperRefiner(), BROKEN_REFINERS),
    "metrics": (metrics.CHECKS, ProperMetric(), BROKEN_METRICS),
    "datasets": (datasets.CHECKS, ProperDataset(), BROKEN_DATASETS),
}
PROPER = [
    pytest.param(check, proper, id=f"{kind}-{check.name}")
    for kind, (checks, proper, _) in KINDS.items()
    for check in checks
]
BROKEN = [
    pytest.param(check, broken, found, id=f"{kind}-{check.name}-{number}")
    for kind, (checks, _, table) in KINDS.items()
    for check in checks
    for number, (broken, found) in enumerate(
        table[check.name] if isinstance(table[check.name], list) else [table[check.name]]
    )
]


@pytest.mark.parametrize(("check", "proper"), PROPER)
def test_what_keeps_its_promises_passes(check, proper):
    assert check(proper)


@pytest.mark.parametrize(("check", "broken", "found"), BROKEN)
def test_a_broken_promise_is_found(check, broken, found):
    with pytest.raises(Exception, match=found) as caught:
        check(broken)
    assert not isinstance(caught.value, NotApplicableError)


@pytest.mark.parametrize("kind", KINDS)
def test_for_every_promise_there_is_something_that_breaks_it(kind):
    checks, _, broken = KINDS[kind]
    assert [check.name for check in checks] == list(broken)
    assert all(check.promise.endswith(".") for check in checks)


def test_pictures_alone_are_a_dataset_and_what_they_lack_is_not_asked():
    pictures = with_fields(objects=(), caption=None)
    by_name = {check.name: check for check in datasets.CHECKS}
    for name in ("words", "masks", "captions"):
        with pytest.raises(NotApplicableError, match="no examined sample has"):
            by_name[name](pictures)
    assert by_name["types"](pictures)


# -- as an author uses it ------------------------------------------------------------------------------------

AUTHOR = """
import pytest
from dcam_core import Refiner
from dcam_core.testing import RefinerConformance

class Brighter(Refiner):
    def forward(self, maps, context):
        return maps + 0.5

class TestBrighter(RefinerConformance):
    expected_failures = {"zero-map": "it is meant to lift everything", "shape": "a wrong guess"}

    @pytest.fixture
    def refiner(self):
        return Brighter()

class TestMisspelt(TestBrighter):
    expected_failures = {"zero-maps": "misspelt"}

class TestForgotten(RefinerConformance):
    pass
"""


def test_an_authors_test_file(pytester):
    pytester.makepyfile(AUTHOR)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-k", "shape or zero-map or range")
    # Of Brighter: range fails, zero-map fails as expected, shape passes against expectation, which is a failure.
    result.assert_outcomes(failed=2 + 3, xfailed=1, errors=3)
    result.stdout.fnmatch_lines_random(
        [
            "*TestBrighter::test_promise*range* - *values go from 0.5 to 1.5, out of*",
            "*TestBrighter::test_promise*shape*XPASS(strict)*a wrong guess*",
            "*TestMisspelt::test_promise*expected_failures names no check: zero-maps*",
            "*TestForgotten*NotImplementedError: TestForgotten must override the fixture `refiner`*",
        ]
    )


def test_without_pytest_the_classes_say_what_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match="MetricConformance is a class of tests and needs pytest.*pip install pytest"
    ):
        from dcam_core.testing import MetricConformance  # noqa: F401
    with pytest.raises(AttributeError, match="no attribute 'ModelConformance'"):
        dcam_core_testing = sys.modules["dcam_core.testing"]
        _ = dcam_core_testing.ModelConformance


def test_the_toy_needs_no_pytest():
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "from dcam_core.testing.toy import toy_adapter, toy_picture\n"
        "model = toy_adapter(seed=3)\n"
        "inputs = model.prepare(toy_picture((18, 24)), 'the red circle')\n"
        "print(inputs.prompt_length, [view.grid for view in inputs.views], sorted(set(sys.modules) & {'_pytest'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("23 [(2, 2), (4, 3)] []", 0), done.stderr
