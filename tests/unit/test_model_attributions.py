"""Attributions that ask the model itself, against what they are said to compute, done by hand on the toy model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageStat
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dcam_core import Explainer, ModelAttribution
from dcam_core.errors import ConfigurationError, PluginError
from dcam_core.plugins import PluginManager
from dcam_core.probing.replayed import states_apart
from dcam_core.probing.targets import read_answer, select_targets
from dcam_core.probing.untouched import untouched
from dcam_core.testing.model_attributions import toy_replays
from dcam_core.testing.toy import ToyAdapter, toy_adapter, toy_picture
from dcam_plugins.attributions import (
    AttentionRelevance,
    AttentionRollout,
    CentrePrior,
    InputGradient,
    Occlusion,
    RandomMap,
    ScoreCAM,
    TokenActivationMap,
)


@pytest.fixture
def replays():
    with torch.no_grad():
        yield toy_replays()


def mean_logit(replays, reading, inputs):
    """A reading's scalar, by the adapter alone."""
    positions = torch.tensor(reading.positions)
    logits = replays.adapter.replay(inputs, reading.state[None], positions)[0]
    return logits.gather(-1, torch.tensor(reading.token_ids)[:, None]).mean()


def entering(replays, reading):
    """[1, L, C], what enters the first block of the toy in a reading's state."""
    model = replays.adapter.model
    hidden = torch.cat([replays.inputs.embeddings, model.embed(reading.state[None])], dim=1)
    return hidden + model.place.weight[: hidden.shape[1]]


def with_embeddings(replays, embeddings):
    return replace(replays.inputs, embeddings=embeddings)


# -- input gradient ------------------------------------------------------------------------------------------


def test_input_gradient_is_the_change_of_the_score_when_a_token_grows(replays):
    evidence = InputGradient()(replays)
    step = 1e-2
    for column in (0, 7):
        place = int(replays.positions[column])
        for row, reading in enumerate(replays.readings):
            ends = []
            for sign in (1, -1):
                grown = replays.inputs.embeddings.clone()
                grown[0, place] *= 1 + sign * step
                ends.append(mean_logit(replays, reading, with_embeddings(replays, grown)))
            slope = (ends[0] - ends[1]) / (2 * step)
            assert evidence[row, column].item() == pytest.approx(abs(slope.item()), rel=0.02, abs=2e-4)


def test_input_gradient_without_the_input_is_its_length(replays):
    evidence = InputGradient(times_input=False)(replays)
    leaf = replays.inputs.embeddings.clone().requires_grad_()
    with torch.enable_grad():
        score = mean_logit(replays, replays.readings[1], with_embeddings(replays, leaf))
    (gradient,) = torch.autograd.grad(score, leaf)
    torch.testing.assert_close(evidence[1], gradient[0, replays.positions].norm(dim=-1))


# -- occlusion -----------------------------------------------------------------------------------------------


def test_occlusion_is_the_drop_where_a_cell_is_covered(replays):
    evidence = Occlusion(patch=1, stride=1)(replays)
    (grid,), (picture,) = replays.grids, replays.pictures
    cells = torch.zeros(len(replays.readings), grid.rows, grid.cols)
    colour = tuple(round(channel) for channel in ImageStat.Stat(picture).mean)
    width, height = picture.width // grid.cols, picture.height // grid.rows
    for row in range(grid.rows):
        for col in range(grid.cols):
            shown = picture.copy()
            shown.paste(colour, (col * width, row * height, (col + 1) * width, (row + 1) * height))
            inputs = replays.adapter.prepare(shown, "the red circle")
            for index, reading in enumerate(replays.readings):
                drop = mean_logit(replays, reading, replays.inputs) - mean_logit(replays, reading, inputs)
                cells[index, row, col] = drop.clamp(min=0)
    assert cells.max() > 1e-4
    # The tokens of the fine view are the cells; those of the overview lie over several.
    fine = replays.inputs.views[1].positions.numel()
    torch.testing.assert_close(evidence[:, -fine:], cells.flatten(1), atol=1e-5, rtol=1e-4)
    overview = cells[:, :, :2].clone()
    overview = (overview[:, 0].mean(-1) * 2 + overview[:, 1].mean(-1)) / 3  # one row and a half of three
    torch.testing.assert_close(evidence[:, 0], overview, atol=1e-5, rtol=1e-4)


