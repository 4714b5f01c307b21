"""DiffusionGemma behind the contract: its own `generate` recorded, replayed, probed and explained."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from support import diffusion_gemma as tiny
from support.trajectory_picture import draw
from transformers import DynamicCache
from transformers.models.diffusion_gemma.generation_diffusion_gemma import EntropyBoundSampler

from dcam_adapters.diffusion_gemma.adapter import DiffusionGemmaAdapter
from dcam_core.conformance import Subject
from dcam_core.denoising import Decider
from dcam_core.denoising.settings import SamplerSettings
from dcam_core.denoising.trajectory import NEVER_COMMITTED
from dcam_core.errors import (
    CheckpointError,
    ConfigurationError,
    PictureError,
    StructuralValidityError,
    UsageError,
)
from dcam_core.explainer import Explainer
from dcam_core.probing.mask_steps import MASK_STEPS
from dcam_core.probing.targets import Target
from dcam_core.testing import AdapterConformance

PROMPT = "describe the picture"
CANVAS = tiny.CANVAS


def new_adapter():
    return DiffusionGemmaAdapter(tiny.tiny_model(), tiny.tiny_tokenizer(), tiny.tiny_image_processor())


@pytest.fixture(scope="module")
def adapter():
    return new_adapter()


@pytest.fixture(scope="module")
def inputs(adapter):
    return adapter.prepare(tiny.picture(), PROMPT)


@pytest.fixture(scope="module")
def run(adapter, inputs):
    """Two canvases, to the end."""
    return adapter.denoise(inputs, adapter.default_sampler.merged({"stop_sequences": ()}))


class TestConformance(AdapterConformance):
    """As a plugin author would write it."""

    @pytest.fixture(scope="class")
    @classmethod
    def adapter(cls):
        return new_adapter()

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, adapter):
        return Subject(adapter, prompt=PROMPT)


# -- recording -----------------------------------------------------------------------------------------------


class Witness:
    """What `generate` itself computes, seen where it computes it."""

    def __init__(self, monkeypatch, model):
        self.logits, self.canvases, self.accepted = [], [], []
        step, accept = type(model)._denoising_step, EntropyBoundSampler.accept_canvas

        def watched_step(own, *args, decoder_forward, **kwargs):
            def forward(**inner):
                output = decoder_forward(**inner)
                self.logits.append(output.logits[0].clone())
                self.canvases.append(inner["decoder_input_ids"][0].clone())
                return output

            return step(own, *args, decoder_forward=forward, **kwargs)

        def watched_accept(own, *args):
            found = accept(own, *args)
            self.accepted.append(own.accepted_token_mask[0].clone())
            return found

        monkeypatch.setattr(type(model), "_denoising_step", watched_step)
        monkeypatch.setattr(EntropyBoundSampler, "accept_canvas", watched_accept)


def generated(adapter, settings):
    """The model's own `generate`, as its documentation calls it: ids and pixels in, ids out."""
    content = [{"type": "image"}, {"type": "text", "text": PROMPT}]
    text = adapter.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    made = tiny.tiny_image_processor()(images=[tiny.picture()], return_tensors="pt")
    tokens = f"<|image> {'<|image|> ' * int(made['num_soft_tokens_per_image'][0])}<image|>"
    ids = adapter.tokenizer(text.replace("<|image|>", tokens), add_special_tokens=False, return_tensors="pt")
    ids = ids["input_ids"]
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        output = adapter.model.generate(
            ids,
            pixel_values=made["pixel_values"],
            image_position_ids=made["image_position_ids"],
            mm_token_type_ids=(ids == tiny.IMAGE).long(),
            max_new_tokens=settings.answer_length,
            eos_token_id=None,
        )
    return output.sequences[0, ids.shape[1] :]


def test_the_record_is_what_plain_generate_does(adapter, inputs, run, monkeypatch):
    witness = Witness(monkeypatch, adapter.model)
    answer = generated(adapter, run.settings)

    assert run.final.tolist() == answer.tolist()
    assert len(witness.canvases) == run.steps > 4
    for step, canvas in enumerate(witness.canvases):
        start, stop = run.windows[step].tolist()
        assert run.states[step, start:stop].tolist() == canvas.tolist()
    assert run.windows[:, 0].unique().tolist() == [0, CANVAS]


