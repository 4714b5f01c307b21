"""From raw maps to refined ones: joint normalisation, then the method's refiners, picture by picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from dcam_core.errors import DcamError, PluginError
from dcam_core.plugins.failure import describe
from dcam_core.probing.answers import kind_of
from dcam_core.probing.normalise import joint_min_max
from dcam_core.refiner import Refiner, RefinerContext

if TYPE_CHECKING:
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.probing.targets import Answer

__all__ = ["refine"]

_ROUNDING = 1e-4  # how far rounding may carry a value out of [0, 1]


def refine(
    raw: Sequence[Tensor],
    refiners: Sequence[tuple[str, Refiner]],
    trajectory: Trajectory,
    answer: Answer,
    image_size: int,
) -> tuple[Tensor, ...]:
    """Normalise a target's maps over all pictures together, then refine the maps of each picture.

    A refiner sees one picture at a time and may stretch what it sees to [0, 1] again. Afterwards a picture's
    map is therefore scaled down to the height that its raw map reached beside the other pictures', if it is
    above it: refiners say where in a picture the evidence lies, the raw maps say in which picture. For one
    picture that height is 1, and nothing is scaled.

    Args:
        raw: one [T, H, W] per picture, finite.
        refiners: (label, refiner) in the method's order; the label says in messages what it is and whose.
        trajectory: the recorded run.
        answer: its answer.
        image_size: side in pixels of the square that the vision tower reads.

    Returns:
        One [T, H, W] in [0, 1] per picture.

    Raises:
        PluginError: a refiner failed, or gave what is not finite [T, H, W] in [0, 1].
    """
    padding = tuple(trajectory.final[trajectory.answer_length :].tolist())
    refined = []
    for maps in joint_min_max(raw):
        context = RefinerContext(maps, trajectory.steps, image_size, answer.token_ids, padding)
        finished = _through(refiners, maps, context).clamp(0, 1)
        refined.append(_limited(finished, maps.amax((-2, -1), keepdim=True)))
    return tuple(refined)


def _through(refiners: Sequence[tuple[str, Refiner]], maps: Tensor, context: RefinerContext) -> Tensor:
    """[T, H, W] maps of one picture, through all refiners; what each gives is checked."""
    for label, refiner in refiners:
        try:
            refined = refiner(maps, context)
        except DcamError:
            raise
        except Exception as error:
            raise PluginError(
                label, f"{label} failed on maps {list(maps.shape)}: {describe(error)}"
            ) from error
        if found := _misfit(refined, maps):
            raise PluginError(
                label, f"{label} gave {found}: expected finite {list(maps.shape)} {maps.dtype} in [0, 1]"
            )
        maps = refined
    return maps


def _misfit(refined: object, maps: Tensor) -> str:
    """What is wrong with a refiner's maps; "" if nothing is."""
    if not isinstance(refined, Tensor):
        return kind_of(refined)
    if refined.shape != maps.shape or refined.dtype != maps.dtype or refined.device != maps.device:
        where = "" if refined.device == maps.device else f" on {refined.device}"
        return f"{kind_of(refined)}{where}"
    if not refined.isfinite().all():
        return f"{list(refined.shape)} with {int((~refined.isfinite()).sum())} values that are not finite"
    if refined.numel() and (refined.amin() < -_ROUNDING or refined.amax() > 1 + _ROUNDING):
        return f"values from {float(refined.amin()):.4g} to {float(refined.amax()):.4g}"
    return ""


def _limited(maps: Tensor, height: Tensor) -> Tensor:
    """[T, H, W] maps scaled so that none rises above its height [T, 1, 1]."""
    peak = maps.amax((-2, -1), keepdim=True)
    return maps * (height / peak).where(peak > height, 1)
