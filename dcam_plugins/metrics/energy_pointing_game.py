"""Energy-based pointing game: how much of the map lies on the object?"""

from __future__ import annotations

from torch import Tensor

from dcam_core.metric import Metric
from dcam_plugins.metrics._scores import where_something_can_be_missed
from dcam_plugins.metrics.localisation import energy_inside

__all__ = ["EnergyLift", "EnergyPointingGame"]


class EnergyPointingGame(Metric):
    """Share of the map's mass that lies on the object, 0 to 1.

    A map that is zero everywhere scores 0, an even one the object's share of the picture. Also known as
    concentration, by the name of which it is registered too.

    Source: Wang et al., "Score-CAM", CVPR workshops 2020, section 4.3.
    """

    def score(self, maps: Tensor, masks: Tensor) -> Tensor:
        """Score; shapes and values as in `Metric.score`."""
        return where_something_can_be_missed(energy_inside(maps, masks), masks)


class EnergyLift(Metric):
    """Energy-based pointing game over the object's share of the picture: how many times better than an even map.

    From 0 to the inverse of the object's share, which the object's own mask reaches; 1 for an even map. Objects of
    different size have the same chance level here, which they have not in the energy itself.

    Source: Wang et al., "Score-CAM", for the energy; dividing by chance is ours.
    """

    def score(self, maps: Tensor, masks: Tensor) -> Tensor:
        """Score; shapes and values as in `Metric.score`."""
        area = masks.flatten(1).double().mean(1)
        return where_something_can_be_missed(energy_inside(maps, masks) / area.where(area > 0, 1), masks)
