"""Pointing game: does the highest pixel lie on the object?"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dcam_core.errors import ConfigurationError
from dcam_core.metric import Metric
from dcam_plugins.metrics._scores import where_something_can_be_missed
from dcam_plugins.metrics.localisation import pointing

__all__ = ["PointingGame"]


class PointingGame(Metric):
    """Share of maps whose highest pixel lies on the object, 1 or 0 for each.

    A map that is the same everywhere points nowhere: a miss.

    Args:
        tolerance: pixels by which the highest pixel may miss the object, in x and in y. The published protocol
            allows 15 on photographs; half a token's side asks whether the right token was found.
        options: see `torchmetrics.Metric`.

    Raises:
        ConfigurationError: the tolerance is no whole number, or negative.

    Source: Zhang et al., "Top-down neural attention by excitation backprop", IJCV 2018.
    """

    def __init__(self, *, tolerance: int = 0, **options: Any) -> None:
        super().__init__(**options)
        if not isinstance(tolerance, int) or tolerance < 0:
            raise ConfigurationError(
                f"pointing-game: tolerance is {tolerance!r}: give 0 or a whole number of pixels"
            )
        self.tolerance = tolerance

    def score(self, maps: Tensor, masks: Tensor) -> Tensor:
        """Score; shapes and values as in `Metric.score`."""
        return where_something_can_be_missed(pointing(maps, masks, self.tolerance), masks)
