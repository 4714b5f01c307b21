"""Plugins made of a few lines, and entry points that seem installed: loading is tested without installing."""

import importlib.metadata
import warnings
from types import SimpleNamespace

import pytest

from dcam_core.hookspecs import hookimpl
from dcam_core.plugins.failure import PluginWarning


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
