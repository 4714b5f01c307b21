"""Loading by name, folder and hub id, and around a model in memory."""

from __future__ import annotations

import json

import pytest
import torch
from support.toy import ToyAdapter

from dcam_core import PluginManager, hookimpl, load_model, wrap_model
from dcam_core.errors import CheckpointError, ConfigurationError, UnknownNameError


class ToyPlugin:
    """Offers the toy family and an embedded model of it."""

    def __init__(self, folder):
        self.folder = folder

    @hookimpl
    def dcam_register_adapters(self, register):
        register("toy", ToyAdapter, architectures=["ToyModel"], model_types=["toy"])

    @hookimpl
    def dcam_register_models(self, register):
        register("tiny-toy", self.folder, adapter="toy")


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


def test_a_hub_id_is_fetched_without_code_or_pickles(folder, manager, monkeypatch):
    asked = {}

    def fetch(name, *, revision, allow_patterns):
        asked.update(name=name, revision=revision, allowed=allow_patterns)
        return str(folder)

    monkeypatch.setattr("dcam_core.models.snapshot_download", fetch)
    model = load_model("somebody/something", revision="v1", manager=manager)
    assert (model.name, model.folder) == ("somebody/something", folder)
    assert (asked["name"], asked["revision"]) == ("somebody/something", "v1")
    assert not {"*.py", "*.bin", "*.pt"} & set(asked["allowed"])


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

    def recording(cls, folder, *, device, dtype):
        seen.append(dtype)
        return load(cls, folder, device=device, dtype=dtype)

    monkeypatch.setattr(ToyAdapter, "load", classmethod(recording))
    for dtype in (None, "bfloat16", torch.float16):
        load_model(folder, manager=manager, dtype=dtype)
    assert seen == [torch.float32, torch.bfloat16, torch.float16], "on the CPU the default is float32"