def test_replay_equals_the_logits_that_generate_saw(adapter, inputs, run, monkeypatch, record_property):
    """Every row of every step of both canvases, not only those that decided something."""
    witness = Witness(monkeypatch, adapter.model)
    generated(adapter, run.settings)
    decider, largest = Decider(adapter, inputs, run.settings), 0.0
    with torch.no_grad():
        for step, expected in enumerate(witness.logits):
            where = torch.arange(*run.windows[step].tolist())
            found = decider.logits(run.states[step][None], where, [run.conditioning_of(step)])[0]
            largest = max(largest, float((found - expected).abs().max()))
    record_property("largest_difference", largest)
    print(f"largest difference of {run.steps} steps x {CANVAS} rows: {largest:.2e}")
    assert largest < 1e-5 * float(torch.stack(witness.logits).abs().max())


def test_accepted_positions_are_those_of_the_sampler(adapter, inputs, run, monkeypatch):
    """The recorder asks the acceptance rule again; it must say what it said to `generate`."""
    told = []
    witness = Witness(monkeypatch, adapter.model)
    generated(adapter, run.settings)
    own, witness.accepted = list(witness.accepted), []
    adapter.denoise(inputs, run.settings, told.append)

    assert [step.index for step in told] == list(range(run.steps))
    for step, (heard, expected) in enumerate(zip(told, own, strict=True)):
        start = int(run.windows[step, 0])
        is_last = step + 1 == run.steps or int(run.windows[step + 1, 0]) != start
        accepted = torch.ones(CANVAS, dtype=torch.bool) if is_last else expected
        assert (heard.committed - start).tolist() == accepted.nonzero()[:, 0].tolist()
        assert torch.equal(heard.ids, run.states[step + 1])


def test_tokens_are_taken_back_and_every_one_is_decided_once(adapter, run):
    assert adapter.mask_token_id is None
    assert bool((run.commit_steps >= 0).all())
    assert bool(run.commit_logits.isfinite().all())
    for position, step in enumerate(run.commit_steps.tolist()):
        start, stop = run.windows[step].tolist()
        assert start <= position < stop
        # From its commit step on, the canvas holds the token at every later state.
        assert bool((run.states[step + 1 :, position] == run.final[position]).all())
    undecided = [int(run.undecided(step).sum()) for step in range(run.steps + 1)]
    assert undecided[0] == 2 * CANVAS
    assert undecided[-1] == 0
    assert undecided == sorted(undecided, reverse=True)


def test_a_stop_sequence_ends_the_answer_and_no_canvas_begins_behind_it(adapter, inputs, run):
    stop = int(run.final[3])
    ended = adapter.denoise(inputs, run.settings.merged({"stop_sequences": [[stop]]}))
    assert ended.answer_length == run.final.tolist().index(stop)
    assert ended.windows[:, 0].unique().tolist() == [0]
    assert torch.equal(ended.final[:CANVAS], run.final[:CANVAS])
    assert (ended.commit_steps[CANVAS:] == NEVER_COMMITTED).all()
    assert len(ended.final) == 2 * CANVAS


def test_suppressed_ids_are_never_chosen(adapter, inputs, run):
    banned = sorted(set(run.final.tolist()))[:3]
    other = adapter.denoise(inputs, run.settings.merged({"suppressed_ids": banned}))
    assert not set(other.final.tolist()) & set(banned)
    with torch.no_grad():
        logits = Decider(adapter, inputs, other.settings).logits(other.states[:1], torch.tensor([0, 3]))
    assert bool((logits[..., banned] == -torch.inf).all())


def test_the_answer_follows_the_embeddings(adapter, inputs, run):
    """Whoever changes what the model is shown (to measure an explanation) gets the answer to that."""
    changed = copy.copy(inputs)
    object.__setattr__(changed, "embeddings", torch.roll(inputs.embeddings, 7, dims=1))
    assert not torch.equal(adapter.denoise(changed, run.settings).final, run.final)


def test_a_run_can_be_drawn(adapter, inputs, run, tmp_path):
    told = []
    adapter.denoise(inputs, run.settings, told.append)
    draw(run, told, [*tiny.SPECIAL, *tiny.WORDS], tmp_path / "run.png")
    with Image.open(tmp_path / "run.png") as drawn:
        assert drawn.width > drawn.height > 0
        assert len(drawn.convert("RGB").getcolors(2**24)) > 10


# -- replay --------------------------------------------------------------------------------------------------


