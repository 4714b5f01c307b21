"""DiffusionGemma checkpoints: the published layout is found, loaded and checked; what does not fit is named."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import diffusion_gemma as tiny

from dcam_adapters.diffusion_gemma.adapter import DiffusionGemmaAdapter
from dcam_core import load_model, wrap_model
from dcam_core.cli.main import main
from dcam_core.errors import CheckpointError, ConfigurationError
from dcam_core.plugins import PluginManager

PLUGIN = "dcam_adapters.diffusion_gemma.plugin"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny.write_checkpoint(tmp_path_factory.mktemp("diffusion-gemma"))


@pytest.fixture(scope="module")
def manager():
    return PluginManager(autoload=False, extra=[PLUGIN], strict=True)


def copied(checkpoint, folder):
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_published_folder_is_recognised_and_computes_what_it_was_saved_from(checkpoint, manager):
    loaded = load_model(checkpoint, manager=manager)
    assert type(loaded) is DiffusionGemmaAdapter
    assert not loaded.model.training
    wrapped = wrap_model(
        tiny.tiny_model(),
        tiny.tiny_tokenizer(),
        tiny.tiny_image_processor(),
        adapter="diffusion-gemma",
        manager=manager,
    )
    prompts = [adapter.prepare(tiny.picture(), "what is on the left") for adapter in (loaded, wrapped)]
    assert torch.equal(prompts[0].embeddings, prompts[1].embeddings)
    runs = [
        adapter.denoise(inputs, adapter.default_sampler)
        for adapter, inputs in zip((loaded, wrapped), prompts, strict=True)
    ]
    assert torch.equal(runs[0].states, runs[1].states)
    assert runs[0].settings == runs[1].settings


def test_dtype_and_device_map_are_followed(checkpoint, manager):
    narrow = load_model(checkpoint, dtype="bfloat16", manager=manager)
    assert narrow.dtype == torch.bfloat16
    inputs = narrow.prepare(tiny.picture(), "describe the picture")
    run = narrow.denoise(inputs, narrow.default_sampler)
    assert bool(run.commit_logits[run.commit_steps >= 0].isfinite().all())
    spread = load_model(checkpoint, device_map={"": "cpu"}, manager=manager)
    assert spread.device.type == "cpu"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # The encoder has the same weights: where the decoder's are missing, so are its.
        (
            lambda t: t.pop("model.decoder.layers.1.self_attn.q_proj.weight"),
            r"2 missing: .*encoder.*layers\.1\.self_attn\.q_proj.*decoder\.layers\.1\.self_attn\.q_proj",
        ),
        (lambda t: t.update({"model.extra.weight": torch.zeros(2)}), r"1 unexpected: model\.extra\.weight"),
        (
            lambda t: t.update({"model.decoder.norm.weight": torch.zeros(7)}),
            r"1 mis-shaped: model\.decoder\.norm\.weight \[7\] instead of \[32\]",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(checkpoint, manager, tmp_path, change, message):
    folder = copied(checkpoint, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        load_model(folder, manager=manager)


def test_missing_and_broken_files_are_named(checkpoint, manager, tmp_path):
    folder = copied(checkpoint, tmp_path)
    (folder / "processor_config.json").unlink(missing_ok=True)
    (folder / "preprocessor_config.json").write_text("{broken")
    with pytest.raises(CheckpointError, match="image processor's settings cannot be read"):
        load_model(folder, manager=manager)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:2000])
    with pytest.raises(CheckpointError, match="truncated"):
        load_model(folder, manager=manager)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no weights"):
        load_model(folder, manager=manager)


def test_a_configuration_that_transformers_refuses_is_one_line(checkpoint, manager, tmp_path):
    folder = copied(checkpoint, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_size"] = "wide"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as refused:
        load_model(folder, manager=manager)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantisation": "8bit"}, "quantisation '8bit' is not offered"),
        ({"device_map": {"": "cpu", "lm_head": "disk"}}, "puts a part on 'disk'"),
    ],
)
def test_placements_that_are_not_offered_are_refused(checkpoint, manager, options, message):
    with pytest.raises(ConfigurationError, match=message):
        load_model(checkpoint, manager=manager, **options)


def test_wrapping_something_else_is_refused(manager):
    with pytest.raises(CheckpointError, match=r"has no module model\.encoder\.language_model"):
        wrap_model(torch.nn.Linear(2, 2), adapter="diffusion-gemma", manager=manager)
    with pytest.raises(ConfigurationError, match="leave config out"):
        wrap_model(tiny.tiny_model(), adapter="diffusion-gemma", config={}, manager=manager)


def test_dcam_check_finds_nothing_to_blame(checkpoint, monkeypatch, capsys):
    monkeypatch.setenv("DCAM_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("DCAM_PLUGINS", f"{PLUGIN},dcam_plugins.plugin")
    with pytest.raises(SystemExit) as ended:
        main(["check", str(checkpoint), "--prompt", "describe the picture"])
    out = capsys.readouterr().out
    verdicts = {line.split()[1]: line.split()[0] for line in out.splitlines() if len(line.split()) > 1}
    assert ended.value.code == 0, out
    for name in (
        "rectangles",
        "sight",
        "replay",
        "replay-prefix-cache",
        "gradients-prefix-cache",
        "explanation",
    ):
        assert verdicts[name] == "pass", out
    print(out)
