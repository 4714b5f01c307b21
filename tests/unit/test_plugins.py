"""Loading and calling plugins, good ones and broken ones, without installing any."""

import importlib
import importlib.metadata
import sys
import warnings
from types import ModuleType, SimpleNamespace

import pytest

from dcam_core import hookspecs
from dcam_core.errors import PluginError, TargetError, UnknownNameError
from dcam_core.hookspecs import hookimpl
from dcam_core.plugins import PluginManager, default_manager
from dcam_core.plugins.failure import PluginFailure, PluginLoadError, PluginWarning


class Dist:
    def __init__(self, name, version="1.0"):
        self.name, self.version = name, version


class EntryPoint:
    def __init__(self, name, plugin, dist="dcam-other"):
        self.name, self.value, self.group = name, f"{name}.plugin", "dcam"
        self.dist, self.plugin, self.imported = Dist(dist), plugin, 0

    def load(self):
        self.imported += 1
        if isinstance(self.plugin, BaseException):
            raise self.plugin
        return self.plugin


def offering(kind="refiners", **things):
    """A plugin that registers things of one kind."""

    def hook(register):
        for name, thing in things.items():
            register(name, thing)

    return SimpleNamespace(**{f"dcam_register_{kind}": hookimpl(hook, specname=f"dcam_register_{kind}")})


def answering(answer, hook="dcam_mask_step", **options):
    """A plugin that answers a deciding hook and remembers that it was asked."""
    plugin = SimpleNamespace(asked=0)

    def asked():
        plugin.asked += 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    setattr(plugin, hook, hookimpl(asked, specname=hook, **options))
    return plugin


def with_adapter(plugin, family):
    """The same plugin, bringing an adapter."""

    def register_adapter(register):
        register(family, object)

    plugin.dcam_register_adapters = hookimpl(register_adapter, specname="dcam_register_adapters")
    return plugin


@pytest.fixture
def install(monkeypatch):
    """Pretend that these entry points, and no others, are installed."""
    for variable in ("DCAM_PLUGINS", "DCAM_STRICT_PLUGINS", "DCAM_DISABLE_PLUGIN_AUTOLOAD"):
        monkeypatch.delenv(variable, raising=False)

    def install(*points):
        monkeypatch.setattr(
            importlib.metadata, "entry_points", lambda *, group: list(points) if group == "dcam" else []
        )
        return points

    install()
    return install


def quietly(manager):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)
        manager.load()
    return manager


# -- loading -------------------------------------------------------------------------------------------------


def test_making_a_manager_imports_nothing(install):
    (point,) = install(EntryPoint("mine", offering(sharp=object)))
    manager = PluginManager()
    assert point.imported == 0
    assert manager.registries.refiners.get("sharp") is object
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
    assert dict(manager.registries.items())[kind].get("thing") is object
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


BROKEN = {
    "import": (ImportError("no module named cv3"), "import", "ImportError: no module named cv3"),
    "exit": (SystemExit(3), "import", "SystemExit: 3"),
    "misspelt hook": (misspelt(), "validate", "dcam_regster_refiners"),
    "unknown argument": (wrong_argument(), "validate", "colour"),
    "forgotten marker": (
        unmarked(),
        "validate",
        "dcam_register_refiners is named like a hook but not marked",
    ),
    "wrapper": (wrapper(), "validate", "dcam_explained is a hook wrapper"),
    "no hook at all": (ModuleType("empty"), "validate", "no function marked with @hookimpl"),
    "raises while registering": (half_way(), "register", "RuntimeError: no disk"),
    "no import string": (offering(x="pathlib.Path"), "register", "no import string"),
    "taken name": (
        offering(sharp=object),
        "register",
        "already registered by plugin 'good' of distribution 'dcam'",
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
    assert manager.registries.refiners.get("sharp") is list
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
    install(
        EntryPoint("mine", offering(sharp=list), dist="dcam-a"),
        EntryPoint("mine", offering(blur=set), dist="dcam-b"),
    )
    manager = quietly(PluginManager())
    assert manager.registries.refiners.names == ("sharp",)
    assert manager.failures[0].distribution == "dcam-b"
    assert "already there" in str(manager.failures[0])


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


# -- deciding ------------------------------------------------------------------------------------------------

ARGUMENTS = {"policy": "commit", "target": None, "trajectory": None, "adapter": None}


def decide(manager, *, extra=(), defaults=(), family="mine"):
    return manager.engine_hooks(family, extra, defaults).decide("dcam_mask_step", **ARGUMENTS)


def test_the_order_is_user_adapter_others_core(install):
    adapter, other, user, core = (answering(name) for name in ("adapter", "other", "user", "core"))
    install(EntryPoint("adapter", with_adapter(adapter, "mine"), dist="dcam"), EntryPoint("other", other))
    manager = PluginManager()
    assert decide(manager, extra=[user], defaults=[core]) == "user"
    assert decide(manager, defaults=[core]) == "adapter"
    manager.block("adapter")
    assert decide(manager, defaults=[core]) == "other"
    manager.block("other")
    assert decide(manager, defaults=[core]) == "core"
    assert decide(manager) is None


def test_tryfirst_and_trylast_do_not_cross_the_groups(install):
    other = answering("other", tryfirst=True)
    adapter = with_adapter(answering("adapter", trylast=True), "mine")
    install(EntryPoint("adapter", adapter, dist="dcam"), EntryPoint("other", other))
    manager = PluginManager()
    assert decide(manager) == "adapter"
    assert decide(manager, extra=[answering("user", trylast=True)]) == "user"
    assert other.asked == 0


def test_none_passes_the_question_on(install):
    adapter, other, user = answering(None), answering(None), answering(None)
    install(EntryPoint("adapter", with_adapter(adapter, "mine"), dist="dcam"), EntryPoint("other", other))
    assert decide(PluginManager(), extra=[user], defaults=[answering("core")]) == "core"
    assert (user.asked, adapter.asked, other.asked) == (1, 1, 1)


def test_false_and_zero_are_answers(install):
    assert decide(PluginManager(), extra=[answering(0)], defaults=[answering("core")]) == 0


def test_other_families_are_never_asked(install):
    mine, theirs = with_adapter(answering(None), "mine"), with_adapter(answering("theirs"), "theirs")
    install(EntryPoint("mine", mine, dist="dcam-a"), EntryPoint("theirs", theirs, dist="dcam-b"))
    manager = PluginManager()
    assert decide(manager, defaults=[answering("core")]) == "core"
    assert theirs.asked == 0
    assert decide(manager, family="theirs") == "theirs"
    assert decide(manager, family="not registered", defaults=[answering("core")]) == "core"


def test_the_first_of_several_user_plugins_is_asked_first(install):
    assert decide(PluginManager(), extra=[answering("one"), answering("two")]) == "one"
    assert decide(PluginManager(), extra=[answering(None), answering("two")]) == "two"


def test_a_user_function_named_like_a_hook_needs_no_marker(install):
    def dcam_mask_step(policy):
        return policy.upper()

    assert decide(PluginManager(), extra=[dcam_mask_step]) == "COMMIT"


def test_a_user_function_may_name_its_hook(install):
    @hookimpl(specname="dcam_mask_step")
    def my_policy(policy):
        return policy.upper()

    assert decide(PluginManager(), extra=[my_policy]) == "COMMIT"


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (lambda policy: None, "is not named like a hook"),
        (object(), "no function marked with @hookimpl"),
        (misspelt(), "dcam_regster_refiners"),
        (
            offering(sharp=object),
            "registers things .dcam_register_refiners.: give it to PluginManager.register",
        ),
    ],
)
def test_what_the_user_passes_is_checked_at_once(install, plugin, message):
    with pytest.raises(PluginError, match=message) as caught:
        PluginManager().engine_hooks("mine", [plugin])
    assert str(caught.value).startswith("plugin 'user:1:")


