"""`dcam new`: a complete distribution for somebody's own adapter, refiner or attribution, from templates.

Light: nothing here imports torch. What is generated passes its own tests as it is; its author replaces the
formula, or the network, and keeps the rest.
"""

from __future__ import annotations

from dcam_core.scaffold.names import Names, refuse_taken
from dcam_core.scaffold.writing import KINDS, write_distribution

__all__ = ["KINDS", "Names", "refuse_taken", "write_distribution"]
