"""The engine on a toy family: policies, targets, hooks, determinism, errors."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from dcam_core import Explainer, GradientTarget, ProbeState, Refiner, hookimpl
from dcam_core.errors import (
    ConfigurationError,
    PictureError,
    PluginError,
    StructuralValidityError,
    TargetError,
    UnknownNameError,
)
from dcam_core.testing.toy import ToyAdapter

PICTURE = Image.linear_gradient("L").rotate(30).resize((40, 30)).convert("RGB")
PROMPT = "the blue moon"


def _explainer(*overrides, adapter=None, **options):
    return Explainer(adapter or ToyAdapter(), "grad-cam", overrides=overrides, **options)


@pytest.fixture(scope="module")
def explanation():
    return _explainer("probe_layer=0").explain(PICTURE, PROMPT, "all")


def test_every_word_gets_a_map(explanation):
    count = len(explanation.targets)
    assert count > 0
    assert explanation.maps.shape == explanation.raw.shape == (count, 3, 4)
    assert explanation.maps.dtype == torch.float32
    assert explanation.heatmap(0).shape == (30, 40)
    assert [target.word for target in explanation.targets] == [
        word.text for word in explanation.words if word.text != ","
    ]
    for target in explanation.targets:
        assert target.probed_steps == tuple(dict.fromkeys(target.commit_steps))
        assert 0 < target.probability <= 1


def test_the_probability_is_that_of_the_decision():
    """Under the commit policy, what the replay says is what the sampler recorded."""
    adapter = ToyAdapter()
    explanation = _explainer("probe_layer=0", adapter=adapter).explain(PICTURE, PROMPT, "all")
    with torch.no_grad():
        run = adapter.denoise(adapter.prepare(PICTURE, PROMPT), adapter.default_sampler)
    for target in explanation.targets:
        recorded = run.commit_probabilities[list(target.positions)].prod()
        assert target.probability == pytest.approx(float(recorded), abs=1e-5)
        assert target.replayed_probability == pytest.approx(float(recorded), abs=1e-5)
        assert target.score == pytest.approx(
            float(run.commit_logits[list(target.positions)].mean()), abs=1e-4
        )


def test_same_seed_same_maps_bit_for_bit():
    settings = ("probe_layer=0", "sampler.temperature=1.0")
    first = _explainer(*settings).explain(PICTURE, PROMPT, "all", seed=3)
    second = _explainer(*settings).explain(PICTURE, PROMPT, "all", seed=3)
    assert first.answer == second.answer
    assert torch.equal(first.raw, second.raw)
    assert torch.equal(first.maps, second.maps)


def test_a_target_alone_is_a_target_among_others(explanation):
    alone = _explainer("probe_layer=0").explain(
        PICTURE, PROMPT, targets=[explanation.targets[-1].positions[0]]
    )
    torch.testing.assert_close(alone.raw[0], explanation.raw[-1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("policy", ["commit", "first", "last", "all", "infill", "final", 2, "3"])
def test_every_policy_replays_what_it_says(policy):
    adapter = ToyAdapter()
    states = []
    replay = adapter.replay

    def recording(inputs, batch, positions):
        if torch.is_grad_enabled():
            states.extend(batch)
        return replay(inputs, batch, positions)

    adapter.replay = recording
    explanation = _explainer("probe_layer=0", f"mask_step={policy}", adapter=adapter).explain(
        PICTURE, PROMPT, targets=["@1"]
    )
    with torch.no_grad():
        run = adapter.denoise(adapter.prepare(PICTURE, PROMPT), adapter.default_sampler)
    infilled = run.final.clone()
    infilled[1] = 0
    expected = {
        "commit": [run.states[run.commit_steps[1]]],
        "first": [run.states[0]],
        "last": [run.states[-2]],
        "all": list(run.states[:-1]),
        "infill": [infilled],
        "final": [run.final],
        2: [run.states[2]],
        "3": [run.states[3]],
    }[policy]
    assert torch.equal(torch.stack(states), torch.stack(expected))
    assert explanation.targets[0].state == str(policy)
    assert len(explanation.targets[0].probed_steps) == len(expected)


def test_all_is_the_mean_over_the_steps():
    run = _explainer("probe_layer=0", "mask_step=all").explain(PICTURE, PROMPT, targets=["@1"])
    steps = len(run.targets[0].probed_steps)
    single = [
        _explainer("probe_layer=0", f"mask_step={s}").explain(PICTURE, PROMPT, targets=["@1"]).raw
        for s in range(steps)
    ]
    torch.testing.assert_close(run.raw, torch.stack(single).mean(0), atol=1e-6, rtol=1e-4)


def test_an_invalid_step_is_refused_with_its_reason():
    class Cached(ToyAdapter):
        def invalid_reason(self, trajectory, step):
            return "its image span came from the cache" if step % 2 else None

    with pytest.raises(StructuralValidityError, match="step 3 cannot be probed: its image span came from"):
        _explainer("probe_layer=0", "mask_step=3", adapter=Cached()).explain(PICTURE, PROMPT, targets=["@1"])
    explanation = _explainer("probe_layer=0", "mask_step=all", adapter=Cached()).explain(
        PICTURE, PROMPT, targets=["@1"]
    )
    assert all(step % 2 == 0 for step in explanation.targets[0].probed_steps)


def test_an_invalid_step_is_replayed_in_full_where_a_warning_is_enough():
    class Cached(ToyAdapter):
        def invalid_reason(self, trajectory, step):
            return "its image span came from the cache" if step % 2 else None

    settings = ("probe_layer=0", "mask_step=3")
    fresh = _explainer(*settings).explain(PICTURE, PROMPT, targets=["@1"])
    stale = _explainer(*settings, "invalid_steps=warn", adapter=Cached()).explain(
        PICTURE, PROMPT, targets=["@1"]
    )
    assert torch.equal(stale.raw, fresh.raw)
    assert "step 3 is not structurally valid: its image span came from" in stale.targets[0].notes[0]
    assert not fresh.targets[0].notes
    with pytest.raises(ConfigurationError, match=r"invalid_steps is 'ignore': it is one of 'refuse', 'warn'"):
        _explainer("invalid_steps=ignore")


def test_a_replay_that_is_not_the_computation_of_the_step_says_so():
    class Cached(ToyAdapter):
        def exact_replay(self, trajectory, step):
            return step == 0

    explanation = _explainer("probe_layer=0", "mask_step=3", adapter=Cached()).explain(
        PICTURE, PROMPT, targets=["@1"]
    )
    assert explanation.targets[0].notes == (
        "step 3 was decided with rows of the answer from a cache; its state was replayed in full",
    )


def test_a_prefix_cache_changes_what_is_probed():
    full = _explainer("probe_layer=0").explain(PICTURE, PROMPT, targets=["@1"])
    cached = _explainer("probe_layer=0", "sampler.cache=prefix").explain(PICTURE, PROMPT, targets=["@1"])
    assert cached.settings["sampler"]["cache"] == "prefix"
    assert not torch.allclose(full.raw, cached.raw)
    with pytest.raises(ConfigurationError, match=r"sampler.cache is 'other', which toy does not offer"):
        _explainer("sampler.cache=other").explain(PICTURE, PROMPT, targets=["@1"])


def test_a_draft_is_kept_and_its_gaps_are_filled():
    draft = [5, 0, 7]
    explainer = _explainer("probe_layer=0", f"sampler.draft_ids={draft}", "sampler.suppressed_ids=[0,1,2]")
    explanation = explainer.explain(PICTURE, PROMPT, targets=["@1"])
    ids = [token for target in explanation.targets for token in target.token_ids]
    assert len(ids) == 1
    with pytest.raises(TargetError, match="position 0 was given in the draft"):
        explainer.explain(PICTURE, PROMPT, targets=["@0"])


@pytest.mark.parametrize(
    "setting",
    [
        "gradient_target.name=log-probability",
        "gradient_target.reduction=sum",
        "gradient_target={name: contrast}",
        "gradient_target={name: contrast, against: star}",
        "gradient_target={name: vocabulary-contrast, distractor: 0}",
    ],
)
def test_gradient_targets_change_the_map(setting):
    plain = _explainer("probe_layer=0").explain(PICTURE, PROMPT, targets=["@1"])
    other = _explainer("probe_layer=0", setting).explain(PICTURE, PROMPT, targets=["@1"])
    changes = "reduction" not in setting  # one token: mean and sum are the same
    assert (not torch.allclose(plain.raw, other.raw)) == changes


def test_contrast_is_the_difference_of_logits():
    adapter = ToyAdapter()
    explanation = _explainer(
        "probe_layer=0", "mask_step=first", "gradient_target={name: contrast, against: star}", adapter=adapter
    ).explain(PICTURE, PROMPT, targets=["@1"])
    inputs = adapter.prepare(PICTURE, PROMPT)
    with torch.no_grad():
        logits = adapter.replay(inputs, torch.zeros(1, 8, dtype=torch.int64), torch.tensor([1]))[0, 0]
    star = adapter.tokenizer("star")["input_ids"][0]
    expected = float(logits[explanation.targets[0].token_ids[0]] - logits[star])
    assert explanation.targets[0].score == pytest.approx(expected, abs=1e-4)


def test_views_can_be_chosen():
    both = _explainer("probe_layer=0").explain(PICTURE, PROMPT, targets=["@1"])
    base = _explainer("probe_layer=0", "views=[base]").explain(PICTURE, PROMPT, targets=["@1"])
    grid = _explainer("probe_layer=0", "views=[grid]").explain(PICTURE, PROMPT, targets=["@1"])
    assert base.maps.shape == (1, 2, 2)
    assert grid.maps.shape == both.maps.shape == (1, 3, 4)
    assert not torch.allclose(grid.raw, both.raw)


def test_the_user_decides_before_all_others():
    def dcam_probe_layer(adapter, method):
        return "blocks.0.norm"

    def dcam_mask_step(policy, target, trajectory):
        return [ProbeState(trajectory.states[0], target.positions, 0)]

    def dcam_gradient_target(target):
        return GradientTarget(lambda logits, ids: logits[0, 5])

    functions = [dcam_probe_layer, dcam_mask_step, dcam_gradient_target]
    explainer = _explainer(plugins=functions)
    assert explainer.layer == "blocks.0.norm"
    explanation = explainer.explain(PICTURE, PROMPT, targets=["@1"])
    assert explanation.targets[0].probed_steps == (0,)


def test_observers_hear_the_run():
    heard = []

    class Observer:
        @hookimpl
        def dcam_denoising_step(self, step):
            heard.append(("step", step.index))

        @hookimpl
        def dcam_maps_made(self, targets, raw, maps):
            heard.append(("maps", len(targets)))

        @hookimpl
        def dcam_explained(self, explanation):
            heard.append(("explained", explanation.answer))

    progress = []
    explanation = _explainer("probe_layer=0", plugins=[Observer()]).explain(
        PICTURE, PROMPT, "all", progress=lambda *told: progress.append(told)
    )
    steps = len(explanation.steps)
    assert heard == [
        *(("step", index) for index in range(steps)),
        ("maps", len(explanation.targets)),
        ("explained", explanation.answer),
    ]
    assert progress[steps - 1] == ("denoising", steps, 8)
    assert list(dict.fromkeys(stage for stage, *_ in progress)) == ["denoising", "measuring", "explaining"]
    assert [told[1:] for told in progress if told[0] == "measuring"] == [(1, 3), (2, 3), (3, 3)]
    assert progress[-1][1] == progress[-1][2]


def test_a_map_without_evidence_says_so():
    explanation = _explainer("probe_layer=-1").explain(PICTURE, PROMPT, targets=["@1"])
    assert (explanation.maps == 0).all()
    assert "the map is zero everywhere" in explanation.targets[0].notes[0]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (["probe_layer=7"], ConfigurationError, "not a block of toy: there are 3"),
        (["probe_layer=1.5"], ConfigurationError, "not a fraction"),
        (["probe_layer=blocks.0.nrm"], ConfigurationError, "such as 'blocks.0.norm'"),
        (["mask_stp=first"], ConfigurationError, "unknown setting 'mask_stp'.*Did you mean 'mask_step'"),
        (["mask_step"], ConfigurationError, "is not key=value"),
        (["attribution.name=grad-kam"], UnknownNameError, "Did you mean 'grad-cam'"),
        (["attribution.colour=red"], ConfigurationError, "'grad-cam' cannot be made with"),
        (["refiners.blur={}"], UnknownNameError, "unknown refiner 'blur'"),
        (["refiners.min-max=3"], ConfigurationError, "refiners.min-max=null to leave it out"),
        (["sampler.stepz=3"], ConfigurationError, "unknown sampler setting"),
        (["attribution=grad-cam"], ConfigurationError, "write attribution.NAME=VALUE"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(settings, error, message):
    with pytest.raises(error, match=message):
        _explainer(*settings)


@pytest.mark.parametrize(
    ("settings", "targets", "error", "message"),
    [
        (["mask_step=middle"], None, ConfigurationError, "mask_step 'middle' is not a policy.*infill"),
        (["mask_step=99"], None, ConfigurationError, "the run has"),
        (["gradient_target.name=loss"], None, ConfigurationError, "gradient_target 'loss' is not known"),
        (["gradient_target.red=1"], None, ConfigurationError, "unknown parameter 'gradient_target.red'"),
        (["gradient_target.reduction=max"], None, ConfigurationError, "give mean or sum"),
        (["gradient_target={name: contrast, against: zebra}"], ["@0"], ConfigurationError, "zebra"),
        (["views=[tiles]"], None, ConfigurationError, "'tiles' is not a view"),
        ([], ["zebra"], TargetError, "is not in the answer"),
    ],
)
def test_wrong_wishes_are_refused(settings, targets, error, message):
    with pytest.raises(error, match=message):
        _explainer("probe_layer=0", *settings).explain(PICTURE, PROMPT, targets=targets)


def test_unknown_method():
    with pytest.raises(UnknownNameError, match="Did you mean 'diffusion-cam'"):
        Explainer(ToyAdapter(), "diffusion-kam")
    with pytest.raises(ConfigurationError, match="does not exist"):
        Explainer(ToyAdapter(), "missing.yaml")


def test_a_method_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("attribution: {name: grad-cam}\nprobe_layer: 0\nrefiners: {min-max: {}}\n")
    explanation = Explainer(ToyAdapter(), path).explain(PICTURE, PROMPT, targets=["@1"])
    assert explanation.settings["name"] == "mine"
    path.write_text("attribution: [oops\n")
    with pytest.raises(ConfigurationError, match="is not valid YAML"):
        Explainer(ToyAdapter(), path)


def test_a_refiner_that_breaks_its_contract_is_named():
    class Broken(Refiner):
        def forward(self, maps, context):
            return maps / 0

    explainer = _explainer("probe_layer=0")
    explainer._bound.refiners.append(("broken", Broken()))
    with pytest.raises(PluginError, match=r"broken gave .* not finite: expected finite"):
        explainer.explain(PICTURE, PROMPT, "all")


def test_pictures_that_are_none(tmp_path):
    explainer = _explainer("probe_layer=0")
    with pytest.raises(PictureError, match="does not exist"):
        explainer.explain(tmp_path / "no.png", PROMPT)
    with pytest.raises(PictureError, match="is a folder"):
        explainer.explain(tmp_path, PROMPT)
    (tmp_path / "text.png").write_text("I am no picture")
    with pytest.raises(PictureError, match="not a picture that can be read"):
        explainer.explain(tmp_path / "text.png", PROMPT)
    PICTURE.save(tmp_path / "whole.png")
    half = (tmp_path / "whole.png").read_bytes()[:-200]
    (tmp_path / "half.png").write_bytes(half)
    with pytest.raises(PictureError, match="cannot be read"):
        explainer.explain(tmp_path / "half.png", PROMPT)


def test_a_training_model_stays_one():
    adapter = ToyAdapter()
    adapter.model.train()
    weights = {name: value.clone() for name, value in adapter.model.state_dict().items()}
    _explainer("probe_layer=0", adapter=adapter).explain(PICTURE, PROMPT, "all")
    assert all(module.training for module in adapter.model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in adapter.model.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in adapter.model.state_dict().items())