def test_occlusion_finds_what_the_model_looks_at(replays):
    """A model that says how bright one corner is: the patches over that corner are the evidence."""
    adapter = ToyAdapter()
    corner = adapter.prepare(toy_picture(), "the red circle").views[1].positions[-1, -1]

    class Corner(ToyAdapter):
        def replay(self, inputs, states, positions, prefix=None):
            logits = torch.zeros(len(states), len(positions), 20)
            return logits + inputs.embeddings[0, corner].norm()

    picture = Image.new("RGB", (48, 36), "black")
    picture.paste("white", (36, 24, 48, 36))
    inputs = Corner().prepare(picture, "the red circle")
    asked = replace(replays, adapter=Corner(), inputs=inputs, pictures=[picture])
    for patch, stride in ((1, 1), (2, 1), (2, 2)):
        cells = replays.grids[0].lay(Occlusion(patch=patch, stride=stride)(asked))[0]
        row, col = divmod(int(cells.argmax()), 4)
        assert 3 - patch <= row <= 2
        assert 4 - patch <= col <= 3
        assert cells[:1, :2].max() == 0


def test_occlusion_needs_pictures(replays):
    with pytest.raises(ConfigurationError, match="give explain_run its pictures"):
        Occlusion()(replace(replays, pictures=()))
    with pytest.raises(ConfigurationError, match="stride 4"):
        Occlusion(patch=3, stride=4)


# -- Score-CAM -----------------------------------------------------------------------------------------------


def test_score_cam_weighs_channels_by_what_is_said_when_only_they_are_seen(replays):
    evidence = ScoreCAM(channels=3)(replays)
    (probed,) = replays.probe()
    tokens = replays.inputs.embeddings[0, replays.positions]
    for row, reading in enumerate(replays.readings):
        features = probed.activations[row]
        spread = features.var(dim=0, correction=0)
        masks = features[:, spread.argsort(descending=True)[:3]]
        masks = (masks - masks.min(0).values) / (masks.max(0).values - masks.min(0).values)
        scores = []
        for mask in masks.T:
            embeddings = replays.inputs.embeddings.clone()
            embeddings[0, replays.positions] = mask[:, None] * tokens + (1 - mask[:, None]) * tokens.mean(0)
            scores.append(mean_logit(replays, reading, with_embeddings(replays, embeddings)))
        expected = masks @ torch.stack(scores).softmax(0)
        torch.testing.assert_close(evidence[row], expected, atol=1e-5, rtol=1e-4)


def test_score_cam_takes_the_channels_of_all_layers(replays):
    both = replace(replays, layers=("blocks.0", "blocks.1"))
    assert ScoreCAM(channels=1000)(both).shape == (5, len(replays.positions))


# -- attention rollout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [None, "prefix"])
def test_rollout_is_the_product_of_attention(cache):
    replays = toy_replays(cache=cache)
    evidence = AttentionRollout(identity=0.25)(replays)
    model, reading = replays.adapter.model, replays.readings[1]
    hidden = entering(replays, reading)
    product = torch.eye(hidden.shape[1])
    with torch.no_grad(), untouched(model):
        for block in model.blocks:
            normed = block.norm(hidden)
            weights = block.attention(normed, normed, normed, need_weights=True)[1][0]
            product = (0.25 * torch.eye(len(weights)) + 0.75 * weights) @ product
            hidden = block(hidden)[0]
    rows = [replays.inputs.prompt_length + position for position in reading.positions]
    expected = product[rows].sum(0)[replays.positions]
    torch.testing.assert_close(evidence[1], expected)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("attribution", [AttentionRollout, AttentionRelevance])
@pytest.mark.parametrize("graph", [False, True])
def test_a_model_without_attention_is_refused(replays, attribution, graph):
    class Flat(ToyAdapter):
        def replay(self, inputs, states, positions, prefix=None):
            return torch.zeros(len(states), len(positions), 20) + graph * inputs.embeddings.sum()

    with pytest.raises(ConfigurationError, match="saw 0 of 3 blocks of toy"):
        attribution()(replace(replays, adapter=Flat()))


# -- attention relevance -------------------------------------------------------------------------------------


def toy_attention(block, normed):
    """What a block of the toy attends with, [4 heads, L, L], and what comes of it, spelled out."""
    own, heads = block.attention, 4
    queries, keys, values = (
        part.view(len(normed), heads, -1).transpose(0, 1)
        for part in F.linear(normed, own.in_proj_weight, own.in_proj_bias).chunk(3, dim=-1)
    )
    weights = (queries @ keys.mT / queries.shape[-1] ** 0.5).softmax(-1)
    return weights, own.out_proj((weights @ values).transpose(0, 1).flatten(1))


