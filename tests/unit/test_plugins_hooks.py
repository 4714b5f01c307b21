"""Asking and telling plugins: who is asked, in which order, how guarded."""

import importlib
import sys
from types import SimpleNamespace

import pytest
from support.fake_plugins import EntryPoint, answering, offering, with_adapter

from dcam_core import hookspecs
from dcam_core.errors import PluginError, TargetError
from dcam_core.hookspecs import hookimpl
from dcam_core.plugins import PluginManager
from dcam_core.plugins.failure import PluginWarning

# -- deciding ------------------------------------------------------------------------------------------------

ARGUMENTS = {"policy": "commit", "target": None, "trajectory": None, "adapter": None}


def decide(manager, *, extra=(), defaults=(), family="mine"):
    decision = manager.engine_hooks(family, extra, defaults).decide("dcam_mask_step", **ARGUMENTS)
    return decision and decision.answer


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
    for answer in (0, False):
        hooks = PluginManager().engine_hooks("mine", [answering(answer)], [answering("core")])
        assert hooks.decide("dcam_mask_step", **ARGUMENTS).answer is answer


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
        (
            SimpleNamespace(dcam_mask_stp=hookimpl(lambda: None, specname="dcam_mask_stp")),
            "Did you mean 'dcam_mask_step'",
        ),
        ("sharp", "'sharp' is a name: give the plugin itself"),
        (SimpleNamespace, "it is the class SimpleNamespace: give an instance of it"),
        (
            offering(sharp=object),
            "registers things .dcam_register_refiners.: give it to PluginManager.register",
        ),
    ],
)
def test_what_the_user_passes_is_checked_at_once(install, plugin, message):
    with pytest.raises(PluginError, match=message) as caught:
        PluginManager().engine_hooks("mine", [plugin])
    assert "(passed to this engine) cannot be used: " in str(caught.value)


def test_an_exception_in_a_deciding_hook_stops_the_run_and_names_the_plugin(install):
    install(EntryPoint("bad", answering(ZeroDivisionError("by zero"))))
    with pytest.raises(
        PluginError,
        match=r"plugin 'bad' \(dcam-other 1.0\) failed in dcam_mask_step: ZeroDivisionError: by zero",
    ) as caught:
        decide(PluginManager(), defaults=[answering("core")])
    assert caught.value.plugin == "bad"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_decision_says_who_made_it_and_where_it_came_from(install):
    install(EntryPoint("mine", answering("installed"), dist="dcam-mine"))
    manager = PluginManager()

    def of(**options):
        decision = manager.engine_hooks("mine", **options).decide("dcam_mask_step", **ARGUMENTS)
        return decision.answer, decision.by, decision.plugin, decision.origin

    def function():
        return "function"

    name = f"{__name__}.{function.__qualname__}"
    assert of() == ("installed", "plugin", "mine", "plugin 'mine' (dcam-mine 1.0)")
    assert of(settings=[answering("setting")])[:2] == ("setting", "setting")
    assert of(settings=[answering("setting")], extra=[answering("user")])[:2] == ("user", "user")
    assert of(extra=[answering("user")], functions={"dcam_mask_step": function}) == (
        "function",
        "user",
        name,
        f"function '{name}' (passed to this engine as mask_step)",
    )
    manager.block("mine")
    assert of(defaults=[answering("core")])[:2] == ("core", "core")


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), SystemExit(3)])
def test_nothing_that_a_plugin_raises_ends_the_program_without_a_word(install, error):
    def raising():
        raise error

    install(EntryPoint("bad", SimpleNamespace(dcam_mask_step=hookimpl(raising, specname="dcam_mask_step"))))
    with pytest.raises(PluginError, match=r"plugin 'bad'.*failed in dcam_mask_step") as caught:
        decide(PluginManager())
    assert caught.value.__cause__ is error


def test_an_argument_with_a_default_is_passed_too(install):
    def dcam_mask_step(policy="nobody's", *, adapter="nobody's", colour="red"):
        return policy, adapter, colour

    assert decide(PluginManager(), extra=[dcam_mask_step]) == ("commit", None, "red")


def test_a_users_function_is_not_written_to(install):
    def dcam_mask_step(policy):
        return policy

    assert decide(PluginManager(), extra=[dcam_mask_step]) == "commit"
    assert vars(dcam_mask_step) == {}


def test_our_own_errors_pass_through_a_deciding_hook(install):
    error = TargetError("no such word")
    with pytest.raises(TargetError) as caught:
        decide(PluginManager(), defaults=[answering(error)])
    assert caught.value is error
    assert "raised in dcam_mask_step of plugin" in error.__notes__[0]


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
        PluginWarning,
        match=r"plugin 'bad' \(dcam-other 1.0\) failed in dcam_explained: ValueError: full disk; the run goes on",
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
