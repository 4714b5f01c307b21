from pathlib import Path

import pytest

from dcam_core.errors import CheckpointError, PluginError, UnknownNameError
from dcam_core.plugins.failure import PluginFailure, PluginLoadError
from dcam_core.plugins.info import PluginInfo
from dcam_core.plugins.registry import AdapterRegistry, Registries, Registry, import_object, normalise


def registry(*names):
    made = Registry("refiner")
    for name in names:
        made.add(name, object(), plugin="mine", distribution="dcam-mine")
    return made


def failed(name, *offered):
    cause = ImportError("no cv3")
    failure = PluginFailure(name, f"dcam-{name}", "1.0", "import", cause, "", frozenset(offered))
    return PluginInfo(name, f"dcam-{name}", "1.0", f"{name}.plugin", "failed", failure=failure)


@pytest.mark.parametrize("name", ["Sharp_Edges", "sharp-edges", " SHARP-edges "])
def test_names_are_compared_without_case_and_underscores(name):
    assert normalise(name) == "sharp-edges"
    assert name in registry("Sharp_Edges")
    assert registry("Sharp_Edges").entry(name).name == "sharp-edges"


def test_get_gives_the_object_itself():
    thing = object()
    made = Registry("refiner")
    made.add("thing", thing, plugin="mine")
    assert made.get("thing") is thing


def test_import_string_is_imported_only_by_get(tmp_path, monkeypatch):
    (tmp_path / "lazy_thing.py").write_text("class Outer:\n    inner = 'found'\n")
    monkeypatch.syspath_prepend(tmp_path)
    made = Registry("refiner")
    made.add("lazy", "lazy_thing:Outer.inner", plugin="mine")
    import sys

    assert "lazy_thing" not in sys.modules
    assert made.get("lazy") == "found"


@pytest.mark.parametrize(
    ("target", "cause"),
    [("no_such_module:Thing", ModuleNotFoundError), ("pathlib:NoSuchThing", AttributeError)],
)
def test_failed_import_names_plugin_and_keeps_the_cause(target, cause):
    made = Registry("refiner")
    made.add("broken", target, plugin="mine", distribution="dcam-mine")
    with pytest.raises(PluginError, match=r"refiner 'broken' of plugin 'mine' .dcam-mine.") as caught:
        made.get("broken")
    assert caught.value.plugin == "mine"
    assert isinstance(caught.value.__cause__, cause)
    assert target in str(caught.value)


@pytest.mark.parametrize("target", ["pathlib", "pathlib.Path", "a b:c", ":Path", "pathlib:", "../x:y"])
def test_what_is_no_import_string_is_refused_at_once(target):
    with pytest.raises(PluginError, match="no import string"):
        Registry("refiner").add("bad", target, plugin="mine")
    with pytest.raises(ValueError, match="no import string"):
        import_object(target)


def test_unknown_name_lists_the_names_and_a_close_match():
    with pytest.raises(
        UnknownNameError, match=r"unknown refiner 'shrap': there are blur, sharp\. Did you mean 'sharp'\?"
    ):
        registry("sharp", "blur").get("shrap")


def test_a_taken_name_is_refused_and_both_distributions_are_named():
    made = registry("sharp")
    with pytest.raises(PluginError, match=r"dcam-theirs.*dcam-mine") as caught:
        made.add("SHARP", object(), plugin="theirs", distribution="dcam-theirs")
    assert caught.value.plugin == "theirs"
    assert made.entry("sharp").plugin == "mine"


def test_iteration_is_sorted_and_discard_takes_back_one_plugin():
    made = registry("sharp", "blur")
    made.add("edges", object(), plugin="theirs")
    assert [entry.name for entry in made] == ["blur", "edges", "sharp"] == list(made.names)
    made.discard("mine")
    assert made.names == ("edges",)
    assert len(made) == 1


def test_metadata_cannot_be_changed():
    made = Registry("model")
    entry = made.add("tiny", object(), plugin="mine", metadata={"adapter": "family"})
    with pytest.raises(TypeError):
        entry.metadata["adapter"] = "another"


