"""Published tables: read as data, measured anew, and set beside what is found."""

from dcam_core.published.paper import Paper, read_paper
from dcam_core.published.reproducing import published, reproduce
from dcam_core.published.reproduction import Reproduction
from dcam_core.published.tables import markdown, terminal

__all__ = ["Paper", "Reproduction", "markdown", "published", "read_paper", "reproduce", "terminal"]
