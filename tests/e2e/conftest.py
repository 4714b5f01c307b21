"""Fixtures of evaluations that several processes share."""

from pathlib import Path

import pytest
from support.processes import break_a_picture, evaluated_by_one

__all__ = ["root", "whole"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that one process has written; one of its pictures cannot be read."""
    return evaluated_by_one(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where several processes are to write the same."""
    break_a_picture(tmp_path)
    return tmp_path
