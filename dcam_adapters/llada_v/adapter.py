"""LLaDA-V behind dcam's adapter contract."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from PIL import Image
from torch import Tensor, nn

from dcam_adapters.common.checkpoint import assign_weights, read_generation, weight_files
from dcam_adapters.common.module_tree import first_tensor, require_modules
from dcam_adapters.common.pictures import to_pixels
from dcam_adapters.common.tokenizer import load_tokenizer
from dcam_adapters.llada_v.config import LLaDAVConfig
from dcam_adapters.llada_v.layout import picture_layout
from dcam_adapters.llada_v.modeling import LLaDAV
from dcam_adapters.llada_v.prompt import IMAGE_PLACEHOLDER_ID, chat, stop_sequences, tokenise
from dcam_core.adapter import Adapter
from dcam_core.denoising.settings import SamplerSettings
from dcam_core.errors import CheckpointError, ConfigurationError, UsageError
from dcam_core.inputs import Inputs
from dcam_core.models import read_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["LLaDAVAdapter"]

BACKBONE = "model"
BLOCKS = "model.layers"
EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"
NORM = "model.norm"
PROJECTOR = "model.mm_projector"
TOWER = "model.vision_tower"
PATCH_POSITIONS = "model.vision_tower.vision_tower.vision_model.embeddings.position_embedding"

TOWER_LAYERS = r"model\.vision_tower\.vision_tower\.vision_model\.encoder\.layers"

# Upstream uses neither the tower's last layer nor its pooling head; older saves hold computed buffers.
IGNORED = (
    r"model\.vision_tower\.vision_tower\.vision_model\.head\..*",
    r".*\.rotary_emb\.inv_freq",
    r".*\.embeddings\.position_ids",
)

UPSTREAM_LENGTH = 128
"""Answer length, block length and steps of upstream's demonstration (spec, section 8)."""