def test_states_that_share_ids_but_not_conditioning_are_different_states(adapter, inputs, run):
    step = next(s for s in range(run.steps) if run.conditioning_of(s) is not None)
    where = torch.arange(*run.windows[step].tolist())
    twice = run.states[step][None].repeat(2, 1)
    with torch.no_grad():
        together = adapter.replay(inputs, twice, where, conditioning=[None, run.conditioning_of(step)])
        alone = adapter.replay(inputs, twice[:1], where)
        handed = adapter.replay(inputs, twice[:1], where, conditioning=[run.conditioning_of(step)])
    assert not torch.allclose(together[0], together[1], atol=1e-2)
    assert torch.allclose(together[0], alone[0], atol=3e-4)
    assert torch.allclose(together[1], handed[0], atol=3e-4)


def test_replay_leaves_the_prefix_as_it_was(adapter, inputs, run):
    with torch.no_grad():
        prefix = adapter.encode_prefix(inputs)
        before = [(layer.keys.clone(), layer.values.clone()) for layer in prefix.keys_values.layers]
        where = torch.arange(2 * CANVAS)
        first = adapter.replay(inputs, run.states[-1:], where, prefix)
        again = adapter.replay(inputs, run.states[-2:], where, prefix)
    assert isinstance(prefix.keys_values, DynamicCache)
    assert prefix.keys_values.get_seq_length() == inputs.prompt_length
    for layer, (keys, values) in zip(prefix.keys_values.layers, before, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)
    assert torch.allclose(first[0], again[1], atol=1e-5)


def test_a_canvas_reads_those_before_it_and_not_those_behind(adapter, inputs, run):
    state, later = run.states[-1][None], torch.tensor([CANVAS + 1])
    with torch.no_grad():
        logits = adapter.replay(inputs, state, later)
        earlier = state.clone()
        earlier[0, 0] = (earlier[0, 0] + 1) % 20
        assert not torch.allclose(adapter.replay(inputs, earlier, later), logits, atol=1e-4)
        behind = state.clone()
        behind[0, CANVAS:] = 3
        first = torch.tensor([2])
        assert torch.equal(adapter.replay(inputs, behind, first), adapter.replay(inputs, state, first))


def test_gradients_reach_every_picture_token_through_keys_and_values(adapter, inputs, run):
    """At the encoder's blocks but the last; the answer of the second canvas reads them too."""
    start, stop = inputs.image_span
    for position in (2, CANVAS + 2):
        for index, block in enumerate(adapter.blocks):
            leaves = []

            def cut(module, args, output, leaves=leaves, stop=stop):
                if output.shape[1] < stop:
                    return None
                leaves.append(output.detach().requires_grad_())
                return leaves[0].clone()

            handle = block.register_forward_hook(cut)
            logits = adapter.replay(inputs, run.states[-1:], torch.tensor([position]))
            handle.remove()
            gradient = torch.autograd.grad(logits.amax(), leaves[0], allow_unused=True)[0]
            if index == len(adapter.blocks) - 1:
                assert gradient is None
            else:
                assert bool((gradient[0, start:stop] != 0).any(-1).all())


def test_the_last_block_cannot_be_probed_and_the_message_says_why(adapter):
    explainer = Explainer(adapter, overrides={"probe_layer": -1})
    with pytest.raises(Exception, match="does not depend on the output"):
        explainer.explain(tiny.picture(), PROMPT, targets=[0])


# -- which step ----------------------------------------------------------------------------------------------


def states_of(policy, adapter, run, positions):
    tokens = tuple(int(run.final[p]) for p in positions)
    target = Target("word", tuple(positions), tokens, ("w",) * len(positions))
    answers = (
        hook.dcam_mask_step(policy=policy, target=target, trajectory=run, adapter=adapter)
        for hook in MASK_STEPS
    )
    return next(answer for answer in answers if answer is not None)


def test_policies_read_a_word_at_steps_that_computed_it(adapter, run):
    second = int(run.windows[:, 0].tolist().index(CANVAS))
    across = [CANVAS - 1, CANVAS]
    assert [s.step for s in states_of("first", adapter, run, across)] == [0, second]
    assert [s.step for s in states_of("last", adapter, run, across)] == [second - 1, run.steps - 1]
    everywhere = states_of("all", adapter, run, across)
    assert [s.step for s in everywhere] == list(range(run.steps))
    assert {s.positions for s in everywhere if s.step < second} == {(CANVAS - 1,)}
    commits = states_of("commit", adapter, run, across)
    assert sorted(s.step for s in commits) == sorted(set(run.commit_steps[across].tolist()))


