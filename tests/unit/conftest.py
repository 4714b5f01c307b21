"""Fixtures of the unit tests."""

from support.fake_plugins import install

__all__ = ["install"]
