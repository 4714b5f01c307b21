"""The methods that dcam brings along: attributions, refiners, presets, and a data set of generated scenes.

Nothing is imported here: `dcam_plugins.plugin` registers everything by import string, so that listing the
plugins costs nothing.
"""