def test_infill_makes_the_word_noise_again_and_is_told_nothing(adapter, run):
    (state,) = states_of("infill", adapter, run, [2])
    assert (state.step, state.conditioning) == (None, None)
    assert (state.ids != run.final).nonzero()[:, 0].tolist() in ([2], [])
    assert torch.equal(state.ids, adapter.hidden(run.final, [2]))
    (final,) = states_of("final", adapter, run, [2])
    assert torch.equal(final.ids, run.final)


def test_a_step_of_another_canvas_is_refused(adapter, run):
    explainer = Explainer(
        adapter,
        overrides={"mask_step": 0, "sampler": {"stop_sequences": []}},
    )
    with pytest.raises(
        StructuralValidityError, match=rf"step 0 computed nothing at answer position {CANVAS + 1}"
    ):
        explainer.explain(tiny.picture(), PROMPT, targets=[CANVAS + 1])


@pytest.mark.parametrize("policy", ["commit", "first", "last", "all", "infill", "final"])
def test_every_policy_explains_words_of_both_canvases(adapter, policy):
    explainer = Explainer(
        adapter, overrides={"mask_step": policy, "sampler": {"stop_sequences": []}}, states_per_forward=3
    )
    found = explainer.explain(tiny.picture(), PROMPT, targets=[1, CANVAS + 1])
    assert found.maps.shape[0] == 2
    assert np.isfinite(np.asarray(found.maps)).all()
    assert len(found.steps) > 4
    if policy == "commit":
        for target in found.targets:
            assert target.replayed_probability == pytest.approx(target.probability, rel=1e-3)
    sampler = found.settings["sampler"]
    assert sampler["entropy_bound"] == 1.0
    assert "temperature" not in sampler


def test_a_given_answer_fills_whole_canvases(adapter):
    text = "a red circle on left of a blue square and a green triangle"
    found = Explainer(adapter).explain(tiny.picture(), PROMPT, ["circle", "triangle"], answer=text)
    assert found.answer == text
    assert found.settings["sampler"]["answer_length"] == 2 * CANVAS
    assert [target.positions for target in found.targets] == [(2,), (12,)]
    assert [target.state for target in found.targets] == ["infill", "infill"]
    assert found.maps.isfinite().all()
    assert len(found.reliance.words) == 13


def test_the_record_shows_undecided_positions_as_such(adapter):
    found = Explainer(adapter, overrides={"sampler": {"stop_sequences": []}}).explain(
        tiny.picture(), PROMPT, targets=[0]
    )
    blanks = [text.split(" ").count("\u2581") for text in found.steps]
    assert blanks[0] > 0
    assert blanks == sorted(blanks, reverse=True)
    assert blanks[-1] == 0


# -- settings ------------------------------------------------------------------------------------------------


