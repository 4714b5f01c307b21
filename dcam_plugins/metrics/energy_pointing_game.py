"""Energy-based pointing game: how much of the map lies on the object?"""

from __future__ import annotations

from torch import Tensor

from dcam_core.metric import Metric
from dcam_plugins.metrics._scores import where_there_is_an_object
from dcam_plugins.metrics.localisation import energy_inside

__all__ = ["EnergyPointingGame"]


class EnergyPointingGame(Metric):
    """Share of the map's mass that lies on the object, 0 to 1.

    A map that is zero everywhere scores 0, an even one the object's share of the picture.

    Source: Wang et al., "Score-CAM", CVPR workshops 2020, section 4.3.
    """

    def score(self, maps: Tensor, masks: Tensor) -> Tensor:
        """Score; shapes and values as in `Metric.score`."""
        return where_there_is_an_object(energy_inside(maps, masks), masks)
