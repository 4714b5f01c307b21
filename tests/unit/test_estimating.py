"""Estimates of memory: made without numbers, they are what the allocator then counts."""

from __future__ import annotations

import json

import pytest
import torch
from benchmarks.allocated import peak_allocated
from click.testing import CliRunner
from support.diffusion_gemma import picture, write_checkpoint
from torch import nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException
from torch.nn import functional

from dcam_adapters.llada_v.adapter import LLaDAVAdapter
from dcam_adapters.llada_v.config import LLaDAVConfig
from dcam_adapters.llada_v.modeling import LLaDAV
from dcam_core import Explainer, default_manager, estimate_memory, load_model
from dcam_core.attribution import ModelAttribution
from dcam_core.cli.main import cli
from dcam_core.cli.session import Session
from dcam_core.errors import CheckpointError, ConfigurationError, UsageError
from dcam_core.estimating import PeakTensorMemory
from dcam_core.estimating.fakes import fake_weights
from dcam_core.estimating.weights import weight_bytes
from dcam_core.estimating.workspace import depthwise_workspace
from dcam_core.models import outline_model
from dcam_core.testing.toy import toy_adapter, toy_picture

PROMPT = "what is in the picture ?"
SIZE = (96, 72)


def sized(width, layers, answer):
    """The embedded model's prompt and vocabulary with a language model of another size, and random weights."""
    embedded = load_model("tiny-llada-v")
    values = json.loads((embedded.folder / "config.json").read_text())
    values |= {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 3 * width}
    # An answer of random weights would hold stop tokens: one of words only is written where nothing else may be.
    values["suppressed_token_ids"] = list(range(12))
    config = LLaDAVConfig.of(values)
    torch.manual_seed(0)
    model = LLaDAV(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    generation = {"gen_length": answer, "block_length": answer, "steps": answer}
    return LLaDAVAdapter(model.eval(), config, embedded.tokenizer, generation=generation)


CASES = {
    "infill": ((64, 2, 12), 1, "dcam", {}),
    "two by two": ((128, 5, 16), 4, "diffusion-cam", {"states_per_forward": 2}),
    "vectorised": ((96, 3, 16), 6, "grad-cam", {"overrides": ["mask_step=first"], "targets_per_backward": 3}),
    "checkpointing": ((96, 6, 12), 3, "diffusion-cam", {"checkpointing": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_an_estimate_is_what_the_allocator_counts(case):
    size, count, method, options = CASES[case]
    adapter = sized(*size)
    estimate = estimate_memory(adapter, SIZE, count, method=method, prompt=PROMPT, **options)
    explainer = Explainer(adapter, method, **options)

    def explain():
        explainer.explain(toy_picture(SIZE), PROMPT, targets=range(count))

    assert estimate.activations == pytest.approx(peak_allocated(explain), rel=0.2)
    held = (*adapter.model.parameters(), *adapter.model.buffers())
    assert estimate.weights == sum(tensor.nbytes for tensor in held)


@pytest.mark.parametrize(("name", "targets"), [("tiny-lavida", 1), ("tiny-mmada", 7)])
def test_a_large_picture_whose_refining_takes_the_most_is_estimated_too(name, targets):
    explainer = Explainer(load_model(name), "dcam")
    picture = toy_picture(SIZE).resize((640, 480))
    estimate = explainer.estimate_memory(picture.size, targets)
    asked = list(range(targets))
    measured = peak_allocated(lambda: explainer.explain(picture, "describe the picture", targets=asked))
    assert estimate.activations == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize(("batch", "channels"), [(1, 3), (2, 9), (3, 1)])
def test_the_workspace_of_a_depthwise_convolution(batch, channels):
    values, weight = torch.rand(batch, channels, 90, 80), torch.rand(channels, 1, 33, 33)
    result = torch.nn.functional.conv2d(values, weight, groups=channels)
    measured = peak_allocated(lambda: torch.nn.functional.conv2d(values, weight, groups=channels))
    assert depthwise_workspace(values, weight, result) == pytest.approx(measured, rel=0.1)


def test_replays_alone_are_estimated_too():
    """Reliance may take the most of a run; what follows it is held to the allocator on its own."""
    adapter = sized(96, 4, 12)
    options = {"overrides": ["probe_layer=0"], "states_per_forward": 2}
    estimate = estimate_memory(adapter, SIZE, 4, method="grad-cam", prompt=PROMPT, **options)
    explainer = Explainer(adapter, "grad-cam", **options)
    inputs, asked = explainer._ask([toy_picture(SIZE)], PROMPT, range(4), None, None, 0, None)
    found = peak_allocated(
        lambda: explainer.explain_run(inputs, asked.trajectory, asked.answer, asked.targets)
    )
    explaining = next(phase.peak for phase in estimate.phases if phase.name == "explaining")
    held = inputs.embeddings.nbytes + inputs.pixels.nbytes  # made before
    assert explaining == pytest.approx(found + held, rel=0.1)
    assert explaining == pytest.approx(estimate.graph + estimate.gradients, rel=0.2)
    assert 0 < estimate.per_state < explaining / 2


def assert_outlines(outline, loaded):
    """An outline has no numbers, and otherwise all that the loaded model has."""
    assert all(parameter.is_meta for parameter in outline.model.parameters())
    forms = [
        {n: (p.shape, p.dtype) for n, p in adapter.model.named_parameters()} for adapter in (outline, loaded)
    ]
    assert forms[0] == forms[1]
    assert weight_bytes(outline) == weight_bytes(loaded)
    assert outline.default_sampler == loaded.default_sampler


def test_a_mixture_of_experts_that_reads_masked_patches_is_estimated_too(tmp_path):
    folder = write_checkpoint(tmp_path)
    loaded, outline = load_model(folder), outline_model(folder)
    assert_outlines(outline, loaded)
    options = {"method": "grad-cam", "overrides": ["mask_step=commit", "probe_layer=0"], "prompt": "describe"}
    estimate = estimate_memory(outline, SIZE, 3, **options)
    assert not estimate.left_out
    explainer = Explainer(loaded, "grad-cam", overrides=options["overrides"])
    shown = picture(SIZE)
    found = peak_allocated(lambda: explainer.explain(shown, "describe", targets=range(3)))
    assert estimate.activations == pytest.approx(found, rel=0.2)
    half = outline_model(folder, dtype="bfloat16")
    assert 2 * sum(p.nbytes for p in half.model.parameters()) == sum(
        t.nbytes for t in loaded.model.parameters()
    )


def test_real_masks_select_from_fakes():
    adapter = toy_adapter()
    mask = torch.tensor([[True, False, True], [False, False, True]])
    with fake_weights(adapter) as fakes:
        given = fakes.like(torch.zeros(2, 3, 5))
        assert given[mask].shape == (3, 5)
        assert given.mT[:, :, mask[0]].shape == (2, 5, 2)
        given[mask] = torch.ones(3, 5)
        with pytest.raises(DynamicOutputShapeException):
            given[given > 0]
        groups = torch.tensor([1, 3], dtype=torch.int32)
        rows, weights = fakes.like(torch.zeros(3, 8)), fakes.like(torch.zeros(2, 8, 4))
        product = functional.grouped_mm(rows, weights, offs=groups)
        assert (product.shape, product.dtype) == ((3, 4), torch.float32)
        assert functional.grouped_mm(rows.mT, product, offs=groups).shape == (2, 8, 4)


@pytest.mark.parametrize("name", ["tiny-llada-v", "tiny-lavida", "tiny-mmada"])
def test_an_outline_tells_what_the_loaded_model_tells(name):
    outline, loaded = outline_model(name), load_model(name)
    assert_outlines(outline, loaded)
    estimate = Explainer(outline).estimate_memory(SIZE, 2, prompt=PROMPT)
    assert estimate.prompt_length == loaded.prepare(toy_picture(SIZE), PROMPT).prompt_length


def test_half_precision_and_a_folder_without_weights(tmp_path):
    folder = load_model("tiny-llada-v").folder
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    whole, half = (outline_model(tmp_path, dtype=dtype) for dtype in ("float32", "bfloat16"))
    sizes = [sum(p.nbytes for p in adapter.model.parameters()) for adapter in (whole, half)]
    assert sizes[0] == 2 * sizes[1]
    assert weight_bytes(whole) == weight_bytes(outline_model(folder))
    assert outline_model(tmp_path).dtype == torch.float32  # on the CPU, as `load_model`
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is empty"):
        outline_model(tmp_path)


def test_quantised_weights_have_the_size_that_they_are_packed_to():
    adapter = outline_model("tiny-llada-v")
    linear = [m.weight for b in adapter.blocks for m in b.modules() if isinstance(m, nn.Linear)]
    rest = weight_bytes(adapter) - sum(weight.nbytes for weight in linear)
    count = sum(weight.numel() for weight in linear)
    assert weight_bytes(adapter, "8bit") == rest + count + 4 * sum(weight.shape[0] for weight in linear)
    assert weight_bytes(adapter, "4bit") == pytest.approx(rest + 0.516 * count, rel=0.01)
    toy = Explainer(toy_adapter(), "diffusion-cam")
    plain, packed = (toy.estimate_memory(SIZE, 2, prompt="the red", quantisation=q) for q in (None, "4bit"))
    assert packed.weights < plain.weights
    # The largest weight of a layer is unpacked while it computes: [48, 24] float32.
    assert packed.phases[1].peak == plain.phases[1].peak + 48 * 24 * 4


def test_a_pass_without_a_graph_takes_what_one_block_takes():
    """Keys and values of a block are let go where nobody asked for them."""
    peaks = []
    for layers in (2, 5):
        network = sized(64, layers, 8).model.model
        with torch.no_grad(), PeakTensorMemory() as memory:
            network(torch.zeros(1, 50, 64))
        peaks.append(memory.peak)
    assert peaks[0] == peaks[1]


def test_the_models_own_weights_come_back():
    adapter = toy_adapter()
    before = dict(adapter.model.named_parameters())
    with fake_weights(adapter):
        inside = dict(adapter.model.named_parameters())
        assert inside.keys() == before.keys()
        assert not any(inside[name] is before[name] for name in before)
        assert adapter.model.head(inside["blocks.0.norm.weight"]).shape == (22,)
    with pytest.raises(ZeroDivisionError), fake_weights(adapter):
        1 / 0  # noqa: B018
    after = dict(adapter.model.named_parameters())
    assert all(after[name] is before[name] for name in before)


def test_what_is_a_view_of_something_older_is_not_counted():
    weight = torch.zeros(100, 10)
    with PeakTensorMemory() as memory:
        view = weight.mT
        product = view @ torch.ones(100, 1)
        del view, product
        assert memory.alive == 0
        memory.restart()
        kept = torch.zeros(5)
    assert memory.peak == memory.alive == kept.nbytes


class Curious(ModelAttribution):
    """Asks the model, and looks at what it says."""

    def forward(self, replays):
        values = replays.input_gradients()
        _, first = next(values)
        if float(first.sum()) > 0:
            return first
        return -first


def test_what_cannot_be_followed_is_said(tmp_path):
    explainer = Explainer(toy_adapter(), "diffusion-cam")
    explainer._bound.attribution = ("attribution 'curious'", Curious())
    estimate = explainer.estimate_memory(SIZE, 2, prompt="the red")
    assert len(estimate.left_out) == 1
    assert "part of what attribution 'curious' takes" in estimate.left_out[0]
    assert estimate.left_out[0] in str(estimate)

    adapter = toy_adapter()
    replay = adapter.replay
    adapter.replay = lambda *given: replay(*given) * float(adapter.model.head.weight.sum())
    with pytest.raises(
        ConfigurationError, match=r"toy cannot be estimated: while denoising.*without numbers"
    ):
        Explainer(adapter).estimate_memory(SIZE, 2, prompt="the red")


@pytest.mark.parametrize(
    ("size", "targets", "message"), [((0, 5), 1, "no pixels"), (SIZE, 9, "1 to 8 tokens")]
)
def test_what_cannot_be_is_refused(size, targets, message):
    with pytest.raises(UsageError, match=message):
        Explainer(toy_adapter()).estimate_memory(size, targets, prompt="the red")


def test_the_command(tmp_path):
    out = tmp_path / "found.json"
    words = ["estimate", "tiny-mmada", "--image", "96x72", "--targets", "2", "--json", str(out)]
    session = Session()
    session.manager = default_manager()
    shown = CliRunner().invoke(cli, words, obj=session)
    assert shown.exit_code == 0, shown.output
    found = json.loads(out.read_text())
    assert found["peak"] == found["weights"] + max(phase["peak"] for phase in found["phases"])
    assert f"{found['peak'] / 2**20:,.1f} MiB  weights and the largest" in shown.output
    folder = CliRunner().invoke(cli, ["estimate", "tiny-llada-v", "--json", str(tmp_path)], obj=session)
    assert isinstance(folder.exception, UsageError)
    wrong = CliRunner().invoke(cli, ["estimate", "tiny-llada-v", "--image", "large"], obj=session)
    assert wrong.exit_code == 2
    assert "write 640x480" in wrong.output