def test_settings_come_from_the_generation_configuration(adapter):
    settings = adapter.default_sampler
    assert (settings.answer_length, settings.canvas_length, settings.blocks) == (2 * CANVAS, CANVAS, 2)
    assert (settings.steps_per_canvas, settings.entropy_bound, settings.confidence_threshold) == (6, 1.0, 0.1)
    assert settings.cache == "prefix"
    assert settings.total_steps == 12
    assert settings.shortened(3).answer_length == CANVAS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"temperature": 0.5},
            "sampler.temperature means nothing to this model's sampler: it has .*entropy_bound",
        ),
        ({"guidance_scale": 1.0}, "sampler.guidance_scale means nothing"),
        ({"answer_length": 12}, "canvases of 8 tokens, choose a multiple"),
        ({"entropy_bound": 0}, "entropy_bound is 0"),
        ({"t_min": 0.9}, "t_max above t_min"),
        ({"steps_per_canvas": 0}, "give at least 1 step"),
        ({"steps_per_canvas": "many"}, "sampler.steps_per_canvas is 'many', which is not a int"),
        ({"cache": "dllm"}, "sampler.cache is 'dllm'"),
        ({"stepz": 1}, "unknown sampler setting 'sampler.stepz'"),
    ],
)
def test_settings_that_cannot_be_are_refused(adapter, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        adapter.default_sampler.merged(changes)


def test_settings_of_another_family_are_refused(adapter, inputs):
    with pytest.raises(ConfigurationError, match="cannot sample with SamplerSettings"):
        adapter.denoise(inputs, SamplerSettings())
    with pytest.raises(ConfigurationError, match="no guidance"):
        adapter.unconditional(inputs)


# -- pictures and prompts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(48, 36), (64, 64), (200, 40), (17, 90)])
def test_rectangles_tile_the_picture_exactly(adapter, size):
    inputs = adapter.prepare(tiny.picture(size), PROMPT)
    (view,) = inputs.views
    (rows, cols), (width, height) = view.grid, size
    assert (cols > rows) == (width > height) or width == height
    cells = view.rectangles
    assert cells[0, 0, :2].tolist() == [0, 0]
    assert cells[-1, -1, 2:].tolist() == [width, height]
    assert torch.equal(cells[:, 1:, 0], cells[:, :-1, 2])
    assert torch.equal(cells[1:, :, 1], cells[:-1, :, 3])
    # The tower's own pooling made as many tokens, between the tokens that begin and end a picture.
    assert inputs.image_span == (int(view.positions[0, 0]), int(view.positions[-1, -1]) + 1)


def test_a_patch_of_the_picture_changes_the_tokens_that_show_it_before_the_tower_mixes_them():
    """Independent of the layout's formulas: one transformer layer less, and only one place of the picture differs."""
    adapter = new_adapter()
    tower = adapter.model.get_submodule("model.encoder.vision_tower")
    tower.encoder.layers = torch.nn.ModuleList()
    tower.encoder.num_layers = 0
    size = (90, 60)
    dark = adapter.prepare(tiny.picture(size), PROMPT)
    (view,) = dark.views
    for row, col in [(0, 0), (2, 3), (view.grid[0] - 1, view.grid[1] - 1)]:
        x0, y0, x1, y1 = view.rectangles[row, col].tolist()
        changed = tiny.picture(size)
        changed.paste((255, 255, 0), (round(x0) + 2, round(y0) + 2, round(x1) - 2, round(y1) - 2))
        moved = (adapter.prepare(changed, PROMPT).embeddings - dark.embeddings)[0].norm(dim=-1)
        assert int(moved.argmax()) == int(view.positions[row, col])


def test_two_pictures_get_a_map_each(adapter):
    wide, tall = tiny.picture((80, 32)), tiny.picture((32, 80))
    inputs = adapter.prepare([wide, tall], PROMPT)
    assert [view.picture for view in inputs.views] == [0, 1]
    found = Explainer(adapter).explain([wide, tall], PROMPT, targets=[0])
    assert [part.raw.shape[1:] for part in found.pictures] == [view.grid for view in inputs.views]
    assert [part.maps.shape[1:] for part in found.pictures] == [(32, 80), (80, 32)]  # as fine as the pictures


@pytest.mark.parametrize("method", ["attention-rollout", "attention-relevance"])
def test_attention_that_stops_at_the_prompt_is_not_rolled_out(adapter, method):
    with pytest.raises(ConfigurationError, match=rf"{method} follows .* reads its prompt in a pass before"):
        Explainer(adapter, method).explain(tiny.picture(), PROMPT, targets=[0], baselines=())


def test_the_prompt_must_have_one_place_for_every_picture(adapter):
    with pytest.raises(UsageError, match=r"0 places for a picture .* and 1 pictures"):
        adapter.prepare_ids(tiny.picture(), torch.tensor([[10, 11]]))
    with pytest.raises(UsageError, match="2 places"):
        adapter.prepare(tiny.picture(), "describe <|image|>")


def test_without_tokenizer_or_chat_template_the_message_says_what_to_add():
    adapter = new_adapter()
    adapter.tokenizer.chat_template = None
    with pytest.raises(CheckpointError, match=r"no chat template.*chat_template\.jinja"):
        adapter.prepare(tiny.picture(), PROMPT)
    adapter.tokenizer = None
    with pytest.raises(CheckpointError, match=r"no tokenizer \(tokenizer\.json\)"):
        adapter.prepare(tiny.picture(), PROMPT)


def test_a_picture_that_cannot_be_resized_is_refused():
    adapter = new_adapter()

    def processor(images, return_tensors):
        raise ValueError("0 x 0")

    adapter._image_processor = processor
    with pytest.raises(PictureError, match=r"48x36 pixels cannot be resized to whole image tokens \(0 x 0\)"):
        adapter.prepare(tiny.picture(), PROMPT)
