"""Finding and reading the files of a checkpoint, whole and spoilt."""

from __future__ import annotations

import json
import os

import pytest
import torch
from support.checkpoints import empty_network, network, save, save_shards

from dcam_adapters.common.checkpoint import assign_weights, weight_files
from dcam_core.errors import CheckpointError
from dcam_core.placement import Placement


@pytest.fixture(scope="module")
def state():
    return network().state_dict()


def load(folder, **placement):
    model = empty_network()
    assign_weights(model, weight_files(folder), placement=Placement(**placement), blocks="layers")
    return model


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("name", ["model", "pytorch_model"])
@pytest.mark.parametrize("write", [save, save_shards])
def test_every_published_layout(tmp_path, state, form, name, write):
    write(tmp_path, state, form, name)
    model = load(tmp_path)
    loaded = model.state_dict()
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    ids = torch.arange(4)[None]
    assert torch.equal(model(ids), network()(ids))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_is_not_in_the_file_is_computed_and_not_on_the_meta_device(tmp_path, state):
    save(tmp_path, state)
    model = load(tmp_path, dtype=torch.float16)
    assert torch.equal(model.layers[1].places, torch.arange(4)), "and whole numbers stay whole"
    assert model.scale.dtype == torch.float16


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_conversion_rounds_as_torch_does(tmp_path, state, form):
    save(tmp_path, state, form)
    loaded = load(tmp_path, dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(loaded[key], state[key].bfloat16()) for key in state)


def test_safetensors_are_preferred_to_pickles_and_earlier_names_to_later_ones(tmp_path, state):
    for form in ("bin", "safetensors"):
        for name in ("a", "b"):
            save(tmp_path, state, form, name)
    assert weight_files(tmp_path, ("b", "a")) == [tmp_path / "b.safetensors"]
    (tmp_path / "b.safetensors").unlink()
    assert weight_files(tmp_path, ("b", "a")) == [tmp_path / "a.safetensors"]
    (tmp_path / "a.safetensors").unlink()
    assert weight_files(tmp_path, ("b", "a")) == [tmp_path / "b.bin"]


def test_pickles_of_before_zip_files_are_read(tmp_path, state):
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(load(tmp_path).head.weight, state["head.weight"])


# -- nothing to read -----------------------------------------------------------------------------------------


def test_an_empty_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"no weights: there is none of model\.safetensors, .* finish"):
        weight_files(tmp_path)


def test_other_pickles_are_refused_unopened(tmp_path):
    (tmp_path / "consolidated.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"only pickles \(consolidated\.pth\).*run any code.*save_file"):
        weight_files(tmp_path)


def test_a_lora_adapter_alone(tmp_path, state):
    save(tmp_path, state, name="adapter_model")
    with pytest.raises(CheckpointError, match=r"LoRA adapter alone \(adapter_model\.safetensors\): merge"):
        weight_files(tmp_path)


# -- shards and their index ----------------------------------------------------------------------------------


def test_an_absent_shard(tmp_path, state):
    save_shards(tmp_path, state)[1].unlink()
    with pytest.raises(
        CheckpointError, match=r"lacks 1 of the 3 shards that its index names: model-00002-of-00003\.safe"
    ):
        weight_files(tmp_path)


def test_a_shard_that_lacks_what_the_index_says(tmp_path, state):
    save_shards(tmp_path, state)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["head.bias"] = "model-00003-of-00003.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(
        CheckpointError, match=r"00003-of-00003\.safetensors lacks 1 tensors .*head\.bias; shard and index"
    ):
        weight_files(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}'])
def test_a_broken_index(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"index\.json is no index of shards .* download it anew"):
        weight_files(tmp_path)


def test_an_index_that_leads_out_of_its_folder(tmp_path):
    index = {"weight_map": {"a": "../elsewhere.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"outside of its folder \(\.\./elsewhere\.safetensors\)"):
        weight_files(tmp_path)


# -- files that are not what they should be ------------------------------------------------------------------


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("left", [0.3, 0.999])
def test_a_truncated_file(tmp_path, state, form, left):
    save(tmp_path, state, form)
    path = tmp_path / f"model.{form}"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * left)])
    with pytest.raises(CheckpointError, match=rf"model\.{form} is truncated.*download it anew") as error:
        load(tmp_path)
    if form == "safetensors":
        assert f"speaks of {len(content)}" in str(error.value)


def test_a_truncated_header(tmp_path, state):
    save(tmp_path, state)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="is truncated: it has 50 bytes"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: the download never began"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html>", "is a web page"),
    ],
)
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_what_is_no_file_of_weights(tmp_path, form, content, message):
    (tmp_path / f"model.{form}").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"model\.{form} {message}"):
        load(tmp_path)


def test_noise(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 500)
    with pytest.raises(CheckpointError, match="is not a readable safetensors file"):
        load(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model.bin")
    with pytest.raises(CheckpointError, match=r"or is no file that torch\.save wrote"):
        load(tmp_path)


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path, state, as_zip):
    mark = tmp_path / "ran"
    torch.save(
        {**state, "extra": Harmful(mark)}, tmp_path / "model.bin", _use_new_zipfile_serialization=as_zip
    )
    with pytest.raises(CheckpointError, match=r"holds more than tensors \(posix\.mkdir\).*run any code"):
        load(tmp_path)
    assert not mark.exists()


def test_a_pickle_that_is_no_state_dict(tmp_path, state):
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "model.bin")
    with pytest.raises(CheckpointError, match=r"model\.bin is not the weights of a model: it does not hold"):
        load(tmp_path)
