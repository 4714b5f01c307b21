"""What batches consist of as the training of a language model goes on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["CURRICULUM", "Phase", "Views", "phase_at"]


class Views(Enum):
    """Which of its views a picture is shown in, where a family shows several."""

    FIRST = "the first: looking things up is learnt sooner where they are always at the same places"
    ONE = "one of them, drawn for every batch, at its own positions: less work, and no view is favoured"
    ALL = "all of them, as the model is used"


@dataclass(frozen=True)
class Phase:
    """A part of the training.

    Attributes:
        until: share of the training, in (0, 1], at which it ends.
        views: in which views pictures are shown.
        captions: how often the caption follows the picture in a packed batch, at least 2: twice with masks that
            complete each other, and then early in the denoising, where it is found out how many objects there are
            and which is where in their order.
        questions: short questions per picture in a packed batch.
        packed: share of packed batches. In the others the picture reads the text and one whole answer region is
            trained, as the model is used.
        questions_alone: share of questions in those others.
    """

    until: float
    views: Views
    captions: int
    questions: int
    packed: float
    questions_alone: float = 0.5


CURRICULUM = (
    # Looking up what a word asks about comes first: captions need it too.
    Phase(until=0.2, views=Views.FIRST, captions=2, questions=8, packed=0.95),
    Phase(until=0.4, views=Views.ONE, captions=6, questions=3, packed=0.95),
    Phase(until=0.75, views=Views.ALL, captions=6, questions=3, packed=0.95),
    Phase(until=1.0, views=Views.ALL, captions=6, questions=3, packed=0.5, questions_alone=0.25),
)
"""How the shipped models are trained."""


def phase_at(curriculum: tuple[Phase, ...], share: float) -> Phase:
    """The phase in which a share of the training, in [0, 1), lies."""
    return next((phase for phase in curriculum if share < phase.until), curriculum[-1])
