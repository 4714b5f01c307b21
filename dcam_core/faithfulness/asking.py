"""What faithfulness asks the model: how likely is each word, if this picture is shown instead?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dcam_core.errors import UsageError
from dcam_core.probing.reliance import hidden_log_probabilities
from dcam_core.probing.untouched import untouched

if TYPE_CHECKING:
    from PIL.Image import Image

    from dcam_core.adapter import Adapter
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.probing.targets import Target

__all__ = ["AskedWords"]


@dataclass(frozen=True, eq=False)
class AskedWords:
    """Words of an answer about one picture, ready to be asked about with other pictures in its place.

    Every word is asked for in the same state, whichever method explained it: the finished answer with that word alone
    undecided again. Its score is the log-probability of its tokens there, summed; exp of it is its probability.

    Attributes:
        adapter: the model; left as it was found.
        picture: the picture, RGB; the only one of the prompt.
        prompt: what was asked.
        trajectory: the recorded run; its last state and its settings are read.
        targets: T words of its answer.
        states_per_forward: how many words share a forward pass; bounds memory.

    Example:
        >>> asked = AskedWords(model, picture, prompt, trajectory, targets)  # doctest: +SKIP
        >>> curves = deletion_insertion(asked, run.maps, blurred(picture))  # doctest: +SKIP
        >>> curves.insertion_auc - curves.deletion_auc  # doctest: +SKIP
    """

    adapter: Adapter
    picture: Image
    prompt: str
    trajectory: Trajectory
    targets: Sequence[Target]
    states_per_forward: int = 8
    _of_all_words: dict[bytes, Tensor] = field(default_factory=dict, init=False, repr=False)

    def with_picture(self, picture: Image, words: Sequence[int] | None = None) -> Tensor:
        """Log-probabilities of words with a picture in place of theirs; one forward pass for several words.

        What all words are asked about is remembered, as every curve of every method begins and ends at the same two
        pictures: make this anew when the model has changed.

        Args:
            picture: RGB, of the same size.
            words: indices into `targets`; None: all.

        Returns:
            [len(words)] float64 on the CPU, in nats, at most 0.

        Raises:
            UsageError: the picture has another size.
        """
        if picture.size != self.picture.size:
            raise UsageError(
                f"a picture of {picture.size} pixels cannot stand in place of one of {self.picture.size}: "
                "scale it first"
            )
        if words is not None:
            return self._ask(picture, [self.targets[index] for index in words])
        shown = picture.tobytes()
        if shown not in self._of_all_words:
            self._of_all_words[shown] = self._ask(picture, self.targets)
        return self._of_all_words[shown].clone()

    def _ask(self, picture: Image, words: Sequence[Target]) -> Tensor:
        with torch.inference_mode(False), torch.no_grad(), untouched(self.adapter.model):
            return hidden_log_probabilities(
                self.adapter,
                self.adapter.prepare(picture, self.prompt),
                self.trajectory.final,
                words,
                self.trajectory.settings,
                states_per_forward=self.states_per_forward,
            ).double()

    def with_pictures(self, word: int, pictures: Iterable[Image]) -> Tensor:
        """[P] float64 on the CPU, log-probabilities of one word with each of some pictures."""
        return torch.cat([torch.zeros(0), *(self.with_picture(each, [word]) for each in pictures)]).double()

    def check_maps(self, maps: Tensor) -> None:
        """Refuse maps that are not one for each word.

        Raises:
            UsageError: maps are not [T, h, w], finite, for T words.
        """
        if maps.ndim != 3 or len(maps) != len(self.targets) or not maps.is_floating_point():
            raise UsageError(
                f"maps are {list(maps.shape)} {maps.dtype} for {len(self.targets)} words: give "
                "[words, rows, columns] floating values"
            )
        if not maps.isfinite().all():
            raise UsageError("maps hold values that are not finite: they cannot be put in order")
