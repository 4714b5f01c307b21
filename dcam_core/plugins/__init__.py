"""Finding, loading and asking plugins."""

from dcam_core.plugins.info import PluginInfo
from dcam_core.plugins.manager import PluginManager, default_manager

__all__ = ["PluginInfo", "PluginManager", "default_manager"]
