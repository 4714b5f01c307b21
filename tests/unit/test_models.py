"""Loading by name, folder and hub id, and around a model in memory."""

from __future__ import annotations

import json
import re

import pytest
import torch

from dcam_core import PluginManager, hookimpl, load_model, wrap_model
from dcam_core.errors import CheckpointError, ConfigurationError, UnknownNameError
from dcam_core.models import MisfitError, checkpoint_folder
from dcam_core.testing.toy import ToyAdapter


class ToyPlugin:
    """Offers the toy family and an embedded model of it."""

    def __init__(self, folder):
        self.folder = folder

    @hookimpl
    def dcam_register_adapters(self, register):
        register("toy", ToyAdapter, architectures=["ToyModel"], model_types=["toy"], tensors=[r"toy\..*"])
        register("fussy", FussyAdapter, architectures=["Fussy"], model_types=["fussy"])
        register("large", ToyAdapter, architectures=["Large"], tensors=[r"toy\..*", r"tower\..*"])

    @hookimpl
    def dcam_register_models(self, register):
        register("tiny-toy", self.folder, adapter="toy")


class FussyAdapter(ToyAdapter):
    """A family with an option of its own, whose checkpoints never fit."""

    family = "fussy"

    @classmethod
    def load(cls, folder, placement=None, *, names=()):
        raise MisfitError("the weights do not fit", names)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ToyModel"], "model_type": "toy"}))
    return tmp_path


@pytest.fixture
def manager(folder):
    manager = PluginManager(autoload=False, strict=True)
    manager.register(ToyPlugin(folder), "toys")
    return manager


def test_by_folder_the_family_is_recognised(folder, manager):
    model = load_model(folder, manager=manager)
    assert isinstance(model, ToyAdapter)
    assert model.folder == folder
    assert not model.model.training


def test_by_name(folder, manager):
    model = load_model("tiny-toy", manager=manager)
    assert (model.name, model.folder) == ("tiny-toy", folder)


def test_around_a_model_in_memory(manager):
    held = ToyAdapter().model.train()
    wrapped = wrap_model(held, adapter="toy", manager=manager)
    assert wrapped.model is held
    assert held.training, "wrapping changes nothing"
    assert wrapped.name == "ToyModel"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("tiny-tou", UnknownNameError, "Did you mean 'tiny-toy'"),
        ("./nowhere", UnknownNameError, "A folder of that name does not exist"),
        ("a/b/c", UnknownNameError, "unknown model 'a/b/c'"),
        ("no spaces/allowed here", UnknownNameError, "no hub id"),
    ],
)
def test_unknown_names(manager, name, error, message):
    with pytest.raises(error, match=message):
        load_model(name, manager=manager)


def test_a_hub_that_cannot_be_reached_is_named(manager, monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr("dcam_core.models.snapshot_download", unreachable)
    with pytest.raises(CheckpointError, match="cannot be had from the hub: ConnectionError: no route"):
        load_model("somebody/something", manager=manager)


@pytest.mark.parametrize("with_safetensors", [True, False])
def test_a_hub_id_is_fetched_without_code_and_pickles_only_where_there_is_nothing_else(
    folder, manager, monkeypatch, with_safetensors
):
    asked = []

    def fetch(name, *, revision, allow_patterns):
        asked.append((name, revision, set(allow_patterns)))
        return str(folder)

    if with_safetensors:
        (folder / "model.safetensors").touch()
    monkeypatch.setattr("dcam_core.models.snapshot_download", fetch)
    model = load_model("somebody/something", revision="v1", manager=manager)
    assert (model.name, model.folder) == ("somebody/something", folder)
    assert {(name, revision) for name, revision, _ in asked} == {("somebody/something", "v1")}
    assert not {"*.py", "*.bin", "*.pt"} & asked[0][2]
    assert not any("bin" in pattern for pattern in asked[0][2])
    assert [sorted(more - asked[0][2]) for _, _, more in asked[1:]] == (
        [] if with_safetensors else [["pytorch_model*.bin"]]
    )


def test_a_revision_that_the_hub_does_not_have_is_named(manager, monkeypatch):
    def missing(*args, **kwargs):
        raise LookupError("404")

    monkeypatch.setattr("dcam_core.models.snapshot_download", missing)
    with pytest.raises(
        CheckpointError, match=r"'a/b' at revision 'v9' is no folder.*LookupError: 404; check"
    ):
        load_model("a/b", revision="v9", manager=manager)


def test_a_revision_is_a_hub_ids(folder, manager):
    for name in ("tiny-toy", folder):
        with pytest.raises(ConfigurationError, match=r"revision 'v1' is asked for, but .* leave it out"):
            load_model(name, revision="v1", manager=manager)


def test_the_folder_of_a_checkpoint(folder):
    assert checkpoint_folder(str(folder)) == folder
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        checkpoint_folder("./nowhere")


def test_wrong_folders(tmp_path, manager):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load_model(tmp_path / "empty", manager=manager)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a file"):
        load_model(tmp_path / "file", manager=manager)
    (tmp_path / "empty" / "config.json").write_text("{broken")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        load_model(tmp_path / "empty", manager=manager)
    (tmp_path / "empty" / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        load_model(tmp_path / "empty", manager=manager)
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="no adapter claims it"):
        load_model(tmp_path / "empty", manager=manager)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "warp"}, "device 'warp' cannot be used"),
        ({"device": "cuda:97"}, "device 'cuda:97' cannot be used"),
        ({"dtype": "float7"}, "dtype 'float7' is not one of float32"),
    ],
)
def test_wrong_devices_and_dtypes(folder, manager, options, message):
    with pytest.raises(ConfigurationError, match=message):
        load_model(folder, manager=manager, **options)


