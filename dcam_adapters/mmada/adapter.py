"""MMaDA behind dcam's adapter contract."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from PIL import Image
from torch import Tensor, nn

from dcam_adapters.common.checkpoint import (
    assign_weights,
    outline_weights,
    present_weight_files,
    read_generation,
    weight_files,
)
from dcam_adapters.common.config_fields import stated_dtype
from dcam_adapters.common.language import language_model
from dcam_adapters.common.masked import MaskedAdapter
from dcam_adapters.common.merging import several
from dcam_adapters.common.module_tree import require_modules, unwrapped
from dcam_adapters.common.olmo import OlmoModel
from dcam_adapters.common.pictures import to_pixels
from dcam_adapters.common.prompt import stop_sequences
from dcam_adapters.common.tokenizer import load_tokenizer
from dcam_adapters.mmada.config import FAMILY, MMaDAConfig
from dcam_adapters.mmada.image_tokenizer import (
    cell_side,
    check_image_tokenizer,
    image_codes,
    image_tokenizer_folder,
)
from dcam_adapters.mmada.layout import IMAGE_START, PictureLayout
from dcam_adapters.mmada.magvit import Magvit
from dcam_adapters.mmada.modeling import Head, MMaDA
from dcam_adapters.mmada.prompt import STOPS, chat, tokenise, whole_prompt
from dcam_core.denoising.settings import SamplerSettings
from dcam_core.errors import CheckpointError, ConfigurationError, UsageError
from dcam_core.inputs import Inputs, Prefix
from dcam_core.models import read_config
from dcam_core.placement import Placement

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["MMaDAAdapter"]

BACKBONE = "model"
BLOCKS = "model.transformer.blocks"
EMBEDDING = "model.transformer.wte"
HEAD = "model.transformer.ff_out"
NORM = "model.transformer.ln_f"

UPSTREAM_LENGTH = 128
"""Answer length, block length and steps where upstream's generation function is given none (spec, section 7)."""


