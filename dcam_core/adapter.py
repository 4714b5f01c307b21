"""The contract of an adapter: what makes one model family look like any other."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dcam_core.denoising.sampler import DenoisingStep, denoise
from dcam_core.denoising.settings import SamplerSettings
from dcam_core.denoising.trajectory import Trajectory
from dcam_core.errors import ConfigurationError
from dcam_core.inputs import Inputs, Prefix
from dcam_core.placement import Placement

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedTokenizerBase

__all__ = ["Adapter", "Layer"]

Layer = int | float | str
"""A probe layer: a block number, a fraction of the depth in [0, 1], a module path, or "attention-input:NUMBER"."""

ATTENTION_NORM, FEED_FORWARD_NORM = NORMS = ("attention-norm", "feed-forward-norm")
"""The parts of a block that can be named in any family; a colon and the block follow."""

ATTENTION_INPUT = "attention-input"
"""What a block's attention reads, named like them: its norm's output, or where it has no norm, what comes in."""


class Adapter(ABC):
    """One loaded model of one family, behind the interface that the engine works with.

    An adapter relies on the module tree and the forward signature of its family only, never on a class of
    ours, so that it can be put around a model object that the user already holds.

    Attributes:
        family: the name under which the adapter is registered.
        name: what the user called this model: an embedded model's name, a folder, a hub id.
        model: the PyTorch model; the engine leaves it as it found it.
        tokenizer: the tokenizer, or None: then prompts can only be given as ids.
        folder: where the checkpoint was loaded from; None for a wrapped model.
    """

    family: ClassVar[str]
    name: str
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase | None
    folder: Path | None = None

    prediction_shift: ClassVar[int] = 0
    """Row r of the head's output predicts position r + shift: 0 for masked models, 1 where a model keeps the
    alignment of the next-token model it was made from. `replay` gives rows by the position they predict."""

    # -- getting one ---------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, placement: Placement = Placement()) -> Self:  # noqa: B008  (immutable)
        """Load a checkpoint folder in the layout that the family publishes.

        A family may have further options of its own: keyword-only, with defaults. `load_model` hands them on.

        Args:
            folder: holds config.json, safetensors (one file, or shards with their index) and, for
                prompts given as text, the tokenizer's files.
            placement: where the weights go, and in which form.

        Raises:
            CheckpointError: a file or tensor is missing, unexpected or mis-shaped; all are named.
            ConfigurationError: the placement cannot be had for this model, or on this machine.
        """

    @classmethod
    def outline(cls, folder: Path, placement: Placement = Placement()) -> Self:  # noqa: B008  (immutable)
        """The model of a checkpoint folder without its weights: its parameters lie on the meta device.

        For what can be told before anything is loaded, such as how much memory a run will take. Shapes and dtypes are
        those of `load` with the same arguments; nothing is quantised or spread over devices. Here: what `load` gives,
        which tells as much and takes longer. A family that is built on the meta device anyway overrides it, with the
        options of its `load`.

        Args:
            folder: as for `load`; the weights may be absent, where config.json says all.
            placement: its dtype counts.

        Raises:
            CheckpointError: as `load`, as far as it can be seen without weights.
        """
        return cls.load(folder, placement)

    @classmethod
    @abstractmethod
    def wrap(
        cls,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        image_processor: Any = None,
        *,
        config: Mapping[str, Any] | None = None,
    ) -> Self:
        """Put the adapter around a model object of this family that the user holds.

        Args:
            model: any module with the family's module tree and forward signature.
            tokenizer: its tokenizer.
            image_processor: replaces the family's picture preparation where it is given.
            config: the content of config.json; by default read from `model.config`.
        """

    # -- what the model is ---------------------------------------------------------------------------

    @property
    @abstractmethod
    def mask_token_id(self) -> int | None:
        """Id of the token that stands for "not decided yet".

        None: there is no such token, for instance because undecided positions hold random ones. Such a family
        overrides `hidden` and `denoise`.
        """

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Side, in pixels, of the square picture that the vision tower reads; of the largest one, if sizes vary."""

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks of the language model, in order."""

    @property
    @abstractmethod
    def default_sampler(self) -> SamplerSettings:
        """The family's own sampler settings: suppressed ids, stop sequences, lengths."""

    @property
    def parity_modules(self) -> Mapping[str, str | nn.Module]:
        """Quantity of a parity fixture -> the module whose output it is, or its path.

        "final_norm" and "logits" (the head); families with a vision tower add "vision.features" and
        "vision.projected", those with an image tokenizer "vq.prequant" and "vq.ids". What is not named is not
        compared; block outputs need no entry. "final_norm" and "logits" also serve attributions that read hidden
        states in the vocabulary (a logit lens).
        """
        return {}

    @property
    def device(self) -> torch.device:
        """Device of the model's parameters."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating dtype of the model's parameters."""
        return next(p.dtype for p in self.model.parameters() if p.is_floating_point())

    # -- what it computes ----------------------------------------------------------------------------

    @abstractmethod
    def prepare(self, picture: Image | Sequence[Image], prompt: str) -> Inputs:
        """Apply the chat template, tokenise, and locate the picture among the prompt's tokens.

        Args:
            picture: the picture, or several in the order in which the model reads them; converted to RGB
                first.
            prompt: the user's words.

        Raises:
            UsageError: there are several pictures and the family reads one.
        """

    @abstractmethod
    def prepare_ids(self, picture: Image | Sequence[Image], input_ids: Tensor) -> Inputs:
        """As `prepare`, for a prompt that is tokenised already.

        Args:
            picture: the picture, or several; converted to RGB first.
            input_ids: [1, n] int64 with the family's image placeholder, one for every picture.
        """

    @abstractmethod
    def replay(
        self, inputs: Inputs, states: Tensor, positions: Tensor, prefix: Prefix | None = None
    ) -> Tensor:
        """Run the forward pass of a denoising step on given states of the answer region.

        It is the computation by which the model itself decides: the same positions, the same attention
        pattern. It is differentiable, sets no grad mode of its own, and computes logits only at
        `positions`.

        A family whose steps hand on more than ids (self-conditioning; `Trajectory.conditioning`) takes a further
        keyword, `conditioning: Sequence[C | None]`, one item for each state. It is passed only if a state has one;
        an item that is None, or no `conditioning` at all, is what the first step reads.

        Args:
            inputs: the prepared prompt.
            states: [B, G] int64, ids of the answer region, on the model's device.
            positions: [P] int64, answer positions (0 is the first answer token), on the model's device.
            prefix: the encoded prompt: only the answer's rows are computed, and attend to it. None: the whole
                sequence is computed, and all of it attends to all of it.

        Returns:
            [B, P, V] float32; row p predicts the token *at* position p.
        """

    @property
    def caches(self) -> tuple[str, ...]:
        """Values of `SamplerSettings.cache` that this family offers."""
        return ()

    def encode_prefix(self, inputs: Inputs) -> Prefix:
        """Read the prompt once, by itself, for prefix caching.

        The only forward pass that holds the image-token span then: the probe captures activations here, and
        gradients reach them through the keys and values of the blocks above the probed module. Differentiable;
        sets no grad mode of its own.

        Args:
            inputs: the prepared prompt.

        Raises:
            ConfigurationError: the family has no prefix caching.
        """
        raise ConfigurationError(_no_cache(self, "prefix"))

    @abstractmethod
    def unconditional(self, inputs: Inputs) -> Inputs:
        """The prompt with everything removed that the family's guidance removes."""

    def denoise(
        self,
        inputs: Inputs,
        settings: SamplerSettings,
        on_step: Callable[[DenoisingStep], None] | None = None,
    ) -> Trajectory:
        """Write the answer and record how. The shared sampler, unless the family differs.

        Raises:
            ConfigurationError: the family does not offer `settings.cache`, or has no mask token and no sampler of
                its own.
        """
        if settings.cache is not None and settings.cache not in self.caches:
            raise ConfigurationError(_no_cache(self, settings.cache))
        return denoise(self, inputs, settings, on_step)

    def hidden(self, ids: Tensor, positions: Sequence[int]) -> Tensor:
        """The same answer with some positions undecided again: here, mask tokens in their place.

        Args:
            ids: [G] int64 on the CPU, ids of the answer region.
            positions: answer positions.

        Returns:
            [G] int64, a new tensor; the same for the same arguments.

        Raises:
            ConfigurationError: the family has no mask token, and does not say what stands in place of it.
        """
        if self.mask_token_id is None:
            raise ConfigurationError(
                f"{self.family} has no mask token, and its adapter does not say what an undecided position holds: "
                "it must override `hidden`"
            )
        hidden = ids.clone()
        hidden[list(positions)] = self.mask_token_id
        return hidden

    def invalid_reason(self, trajectory: Trajectory, step: int) -> str | None:
        """Why a recorded step cannot be probed, or None if it can.

        A step is structurally valid if the forward pass that computed it held the whole image-token span,
        freshly computed. Families without a cache re-encode the whole sequence at every step: all are.
        """
        return None

    def exact_replay(self, trajectory: Trajectory, step: int) -> bool:
        """Whether replaying a step's state repeats the computation by which the step decided.

        False where a cache that `replay` knows nothing of served some rows of the answer: then a replay is the
        decision made anew, in full.
        """
        return True

    # -- naming its modules --------------------------------------------------------------------------

    def attention_norm(self, block: nn.Module) -> nn.Module | None:
        """The norm whose output a block's attention reads, or None if there is none.

        Here: the first of the block's children that is called a norm.
        """
        return next(iter(_norms(block)), None)

    def feed_forward_norm(self, block: nn.Module) -> nn.Module | None:
        """The norm whose output a block's feed-forward network reads, or None if there is none.

        Here: the second of the block's children that is called a norm, or its only one.
        """
        return next(reversed(_norms(block)[:2]), None)

    def layer_path(self, layer: Layer) -> str:
        """Module path of a probe layer.

        Args:
            layer: a block number (negative counts from the end), a fraction of the depth in [0, 1]
                (0 the first block, 1 the last), a module path such as "model.layers.2.input_layernorm", or
                "attention-norm:-1", "feed-forward-norm:0.3": the norm whose output that part of a block, by number or
                fraction, reads, whatever the family calls it; or "attention-input:-1": the same as "attention-norm",
                but where the family's blocks have none, the block below, whose output comes in.

        Raises:
            ConfigurationError: there is no such block or module.
        """
        if not isinstance(layer, str):
            return self._path_of(self._block(layer))
        part, found, which = layer.partition(":")
        if not found or part not in (*NORMS, ATTENTION_INPUT):
            return self._known_path(layer)
        block = self._block(_number(layer, part, which))
        norm = self.feed_forward_norm(block) if part == FEED_FORWARD_NORM else self.attention_norm(block)
        if norm is None and part == ATTENTION_INPUT:
            return self._path_of(self._below(layer, block))
        if norm is None:
            raise ConfigurationError(
                f"probe_layer {layer!r}: the blocks of {self.name} have no norm; give a block number or a module path"
            )
        return self._path_of(norm)

    def layer_remark(self, layer: Layer) -> str:
        """What a reader must know of a probe layer beside its path; empty if its name says it all.

        Args:
            layer: as in `layer_path`, which knows it.
        """
        part, _, which = str(layer).partition(":")
        if part != ATTENTION_INPUT:
            return ""
        if self.attention_norm(self._block(_number(str(layer), part, which))) is not None:
            return ""
        return f"{layer}: the blocks of {self.name} have no norm, so the output of the block below was read"

    def _path_of(self, module: nn.Module) -> str:
        path: str = next(name for name, found in self.model.named_modules() if found is module)
        return path

    def _block(self, layer: float) -> nn.Module:
        count = len(self.blocks)
        if isinstance(layer, float):
            if not 0 <= layer <= 1:
                raise ConfigurationError(f"probe_layer {layer} is not a fraction of the depth in [0, 1]")
            layer = round(layer * (count - 1))
        if not -count <= layer < count:
            raise ConfigurationError(
                f"probe_layer {layer} is not a block of {self.name}: there are {count}, numbered from 0"
            )
        return self.blocks[layer]

    def _below(self, layer: str, block: nn.Module) -> nn.Module:
        """The block whose output a block reads."""
        index = list(self.blocks).index(block)
        if index == 0:
            raise ConfigurationError(
                f"probe_layer {layer!r}: the first block of {self.name} has no norm and no block below it; give the "
                "module path of what it reads"
            )
        return self.blocks[index - 1]

    def _known_path(self, layer: str) -> str:
        names = [name for name, _ in self.model.named_modules() if name]
        if layer not in names:
            close = difflib.get_close_matches(layer, names, n=3)
            raise ConfigurationError(
                f"probe_layer {layer!r} is not a module of {self.name}: give a block number "
                f"0..{len(self.blocks) - 1}, "
                f"a fraction of the depth, or a module path"
                + (f" such as {', '.join(map(repr, close))}" if close else "")
            )
        return layer


def _number(layer: str, part: str, which: str) -> float:
    """The block, by number or fraction, that a layer's name has behind the colon."""
    try:
        return float(which) if "." in which else int(which)
    except ValueError:
        raise ConfigurationError(
            f"probe_layer {layer!r} names no block: write a number or a fraction behind the colon, as in '{part}:-1'"
        ) from None


def _norms(block: nn.Module) -> list[nn.Module]:
    return [child for name, child in block.named_children() if "norm" in name]


def _no_cache(adapter: Adapter, cache: str) -> str:
    there = ", ".join(map(repr, adapter.caches)) or "none"
    return f"sampler.cache is {cache!r}, which {adapter.family} does not offer: it has {there}; leave it out"
