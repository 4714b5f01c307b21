"""Finding, loading and asking plugins."""

from dcam_core.plugins.manager import PluginInfo, PluginManager, default_manager

__all__ = ["PluginInfo", "PluginManager", "default_manager"]