class MMaDAAdapter(MaskedAdapter[MMaDAConfig]):
    """MMaDA's understanding path: a masked-diffusion LLaDA that reads a picture as ids of its own vocabulary.

    Every denoising step runs the whole sequence, image tokens included, so every step is structurally valid.
    There is no cache of any kind.

    Args:
        model: a module tree with MMaDA's names: ours, upstream's `MMadaModelLM`, or another that has them; the
            forward signature of `model.model` must be ours or upstream's too.
        config: the checkpoint's configuration.
        vq: the image tokenizer: ours, upstream's `MAGVITv2`, or another with its names. `vq.get_code(pixels)`,
            or `vq(pixels)` where there is no such method, makes codes of pixels in [-1, 1].
        tokenizer: the checkpoint's tokenizer; None: prompts are given as ids only.
        generation: `gen_length`, `block_length` and `steps` of the default sampler, as in
            generation_config.json; upstream's 128 where absent.

    Attributes:
        config: the checkpoint's configuration.
        vq: the image tokenizer.
        squash: squeeze the whole picture into the square instead of cutting out its middle. Upstream does so by
            the *name* of the picture's file, for data sets of charts and diagrams. Off by default.
        single_newline: see `dcam_adapters.mmada.prompt.chat`. Off by default.

    Raises:
        CheckpointError: a module tree is not the family's, or the parts do not fit together.
    """

    family: ClassVar[str] = "mmada"

    def __init__(
        self,
        model: nn.Module,
        config: MMaDAConfig,
        vq: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        generation: Mapping[str, Any] | None = None,
    ) -> None:
        model, vq = unwrapped(model), unwrapped(vq)
        require_modules(model, (BLOCKS, EMBEDDING, NORM), family=FAMILY)
        check_image_tokenizer(vq, config)
        self.name = type(model).__name__
        self.model = model
        self.config = config
        self.vq = vq
        self.tokenizer = tokenizer
        self.squash = False
        self.single_newline = False
        self._generation = dict(generation or {})
        self._embedding = model.get_submodule(EMBEDDING)
        self._language = language_model(model.get_submodule(BACKBONE), _head(model))
        self._offset = config.offset(None if tokenizer is None else len(tokenizer))

    # -- getting one ---------------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        folder: Path,
        placement: Placement = Placement(),  # noqa: B008  (frozen)
        *,
        vq: str | Path | None = None,
    ) -> Self:
        """Loads a folder in the published layout: config.json, safetensors, tokenizer.

        Args:
            folder: the checkpoint.
            placement: where the language model's weights go, and in which form. The image tokenizer goes whole to
                the main device and always computes in float32: its codes hang on signs.
            vq: folder or hub id of the image tokenizer. None: the folder `vq` within the checkpoint; without
                one, `showlab/magvitv2` for models with the published number of codes.

        Raises:
            CheckpointError: a file or tensor is missing, unexpected or mis-shaped, or there is no image
                tokenizer, or one with another number of codes.
        """

        def fill(model: MMaDA) -> None:
            assign_weights(model, weight_files(folder), placement=placement, blocks=BLOCKS)

        return cls._of_folder(folder, read_config(folder), vq, placement.device, fill)

    @classmethod
    def outline(
        cls,
        folder: Path,
        placement: Placement = Placement(),  # noqa: B008  (frozen)
        *,
        vq: str | Path | None = None,
    ) -> Self:
        """The same on the meta device; see `Adapter.outline`. The image tokenizer is small, and is loaded.

        Args:
            folder: the checkpoint; without weights, they are taken to be of config.json's dtype.
            placement: dtype of the language model's weights.
            vq: as in `load`.

        Raises:
            CheckpointError: as `load`.
        """
        found = read_config(folder)

        def fill(model: MMaDA) -> None:
            model.to(stated_dtype(found))
            outline_weights(model, present_weight_files(folder), placement=placement)

        return cls._of_folder(folder, found, vq, torch.device("cpu"), fill)

    @classmethod
    def _of_folder(
        cls,
        folder: Path,
        found: Mapping[str, Any],
        vq: str | Path | None,
        device: torch.device,
        fill: Callable[[MMaDA], None],
    ) -> Self:
        """A checkpoint with its image tokenizer on a device, and whatever fills the language model made on meta."""
        config = MMaDAConfig.from_dict(found)
        # Small, and the part that is most often missing: looked for before gigabytes are read.
        image_tokenizer = Magvit.load(image_tokenizer_folder(folder, config, vq), device=device)
        check_image_tokenizer(image_tokenizer, config)
        with torch.device("meta"):
            model = MMaDA(config)
        fill(model)
        tokenizer, generation = load_tokenizer(folder), read_generation(folder)
        return cls(model.eval(), config, image_tokenizer, tokenizer, generation=generation)

    @classmethod
    def wrap(
        cls,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        image_processor: Any = None,
        *,
        config: Mapping[str, Any] | None = None,
    ) -> Self:
        """Puts the adapter around models that are in memory already: upstream's classes, a training run, ...

        Args:
            model: the language model; see the class. Neither copied nor changed.
            tokenizer: its tokenizer.
            image_processor: the image tokenizer, a second model; see `vq` of the class.
            config: the content of config.json; None: `model.config`.

        Raises:
            CheckpointError: a module tree is not the family's, or there is no configuration or no image
                tokenizer.
        """
        if not isinstance(image_processor, nn.Module):
            raise CheckpointError(
                f"image_processor is {type(image_processor).__name__}: MMaDA reads pictures through a second model, "
                "its MAGVIT-v2 image tokenizer; give that model as image_processor"
            )
        source = getattr(unwrapped(model), "config", None) if config is None else config
        return cls(model, MMaDAConfig.of(source), image_processor, tokenizer)

    # -- what the model is ---------------------------------------------------------------------------

    @property
    def image_size(self) -> int:
        """Side R in pixels of the square: image tokens per side times the image tokenizer's factor."""
        return self.config.cells * cell_side(self.vq)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """`model.transformer.blocks`."""
        return list(self.model.get_submodule(BLOCKS).children())

    @property
    def default_sampler(self) -> SamplerSettings:
        """Upstream's rules: uniform schedule, low confidence, no id suppressed, not even the mask's own.

        Only the end differs, see `dcam_adapters.mmada.prompt.STOPS`.
        """
        return dataclasses.replace(
            self._sampler(UPSTREAM_LENGTH),
            stop_sequences=stop_sequences(self.tokenizer, STOPS, family=FAMILY),
        )

    @property
    def parity_modules(self) -> Mapping[str, str | nn.Module]:
        """The modules whose outputs `dcam_core.parity` compares."""
        return {
            "vq.prequant": self.vq.get_submodule("encoder"),
            "vq.ids": self.vq,
            "final_norm": NORM,
            "logits": self._language.head,
        }

    # -- what it computes ----------------------------------------------------------------------------

    def prepare(self, picture: Image.Image | Sequence[Image.Image], prompt: str) -> Inputs:
        """Applies the chat template, tokenises, and puts the picture's ids in front.

        Args:
            picture: the picture.
            prompt: the user's words.

        Raises:
            CheckpointError: the checkpoint has no tokenizer.
            UsageError: the prompt says where the picture goes, or there are several pictures.
        """
        tokenizer = self._speaking()
        text = chat(tokenizer, prompt, single_newline=self.single_newline)
        ids = tokenise(tokenizer, text)
        return dataclasses.replace(self.prepare_ids(picture, ids[None]), prompt=prompt)

    def prepare_ids(self, picture: Image.Image | Sequence[Image.Image], input_ids: Tensor) -> Inputs:
        """Encodes the picture, and lays out the prompt (spec, section 5).

        Args:
            picture: the picture.
            input_ids: [1, n] int64: the text's ids; or the whole prompt, image ids in place, which must be those
                of the picture. Where a few differ, as rounding in another precision makes them, the given
                ones are read and a warning is logged.

        Raises:
            UsageError: the ids are no prompt, or those of another picture, or there are several pictures.
        """
        picture = _only(picture).convert("RGB")
        make = PictureLayout.squash if self.squash else PictureLayout.centre_crop
        layout = make(picture.size, self.image_size, self.config.cells)
        # A caller's inference mode must not taint what the engine later differentiates through.
        with torch.inference_mode(False), torch.no_grad():
            pixels = to_pixels([layout.square(picture)])
            codes = image_codes(self.vq, pixels, layout.length)
            ids = whole_prompt(input_ids[0].cpu(), codes, self.config.special_ids, self._offset)
            embeddings = self._embedding(ids[None].to(self.device))
        return Inputs(
            prompt="",
            picture_sizes=(picture.size,),
            embeddings=embeddings,
            views=layout.views(),
            image_span=(IMAGE_START, IMAGE_START + layout.length),
            pixels=pixels.to(self.device),
        )

    def replay(
        self, inputs: Inputs, states: Tensor, positions: Tensor, prefix: Prefix | None = None
    ) -> Tensor:
        """One bidirectional pass over prompt and answer; logits at the asked answer positions only.

        Args:
            inputs: the prepared prompt.
            states: [B, G] int64, ids of the answer region.
            positions: [P] int64, answer positions.
            prefix: None; the family has no prefix caching.

        Returns:
            [B, P, V] float32, differentiable; position p predicts token p itself (no shift).

        Raises:
            ConfigurationError: there is a prefix.
        """
        if prefix is not None:
            raise ConfigurationError(
                "MMaDA's image tokens change with the answer at every step: they cannot be read from a prefix; "
                "leave sampler.cache out"
            )
        answer = self._embedding(states)
        prompt = inputs.embeddings.expand(len(states), -1, -1)
        sequence = torch.cat([prompt, answer], dim=1)
        return self._language.logits(sequence, inputs.prompt_length + positions).float()


def _only(picture: Image.Image | Sequence[Image.Image]) -> Image.Image:
    pictures = several(picture)
    if len(pictures) != 1:
        raise UsageError(f"{len(pictures)} pictures are given: MMaDA reads exactly one, in front of the text")
    return pictures[0]


def _head(model: nn.Module) -> nn.Module:
    """What makes logits: of our tree scaled and tied as configured; upstream's `model.model` does that itself."""
    backbone = model.get_submodule(BACKBONE)
    if isinstance(backbone, OlmoModel):
        return Head(backbone)
    require_modules(model, (HEAD,), family=FAMILY)
    return model.get_submodule(HEAD)
