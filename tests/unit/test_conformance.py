"""The conformance checks: a proper adapter passes all of them, and for each there is an adapter that fails it."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps

import dcam_core.conformance
from dcam_core.conformance import CHECKS, Check, NotApplicableError, Subject, examine
from dcam_core.conformance.pictures import scene, shapes
from dcam_core.conformance.sight import see_patches
from dcam_core.conformance.untouched import ModelState
from dcam_core.denoising import denoise
from dcam_core.errors import DcamError
from dcam_core.inputs import Prefix
from dcam_core.testing import AdapterConformance
from dcam_core.testing.toy import ToyAdapter

CHECK = {check.name: check for check in CHECKS}


class TestToy(AdapterConformance):
    """As a plugin author would write it."""

    @pytest.fixture
    def adapter(self):
        return ToyAdapter()


# -- one broken adapter for every check ----------------------------------------------------------------------


class ShiftedSpan(ToyAdapter):
    def prepare_ids(self, picture, input_ids):
        inputs = super().prepare_ids(picture, input_ids)
        start, stop = inputs.image_span
        return dataclasses.replace(inputs, image_span=(start + 1, stop + 1))


class SharedPositions(ToyAdapter):
    def prepare_ids(self, picture, input_ids):
        inputs = super().prepare_ids(picture, input_ids)
        base, grid = inputs.views
        doubled = dataclasses.replace(grid, positions=grid.positions.clamp(max=int(grid.positions.max()) - 1))
        return dataclasses.replace(inputs, views=(base, doubled))


class WrongDtype(ToyAdapter):
    def prepare_ids(self, picture, input_ids):
        inputs = super().prepare_ids(picture, input_ids)
        return dataclasses.replace(inputs, embeddings=inputs.embeddings.double())


def _with_rectangles(change):
    class Changed(ToyAdapter):
        def prepare_ids(self, picture, input_ids):
            inputs = super().prepare_ids(picture, input_ids)
            views = tuple(
                dataclasses.replace(view, rectangles=change(view.rectangles.clone(), inputs.picture_sizes[0]))
                for view in inputs.views
            )
            return dataclasses.replace(inputs, views=views)

    return Changed


def _gap(rectangles, size):
    rectangles[..., 0] = size[0] - (size[0] - rectangles[..., 0]) / 3
    rectangles[:, 0, 0] = 0
    return rectangles


Mirrored = _with_rectangles(lambda rectangles, size: rectangles.flip(1))
OutOfThePicture = _with_rectangles(lambda rectangles, size: rectangles * 1.2)
OfAnotherPicture = _with_rectangles(lambda rectangles, size: rectangles * 0.5)
Overlapping = _with_rectangles(
    lambda rectangles, size: torch.cat(
        [rectangles[..., :2], (rectangles[..., 2:] * 1.3).minimum(torch.tensor(size))], -1
    )
)
NoArea = _with_rectangles(lambda rectangles, size: rectangles * 0)


class SeesAMirror(ToyAdapter):
    """Tidy rectangles of another picture than the one that is read."""

    def _tokens(self, picture, rows, cols):
        return super()._tokens(ImageOps.mirror(picture), rows, cols)


class SeesNothing(ToyAdapter):
    def _tokens(self, picture, rows, cols):
        return super()._tokens(Image.new("RGB", picture.size), rows, cols)


class ChangesTheText(ToyAdapter):
    def prepare_ids(self, picture, input_ids):
        inputs = super().prepare_ids(picture, input_ids)
        inputs.embeddings[:, -1] += inputs.embeddings[:, 1:5].mean(1)
        return inputs


class RecordsTheStateAfter(ToyAdapter):
    def denoise(self, inputs, settings, on_step=None):
        run = super().denoise(inputs, settings, on_step)
        return dataclasses.replace(run, states=torch.cat([run.states[1:], run.states[-1:]]))


class RecordsTheNoise(ToyAdapter):
    def denoise(self, inputs, settings, on_step=None):
        run = super().denoise(inputs, settings, on_step)
        return dataclasses.replace(run, commit_logits=run.commit_logits + settings.temperature)


class GuidedByChance(ToyAdapter):
    def unconditional(self, inputs):
        return dataclasses.replace(inputs, embeddings=torch.randn_like(inputs.embeddings))


class ForgetfulPrefix(ToyAdapter):
    calls = 0

    def encode_prefix(self, inputs):
        self.calls += 1
        return Prefix([kept + 0.1 * self.calls for kept in super().encode_prefix(inputs).keys_values])


class Lazy(ToyAdapter):
    """With a cache whose odd steps decide by other logits, and are not claimed to be exact."""

    caches = ("prefix", "lazy")
    claimed = staticmethod(lambda step: step % 2 == 0)

    def denoise(self, inputs, settings, on_step=None):
        if settings.cache != "lazy":
            return super().denoise(inputs, settings, on_step)
        run = denoise(self, inputs, dataclasses.replace(settings, cache=None), on_step)
        stale = 0.5 * (run.commit_steps % 2)
        return dataclasses.replace(run, settings=settings, commit_logits=run.commit_logits + stale)

    def exact_replay(self, trajectory, step):
        return trajectory.settings.cache != "lazy" or self.claimed(step)

    def invalid_reason(self, trajectory, step):
        return (
            "its image span came from the cache" if trajectory.settings.cache == "lazy" and step % 2 else None
        )


class LazyAndUnaware(Lazy):
    claimed = staticmethod(lambda step: True)

    def invalid_reason(self, trajectory, step):
        return None


class LazyAndContradictory(Lazy):
    claimed = staticmethod(lambda step: True)


class LazyEverywhere(Lazy):
    claimed = staticmethod(lambda step: False)


class MixesTheBatch(ToyAdapter):
    def replay(self, inputs, states, positions, prefix=None):
        logits = super().replay(inputs, states, positions, prefix)
        return logits + logits.mean(0)


class SortsThePositions(ToyAdapter):
    def replay(self, inputs, states, positions, prefix=None):
        return super().replay(inputs, states, positions.sort().values, prefix)


class DrawsGlobally(ToyAdapter):
    def denoise(self, inputs, settings, on_step=None):
        torch.rand(1)
        return super().denoise(inputs, settings, on_step)


class IgnoresTheSeed(ToyAdapter):
    calls = 0

    def denoise(self, inputs, settings, on_step=None):
        self.calls += 1
        return super().denoise(inputs, settings.merged({"seed": self.calls}), on_step)


class WithoutGraph(ToyAdapter):
    def replay(self, inputs, states, positions, prefix=None):
        return super().replay(inputs, states, positions, prefix).detach()


class WithoutGraphInThePrefix(ToyAdapter):
    @torch.no_grad()
    def encode_prefix(self, inputs):
        return super().encode_prefix(inputs)


class LeavesAHook(ToyAdapter):
    def replay(self, inputs, states, positions, prefix=None):
        self.model.head.register_forward_hook(lambda module, args, output: None)
        return super().replay(inputs, states, positions, prefix)


class WritesItsWeights(ToyAdapter):
    def replay(self, inputs, states, positions, prefix=None):
        logits = super().replay(inputs, states, positions, prefix)
        self.model.place.weight.data[-1] += 1
        return logits


class CleansUpAfterSuccess(ToyAdapter):
    """A hook that is removed if nothing goes wrong."""

    forgiving: Sequence[type[BaseException]] = ()

    def replay(self, inputs, states, positions, prefix=None):
        hook = self.model.head.register_forward_hook(lambda module, args, output: None)
        try:
            logits = super().replay(inputs, states, positions, prefix)
        except tuple(self.forgiving):
            hook.remove()
            raise
        hook.remove()
        return logits


class CleansUpAfterErrors(CleansUpAfterSuccess):
    forgiving = (Exception,)


class OneDtypeOnly(ToyAdapter):
    def prepare_ids(self, picture, input_ids):
        inputs = super().prepare_ids(picture, input_ids)
        return dataclasses.replace(inputs, embeddings=inputs.embeddings.float())


class NeedsItsTokenizer(ToyAdapter):
    def prepare(self, picture, prompt):
        return self.prepare_ids(picture, torch.tensor([self.tokenizer(prompt)["input_ids"]]))


class ProbesTheHead(ToyAdapter):
    def layer_path(self, layer):
        return "head"


BROKEN = [
    (
        "image-span",
        ShiftedSpan,
        r"square picture of 24x24 pixels: image tokens are at 1 to 18, outside of image",
    ),
    ("image-span", SharedPositions, r"1 position\(s\) belong to more than one image token"),
    ("image-span", WrongDtype, r"embeddings are torch.float64 on cpu, the model is torch.float32"),
    ("rectangles", Mirrored, r"view 'base': columns overlap, or are not in reading order"),
    ("rectangles", OutOfThePicture, r"rectangles reach from .* outside of the picture"),
    ("rectangles", OfAnotherPicture, r"shows 50% of the picture's width and 50% of its height"),
    ("rectangles", _with_rectangles(_gap), r"the rectangles cover .* of the area they span|leave a gap of"),
    ("rectangles", Overlapping, r"overlap, or are not in reading order"),
    ("rectangles", NoArea, r"no rectangle has an area"),
    ("sight", SeesAMirror, r"of 24 bright patches, \d+ changed most a token of view '\w+' that shows them"),
    ("sight", SeesNothing, r"changes nothing: the picture is not read"),
    ("sight", ChangesTheText, r"changes embeddings outside of image_span \(1, 20\)"),
    ("replay", RecordsTheStateAfter, r"largest error"),
    ("replay-blocks", RecordsTheStateAfter, r"largest error"),
    ("replay-temperature", RecordsTheNoise, r"largest error 7.0\de-01"),
    ("replay-guidance", GuidedByChance, r"largest error"),
    ("replay-prefix-cache", ForgetfulPrefix, r"largest error"),
    ("replay-other-caches", LazyAndUnaware, r"largest error 5.0\de-01"),
    (
        "replay-other-caches",
        LazyAndContradictory,
        r"step 1 is said to be replayed exactly, and to be invalid",
    ),
    ("replay-other-caches", LazyEverywhere, r"no step that decided a token is replayed exactly"),
    ("batch", MixesTheBatch, r"largest error"),
    ("positions", SortsThePositions, r"largest error"),
    ("determinism", DrawsGlobally, r"the global random state of torch is another after a run"),
    ("determinism", IgnoresTheSeed, r"two runs with the same seed decided"),
    ("gradients", WithoutGraph, r"no gradient reaches it"),
    ("gradients-prefix-cache", WithoutGraphInThePrefix, r"was called 0 times"),
    ("untouched", LeavesAHook, r"after denoising, changed: hooks of head$"),
    ("untouched", WritesItsWeights, r"after denoising, changed: values of place.weight$"),
    (
        "untouched-after-error",
        CleansUpAfterSuccess,
        r"after RuntimeError while denoising, changed: hooks of head",
    ),
    (
        "untouched-after-interrupt",
        CleansUpAfterErrors,
        r"after KeyboardInterrupt while denoising, changed: hooks",
    ),
    ("bfloat16", OneDtypeOnly, r"embeddings are torch.float32, expected finite bfloat16"),
    ("errors", NeedsItsTokenizer, r"a prompt without a tokenizer ends in TypeError"),
    ("explanation", ProbesTheHead, r"the output of 'head' cannot be probed"),
]


@pytest.mark.parametrize(("name", "broken", "found"), BROKEN)
def test_a_broken_promise_is_found(name, broken, found):
    with pytest.raises(DcamError, match=found) as caught:
        CHECK[name](Subject(broken()))
    assert not isinstance(caught.value, NotApplicableError)


def test_for_every_check_there_is_an_adapter_that_fails_it():
    assert {name for name, _, _ in BROKEN} == set(CHECK)


@pytest.mark.parametrize(
    ("name", "careful"),
    [
        ("untouched", CleansUpAfterSuccess),
        ("untouched-after-error", CleansUpAfterErrors),
        ("replay-other-caches", Lazy),
        ("rectangles", SeesAMirror),
        ("replay", MixesTheBatch),
        ("replay", SortsThePositions),
    ],
)
def test_what_is_not_promised_there_is_not_asked(name, careful):
    assert CHECK[name](Subject(careful()))


# -- what cannot be examined ---------------------------------------------------------------------------------


class WithoutCaches(ToyAdapter):
    caches = ()

    def encode_prefix(self, inputs):
        return super(ToyAdapter, self).encode_prefix(inputs)


class MixesThePicture(ToyAdapter):
    """A tower that sees next to nothing but the mean of the picture."""

    def _tokens(self, picture, rows, cols):
        tokens = super()._tokens(picture, rows, cols)
        return tokens.mean(1, keepdim=True) + 1e-3 * tokens.roll(3, dims=1)


class SaysNothing(ToyAdapter):
    @property
    def default_sampler(self):
        return dataclasses.replace(super().default_sampler, suppressed_ids=tuple(range(1, 22)))


IDS = torch.tensor([[3, 4, 5]])


@pytest.mark.parametrize(
    ("name", "subject", "reason"),
    [
        ("replay-prefix-cache", Subject(WithoutCaches()), "toy offers no prefix cache"),
        ("gradients-prefix-cache", Subject(WithoutCaches()), "toy offers no prefix cache"),
        ("replay-other-caches", Subject(ToyAdapter()), "toy offers no further cache"),
        ("sight", Subject(MixesThePicture()), "mixes the whole picture into every token"),
        ("replay", Subject(SaysNothing()), "it chose the mask token everywhere"),
        ("explanation", Subject(ToyAdapter(), prompt_ids=IDS), "the prompt was given as ids"),
    ],
)
def test_what_cannot_be_examined_is_skipped_with_the_reason(name, subject, reason):
    (result,) = examine(subject, [CHECK[name]])
    assert result.status == "skipped"
    assert reason in result.detail


def test_a_family_without_caches_must_refuse_one():
    assert "refused" in CHECK["errors"](Subject(WithoutCaches()))


def test_a_model_without_tokenizer_is_examined_by_ids():
    adapter = ToyAdapter()
    adapter.tokenizer = None
    results = {result.name: result for result in examine(Subject(adapter, prompt_ids=IDS))}
    assert {name for name, result in results.items() if result.status == "fail"} == set()
    assert results["replay"].status == "pass"


# -- how it is told ------------------------------------------------------------------------------------------


def test_results_are_lines():
    def promise(subject):
        """Something holds."""
        return "3 of 3"

    def accident(subject):
        """Something else holds."""
        raise ValueError("two\nlines")

    passed, failed = examine(Subject(ToyAdapter()), [Check("a", promise), Check("b", accident)])
    assert str(passed) == "pass    a                         3 of 3"
    assert (passed.promise, failed.promise) == ("Something holds.", "Something else holds.")
    assert str(failed) == "fail    b                         ValueError: two lines"
    assert passed.seconds >= 0


def test_an_interrupt_ends_the_examination():
    def interrupted(subject):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(examine(Subject(ToyAdapter()), [Check("a", interrupted)]))


def test_every_check_has_a_name_and_a_promise():
    assert len(CHECK) == len(CHECKS)
    for check in CHECKS:
        assert check.promise.endswith(".")
        assert len(check.name) < 26


def test_the_examination_itself_leaves_no_trace():
    adapter = ToyAdapter()
    adapter.model.train()
    adapter.model.blocks[1].eval()
    before = ModelState.of(adapter.model)
    for name in ("untouched", "untouched-after-error", "bfloat16"):
        CHECK[name](Subject(adapter))
    before.expect_unchanged(adapter.model, "afterwards")


def test_long_answers_are_cut_short():
    class Verbose(ToyAdapter):
        @property
        def default_sampler(self):
            return dataclasses.replace(super().default_sampler, answer_length=512, steps=64, block_length=32)

    settings = Subject(Verbose()).settings
    assert (settings.answer_length, settings.total_steps, settings.suppressed_ids) == (16, 16, (2,))


def test_generated_pictures_have_different_shapes():
    sizes = shapes(96)
    ratios = {round(width / height, 2) for width, height in sizes.values()}
    assert len(ratios) == len(sizes)
    assert min(min(size) for size in shapes(14).values()) >= 12
    for size in sizes.values():
        picture = scene(size)
        assert picture.size == size
        assert len(picture.getcolors(picture.width * picture.height)) == 4


def test_a_patch_is_found_where_it_is():
    seen = see_patches(Subject(ToyAdapter()), (48, 36))
    assert [patch.view.name for patch in seen[:2]] == ["base", "grid"]
    assert all(patch.is_hit for patch in seen)
    assert all(0 < patch.chance <= 1 for patch in seen)
    assert min(patch.chance for patch in seen if patch.view.name == "grid") < 0.5


# -- for pytest ----------------------------------------------------------------------------------------------


class TestKnownSin(AdapterConformance):
    """A failure that is known: the other promises are tests as before."""

    expected_failures = {"sight": "its picture is mirrored"}  # noqa: RUF012

    @pytest.fixture
    def adapter(self):
        return SeesAMirror()


def test_an_expected_failure_must_name_a_check(request):
    class TestMisspelt(AdapterConformance):
        expected_failures = {"sigth": "its picture is mirrored"}  # noqa: RUF012

    with pytest.raises(pytest.fail.Exception, match="expected_failures names no check: sigth"):
        TestMisspelt().test_promise(CHECK["sight"], Subject(ToyAdapter()), request)


def test_only_the_test_class_needs_pytest():
    for path in Path(dcam_core.conformance.__file__).parent.glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)} | {
            alias.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert ("pytest" in names) == (path.name == "testing.py")
