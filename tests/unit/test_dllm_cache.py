"""dLLM-Cache: which rows are computed at which step, and what that says about replaying the step."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager

import pytest
import torch
from safetensors.torch import load_file
from support.llada_v import StandIn, read

from dcam_adapters.common.dllm_cache import DllmCache, is_exact, stale_image_span
from dcam_adapters.llada_v.adapter import LLaDAVAdapter
from dcam_core import load_model
from dcam_core.denoising import SamplerSettings, decision_logits
from dcam_core.errors import ConfigurationError, StructuralValidityError
from dcam_core.explainer import Explainer
from dcam_core.probing.targets import read_answer, select_targets

FIXTURE = read("a")
RUN = FIXTURE.facts["runs"]["dllm_cache"]
RECORDED = load_file(FIXTURE.folder / "trajectories.safetensors")
STEPS, PROMPT, LENGTH = 8, 96, 16

SETTINGS = SamplerSettings(
    answer_length=LENGTH,
    steps=STEPS,
    block_length=8,
    suppressed_ids=tuple(FIXTURE.facts["suppressed_token_ids"]),
    cache="dllm",
    prompt_interval=4,
    answer_interval=3,
    transfer_ratio=0.25,
)


@pytest.fixture(scope="module")
def adapter():
    return load_model(FIXTURE.folder)


@pytest.fixture(scope="module")
def inputs(adapter):
    return adapter.prepare_ids(FIXTURE.picture, FIXTURE.inputs["input_ids"])


def cache(adapter, inputs, settings=SETTINGS):
    config, model = adapter.config, adapter.model
    return DllmCache(
        model.model,
        model.lm_head,
        inputs.embeddings,
        settings,
        head_dim=config.hidden_size // config.num_attention_heads,
        theta=config.rope_theta,
    )


@contextmanager
def recorded(modules):
    """For every module, what it is given, call by call."""
    inputs_of = [[] for _ in modules]
    with ExitStack() as hooks:
        for module, seen in zip(modules, inputs_of, strict=True):
            hook = module.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0]))
            hooks.callback(hook.remove)
        yield inputs_of


def replay_error(adapter, inputs, run, step):
    """Largest difference between the logits of a step's decisions and those of its state replayed in full."""
    positions = (run.commit_steps == step).nonzero()[:, 0]
    with torch.no_grad():
        logits = decision_logits(adapter, inputs, run.states[step][None], positions, run.settings)[0]
    decided = logits.gather(-1, run.final[positions, None])[:, 0]
    return float((decided - run.commit_logits[positions]).abs().max())


# -- the run that the original recorded ----------------------------------------------------------------------


def test_the_recorded_run_is_repeated(adapter, inputs):
    run = adapter.denoise(inputs, SETTINGS)
    assert run.states[1:].equal(RECORDED["dllm_cache.steps"])
    assert run.answer_ids.equal(RECORDED["dllm_cache.final"])
    assert not run.states[1:].equal(RECORDED["plain.steps"])


def test_the_recorded_run_is_repeated_by_a_model_that_is_not_ours():
    model = StandIn(json.loads((FIXTURE.folder / "config.json").read_text()))
    model.load_state_dict(FIXTURE.weights, strict=False)
    adapter = LLaDAVAdapter.wrap(model.eval())
    run = adapter.denoise(adapter.prepare_ids(FIXTURE.picture, FIXTURE.inputs["input_ids"]), SETTINGS)
    assert run.states[1:].equal(RECORDED["dllm_cache.steps"])


def test_stale_steps_are_those_that_the_original_recorded(adapter, inputs):
    run = adapter.denoise(inputs, SETTINGS)
    reasons = [adapter.invalid_reason(run, step) for step in range(run.steps)]
    assert [reason is not None for reason in reasons] == RUN["stale_image_span_at_step"]
    assert reasons[3].startswith("its image span was served from the cache of step 0")
    assert reasons[7].startswith("its image span was served from the cache of step 4")


def test_without_the_cache_no_step_is_stale():
    assert not any(stale_image_span(SETTINGS.merged({"cache": "prefix"}), step) for step in range(STEPS))


# -- what is computed ----------------------------------------------------------------------------------------


def test_rows_are_computed_when_they_are_due(adapter, inputs):
    """Prompt at steps 0 and 4, answer at 0, 3 and 6, a quarter of the answer (4 rows) at the other steps."""
    with recorded([block.mlp for block in adapter.blocks]) as inputs_of:
        adapter.denoise(inputs, SETTINGS)
    for seen in inputs_of:
        assert [rows.shape[1] for rows in seen] == [PROMPT + LENGTH, 4, 4, LENGTH, PROMPT + 4, 4, LENGTH, 4]


