"""The adapter of LLaVA-style families: tower, projector, image tokens among the prompt's embeddings.

A family says where its modules are (`ModulePaths`), how its configuration is read, how its network is built,
and how a picture is laid out; the rest is here.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

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
from dcam_adapters.common.layouts import PictureLayout
from dcam_adapters.common.llava_config import LlavaConfig
from dcam_adapters.common.masked import MaskedAdapter
from dcam_adapters.common.merging import merged_prompt, placeholders, several
from dcam_adapters.common.module_tree import (
    ModulePaths,
    first_tensor,
    require_modules,
    unwrapped,
)
from dcam_adapters.common.pictures import processed, to_pixels
from dcam_adapters.common.prompt import (
    LLADA,
    ChatFormat,
    chat,
    stop_sequences,
    tokenise,
)
from dcam_adapters.common.tokenizer import load_tokenizer
from dcam_core.errors import CheckpointError
from dcam_core.inputs import Inputs, Prefix
from dcam_core.models import read_config
from dcam_core.placement import Placement

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["LlavaAdapter"]

PATCH_POSITIONS = "model.vision_tower.vision_tower.vision_model.embeddings.position_embedding"
TOWER_LAYERS = r"model\.vision_tower\.vision_tower\.vision_model\.encoder\.layers"

# The originals use neither the tower's last layer nor its pooling head; older saves hold computed buffers.
IGNORED = (
    r"model\.vision_tower\.vision_tower\.vision_model\.head\..*",
    r".*\.rotary_emb\.inv_freq",
    r".*\.embeddings\.position_ids",
)

ConfigT = TypeVar("ConfigT", bound=LlavaConfig)


class LlavaAdapter(MaskedAdapter[ConfigT]):
    """A model that reads pictures as embeddings in the place of "<image>".

    Every denoising step runs the whole sequence unless a cache is asked for, so every step of every block
    is structurally valid.

    Args:
        model: a module tree with the family's names: ours, the original's, or another that has them.
        config: the checkpoint's configuration.
        tokenizer: the checkpoint's tokenizer; None: prompts are given as ids only.
        image_processor: normalises crops in place of the family's own arithmetic; an object with
            transformers' `preprocess(images, return_tensors="pt")["pixel_values"]`.
        generation: the content of generation_config.json, for the default sampler.

    Attributes:
        config: the checkpoint's configuration.
        trim_vocabulary: leave out logits beyond the tokenizer's last token, as an original does whose loader
            resizes the head. It changes probabilities, slightly.
        drop_first_token_after_image: see `dcam_adapters.common.prompt.tokenise`. Off by default.
        pad_several: several pictures in one prompt are each padded to one square crop, as the originals'
            evaluation does; False keeps the checkpoint's own splitting for each. On by default. (That
            evaluation also leaves out the newline token behind each square; training had it, and so have
            we.)

    Raises:
        CheckpointError: the module tree is not the family's, or does not fit the configuration.
    """

    title: ClassVar[str]
    """Name of the family in messages."""

    paths: ClassVar[ModulePaths]

    config_type: ClassVar[type[LlavaConfig]]

    network: ClassVar[Callable[..., nn.Module]]
    """Builds the network of a configuration."""

    chat_format: ClassVar[ChatFormat] = LLADA

    stop_tokens: ClassVar[tuple[str, ...]]
    """Tokens that end the answer, that which ends every message first."""

    original_caches: ClassVar[bool] = True
    """Whether the original's modules, too, keep keys and values of a prompt."""

    trim_vocabulary: bool = True
    drop_first_token_after_image: bool = False
    pad_several: bool = True

    def __init__(
        self,
        model: nn.Module,
        config: ConfigT,
        tokenizer: PreTrainedTokenizerBase | None = None,
        image_processor: Any = None,
        *,
        generation: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = type(model).__name__
        model, paths = unwrapped(model), self.paths
        needed = (paths.blocks, paths.embedding, paths.norm, paths.head, paths.tower, paths.projector)
        require_modules(model, needed, family=self.title)
        self.model = model
        self.config = config
        self.tokenizer = tokenizer
        self._image_processor = image_processor
        self._generation = dict(generation or {})
        self._embedding = model.get_submodule(paths.embedding)
        self._language = language_model(model.get_submodule(paths.backbone), model.get_submodule(paths.head))
        self._check_fit()

    # -- getting one ---------------------------------------------------------------------------------

    @classmethod
    def load(cls, folder: Path, placement: Placement = Placement()) -> Self:  # noqa: B008  (immutable)
        """Loads a folder in the published layout: config.json, weights, tokenizer.

        Args:
            folder: the checkpoint.
            placement: dtype and device of the weights.

        Raises:
            CheckpointError: a file or tensor is missing, unexpected or mis-shaped.
        """
        config: Any = cls.config_type.of(read_config(folder))
        files = weight_files(folder)
        with torch.device("meta"):
            model = cls.network(config)
        ignored = cls._ignored(config)
        assign_weights(model, files, placement=placement, blocks=cls.paths.blocks, ignored=ignored)
        return cls(model.eval(), config, load_tokenizer(folder), generation=read_generation(folder))

    @classmethod
    def outline(cls, folder: Path, placement: Placement = Placement()) -> Self:  # noqa: B008  (immutable)
        """The same on the meta device; see `Adapter.outline`.

        Args:
            folder: the checkpoint; without weights, they are taken to be of config.json's dtype.
            placement: dtype of the weights.

        Raises:
            CheckpointError: a file or tensor is missing, unexpected or mis-shaped.
        """
        config: Any = cls.config_type.of(found := read_config(folder))
        with torch.device("meta"):
            model = cls.network(config).to(stated_dtype(found))
        files = present_weight_files(folder)
        outline_weights(model, files, placement=placement, ignored=cls._ignored(config))
        return cls(model.eval(), config, load_tokenizer(folder), generation=read_generation(folder))

    @staticmethod
    def _ignored(config: Any) -> tuple[str, ...]:
        """Names of tensors of a checkpoint that the model does not have."""
        return (*IGNORED, rf"{TOWER_LAYERS}\.{config.vision.layers}\..*")

    @classmethod
    def wrap(
        cls,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        image_processor: Any = None,
        *,
        config: Mapping[str, Any] | None = None,
    ) -> Self:
        """Puts the adapter around a model that is in memory already: the original's class, a training run, ...

        The module tree must have the original's names. The backbone must have its signature, or
        transformers' (`inputs_embeds` to hidden states after the final norm: a tensor, or a tuple or
        ModelOutput that begins with it), and `model.model.vision_tower(pixels)` must give the patch
        features. `torch.compile` and peft wrappers are looked through.

        Args:
            model: the model; neither copied nor changed.
            tokenizer: its tokenizer.
            image_processor: see the class.
            config: the content of config.json; None: `model.config`.

        Raises:
            CheckpointError: the module tree is not the family's, or there is no configuration.
            ConfigurationError: the model is wrapped in something that cannot be looked through.
        """
        source = getattr(unwrapped(model), "config", None) if config is None else config
        found: Any = cls.config_type.of(source)
        return cls(model, found, tokenizer, image_processor)

    def _check_fit(self) -> None:
        """What reading the configuration cannot see: whether tree and configuration speak of the same model."""
        vision, embeddings = self.config.vision, dict(self.model.named_modules()).get(PATCH_POSITIONS)
        expected, found = vision.patches_per_side**2, getattr(embeddings, "num_embeddings", None)
        if found is not None and found != expected:
            raise CheckpointError(
                f"the model's tower has {found} patch positions, but vision_config (by default so400m at 384 "
                f"pixels) makes {expected}: give the config.json that belongs to the model"
            )
        rows = getattr(self._embedding, "num_embeddings", None)
        if rows is not None and self.tokenizer is not None and len(self.tokenizer) > rows:
            raise CheckpointError(
                f"the tokenizer has {len(self.tokenizer)} tokens, the model embeds {rows}: "
                "they do not belong together"
            )

    # -- what the model is ---------------------------------------------------------------------------

    @property
    def image_size(self) -> int:
        """Side in pixels of every crop."""
        return self.config.vision.image_size

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks of the language model."""
        return list(self.model.get_submodule(self.paths.blocks).children())

    @property
    def caches(self) -> tuple[str, ...]:
        """Prefix caching, where the model keeps keys and values."""
        return ("prefix",) if self._language.ours or self.original_caches else ()

    @property
    def parity_modules(self) -> Mapping[str, str | nn.Module]:
        """Module paths of the quantities that `dcam_core.parity` compares."""
        return {
            "vision.features": self.paths.tower,
            "vision.projected": self.paths.projector,
            "final_norm": self.paths.norm,
            "logits": self.paths.head,
        }

    @property
    def _vocabulary(self) -> int | None:
        """Number of logits that are kept; None: all."""
        return len(self.tokenizer) if self.trim_vocabulary and self.tokenizer is not None else None

    @property
    def _stop_sequences(self) -> tuple[tuple[int, ...], ...]:
        return stop_sequences(self.tokenizer, self.stop_tokens, family=self.title)

    # -- what it computes ----------------------------------------------------------------------------

    @abstractmethod
    def layout(self, size: tuple[int, int], *, padded: bool) -> PictureLayout:
        """How a picture goes into the prompt.

        Args:
            size: (width, height) of the picture in pixels.
            padded: as one padded square, whatever the configuration says.
        """

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """The language model's tokens of some crops, without newlines.

        Args:
            pixels: [crops, 3, S, S] in [-1, 1], on the model's device.

        Returns:
            [crops, cells * cells, D], row-major.
        """
        features = first_tensor(self.model.get_submodule(self.paths.tower)(pixels))
        return first_tensor(self.model.get_submodule(self.paths.projector)(features))

    def prepare(self, picture: Image.Image | Sequence[Image.Image], prompt: str) -> Inputs:
        """Applies the chat template, tokenises, and puts the pictures' tokens in their places.

        Args:
            picture: the picture, or several.
            prompt: the user's words; every "<image>" in them is where a picture goes, in order; without one
                the pictures come first.

        Raises:
            CheckpointError: the checkpoint has no tokenizer.
            UsageError: there are more or fewer "<image>" than pictures, or the prompt is too long.
        """
        tokenizer = self._speaking()
        ids = tokenise(
            tokenizer,
            chat(tokenizer, prompt, self.chat_format, pictures=len(several(picture))),
            drop_first_token_after_image=self.drop_first_token_after_image,
        )
        return dataclasses.replace(self.prepare_ids(picture, torch.tensor([ids])), prompt=prompt)

    def prepare_ids(self, picture: Image.Image | Sequence[Image.Image], input_ids: Tensor) -> Inputs:
        """Puts the pictures' tokens where the ids have -200.

        Args:
            picture: the picture, or several.
            input_ids: [1, n] int64 with one -200 for each picture, in order.

        Raises:
            UsageError: there are more or fewer -200 than pictures, or the merged prompt exceeds the model's
                length.
        """
        pictures = [each.convert("RGB") for each in several(picture)]
        ids = input_ids[0].to(self.device)
        places = placeholders(ids, len(pictures))
        padded = self.pad_several and len(pictures) > 1
        layouts = [self.layout(each.size, padded=padded) for each in pictures]
        # A caller's inference mode must not taint what the engine later differentiates through.
        with torch.inference_mode(False), torch.no_grad():
            return merged_prompt(
                ids,
                places,
                pictures,
                layouts,
                embed=self._embedding,
                read=self._read,
                limit=self.config.tokenizer_model_max_length,
            )

    def _read(self, picture: Image.Image, layout: PictureLayout) -> tuple[Tensor, Tensor]:
        """Pixels [crops, 3, S, S] and tokens [layout.length, D] of a picture."""
        crops = layout.crops(picture)
        # A picture that fits one tile is its own overview: the tower need not read it twice.
        distinct = crops[:1] if all(crop == crops[0] for crop in crops) else crops
        if self._image_processor is None:
            pixels = to_pixels(distinct)
        else:
            pixels = processed(distinct, self._image_processor, self.image_size)
        pixels = pixels.to(self.device, self.dtype)
        if len(distinct) < len(crops):
            pixels = pixels.expand(len(crops), -1, -1, -1)
        newline = self.model.get_parameter(self.paths.newline)
        return pixels, layout.merge(self.image_tokens(pixels), newline)

    def encode_prefix(self, inputs: Inputs) -> Prefix:
        """Keys and values of the prompt, which sees itself only; see `Adapter.encode_prefix`.

        Raises:
            ConfigurationError: the model keeps no keys and values.
        """
        if "prefix" not in self.caches:
            return super().encode_prefix(inputs)
        last = torch.tensor([inputs.prompt_length - 1], device=self.device)
        keys_values, logits = self._language.encode(inputs.embeddings, last)
        return Prefix(keys_values, self._finished(logits)[:, 0] if self.prediction_shift else None)

    def replay(
        self, inputs: Inputs, states: Tensor, positions: Tensor, prefix: Prefix | None = None
    ) -> Tensor:
        """One bidirectional pass, over prompt and answer or over the answer alone; see `Adapter.replay`.

        Args:
            inputs: the prepared prompt.
            states: [B, G] int64, ids of the answer region.
            positions: [P] int64, answer positions.
            prefix: the encoded prompt; None: the whole sequence is computed.

        Returns:
            [B, P, V] float32, differentiable; row p predicts the token at position p.
        """
        answer = self._embedding(states)
        rows = positions - self.prediction_shift
        if prefix is None:
            prompt = inputs.embeddings.expand(len(states), -1, -1)
            sequence = torch.cat([prompt, answer], dim=1)
            return self._finished(self._language.logits(sequence, inputs.prompt_length + rows))
        logits = self._finished(self._language.logits(answer, rows.clamp(min=0), prefix.keys_values))
        if prefix.first_logits is None or not (rows < 0).any():
            return logits
        # The row that predicts the first position is the prompt's last, which is computed already.
        return torch.where((rows < 0)[None, :, None], prefix.first_logits[:, None], logits)

    def _finished(self, logits: Tensor) -> Tensor:
        """[..., V] float32, the vocabulary that counts."""
        return logits[..., : self._vocabulary].float()