@pytest.mark.parametrize(
    "options", [{}, {"states_per_forward": 1}, {"checkpointing": True}, {"offload": torch.device("cpu")}]
)
@pytest.mark.parametrize("cache", [None, "prefix"])
def test_relevance_is_the_product_of_what_attention_does_for_the_word(cache, options):
    replays = replace(toy_replays(cache=cache), **options)
    model = replays.adapter.model
    with torch.no_grad(), untouched(model):
        evidence = AttentionRelevance()(replays)
    assert torch.backends.mha.get_fastpath_enabled()
    for row, reading in enumerate(replays.readings):
        hidden = entering(replays, reading)[0].detach().requires_grad_()
        attention = []
        with untouched(model):
            for block in model.blocks:
                weights, mixed = toy_attention(block, block.norm(hidden))
                attention.append(weights)
                hidden = hidden + mixed
                hidden = hidden + block.mlp(hidden)
            places = [replays.inputs.prompt_length + position for position in reading.positions]
            score = model.head(hidden)[places].gather(-1, torch.tensor(reading.token_ids)[:, None]).mean()
        product = torch.eye(len(hidden))
        for weights, gradient in zip(attention, torch.autograd.grad(score, attention), strict=True):
            product = product + (weights * gradient).relu().mean(0) @ product
        expected = product[places].sum(0)[replays.positions].detach()
        assert expected.max() > 1e-4
        torch.testing.assert_close(evidence[row], expected, atol=1e-7, rtol=1e-4)


# -- TAM -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["commit", "position"])
def test_tam_is_the_logit_lens_less_what_earlier_words_explain(replays, order):
    evidence = TokenActivationMap(order=order)(replays)
    model, run = replays.adapter.model, replays.trajectory
    answer, steps = run.answer_ids.tolist(), run.commit_steps.tolist()
    everywhere = torch.arange(len(answer))
    said = replays.adapter.replay(replays.inputs, run.final[None], everywhere)[0]
    for row, reading in enumerate(replays.readings):
        hidden = entering(replays, reading)
        for block in model.blocks:
            hidden = block(hidden)[0]
        lens = (hidden[0, replays.positions] @ model.head.weight.T).relu().double()
        expected = []
        for place, token in zip(reading.positions, reading.token_ids, strict=True):
            key = {"commit": lambda i: (steps[i], i), "position": lambda i: i}[order]
            before = [i for i in range(len(answer)) if key(i) < key(place) and answer[i] != token]
            own = lens[:, token]
            if before:
                weights = said[before, token].relu().double()
                weights = weights / (weights.sum() + 1e-8)
                other = lens[:, [answer[i] for i in before]] @ weights
                scale = (own @ other) / (other @ other) if other.any() else 0
                own = (own - scale * other).relu()
            expected.append(own)
        torch.testing.assert_close(
            evidence[row].double(), torch.stack(expected).mean(0), atol=1e-4, rtol=1e-3
        )


def test_tam_explains_words_that_were_not_said(replays):
    reading = replays.readings[0]
    other = next(token for token in range(3, 20) if token not in replays.trajectory.answer_ids)
    asked = replace(replays, readings=[reading, replace(reading, token_ids=(other,))])
    said, not_said = TokenActivationMap()(asked)
    assert not torch.equal(said, not_said)


def test_the_logit_lens_reads_models_whose_top_lies_on_another_device(monkeypatch):
    """Fake tensors know which device they are on and refuse to meet: "meta" stands for a second device."""
    hooks = pytest.importorskip("accelerate.hooks")
    shown = toy_replays()
    adapter, elsewhere, mode = toy_adapter(), torch.device("meta"), FakeTensorMode(allow_non_fake_inputs=True)
    groups = states_apart(shown.readings)
    monkeypatch.setattr(
        "dcam_core.probing.replays.states_apart", lambda *_: groups
    )  # it looks at values: none here
    with torch.no_grad(), mode:
        for path, module in adapter.model.named_modules():
            for name, value in module.named_parameters(recurse=False):
                place = elsewhere if path.startswith(("blocks.2", "head")) else "cpu"
                module._parameters[name] = nn.Parameter(torch.empty(value.shape, device=place))
        for path in ("blocks.2", "head"):
            hook = hooks.AlignDevicesHook(elsewhere, io_same_device=False)
            hooks.add_hook_to_module(adapter.model.get_submodule(path), hook)
        inputs = replace(shown.inputs, embeddings=torch.empty(shown.inputs.embeddings.shape))
        logits = replace(shown, adapter=adapter, inputs=inputs).image_logits(torch.tensor([3, 4]))
    assert logits.shape == (len(shown.readings), len(shown.positions), 2)
    assert (logits.device.type, logits.dtype) == ("cpu", torch.float32)