@pytest.mark.parametrize(
    "changes",
    [{"prompt_interval": 1, "answer_interval": 1}, {"prompt_interval": 1, "transfer_ratio": 1.0}],
)
def test_a_cache_that_keeps_nothing_is_no_cache(adapter, inputs, changes):
    cached = adapter.denoise(inputs, SETTINGS.merged(changes))
    plain = adapter.denoise(inputs, SamplerSettings(**{**vars(SETTINGS), "cache": None}))
    assert cached.states.equal(plain.states)
    torch.testing.assert_close(cached.commit_logits, plain.commit_logits, atol=1e-4, rtol=0)


@torch.no_grad()
def test_with_everything_kept_the_answer_cannot_change_the_logits(adapter, inputs):
    """Between computations, at ratio 0, a row's logits depend on its own id only."""
    forward = cache(adapter, inputs, SETTINGS.merged({"transfer_ratio": 0.0}))
    state = torch.full((1, LENGTH), adapter.mask_token_id)
    every = torch.arange(LENGTH)
    first = forward(state, every)
    state[0, 5] = 7
    second = forward(state, every)
    others = every[every != 5]
    assert second[:, others].equal(first[:, others])
    assert not torch.allclose(second[:, 5], first[:, 5])


@torch.no_grad()
def test_the_row_whose_token_changed_is_computed_again(adapter, inputs):
    """One row of sixteen is computed: in every block the one whose value vector has turned away."""
    forward = cache(adapter, inputs, SETTINGS.merged({"transfer_ratio": 1 / LENGTH}))
    state, position = torch.full((1, LENGTH), adapter.mask_token_id), torch.tensor([5])
    forward(state, position)
    state[0, 5] = 7
    with recorded([block.input_layernorm for block in adapter.blocks]) as inputs_of:
        forward(state, position)
    for answer, chosen in inputs_of:
        assert answer.shape[1] == LENGTH
        assert chosen.equal(answer[:, 5:6])


# -- replaying a cached run ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"prompt_interval": 3}, {"prompt_interval": 2, "transfer_ratio": 1.0}]
)
def test_replay_repeats_the_decision_at_exact_steps_and_at_no_others(adapter, inputs, changes):
    settings = SETTINGS.merged(changes)
    run = adapter.denoise(inputs, settings)
    exact = [replay_error(adapter, inputs, run, step) < 1e-4 for step in range(STEPS)]
    assert exact == [adapter.exact_replay(run, step) for step in range(STEPS)]


def test_every_replay_of_an_uncached_run_is_exact():
    assert all(is_exact(SamplerSettings(), step) for step in range(STEPS))


@pytest.mark.parametrize("policy", ["refuse", "warn"])
def test_the_engine_refuses_or_warns_at_a_stale_step(adapter, inputs, policy):
    run = adapter.denoise(inputs, SETTINGS)
    explainer = Explainer(adapter, "grad-cam", overrides={"mask_step": 3, "invalid_steps": policy})
    answer = read_answer(run.answer_ids, adapter.tokenizer)
    targets = select_targets(answer, [int((run.commit_steps == 3).nonzero()[0])])
    if policy == "refuse":
        with pytest.raises(StructuralValidityError, match="served from the cache of step 0"):
            explainer.explain_run(inputs, run, answer, targets)
    else:
        (explained,) = explainer.explain_run(inputs, run, answer, targets).targets
        assert any("served from the cache of step 0" in note for note in explained.notes)


# -- what it refuses, and what it leaves ---------------------------------------------------------------------


def test_the_model_is_left_as_it_was(adapter, inputs):
    state, every = FIXTURE.inputs["state_ids"], torch.arange(LENGTH)
    with torch.no_grad():
        before = adapter.replay(inputs, state, every)
        attributes = {path: set(vars(module)) for path, module in adapter.model.named_modules()}
        adapter.denoise(inputs, SETTINGS)
        assert {path: set(vars(module)) for path, module in adapter.model.named_modules()} == attributes
        assert adapter.replay(inputs, state, every).equal(before)


def test_two_runs_share_nothing(adapter, inputs):
    first, second = (adapter.denoise(inputs, SETTINGS) for _ in range(2))
    assert first.states.equal(second.states)
    assert first.commit_logits.equal(second.commit_logits)


def test_guidance_is_refused(adapter, inputs):
    with pytest.raises(
        ConfigurationError, match=r"sampler\.guidance_scale is 1\.5 and sampler\.cache is 'dllm'"
    ):
        adapter.denoise(inputs, SETTINGS.merged({"guidance_scale": 1.5}))


def test_blocks_that_lie_elsewhere_are_refused(inputs):
    adapter = load_model(FIXTURE.folder)
    adapter.blocks[1].to("meta")
    with pytest.raises(ConfigurationError, match="needs all blocks on cpu"):
        cache(adapter, inputs)