def test_dtypes_by_name_or_object(folder, manager, monkeypatch):
    seen = []
    load = ToyAdapter.load.__func__

    def recording(cls, folder, placement):
        seen.append(placement.dtype)
        return load(cls, folder, placement)

    monkeypatch.setattr(ToyAdapter, "load", classmethod(recording))
    for dtype in (None, "bfloat16", torch.float16):
        load_model(folder, manager=manager, dtype=dtype)
    assert seen == [torch.float32, torch.bfloat16, torch.float16], "on the CPU the default is float32"


def test_the_whole_placement_reaches_the_adapter(folder, manager, monkeypatch):
    seen = []
    load = ToyAdapter.load.__func__

    def recording(cls, folder, placement):
        seen.append(placement)
        return load(cls, folder, placement)

    monkeypatch.setattr(ToyAdapter, "load", classmethod(recording))
    load_model(
        folder,
        manager=manager,
        device_map="sequential",
        max_memory={"cpu": 10},
        quantisation="4bit",
        dtype="float16",
    )
    (placement,) = seen
    assert (placement.device_map, placement.max_memory) == ("sequential", {"cpu": 10})
    assert (placement.quantisation, placement.dtype) == ("4bit", torch.float16)


# -- families ------------------------------------------------------------------------------------------------


def test_options_of_a_familys_own_are_handed_on_and_others_refused(folder, manager):
    with pytest.raises(CheckpointError, match="do not fit"):
        load_model(folder, adapter="fussy", names=("a",), manager=manager)
    with pytest.raises(ConfigurationError, match="adapter 'fussy' has no option 'vq': there are names"):
        load_model(folder, adapter="fussy", vq="x", manager=manager)
    with pytest.raises(ConfigurationError, match="adapter 'toy' has no option 'vq': there are none"):
        load_model(folder, vq="x", manager=manager)


def test_a_misfit_says_what_speaks_for_another_family(folder, manager):
    with pytest.raises(CheckpointError) as error:
        load_model(folder, adapter="fussy", names=("toy.weight",), manager=manager)
    assert str(error.value) == (
        f"{folder}: the weights do not fit; adapter 'fussy' was asked for, but config.json is one of toy: "
        "leave the adapter out, or name that one; the tensors look like those of toy"
    )


def test_of_two_families_that_fit_the_one_that_recognises_more_is_named(folder, manager):
    with pytest.raises(CheckpointError, match=r"look like those of large$"):
        load_model(folder, adapter="fussy", names=("toy.weight", "tower.weight"), manager=manager)


def test_a_family_that_fits_nothing_is_left_without_a_guess(folder, manager):
    (folder / "config.json").write_text('{"architectures": ["Fussy"]}')
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(folder))}: the weights do not fit$"):
        load_model(folder, names=("elsewhere.weight",), manager=manager)