def test_an_exception_in_a_deciding_hook_stops_the_run_and_names_the_plugin(install):
    install(EntryPoint("bad", answering(ZeroDivisionError("by zero"))))
    with pytest.raises(
        PluginError, match="plugin 'bad' failed in dcam_mask_step: ZeroDivisionError: by zero"
    ) as caught:
        decide(PluginManager(), defaults=[answering("core")])
    assert caught.value.plugin == "bad"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_our_own_errors_pass_through_a_deciding_hook(install):
    error = TargetError("no such word")
    with pytest.raises(TargetError) as caught:
        decide(PluginManager(), defaults=[answering(error)])
    assert caught.value is error


def test_the_engine_must_give_every_argument(install):
    hooks = PluginManager().engine_hooks("mine")
    with pytest.raises(TypeError, match="dcam_mask_step takes policy, target, trajectory, adapter"):
        hooks.decide("dcam_mask_step", policy="commit")


# -- observing -----------------------------------------------------------------------------------------------


def listening(heard, name, error=None):
    def hook(explanation):
        heard.append((name, explanation))
        if error:
            raise error

    return SimpleNamespace(dcam_explained=hookimpl(hook))


def test_everybody_hears_also_after_one_failed(install):
    heard = []
    install(
        EntryPoint("a", listening(heard, "a")),
        EntryPoint("bad", listening(heard, "bad", ValueError("full disk"))),
        EntryPoint("c", with_adapter(listening(heard, "c"), "theirs")),
    )
    hooks = PluginManager().engine_hooks("mine", [listening(heard, "user")])
    with pytest.warns(
        PluginWarning, match="plugin 'bad' failed in dcam_explained: ValueError: full disk"
    ) as caught:
        hooks.observe("dcam_explained", explanation=1)
    assert len(caught) == 1
    assert sorted(heard) == [("a", 1), ("bad", 1), ("c", 1), ("user", 1)]


def test_strict_observing_raises(install):
    install(EntryPoint("bad", listening([], "bad", ValueError("full disk"))))
    hooks = PluginManager(strict=True).engine_hooks("mine")
    with pytest.raises(PluginError, match="full disk") as caught:
        hooks.observe("dcam_explained", explanation=1)
    assert isinstance(caught.value.__cause__, ValueError)


def test_observers_may_ask_for_fewer_arguments(install):
    heard = []

    @hookimpl
    def dcam_maps_made(maps):
        heard.append(maps)

    PluginManager().engine_hooks("mine", [dcam_maps_made]).observe(
        "dcam_maps_made", targets=(), raw=1, maps=2, picture=0
    )
    assert heard == [2]


def test_calls_can_be_traced(install, caplog):
    caplog.set_level("DEBUG", logger="dcam.plugins")
    decide(PluginManager(), extra=[answering("seen")])
    assert "dcam_mask_step" in caplog.text
    assert "'seen'" in caplog.text


def test_hookspecs_import_no_torch():
    import subprocess

    code = "import sys, dcam_core.plugins; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert importlib.import_module("dcam_core.hookspecs") is hookspecs