def test_unknown_name_that_a_failed_plugin_offered_has_its_record_as_cause():
    plugins = [failed("other"), failed("mine", "sharp")]
    with pytest.raises(
        UnknownNameError, match=r"plugin 'mine' .dcam-mine 1.0. failed to import.*no cv3"
    ) as caught:
        Registry("refiner", plugins).get("Sharp")
    assert isinstance(caught.value.__cause__, PluginLoadError)
    assert caught.value.__cause__.failure is plugins[1].failure
    assert "other" not in str(caught.value)


def test_unknown_name_with_several_suspects_has_all_their_records_as_cause():
    plugins = [failed("one"), failed("two")]
    with pytest.raises(UnknownNameError, match=r"plugin 'one'.*plugin 'two'") as caught:
        Registry("refiner", plugins).get("sharp")
    assert [error.failure for error in caught.value.__cause__.exceptions] == [
        info.failure for info in plugins
    ]


# -- what a kind promises ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "target", "found"),
    [
        ("adapters", "pathlib:Path", r"is the class Path: expected a subclass of dcam_core.Adapter"),
        ("attributions", 3, "is an int: expected a class, a subclass of dcam_core.Attribution"),
        ("refiners", "dcam_core.refiner:Refiner", "does not implement forward: every dcam_core.Refiner must"),
        ("methods", Path("/nowhere/mine.yaml"), "is /nowhere/mine.yaml, which is not there"),
        ("methods", "math:pi", "'math:pi', is a float: expected the pathlib.Path of a file"),
        ("models", Path(__file__), "which is not there: expected the path of a folder"),
    ],
)
def test_what_is_not_what_its_kind_promises_is_refused_when_it_is_asked_for(kind, target, found):
    registry = dict(Registries().items())[kind]
    registry.add("odd", target, plugin="mine", distribution="dcam-mine")
    with pytest.raises(PluginError, match=f"'odd' of plugin 'mine' .dcam-mine..*{found}") as caught:
        registry.get("odd")
    assert caught.value.plugin == "mine"


# -- recognising a checkpoint --------------------------------------------------------------------------------


def adapters():
    made = AdapterRegistry("adapter")
    made.add("left", object, plugin="l", metadata={"architectures": ["LeftLM"], "model_types": ["shared"]})
    made.add(
        "right", object, plugin="r", metadata={"architectures": ["RightLM"], "model_types": ["shared", "own"]}
    )
    return made


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"architectures": ["LeftLM"], "model_type": "shared"}, "left"),
        ({"architectures": ["RightLM"], "model_type": "shared"}, "right"),
        ({"architectures": ["NobodyLM"], "model_type": "own"}, "right"),
        ({"model_type": "own"}, "right"),
        ({"architectures": None, "model_type": "own"}, "right"),
    ],
)
def test_architecture_counts_before_model_type(config, family):
    assert adapters().recognise(config).name == family


def test_several_claims_name_the_candidates():
    with pytest.raises(
        CheckpointError, match=r"several adapters claim it: left .*, right .*; name one with adapter="
    ):
        adapters().recognise({"model_type": "shared"})


@pytest.mark.parametrize("config", [{}, {"architectures": ["GPT"], "model_type": "gpt"}])
def test_no_claim_lists_the_adapters_there_are(config):
    with pytest.raises(CheckpointError, match="no adapter claims it; there are left, right"):
        adapters().recognise(config)


@pytest.mark.parametrize("fact", ["architectures", "model_types"])
def test_a_string_instead_of_a_list_is_refused(fact):
    with pytest.raises(PluginError, match=f"{fact} of adapter 'x' is a string"):
        AdapterRegistry("adapter").add("x", object, plugin="p", metadata={fact: "LeftLM"})


def test_there_is_one_registry_for_every_registering_hook():
    from dcam_core import hookspecs

    hooks = {name for name in vars(hookspecs) if name.startswith("dcam_register_")}
    assert {f"dcam_register_{kind}" for kind, _ in Registries().items()} == hooks
