"""Loading plugins, good ones and broken ones, without installing any; switching them on and off."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from support.fake_plugins import EntryPoint, offering, quietly

from dcam_core.errors import CheckpointError, PluginError, UnknownNameError
from dcam_core.hookspecs import hookimpl
from dcam_core.plugins import PluginManager, default_manager
from dcam_core.plugins.failure import PluginFailure, PluginLoadError, PluginWarning

# -- loading -------------------------------------------------------------------------------------------------


def test_making_a_manager_imports_nothing(install):
    (point,) = install(EntryPoint("mine", offering(sharp=object)))
    manager = PluginManager()
    assert point.imported == 0
    assert manager.registries.refiners.entry("sharp").target is object
    assert point.imported == 1
    manager.load()
    assert point.imported == 1


def test_entries_know_plugin_and_distribution(install):
    install(EntryPoint("mine", offering(sharp=object), dist="dcam-mine"))
    entry = PluginManager().registries.refiners.entry("sharp")
    assert (entry.plugin, entry.distribution, entry.kind) == ("mine", "dcam-mine", "refiner")


def test_own_plugins_come_first_and_the_rest_in_the_order_of_their_names(install):
    install(
        EntryPoint("z", offering(a=object), dist="dcam-b"),
        EntryPoint("y", offering(b=object), dist="dcam-a"),
        EntryPoint("x", offering(c=object), dist="dcam"),
    )
    assert [info.name for info in PluginManager().plugins] == ["x", "y", "z"]


@pytest.mark.parametrize(
    "kind", ["adapters", "attributions", "refiners", "methods", "metrics", "datasets", "models"]
)
def test_every_kind_can_be_registered(install, kind):
    install(EntryPoint("mine", offering(kind, thing=object)))
    manager = PluginManager()
    assert dict(manager.registries.items())[kind].entry("thing").target is object
    assert manager.plugins[0].offers == {kind: ("thing",)}


def test_default_manager_is_made_once():
    assert default_manager() is default_manager()


def test_versions_are_those_of_loaded_distributions(install):
    install(
        EntryPoint("mine", offering(a=object), dist="dcam-mine"),
        EntryPoint("bad", ImportError("x"), dist="dcam-bad"),
    )
    assert quietly(PluginManager()).versions() == {"dcam-mine": "1.0"}


# -- broken plugins ------------------------------------------------------------------------------------------


def misspelt():
    return SimpleNamespace(
        dcam_regster_refiners=hookimpl(lambda register: None, specname="dcam_regster_refiners")
    )


def wrong_argument():
    def hook(register, colour):
        raise AssertionError("never called")

    return SimpleNamespace(dcam_register_refiners=hookimpl(hook))


def unmarked():
    def hook(register):
        raise AssertionError("never called")

    return SimpleNamespace(dcam_register_refiners=hook, dcam_explained=hookimpl(lambda: None))


def wrapper():
    def hook():
        return (yield)

    return SimpleNamespace(dcam_explained=hookimpl(hook, wrapper=True))


def half_way():
    def hook(register):
        register("half", object)
        raise RuntimeError("no disk")

    return SimpleNamespace(dcam_register_refiners=hookimpl(hook))


def generator():
    def hook(register):
        yield

    return SimpleNamespace(dcam_register_refiners=hookimpl(hook))


def answering_with_a_list():
    return SimpleNamespace(dcam_register_refiners=hookimpl(lambda register: ["sharp"]))


def any_arguments():
    return SimpleNamespace(dcam_register_refiners=hookimpl(lambda **arguments: None))


class AsClass:
    @hookimpl
    def dcam_register_refiners(self, register):
        raise AssertionError("never called")


BROKEN = {
    "import": (ImportError("no module named cv3"), "import", "ImportError: no module named cv3"),
    "exit": (SystemExit(3), "import", "SystemExit: 3"),
    "misspelt hook": (misspelt(), "validate", "dcam_regster_refiners is no hook of dcam"),
    "unknown argument": (wrong_argument(), "validate", "asks for the argument 'colour'"),
    "forgotten marker": (
        unmarked(),
        "validate",
        "dcam_register_refiners is named like a hook but not marked",
    ),
    "wrapper": (wrapper(), "validate", "dcam_explained is a hook wrapper"),
    "no hook at all": (ModuleType("empty"), "validate", "no function marked with @hookimpl"),
    "generator": (generator(), "validate", "dcam_register_refiners is a generator or async function"),
    "any arguments": (any_arguments(), "validate", "takes **arguments: name the arguments that it wants"),
    "no function": (
        SimpleNamespace(dcam_register_refiners=[]),
        "validate",
        "dcam_register_refiners is a list: write a function",
    ),
    "a class": (AsClass, "validate", "it is the class AsClass: give an instance of it"),
    "a list instead of calls": (
        answering_with_a_list(),
        "register",
        "dcam_register_refiners returned a list: expected nothing; call register(name, target)",
    ),
    "no name": (
        SimpleNamespace(dcam_register_refiners=hookimpl(lambda register: register(3, object))),
        "register",
        "refiner is registered under 3: its name must be a string",
    ),
    "raises while registering": (half_way(), "register", "RuntimeError: no disk"),
    "no import string": (offering(x="pathlib.Path"), "register", "no import string"),
    "taken name": (
        offering(sharp=object),
        "register",
        "already registered by plugin 'good' (dcam), which stays",
    ),
}
broken = pytest.mark.parametrize(("plugin", "phase", "message"), BROKEN.values(), ids=BROKEN)


@broken
def test_a_broken_plugin_is_recorded_and_takes_nothing_else_down(install, plugin, phase, message):
    install(
        EntryPoint("good", offering(sharp=list), dist="dcam"),
        EntryPoint("broken", plugin, dist="dcam-broken"),
        EntryPoint("later", offering(blur=set), dist="dcam-later"),
    )
    manager = PluginManager()
    with pytest.warns(PluginWarning, match="plugin 'broken' .dcam-broken 1.0. failed to") as caught:
        manager.load()
    assert len(caught) == 1
    (failure,) = manager.failures
    assert (failure.name, failure.distribution, failure.version, failure.phase) == (
        "broken",
        "dcam-broken",
        "1.0",
        phase,
    )
    assert message in str(failure)
    assert "\n" not in str(failure)
    assert type(failure.cause).__name__ in failure.traceback
    assert manager.registries.refiners.entry("sharp").target is list
    assert manager.registries.refiners.names == ("blur", "sharp")
    assert not manager.relay.has_plugin("broken")
    assert [info.status for info in manager.plugins] == ["loaded", "failed", "loaded"]


@broken
@pytest.mark.parametrize("switch", ["argument", "environment"])
def test_strict_raises_what_would_be_recorded(install, monkeypatch, plugin, phase, message, switch):
    install(EntryPoint("good", offering(sharp=list), dist="dcam"), EntryPoint("broken", plugin))
    if switch == "environment":
        monkeypatch.setenv("DCAM_STRICT_PLUGINS", "1")
    manager = PluginManager(strict=True) if switch == "argument" else PluginManager()
    with pytest.raises(PluginLoadError, match="plugin 'broken'") as caught:
        manager.load()
    assert message in str(caught.value)
    assert caught.value.failure.phase == phase
    assert caught.value.__cause__ is caught.value.failure.cause


def test_the_record_cannot_be_changed(install):
    install(EntryPoint("broken", ImportError("x")))
    (failure,) = quietly(PluginManager()).failures
    assert isinstance(failure, PluginFailure)
    with pytest.raises(AttributeError):
        failure.name = "another"


def test_asking_for_what_a_failed_plugin_offered_gives_its_record(install):
    install(EntryPoint("broken", half_way()), EntryPoint("unrelated", ImportError("x")))
    manager = quietly(PluginManager())
    with pytest.raises(UnknownNameError, match="no disk") as caught:
        manager.registries.refiners.get("half")
    assert caught.value.__cause__.failure is manager.failures[0]


def test_two_plugins_of_one_name_the_second_is_refused(install):
    _, second = install(
        EntryPoint("my_own", offering(sharp=list), dist="dcam-a"),
        EntryPoint("My-Own", offering(blur=set), dist="dcam-b"),
    )
    manager = quietly(PluginManager())
    assert manager.registries.refiners.names == ("sharp",)
    assert manager.failures[0].distribution == "dcam-b"
    assert manager.failures[0].phase == "register"
    assert "its name is already that of plugin 'my_own' (dcam-a 1.0), which stays" in str(manager.failures[0])
    assert second.imported == 0


def test_a_plugin_that_asks_for_the_manager_while_imported_does_no_harm(install):
    class Curious(EntryPoint):
        def load(self):
            self.seen = manager.registries.refiners.names
            return super().load()

    install(EntryPoint("first", offering(sharp=list), dist="dcam"), Curious("curious", offering(blur=set)))
    manager = PluginManager()
    assert manager.registries.refiners.names == ("blur", "sharp")


def test_a_keyboard_interrupt_is_not_swallowed(install):
    install(EntryPoint("slow", KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        PluginManager().load()


# -- switching on and off ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["my_plugin", "my-plugin", "MY-plugin"])
def test_a_blocked_plugin_is_never_imported(install, name):
    (point,) = install(EntryPoint("my_plugin", offering(sharp=object)))
    manager = PluginManager(blocked=[name])
    assert "sharp" not in manager.registries.refiners
    assert point.imported == 0
    assert manager.plugins[0].status == "blocked"


def test_block_before_loading(install):
    (point,) = install(EntryPoint("mine", offering(sharp=object)))
    manager = PluginManager()
    manager.block("mine")
    manager.load()
    assert point.imported == 0


def test_block_after_loading_takes_everything_out(install):
    install(EntryPoint("mine", offering(sharp=object)))
    manager = PluginManager()
    manager.load()
    manager.block("mine")
    assert "sharp" not in manager.registries.refiners
    assert not manager.relay.has_plugin("mine")
    assert (manager.plugins[0].status, manager.plugins[0].offers) == ("blocked", {})


@pytest.mark.parametrize(("value", "loaded"), [("1", False), ("yes", False), ("0", True), ("", True)])
def test_autoload_can_be_switched_off_by_environment(install, monkeypatch, value, loaded):
    install(EntryPoint("mine", offering(sharp=object)))
    monkeypatch.setenv("DCAM_DISABLE_PLUGIN_AUTOLOAD", value)
    assert ("sharp" in PluginManager().registries.refiners) is loaded


def test_without_autoload_named_plugins_are_loaded(install):
    one, two = install(EntryPoint("one", offering(sharp=object)), EntryPoint("two", offering(blur=object)))
    assert PluginManager(autoload=False, extra=["two"]).registries.refiners.names == ("blur",)
    assert (one.imported, two.imported) == (0, 1)


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "dcam_test_module.py").write_text(
        "from dcam_core.hookspecs import hookimpl\n"
        "@hookimpl\n"
        "def dcam_register_refiners(register):\n"
        "    register('from-module', 'pathlib:Path')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "dcam_test_module"
    sys.modules.pop("dcam_test_module", None)


def test_environment_names_further_modules(install, monkeypatch, module):
    monkeypatch.setenv("DCAM_PLUGINS", f"{module}, no_such_module_at_all")
    manager = quietly(PluginManager())
    assert "from-module" in manager.registries.refiners
    assert [failure.name for failure in manager.failures] == ["no_such_module_at_all"]


def test_a_plugin_asked_for_by_name_must_load(install, module):
    assert "from-module" in PluginManager(extra=[module]).registries.refiners
    with pytest.raises(PluginLoadError, match="no_such_module_at_all"):
        PluginManager(extra=["no_such_module_at_all"]).load()


def test_register_adds_an_object(install):
    manager = PluginManager()
    manager.register(offering(sharp=object), "mine")
    assert "sharp" in manager.registries.refiners
    assert manager.plugins[-1].name == "mine"


def test_register_refuses_a_broken_object(install):
    manager = PluginManager()
    with pytest.raises(PluginLoadError, match="no disk"):
        manager.register(half_way(), "mine")
    assert manager.registries.refiners.names == ()
    assert manager.plugins == ()


# -- misspelt, switched off, asked for -----------------------------------------------------------------------


@pytest.mark.parametrize("strict", [False, True])
def test_a_blocked_name_that_nobody_has_is_noticed(install, strict):
    install(EntryPoint("my_plugin", offering(sharp=object)))
    message = "there is no plugin 'my_plugn' to block: there are my_plugin. Did you mean 'my_plugin'?"
    if strict:
        with pytest.raises(PluginError, match=re.escape(message)):
            PluginManager(blocked=["my_plugn"], strict=True).load()
    else:
        with pytest.warns(PluginWarning, match=re.escape(message)):
            PluginManager(blocked=["my_plugn"]).load()


def test_blocking_a_name_that_nobody_has_after_loading_is_noticed_too(install):
    manager = PluginManager()
    manager.load()
    with pytest.warns(PluginWarning, match="there is no plugin 'mine' to block: there are none"):
        manager.block("mine")


def test_a_name_that_is_neither_plugin_nor_module_says_what_there_is(install):
    install(EntryPoint("my_plugin", offering(sharp=object)))
    with pytest.raises(
        PluginLoadError,
        match=r"'my_plugn' is neither an installed plugin nor a module.*are my_plugin. Did you mean 'my_plugin'",
    ):
        PluginManager(extra=["my_plugn"]).load()


def test_a_module_that_misses_another_one_says_which(install, tmp_path, monkeypatch):
    (tmp_path / "dcam_test_needy.py").write_text("import no_such_module_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginLoadError, match="ModuleNotFoundError: No module named 'no_such_module_at_all'"):
        PluginManager(extra=["dcam_test_needy"]).load()


def test_a_manager_that_refused_refuses_again(install):
    install(EntryPoint("broken", ImportError("no cv3")), EntryPoint("good", offering(sharp=object)))
    manager = PluginManager(strict=True)
    for _ in range(2):
        with pytest.raises(PluginLoadError, match="no cv3"):
            manager.registries  # noqa: B018


def test_what_is_imported_for_a_plugin_is_a_name_of_it_too(install):
    (point,) = install(EntryPoint("mine", offering(sharp=object)))
    assert [info.name for info in PluginManager(autoload=False, extra=["mine.plugin"]).plugins] == ["mine"]
    assert PluginManager(blocked=["mine.plugin"]).plugins[0].status == "blocked"
    assert point.imported == 1


def test_an_object_of_a_module_is_a_plugin(install, module):
    (path,) = [path for path in map(Path, sys.path) if (path / f"{module}.py").is_file()]
    (path / "dcam_test_object.py").write_text(
        f"import {module}\nclass Plugin:\n"
        f"    dcam_register_refiners = staticmethod({module}.dcam_register_refiners)\nmine = Plugin()\n"
    )
    manager = PluginManager(extra=["dcam_test_object:mine"])
    assert manager.registries.refiners.entry("from-module").plugin == "dcam_test_object:mine"


def test_the_environment_can_block(install, monkeypatch):
    (point,) = install(EntryPoint("mine", offering(sharp=object)))
    monkeypatch.setenv("DCAM_PLUGINS", "no:mine")
    assert PluginManager().plugins[0].status == "blocked"
    assert point.imported == 0
    assert PluginManager(extra=["mine"]).plugins[0].status == "loaded"
    monkeypatch.setenv("DCAM_PLUGINS", "mine")
    assert PluginManager(blocked=["mine"]).plugins[0].status == "blocked"


def test_a_blocked_module_is_known_by_whoever_named_it(install, module, monkeypatch):
    monkeypatch.setenv("DCAM_PLUGINS", module)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (info,) = PluginManager(blocked=[module]).plugins
    assert (info.name, info.status) == (module, "blocked")


def test_names_are_read_without_importing(install):
    points = install(EntryPoint("one", ImportError("x")), EntryPoint("two", offering(blur=object)))
    manager = PluginManager(blocked=["two"])
    assert manager.names == ("one", "two")
    assert [point.imported for point in points] == [0, 0]


@pytest.mark.parametrize(
    ("options", "status"), [({"blocked": ["mine"]}, "blocked"), ({"autoload": False}, "not loaded")]
)
def test_what_is_missing_because_a_plugin_is_switched_off_says_so(install, options, status):
    install(EntryPoint("mine", offering(sharp=object), dist="dcam-mine"))
    manager = PluginManager(**options)
    expected = rf"plugin 'mine' \(dcam-mine 1.0\) is {status}: switch it on with `-p mine`"
    with pytest.raises(UnknownNameError, match=f"unknown refiner 'sharp'.*{expected}"):
        manager.registries.refiners.get("sharp")
    with pytest.raises(CheckpointError, match=f"no adapter claims it.*{expected}"):
        manager.registries.adapters.recognise({"architectures": ["MineLM"]})
    with pytest.raises(PluginError, match=expected):
        manager.require("mine")


def test_asking_for_a_failed_plugin_by_name_raises_with_its_record_as_the_cause(install):
    error = ImportError("no cv3")
    install(EntryPoint("broken", error), EntryPoint("good", offering(sharp=object)))
    manager = quietly(PluginManager())
    with pytest.raises(
        PluginLoadError, match=r"plugin 'broken'.*failed to import: ImportError: no cv3"
    ) as caught:
        manager.require("broken")
    assert caught.value.failure is manager.failures[0]
    assert caught.value.__cause__ is error
    assert manager.require("good").offers == {"refiners": ("sharp",)}
    with pytest.raises(UnknownNameError, match="unknown plugin 'godo': there are broken, good"):
        manager.require("godo")


def test_one_module_of_two_distributions_is_loaded_once(install):
    plugin = offering(sharp=object)
    install(EntryPoint("a", plugin, dist="dcam-a"), EntryPoint("b", plugin, dist="dcam-b"))
    manager = quietly(PluginManager())
    assert [info.status for info in manager.plugins] == ["loaded", "failed"]
    assert "is already there as plugin 'a' (dcam-a 1.0)" in str(manager.failures[0])
    assert manager.registries.refiners.entry("sharp").plugin == "a"


def test_a_hook_of_a_later_dcam_may_be_optional(install):
    plugin = offering(sharp=object)
    plugin.dcam_of_tomorrow = hookimpl(lambda: None, optionalhook=True, specname="dcam_of_tomorrow")
    install(EntryPoint("mine", plugin))
    assert PluginManager(strict=True).plugins[0].hooks == ("dcam_register_refiners",)


def test_the_trace_is_written_to_stderr_where_nobody_set_up_logging():
    code = (
        "from dcam_core.plugins import PluginManager\n"
        "def dcam_probe_layer(): return 3\n"
        "hooks = PluginManager(blocked=['mmada']).engine_hooks('llada-v', [dcam_probe_layer])\n"
        "hooks.decide('dcam_probe_layer', adapter=None, method={})\n"
    )
    environment = {**os.environ, "DCAM_TRACE_PLUGINS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    lines = done.stderr.splitlines()
    assert any("plugin 'llada_v' (dcam" in line and "loaded, offers" in line for line in lines)
    assert lines[-2] == "dcam.plugins: dcam_probe_layer(adapter=None, method={})"
    assert lines[-1].endswith("'__main__.dcam_probe_layer' (passed to this engine) -> 3: this answer holds")
    assert len(lines) == len(set(lines))
