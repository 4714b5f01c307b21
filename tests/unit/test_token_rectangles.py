"""Every family's tokens see what their rectangles say, found without the formulas of any layout.

The model's eyes are replaced by ones that see colours: a forward hook lets every patch of the tower, or every
code of the image tokenizer, be the mean colour of the pixels that it is fed. All else is the real way from the
picture into the prompt: resizing, cutting, pooling, merging, resampling, positions. A ramp picture, whose colours
are coordinates, then says which place of the picture has arrived at a token; and a bright patch, which tokens it
has arrived at.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dcam_core import load_model
from dcam_core.conformance import Subject
from dcam_core.conformance.pictures import shapes
from dcam_core.conformance.sight import see_patches
from dcam_core.plugins import PluginManager

FIXTURES = Path(__file__).parents[1] / "fixtures"
FAMILIES = ("llada_v", "lavida", "mmada", "embedded")
MANAGER = PluginManager(autoload=False, extra=[f"dcam_adapters.{family}.plugin" for family in FAMILIES])
LLAVA_STYLE = [
    f"{family}/{path.name}" for family in ("llada_v", "lavida") for path in (FIXTURES / family).iterdir()
]
CODED = [f"mmada/{path.name}" for path in (FIXTURES / "mmada").iterdir()]
EMBEDDED = list(MANAGER.registries.models.names)
MODELS = sorted([*LLAVA_STYLE, *CODED, *EMBEDDED])


def ramp(size):
    """Red is x, green is y, in steps of a 255th of the picture."""
    width, height = size
    x = np.round((np.arange(width) + 0.5) / width * 255)
    y = np.round((np.arange(height) + 0.5) / height * 255)
    red, green = np.broadcast_arrays(x[None], y[:, None])
    return Image.fromarray(np.stack([red, green, np.zeros_like(red)], -1).astype(np.uint8))


class ColourEyes:
    """Sees mean colours in place of a model: the first channels of an image token's embedding are its colour."""

    def __init__(self, adapter):
        self.adapter = adapter
        self.channel = 0

    @contextlib.contextmanager
    def open(self):
        with contextlib.ExitStack() as hooks:
            for handle in self.hooks():
                hooks.callback(handle.remove)
            yield self

    def means(self, pixels, cells, step):
        """[crops, cells * cells, 3] in [0, 1], mean colour of every patch of `step` pixels."""
        extent = cells * step
        patches = pixels[:, :, :extent, :extent].unfold(2, step, step).unfold(3, step, step)
        return (patches.double().mean((-1, -2)).flatten(2).mT + 1) / 2


class PatchEyes(ColourEyes):
    """Families with a vision tower and a projector."""

    def hooks(self):
        modules = dict(self.adapter.model.named_modules())
        (patches,) = (module for name, module in modules.items() if name.endswith("patch_embedding"))
        paths = self.adapter.parity_modules
        fed = {}

        def look(module, args):
            fed["pixels"] = args[0]

        def project(module, args, output):
            cells = round(output.shape[1] ** 0.5)
            seen = torch.zeros_like(output)
            seen[..., :3] = self.means(fed["pixels"], cells, patches.kernel_size[0])
            return seen

        yield modules[paths["vision.features"]].register_forward_pre_hook(look)
        yield modules[paths["vision.projected"]].register_forward_hook(project)

    def colours(self, inputs):
        """[views] of [rows, cols, 3]."""
        return [inputs.embeddings[0, view.positions, :3].double() for view in inputs.views]

    def read(self, subject, size):
        return self.colours(subject.prepare(ramp(size)))