def test_tam_refuses_what_it_cannot_do(replays):
    class Headless(ToyAdapter):
        @property
        def parity_modules(self):
            return {}

    with pytest.raises(ConfigurationError, match="which module makes logits"):
        TokenActivationMap()(replace(replays, adapter=Headless()))
    with pytest.raises(ConfigurationError, match="give 'commit' or 'position'"):
        TokenActivationMap(order="time")


# -- baselines -----------------------------------------------------------------------------------------------


def test_random_maps_differ_between_words_and_seeds(replays):
    first, second = RandomMap()(replays), RandomMap(seed=1)(replays)
    assert len({tuple(row) for row in torch.cat([first, second]).tolist()}) == 2 * len(replays.readings)


def test_the_centre_prior_is_a_gaussian_around_the_middle():
    replays = toy_replays(2)
    evidence = CentrePrior(width=0.5)(replays)
    fine = replays.inputs.views[1].positions.numel()
    first = evidence[0, 4 : 4 + fine].view(3, 4)
    x, y = (torch.arange(4) + 0.5) / 4 - 0.5, (torch.arange(3) + 0.5) / 3 - 0.5
    torch.testing.assert_close(first, torch.exp(-2 * (y[:, None] ** 2 + x**2)))
    assert torch.equal(evidence[0], evidence[1])
    with pytest.raises(ConfigurationError, match="width is 0"):
        CentrePrior(width=0)


# -- in the engine -------------------------------------------------------------------------------------------


class Everywhere(ModelAttribution):
    """As much evidence at the first image token as the score says, and 1 at all others."""

    def forward(self, replays):
        evidence = torch.ones(len(replays.readings), len(replays.positions))
        evidence[:, 0] = 2
        return evidence


def explained(attribution, tmp_path, **options):
    class Plugin:
        pass

    manager = PluginManager()
    manager.registries.attributions.add("mine", attribution, plugin="mine")
    path = tmp_path / "mine.yaml"
    path.write_text("attribution: {name: mine}\nprobe_layer: 0\n")
    explainer = Explainer(toy_adapter(), path, manager=manager)
    return explainer.explain(toy_picture(), "the red circle", targets=["@0", "@2"], **options)


def test_the_engine_takes_both_kinds(tmp_path):
    explanation = explained(Everywhere, tmp_path)
    plain = Explainer(toy_adapter(), "grad-cam", probe_layer=0).explain(
        toy_picture(), "the red circle", targets=["@0", "@2"]
    )
    assert explanation.raw.shape == plain.raw.shape
    assert (explanation.raw[:, 0, 0] > explanation.raw[:, -1, -1]).all()
    for own, other in zip(explanation.targets, plain.targets, strict=True):
        assert own.score == pytest.approx(other.score, abs=1e-5)
        assert own.replayed_probability == pytest.approx(other.replayed_probability, abs=1e-6)


class Failing(Everywhere):
    def forward(self, replays):
        raise RuntimeError("no idea")


class Misshapen(Everywhere):
    def forward(self, replays):
        return super().forward(replays)[:, 1:]


class Negative(Everywhere):
    def forward(self, replays):
        return -super().forward(replays)


@pytest.mark.parametrize(
    ("attribution", "found"),
    [
        (Failing, "failed on 2 readings: RuntimeError: no idea"),
        (Misshapen, r"a float32 tensor of shape \[2, 15\]: expected .* \[2, 16\]"),
        (Negative, "values down to -2"),
    ],
)
def test_what_does_not_fit_is_refused(attribution, found, tmp_path):
    with pytest.raises(PluginError, match=found):
        explained(attribution, tmp_path)


def test_explain_run_hands_its_pictures_on():
    adapter = toy_adapter()
    explainer = Explainer(adapter, "grad-cam", overrides=["attribution.name=occlusion"])
    inputs = adapter.prepare(toy_picture(), "the red circle")
    with torch.no_grad():
        run = adapter.denoise(inputs, adapter.default_sampler)
    answer = read_answer(run.answer_ids, adapter.tokenizer)
    targets = select_targets(answer, ["@1"])
    with pytest.raises(ConfigurationError, match="there is none"):
        explainer.explain_run(inputs, run, answer, targets)
    made = explainer.explain_run(inputs, run, answer, targets, pictures=[toy_picture()])
    assert made.pictures[0].raw.shape == (1, 3, 4)