class LLaDAVAdapter(Adapter):
    """LLaDA-V: a masked-diffusion LLaDA that attends to the whole sequence, image tokens included.

    Every denoising step runs the whole sequence, so every step of every block is structurally valid.

    Args:
        model: a module tree with LLaDA-V's names: ours, upstream's, or another that has them.
        config: the checkpoint's configuration.
        tokenizer: the checkpoint's tokenizer; None: prompts are given as ids only.
        image_processor: normalises crops in place of the family's own arithmetic; an object with
            transformers' `preprocess(images, return_tensors="pt")["pixel_values"]`.
        generation: `gen_length`, `block_length` and `steps` of the default sampler, as in
            generation_config.json; upstream's 128 where absent.

    Attributes:
        config: the checkpoint's configuration.
        trim_vocabulary: leave out logits beyond the tokenizer's last token, as upstream's loader does by
            resizing the head. It changes probabilities, slightly. On by default.
        drop_first_token_after_image: see `dcam_adapters.llada_v.prompt.tokenise`. Off by default.

    Raises:
        CheckpointError: the module tree is not LLaDA-V's, or does not fit the configuration.
    """

    family: ClassVar[str] = "llada-v"

    def __init__(
        self,
        model: nn.Module,
        config: LLaDAVConfig,
        tokenizer: PreTrainedTokenizerBase | None = None,
        image_processor: Any = None,
        *,
        generation: Mapping[str, Any] | None = None,
    ) -> None:
        require_modules(model, (BLOCKS, EMBEDDING, NORM, HEAD, TOWER, PROJECTOR), family="LLaDA-V")
        self.name = type(model).__name__
        self.model = model
        self.config = config
        self.tokenizer = tokenizer
        self.trim_vocabulary = True
        self.drop_first_token_after_image = False
        self._image_processor = image_processor
        self._generation = dict(generation or {})
        self._embedding = model.get_submodule(EMBEDDING)
        self._backbone = model.get_submodule(BACKBONE)
        self._head = model.get_submodule(HEAD)
        # Upstream's key-value cache is of no use to a bidirectional model; a config may still ask for it.
        takes_cache_flag = "use_cache" in inspect.signature(self._backbone.forward).parameters
        self._backbone_options = {"use_cache": False} if takes_cache_flag else {}
        self._check_fit()

    # -- getting one ---------------------------------------------------------------------------------

    @classmethod
    def load(cls, folder: Path, *, device: torch.device, dtype: torch.dtype | None) -> Self:
        """Loads a folder in the published layout: config.json, safetensors, tokenizer.

        Args:
            folder: the checkpoint.
            device: where the weights go.
            dtype: floating dtype of the weights; None: as stored.

        Raises:
            CheckpointError: a file or tensor is missing, unexpected or mis-shaped.
        """
        config = LLaDAVConfig.from_dict(read_config(folder))
        files = weight_files(folder)
        with torch.device("meta"):
            model = LLaDAV(config)
        ignored = (*IGNORED, rf"{TOWER_LAYERS}\.{config.vision.layers}\..*")
        assign_weights(model, files, ignored=ignored, device=device, dtype=dtype)
        return cls(
            model.eval(),
            config,
            load_tokenizer(folder),
            generation=read_generation(folder),
        )

    @classmethod
    def wrap(
        cls,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        image_processor: Any = None,
        *,
        config: Mapping[str, Any] | None = None,
    ) -> Self:
        """Puts the adapter around a model that is in memory already: upstream's class, a training run, ...

        The module tree must have upstream's names, `model.model(inputs_embeds=...)` must give the hidden
        states after the final norm (a tensor, or a tuple or ModelOutput that begins with it), and
        `model.model.vision_tower(pixels)` the patch features.

        Args:
            model: the model; neither copied nor changed.
            tokenizer: its tokenizer.
            image_processor: see the class.
            config: the content of config.json; None: `model.config`.

        Raises:
            CheckpointError: the module tree is not LLaDA-V's, or there is no configuration.
        """
        source = getattr(model, "config", None) if config is None else config
        return cls(model, LLaDAVConfig.of(source), tokenizer, image_processor)

    def _check_fit(self) -> None:
        """What `from_dict` cannot see: whether tree and configuration speak of the same model."""
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
    def mask_token_id(self) -> int:
        """Id of `<|mdm_mask|>`."""
        return self.config.mask_token_id

    @property
    def image_size(self) -> int:
        """Side in pixels of every crop."""
        return self.config.vision.image_size

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """`model.layers`."""
        return list(self.model.get_submodule(BLOCKS).children())

    @property
    def default_sampler(self) -> SamplerSettings:
        """Upstream's rules: uniform schedule, low confidence, EOS, BOS and header tokens suppressed."""
        vocabulary = self._vocabulary or self.config.vocab_size
        length = int(self._generation.get("gen_length", UPSTREAM_LENGTH))
        return SamplerSettings(
            answer_length=length,
            block_length=int(self._generation.get("block_length", length)),
            steps=int(self._generation.get("steps", length)),
            # Ids beyond the vocabulary cannot be chosen anyway.
            suppressed_ids=tuple(token for token in self.config.suppressed_token_ids if token < vocabulary),
            stop_sequences=stop_sequences(self.tokenizer),
        )

    @property
    def parity_modules(self) -> Mapping[str, str]:
        """Module paths of the quantities that `dcam_core.parity` compares."""
        return {"vision.features": TOWER, "vision.projected": PROJECTOR, "final_norm": NORM, "logits": HEAD}

    @property
    def _vocabulary(self) -> int | None:
        """Number of logits that are kept; None: all."""
        return len(self.tokenizer) if self.trim_vocabulary and self.tokenizer is not None else None

    # -- what it computes ----------------------------------------------------------------------------

    def prepare(self, picture: Image.Image, prompt: str) -> Inputs:
        """Applies the chat template, tokenises, and puts the picture's tokens in their place.

        Args:
            picture: the picture.
            prompt: the user's words; "<image>" in them is where the picture goes, else it comes first.

        Raises:
            CheckpointError: the checkpoint has no tokenizer.
            UsageError: the prompt has several "<image>", or is too long.
        """
        if self.tokenizer is None:
            raise CheckpointError(
                f"{self.name} has no tokenizer (no tokenizer.json beside its weights), so it cannot read a "
                "prompt: add the file, or give token ids to prepare_ids"
            )
        ids = tokenise(
            self.tokenizer,
            chat(self.tokenizer, prompt),
            drop_first_token_after_image=self.drop_first_token_after_image,
        )
        return dataclasses.replace(self.prepare_ids(picture, torch.tensor([ids])), prompt=prompt)

    def prepare_ids(self, picture: Image.Image, input_ids: Tensor) -> Inputs:
        """Puts the picture's tokens where the ids have -200 (spec, section 5).

        Args:
            picture: the picture.
            input_ids: [1, n] int64 with one -200.

        Raises:
            UsageError: there is not exactly one -200, or the merged prompt exceeds the model's length.
        """
        ids = input_ids[0].to(self.device)
        places = (ids == IMAGE_PLACEHOLDER_ID).nonzero()[:, 0]
        if len(places) != 1:
            raise UsageError(
                f"the prompt has {len(places)} places for a picture (<image>, id {IMAGE_PLACEHOLDER_ID}): "
                "one picture is explained at a time, give exactly one"
            )
        start = int(places[0])
        picture = picture.convert("RGB")
        layout = picture_layout(self.config, picture.size)
        limit, length = self.config.tokenizer_model_max_length, len(ids) - 1 + layout.length
        if limit is not None and length > limit:
            raise UsageError(
                f"the prompt is {length} tokens long with its picture ({layout.length} of them), the model "
                f"reads {limit} (tokenizer_model_max_length): shorten the prompt"
            )
        # A caller's inference mode must not taint what the engine later differentiates through.
        with torch.inference_mode(False), torch.no_grad():
            pixels = self._pixels(layout.crops(picture)).to(self.device, self.dtype)
            features = first_tensor(self.model.get_submodule(TOWER)(pixels))
            tokens = first_tensor(self.model.get_submodule(PROJECTOR)(features))
            image = layout.merge(tokens, self.model.get_parameter("model.image_newline"))
            before, after = self._embedding(ids[:start]), self._embedding(ids[start + 1 :])
            embeddings = torch.cat([before, image.to(before.dtype), after])[None]
        return Inputs(
            prompt="",
            picture_sizes=(picture.size,),
            embeddings=embeddings,
            views=layout.views(start),
            image_span=(start, start + layout.length),
            pixels=pixels,
        )

    def _pixels(self, crops: Sequence[Image.Image]) -> Tensor:
        """[crops, 3, S, S] normalised pixels."""
        if self._image_processor is None:
            return to_pixels(crops)
        values = self._image_processor.preprocess(list(crops), return_tensors="pt")["pixel_values"]
        pixels = torch.stack([torch.as_tensor(crop) for crop in values])
        expected = (len(crops), 3, self.image_size, self.image_size)
        if tuple(pixels.shape) != expected:
            raise ConfigurationError(
                f"the image processor makes {list(pixels.shape)} of {len(crops)} crops, the tower reads "
                f"{list(expected)}: give the processor that belongs to the model, or none"
            )
        return pixels

    def replay(self, inputs: Inputs, states: Tensor, positions: Tensor) -> Tensor:
        """One bidirectional pass over prompt and answer; logits at the asked answer positions only.

        Args:
            inputs: the prepared prompt.
            states: [B, G] int64, ids of the answer region.
            positions: [P] int64, answer positions.

        Returns:
            [B, P, V] float32, differentiable; position p predicts token p itself (no shift).
        """
        answer = self._embedding(states)
        prompt = inputs.embeddings.expand(len(states), -1, -1)
        sequence = torch.cat([prompt, answer], dim=1)
        hidden = first_tensor(self._backbone(inputs_embeds=sequence, **self._backbone_options))
        logits: Tensor = self._head(hidden[:, inputs.prompt_length + positions])
        return logits[..., : self._vocabulary].float()

    def unconditional(self, inputs: Inputs) -> Inputs:
        """The prompt, text and picture, replaced by mask tokens (spec, section 8)."""
        with torch.no_grad():
            mask = self._embedding(torch.tensor([[self.mask_token_id]], device=self.device))
        return dataclasses.replace(inputs, embeddings=mask.expand_as(inputs.embeddings))
