"""What each deciding hook is told, what its answer does, and what the user reads if the answer does not fit."""

from __future__ import annotations

import pytest
import torch

from dcam_core import Explainer, GradientTarget, ProbeState
from dcam_core.errors import ConfigurationError, PluginError, StructuralValidityError
from dcam_core.testing.toy import ToyAdapter, toy_adapter, toy_picture

PROMPT = "the blue moon"


def explained(*overrides, adapter=None, targets=("@1",), plugins=()):
    """The model, and what was said about its answer."""
    adapter = adapter or toy_adapter()
    explainer = Explainer(adapter, "grad-cam", overrides=overrides, plugins=plugins)
    return adapter, explainer.explain(toy_picture(), PROMPT, targets=targets)


def recorded(adapter):
    """The run that `explained` explains: the toy writes the same answer every time."""
    with torch.no_grad():
        return adapter.denoise(adapter.prepare(toy_picture(), PROMPT), adapter.default_sampler)


# -- dcam_probe_layer ----------------------------------------------------------------------------------------


def test_probe_layer_hears_the_model_and_the_merged_method():
    told = []

    def dcam_probe_layer(adapter, method):
        told.append((adapter, method))

    model = toy_adapter()
    explainer = Explainer(
        model, "grad-cam", overrides=["mask_step=infill", "sampler.steps=4"], plugins=[dcam_probe_layer]
    )
    ((adapter, method),) = told
    assert adapter is model
    assert method == explainer.method.as_dict()
    assert (method["name"], method["mask_step"], method["sampler"]) == ("grad-cam", "infill", {"steps": 4})
    assert method["probe_layer"] is None


@pytest.mark.parametrize(
    ("answer", "layer"),
    [
        ("blocks.1.mlp", "blocks.1.mlp"),
        (0, "blocks.0"),
        (-1, "blocks.2"),
        (0.5, "blocks.1"),
        (1.0, "blocks.2"),
    ],
)
def test_probe_layer_decides_what_is_probed(answer, layer):
    def dcam_probe_layer(adapter):
        return answer

    assert Explainer(toy_adapter(), "grad-cam", plugins=[dcam_probe_layer]).layer == layer


def test_probe_layer_must_be_in_the_model():
    def dcam_probe_layer(adapter):
        return "blocks.1.nlp"

    with pytest.raises(PluginError, match=r"answered dcam_probe_layer with 'blocks.1.nlp'.*'blocks.1.mlp'"):
        Explainer(toy_adapter(), "grad-cam", plugins=[dcam_probe_layer])


def test_probe_layer_of_the_method_must_be_in_the_model():
    with pytest.raises(ConfigurationError, match="probe_layer 9 is not a block of toy"):
        Explainer(toy_adapter(), "grad-cam", overrides=["probe_layer=9"])


# -- dcam_mask_step ------------------------------------------------------------------------------------------


def test_mask_step_hears_the_policy_the_target_the_run_and_the_model():
    told = []

    def dcam_mask_step(policy, target, trajectory, adapter):
        told.append((policy, target, trajectory, adapter))
        return [ProbeState(trajectory.states[2], target.positions, 2)]

    model, explanation = explained("mask_step=mine", targets=["@3", "@1"], plugins=[dcam_mask_step])
    run = recorded(model)
    assert [policy for policy, *_ in told] == ["mine", "mine"]
    assert [target.positions for _, target, *_ in told] == [(3,), (1,)]
    assert [target.word for _, target, *_ in told] == [target.word for target in explanation.targets]
    for _, _, trajectory, adapter in told:
        assert torch.equal(trajectory.states, run.states)
        assert torch.equal(trajectory.commit_steps, run.commit_steps)
        assert adapter is model


@pytest.mark.parametrize(("setting", "policy"), [("2", 2), ("'2'", "2"), ("middle", "middle")])
def test_mask_step_hears_the_setting_as_it_was_read(setting, policy):
    told = []

    def dcam_mask_step(policy, target, trajectory):
        told.append(policy)
        return [ProbeState(trajectory.states[0], target.positions, 0)]

    explained(f"mask_step={setting}", plugins=[dcam_mask_step])
    assert told == [policy]


def test_mask_step_decides_which_state_is_replayed():
    def dcam_mask_step(policy, target, trajectory):
        states = [ProbeState(trajectory.states[step], target.positions, step) for step in (0, 3)]
        return states if policy == "first-and-fourth" else None

    _, mine = explained("mask_step=first-and-fourth", plugins=[dcam_mask_step])
    _, (first, fourth) = None, [explained(f"mask_step={step}")[1] for step in (0, 3)]
    assert mine.targets[0].probed_steps == (0, 3)
    torch.testing.assert_close(mine.raw, (first.raw + fourth.raw) / 2, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (lambda target, run: [], "no state to replay for"),
        (lambda target, run: [ProbeState(run.states[0, :5], target.positions, 0)], r"of shape \[5\]"),
        (lambda target, run: [ProbeState(run.states[0], (6,), 0)], r"positions out of \(1,\)"),
    ],
    ids=["none", "shape", "positions"],
)
def test_mask_step_must_fit_the_run(states, message):
    def dcam_mask_step(policy, target, trajectory):
        return states(target, trajectory)

    with pytest.raises(PluginError, match=message):
        explained(plugins=[dcam_mask_step])


