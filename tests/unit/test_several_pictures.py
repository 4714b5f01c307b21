"""The engine with several pictures in one prompt, on a toy family."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from dcam_core import Explainer, hookimpl
from dcam_core.errors import ConfigurationError, PictureError, PluginError
from dcam_core.probing.picture_grid import select_views
from dcam_core.testing.toy import ToyAdapter

WIDE = Image.linear_gradient("L").rotate(30).resize((40, 30)).convert("RGB")
TALL = Image.radial_gradient("L").resize((20, 50)).convert("RGB")
PROMPT = "the blue moon"


def _explainer(method="grad-cam", *overrides, adapter=None, **options):
    return Explainer(adapter or ToyAdapter(), method, overrides=("probe_layer=0", *overrides), **options)


@pytest.fixture(scope="module")
def explanation():
    return _explainer().explain([WIDE, TALL], PROMPT, "all")


def test_every_target_has_a_map_over_every_picture(explanation):
    count = len(explanation.targets)
    assert count > 0
    assert [part.picture.size for part in explanation.pictures] == [(40, 30), (20, 50)]
    assert [part.maps.shape for part in explanation.pictures] == [(count, 3, 4), (count, 4, 3)]
    assert explanation.heatmap(0, picture=0).shape == (30, 40)
    assert explanation.heatmap(0, picture=1).shape == (50, 20)


def test_the_maps_of_a_target_share_one_scale(explanation):
    maps = torch.cat([part.maps.flatten(1) for part in explanation.pictures], dim=1)
    raw = torch.cat([part.raw.flatten(1) for part in explanation.pictures], dim=1)
    low, high = raw.amin(1, keepdim=True), raw.amax(1, keepdim=True)
    torch.testing.assert_close(maps, (raw - low) / (high - low))
    for index, row in enumerate(raw.double().clamp(min=0)):
        shares = explanation.evidence_shares(index)
        assert shares == pytest.approx((float(row[:12].sum() / row.sum()), float(row[12:].sum() / row.sum())))


@pytest.mark.parametrize("settings", [(), ("mask_step=all",), ("sampler.cache=prefix",)], ids=str)
def test_swapped_pictures_swap_their_maps(settings):
    """Without position embeddings in the prompt the toy cannot tell the order of the pictures."""
    adapter = ToyAdapter()
    with torch.no_grad():
        adapter.model.place.weight[: adapter.prepare([WIDE, TALL], PROMPT).prompt_length] = 0
    explainer = _explainer("grad-cam", *settings, adapter=adapter)
    there, back = (
        explainer.explain([WIDE, TALL], PROMPT, "all"),
        explainer.explain([TALL, WIDE], PROMPT, "all"),
    )
    assert there.answer == back.answer
    assert all(part.raw.any() for part in there.pictures)
    for one, other in zip(there.pictures, reversed(back.pictures), strict=True):
        assert one.picture.tobytes() == other.picture.tobytes()
        torch.testing.assert_close(one.raw, other.raw, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(one.maps, other.maps, atol=1e-4, rtol=1e-4)


def test_a_sequence_of_one_is_one_picture(tmp_path):
    WIDE.save(tmp_path / "wide.png")
    alone = _explainer("diffusion-cam").explain(WIDE, PROMPT, "all")
    for pictures in ([WIDE], (str(tmp_path / "wide.png"),)):
        listed = _explainer("diffusion-cam").explain(pictures, PROMPT, "all")
        assert torch.equal(listed.raw, alone.raw)
        assert torch.equal(listed.maps, alone.maps)


def test_a_picture_without_evidence_stays_cold_through_the_refiners():
    """The published chain stretches every map it sees to [0, 1]."""
    explainer = _explainer("diffusion-cam")
    generator = torch.Generator().manual_seed(0)

    def attribution(activations, gradients):
        values = torch.rand(activations.shape[:2], generator=generator)
        return values * torch.cat([torch.full((16,), 0.01), torch.ones(16)])  # 4 + 12 tokens per picture

    explainer._bound.attribution = ("cold", attribution)
    explanation = explainer.explain([WIDE, TALL], PROMPT, "all")
    for index in range(len(explanation.targets)):
        cold, hot = (part.maps[index] for part in explanation.pictures)
        assert cold.max() < 0.02
        assert hot.max() > 0.5
        assert explanation.evidence_shares(index)[0] < 0.02


def test_views_are_chosen_for_every_picture():
    base = _explainer("grad-cam", "views=[base]").explain([WIDE, TALL], PROMPT, targets=["@1"])
    assert [part.maps.shape for part in base.pictures] == [(1, 2, 2), (1, 2, 2)]
    with pytest.raises(ConfigurationError, match="'tiles' is not a view of picture 0: there are base, grid"):
        _explainer("grad-cam", "views=[tiles]").explain([WIDE, TALL], PROMPT, "all")
    inputs = ToyAdapter().prepare([WIDE, TALL], PROMPT)
    assert [view.picture for view in select_views(inputs, ["grid"], 1)] == [1]
    with pytest.raises(ConfigurationError, match="picture 2 has no view"):
        select_views(inputs, None, 2)


def test_observers_hear_of_every_picture():
    heard = []

    class Observer:
        @hookimpl
        def dcam_maps_made(self, targets, raw, maps, picture):
            heard.append((picture, raw.shape, maps.shape))

    _explainer(plugins=[Observer()]).explain([WIDE, TALL], PROMPT, targets=["@1"])
    assert heard == [(0, (1, 3, 4), (1, 3, 4)), (1, (1, 4, 3), (1, 4, 3))]


def test_maps_without_evidence_say_so():
    explanation = Explainer(ToyAdapter(), "grad-cam", overrides=("probe_layer=-1",)).explain(
        [WIDE, TALL], PROMPT, targets=["@1"]
    )
    assert explanation.evidence_shares(0) == (0.0, 0.0)
    assert "nothing in the pictures spoke for this word" in explanation.targets[0].notes[0]


def test_pictures_that_are_none(tmp_path):
    with pytest.raises(PictureError, match="the sequence of pictures is empty"):
        _explainer().explain([], PROMPT)
    with pytest.raises(PictureError, match=r"no\.png does not exist"):
        _explainer().explain([WIDE, tmp_path / "no.png"], PROMPT)


def test_a_family_that_reads_one_picture_only_is_found_out():
    class OnePicture(ToyAdapter):
        def prepare(self, picture, prompt):
            return super().prepare(picture if isinstance(picture, Image.Image) else picture[0], prompt)

    with pytest.raises(PluginError, match="adapter 'toy' found 1 of the 2 pictures"):
        _explainer(adapter=OnePicture()).explain([WIDE, TALL], PROMPT, "all")