class CodeEyes(ColourEyes):
    """Families with an image tokenizer: codes stand for one colour, and embeddings show their ids."""

    def hooks(self):
        codebook = self.adapter.config.codebook_size

        def encode(module, args, output):
            (pixels,) = args
            cells = round(output.shape[-1] ** 0.5)
            colours = self.means(pixels, cells, pixels.shape[-1] // cells)[..., self.channel]
            return (colours * (codebook - 1)).round().long().clamp(0, codebook - 1).reshape(output.shape)

        def show(module, args, output):
            shown = torch.zeros_like(output)
            shown[..., 0] = args[0] / (codebook - 1)
            return shown

        yield self.adapter.parity_modules["vq.ids"].register_forward_hook(encode)
        yield self.adapter.model.get_submodule("model.transformer.wte").register_forward_hook(show)

    def read(self, subject, size):
        black = subject.prepare(Image.new("RGB", size))
        channels = []
        for self.channel in (0, 1):
            inputs = subject.prepare(ramp(size))
            shown = (inputs.embeddings - black.embeddings)[0, :, 0].double()
            channels.append([shown[view.positions] for view in inputs.views])
        self.channel = 0
        return [torch.stack(pair, -1) for pair in zip(*channels, strict=True)]


@pytest.fixture(scope="module", params=MODELS)
def sighted(request):
    """A subject whose adapter sees colours, and the eyes."""
    name = request.param
    if name in EMBEDDED:
        subject = Subject(load_model(name, manager=MANAGER), manager=MANAGER)
    else:
        subject = Subject(_fixture(name), prompt_ids=_ids(name), manager=MANAGER)
    eyes = (CodeEyes if "vq.ids" in subject.adapter.parity_modules else PatchEyes)(subject.adapter)
    with eyes.open():
        yield subject, eyes


def _fixture(name):
    adapter = load_model(FIXTURES / name, manager=MANAGER)
    if name not in CODED:
        return adapter
    # The fixtures' config.json is as published: the ids that a tokenizer would tell are in parity.json.
    facts = json.loads((FIXTURES / name / "parity.json").read_text())
    config = json.loads((FIXTURES / name / "config.json").read_text())
    named = {**config, **{key: facts[key] for key in ("image_token_offset", "special_token_ids")}}
    return type(adapter).wrap(adapter.model, image_processor=adapter.vq, config=named)


def _ids(name):
    """The fixture's prompt, of whole prompts the text's ids alone."""
    ids = load_file(FIXTURES / name / "inputs.safetensors")["input_ids"]
    facts = json.loads((FIXTURES / name / "parity.json").read_text())
    return ids[:, facts["image_span"][1] + 1 :] if name in CODED else ids


@pytest.mark.parametrize("shape", shapes(64))
def test_what_arrives_at_a_token_is_the_middle_of_its_rectangle(sighted, shape):
    subject, eyes = sighted
    size = width, height = shapes(subject.adapter.image_size)[shape]
    views = subject.prepare(ramp(size)).views
    compared = 0
    for view, seen in zip(views, eyes.read(subject, size), strict=True):
        x0, y0, x1, y1 = view.rectangles.unbind(-1)
        # At the picture's edge rectangles are clipped, and filters are cut off.
        inside = (x0 > 0) & (y0 > 0) & (x1 < width) & (y1 < height)
        for axis, low, high, extent in ((0, x0, x1, width), (1, y0, y1, height)):
            error = (seen[..., axis] * extent - (low + high) / 2).abs()[inside]
            # Steps of the ramp; and where a grid is resampled across tiles, the strip that no patch sees.
            allowed = extent / 255 + 0.3 * (high - low)[inside]
            assert (error <= allowed).all(), (view.name, axis, float(error.max()))
        compared += int(inside.sum())
    # Of a strip on a padded square no token lies wholly inside.
    assert compared > 0 or shape in ("wide", "tall")


@pytest.mark.parametrize("shape", ["square", "wide", "tall", "odd"])
def test_a_bright_patch_arrives_at_the_tokens_that_hold_it(sighted, shape):
    subject, _ = sighted
    seen = see_patches(subject, shapes(subject.adapter.image_size)[shape])
    assert len(seen) >= 6
    for each in seen:
        assert each.is_hit, (each.view.name, each.patch)
        # What holds nothing of the patch, and is no neighbour of what does, has not moved.
        near = torch.nn.functional.max_pool2d(each.touching[None].double(), 3, 1, 1)[0] > 0
        assert not each.change[~near].any(), (each.view.name, each.patch)


def test_the_eyes_tell_a_wrong_layout_from_a_right_one(sighted):
    """A ramp that is mirrored arrives at no token's rectangle."""
    subject, eyes = sighted
    size = shapes(subject.adapter.image_size)["square"]
    (view, *_), (seen, *_) = subject.prepare(ramp(size)).views, eyes.read(subject, size)
    x0, _, x1, _ = view.rectangles.unbind(-1)
    mirrored = size[0] - (x0 + x1) / 2
    assert ((seen[..., 0] * size[0] - mirrored).abs() > (x1 - x0) / 2).double().mean() > 0.5
