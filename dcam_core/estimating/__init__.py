"""How much memory a run will take, before anything is loaded or computed.

The engine's own work is done on fake tensors, which have shapes, dtypes and sizes but no numbers, and the sizes of
those that are alive together are counted. So an estimate holds for every adapter and method, also for those of
plugins; there is no formula per family.
"""

from __future__ import annotations

from dcam_core.estimating.counting import PeakTensorMemory
from dcam_core.estimating.estimate import MemoryEstimate, Phase

__all__ = ["MemoryEstimate", "PeakTensorMemory", "Phase"]