def test_mask_step_must_be_a_step_that_can_be_probed():
    class Cached(ToyAdapter):
        def invalid_reason(self, trajectory, step):
            return "the picture came from a cache" if step == 2 else None

    def dcam_mask_step(target, trajectory, adapter):
        valid = [step for step in range(4) if adapter.invalid_reason(trajectory, step) is None]
        assert valid == [0, 1, 3], "a policy can ask the model which steps there are to choose from"
        return [ProbeState(trajectory.states[2], target.positions, 2)]

    with pytest.raises(
        StructuralValidityError, match="step 2 cannot be probed: the picture came from a cache"
    ):
        explained(adapter=Cached(), plugins=[dcam_mask_step])


# -- dcam_gradient_target ------------------------------------------------------------------------------------


def test_gradient_target_hears_the_name_its_parameters_the_target_the_model_and_the_run():
    told = []

    def dcam_gradient_target(name, parameters, target, adapter, trajectory):
        assert torch.equal(trajectory.states, recorded(adapter).states)
        told.append((name, dict(parameters), target.positions, target.token_ids, adapter))
        return GradientTarget(lambda logits, ids: logits[0, ids[0]])

    model, explanation = explained(
        "gradient_target={name: margin, scale: 2.5, against: [a, b]}",
        targets=["@1", "@3"],
        plugins=[dcam_gradient_target],
    )
    parameters = {"scale": 2.5, "against": ["a", "b"]}
    assert told == [
        ("margin", parameters, target.positions, target.token_ids, model) for target in explanation.targets
    ]


def test_gradient_target_decides_what_is_differentiated():
    seen = []

    def dcam_gradient_target(name, parameters, target, adapter):
        def score(logits, ids):
            seen.append((logits.detach().clone(), ids.tolist()))
            others = logits[-1][logits[-1].isfinite()]  # what the sampler suppresses is -inf
            return parameters["scale"] * (logits[0, ids[0]] - others.mean())

        return GradientTarget(score, context=(5,)) if name == "margin" else None

    setting = "gradient_target={name: margin, scale: 2.0}"
    model, explanation = explained(setting, "mask_step=first", plugins=[dcam_gradient_target])
    run = recorded(model)
    with torch.no_grad():
        inputs = model.prepare(toy_picture(), PROMPT)
        expected = model.replay(inputs, run.states[:1], torch.tensor([1, 5]))[0]
    logits, ids = seen[0]
    assert ids == list(explanation.targets[0].token_ids)
    finite = logits.isfinite()  # what the sampler suppresses is -inf here too
    torch.testing.assert_close(logits[finite], expected[finite], atol=1e-4, rtol=1e-4)
    score = 2 * (expected[0, ids[0]] - expected[1][finite[1]].mean())
    assert explanation.targets[0].score == pytest.approx(float(score), abs=1e-4)


def test_gradient_target_must_read_the_answer():
    def dcam_gradient_target(target):
        return GradientTarget(lambda logits, ids: logits[0, ids[0]], context=(99,))

    with pytest.raises(ConfigurationError, match=r"reads answer positions \(99,\).*has positions 0 to 7"):
        explained(plugins=[dcam_gradient_target])


# -- all of them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("mask_step=mine", "mask_step 'mine' is not a policy that any plugin knows"),
        ("gradient_target.name=mine", "gradient_target 'mine' is not known to any plugin"),
    ],
)
def test_a_question_that_nobody_answers_is_the_users_to_mend(setting, message):
    def dcam_mask_step(policy):
        return None

    def dcam_gradient_target(name):
        return None

    with pytest.raises(ConfigurationError, match=message):
        explained(setting, plugins=[dcam_mask_step, dcam_gradient_target])


@pytest.mark.parametrize("hook", ["dcam_probe_layer", "dcam_mask_step", "dcam_gradient_target"])
def test_an_exception_stops_the_run_and_names_the_plugin(hook):
    def broken():
        raise KeyError("colour")

    broken.__name__ = hook
    with pytest.raises(PluginError, match=f"failed in {hook}: KeyError: 'colour'") as caught:
        explained(plugins=[broken])
    assert isinstance(caught.value.__cause__, KeyError)
