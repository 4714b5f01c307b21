"""From raw to refined maps: one scale over all pictures of a target, and no refiner breaks it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from dcam_core import Refiner
from dcam_core.errors import PluginError
from dcam_core.probing.normalise import joint_min_max
from dcam_core.probing.refining import refine

TRAJECTORY = SimpleNamespace(final=torch.tensor([4, 7, 1, 1]), answer_length=3, steps=8)
ANSWER = SimpleNamespace(token_ids=(4, 7))


class Stretch(Refiner):
    """Stretches every map to [0, 1], as refiners that see one picture only may."""

    def forward(self, maps, context):
        return joint_min_max([maps])[0]


class Heard(Refiner):
    """Halves, and keeps what it was told."""

    def __init__(self):
        super().__init__()
        self.contexts = []

    def forward(self, maps, context):
        self.contexts.append(context)
        return maps / 2


def raw():
    """Two targets over two pictures: the first lives in picture 0, the second in picture 1."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(2, *size, generator=generator) for size in ((3, 4), (5, 2)))
    return [first * torch.tensor([8.0, 1]).view(2, 1, 1), second * torch.tensor([1.0, 8]).view(2, 1, 1)]


def test_one_scale_for_all_pictures_of_a_target():
    maps = joint_min_max(raw())
    for target in range(2):
        together = torch.cat([part[target].flatten() for part in raw()])
        expected = (together - together.min()) / (together.max() - together.min())
        assert torch.equal(torch.cat([part[target].flatten() for part in maps]), expected)
        assert maps[target][target].max() == 1
        assert 0 < maps[1 - target][target].max() < 0.2


def test_what_is_the_same_everywhere_becomes_zero():
    same, other = joint_min_max([torch.full((1, 2, 2), 3.0), torch.full((1, 1, 3), 3.0)])
    assert not same.any()
    assert not other.any()
    # In one picture only, it is compared with the other.
    same, other = joint_min_max([torch.full((1, 2, 2), 3.0), torch.tensor([[[1.0, 5.0]]])])
    assert same.eq(0.5).all()
    assert other.tolist() == [[[0, 1]]]


def test_a_refiner_that_stretches_does_not_heat_a_cold_picture():
    joint = joint_min_max(raw())
    refined = refine(raw(), [("stretch", Stretch())], TRAJECTORY, ANSWER, 24)
    for before, after in zip(joint, refined, strict=True):
        assert_close(after.amax((1, 2)), before.amax((1, 2)), atol=1e-6, rtol=0)
        # Where in the picture is the refiner's own opinion.
        assert_close(joint_min_max([after])[0], joint_min_max([before])[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("refiner", [Stretch(), Heard()], ids=["stretch", "halve"])
def test_with_one_picture_maps_are_what_the_refiners_gave_bit_for_bit(refiner):
    for part in raw():
        (refined,) = refine([part], [("refiner", refiner)], TRAJECTORY, ANSWER, 24)
        assert torch.equal(refined, refiner(joint_min_max([part])[0], None))


def test_refiners_see_one_picture_at_a_time():
    heard = Heard()
    refined = refine(raw(), [("heard", heard)], TRAJECTORY, ANSWER, 24)
    for context, before, after in zip(heard.contexts, joint_min_max(raw()), refined, strict=True):
        assert torch.equal(context.raw, before)
        assert torch.equal(after, before / 2)
        assert (context.denoising_steps, context.image_size) == (8, 24)
        assert (context.answer_ids, context.padding_ids) == ((4, 7), (1,))


def test_a_refiner_that_breaks_its_contract_is_named():
    class Cropped(Refiner):
        def forward(self, maps, context):
            return maps[:, 1:]

    with pytest.raises(PluginError, match=r"cropped gave .*\[2, 2, 4\]: expected finite \[2, 3, 4\]"):
        refine(raw(), [("cropped", Cropped())], TRAJECTORY, ANSWER, 24)


class Finer(Refiner):
    """Every cell becomes two by two."""

    finer = True

    def forward(self, maps, context):
        assert context.picture is not None
        assert context.picture.shape[0] == 3
        return maps.repeat_interleave(2, -2).repeat_interleave(2, -1)


def test_behind_a_finer_refiner_the_raw_maps_are_stretched_too():
    heard, pictures = Heard(), [Image.new("RGB", (7, 5), "red"), Image.new("RGB", (3, 9), "blue")]
    maps = refine(raw(), [("finer", Finer()), ("heard", heard)], TRAJECTORY, ANSWER, 64, pictures)
    assert [tuple(part.shape) for part in maps] == [(2, 6, 8), (2, 10, 4)]
    for context, picture in zip(heard.contexts, pictures, strict=True):
        assert context.picture.shape == (3, picture.height, picture.width)
    assert [context.raw.shape for context in heard.contexts] == [part.shape for part in maps]


def test_only_a_refiner_that_says_so_may_change_the_grid():
    class Coarser(Finer):
        def forward(self, maps, context):
            return maps[:, ::2]

    class Unsaid(Finer):
        finer = False

    pictures = [Image.new("RGB", (7, 5))] * 2
    for refiner in (Coarser(), Unsaid()):
        with pytest.raises(PluginError, match=r"mine gave .*expected finite \[2, 3, 4\]"):
            refine(raw(), [("mine", refiner)], TRAJECTORY, ANSWER, 64, pictures)
