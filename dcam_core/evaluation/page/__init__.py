"""`table.html`: the table of an evaluation, and behind every number the pictures that it was computed from."""

from dcam_core.evaluation.page.html import render_page

__all__ = ["render_page"]
