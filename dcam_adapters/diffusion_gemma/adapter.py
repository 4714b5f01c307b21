"""DiffusionGemma behind dcam's adapter contract."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import DynamicCache

from dcam_adapters.common.merging import several
from dcam_adapters.common.module_tree import require_modules, unwrapped
from dcam_adapters.common.tokenizer import load_tokenizer
from dcam_adapters.diffusion_gemma.generating import generate
from dcam_adapters.diffusion_gemma.loading import load_network
from dcam_adapters.diffusion_gemma.picture import cut_patches, load_image_processor
from dcam_adapters.diffusion_gemma.recording import CanvasConditioning
from dcam_adapters.diffusion_gemma.settings import BlockDiffusionSettings
from dcam_core.adapter import Adapter
from dcam_core.denoising.sampler import DenoisingStep
from dcam_core.denoising.settings import SamplerSettings
from dcam_core.denoising.trajectory import Trajectory
from dcam_core.errors import CheckpointError, ConfigurationError, UsageError
from dcam_core.inputs import Inputs, Prefix
from dcam_core.placement import Placement

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["DiffusionGemmaAdapter"]

FAMILY = "DiffusionGemma"
ENCODER = "model.encoder"
DECODER = "model.decoder"
LANGUAGE = f"{ENCODER}.language_model"
TOWER = f"{ENCODER}.vision_tower"
SELF_CONDITIONING = f"{DECODER}.self_conditioning"
HEAD = "lm_head"


class DiffusionGemmaAdapter(Adapter):
    """Block diffusion over canvases that read the prompt, pictures included, through the encoder's cache.

    The blocks are the encoder's: only they hold image tokens. What one reads of the picture reaches the answer
    through the keys and values that the encoder's higher blocks make of it; behind the last block nothing does.

    Args:
        model: `transformers.DiffusionGemmaForBlockDiffusion`, or a module with its tree, methods and forward
            signatures.
        tokenizer: the checkpoint's tokenizer, with its chat template; None: prompts are given as ids only.
        image_processor: makes patches of pictures; None: transformers' own, resizing with PIL.

    Raises:
        CheckpointError: the module tree is not the family's.
    """

    family: ClassVar[str] = "diffusion-gemma"
    caches = ("prefix",)

    def __init__(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase | None = None, image_processor: Any = None
    ) -> None:
        model = unwrapped(model)
        require_modules(model, (LANGUAGE, TOWER, SELF_CONDITIONING, HEAD), family=FAMILY)
        self.name = type(model).__name__
        # The attributes of transformers' classes are not typed.
        self.model: Any = model
        self.tokenizer = tokenizer
        self._config: Any = model.config
        self._image_processor = image_processor or load_image_processor(None, self._config.vision_config)

    # -- getting one ---------------------------------------------------------------------------------

    @classmethod
    def load(cls, folder: Path, placement: Placement = Placement()) -> Self:  # noqa: B008  (immutable)
        """Loads a folder in the published layout: configurations, weights, tokenizer with chat template.

        Args:
            folder: the checkpoint.
            placement: where the weights go; quantisation and "disk" are not offered.

        Raises:
            CheckpointError: a file or tensor is missing, unexpected or mis-shaped.
            ConfigurationError: the placement cannot be had.
        """
        model = load_network(folder, placement)
        processor = load_image_processor(folder, model.config.vision_config)
        return cls(model, load_tokenizer(folder), processor)

    @classmethod
    def wrap(
        cls,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        image_processor: Any = None,
        *,
        config: Mapping[str, Any] | None = None,
    ) -> Self:
        """Puts the adapter around a model object that the user holds; see the class.

        Args:
            model: the model; neither copied nor changed.
            tokenizer: its tokenizer.
            image_processor: an image processor with the call and output of transformers' Gemma 4 ones.
            config: must be None: the model computes by its own `.config`.

        Raises:
            ConfigurationError: a configuration is given.
            CheckpointError: the module tree is not the family's.
        """
        if config is not None:
            raise ConfigurationError(f"{FAMILY} computes by its own model.config: leave config out")
        return cls(model, tokenizer, image_processor)

    # -- what the model is ---------------------------------------------------------------------------

    @property
    def mask_token_id(self) -> None:
        """None: an undecided position holds a random token."""
        return None

    @property
    def image_size(self) -> int:
        """Side in pixels of the largest square picture; others have as many pixels, in their aspect ratio."""
        processor = self._image_processor
        side = int(processor.max_soft_tokens**0.5)
        return int(side * processor.pooling_kernel_size * processor.patch_size)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The encoder's language blocks."""
        return list(self.model.get_submodule(LANGUAGE).layers)

    @property
    def default_sampler(self) -> BlockDiffusionSettings:
        """The settings of the model's generation_config.json, answers as long as it says, in whole canvases."""
        return BlockDiffusionSettings.published(
            self.model.generation_config.to_dict(), self._config.canvas_length
        )

    # -- what it computes ----------------------------------------------------------------------------

    def prepare(self, picture: Image.Image | Sequence[Image.Image], prompt: str) -> Inputs:
        """Applies the tokenizer's chat template to the pictures and, behind them, the words.

        Args:
            picture: the picture, or several.
            prompt: the user's words.

        Raises:
            CheckpointError: there is no tokenizer, or it has no chat template.
            UsageError: the words hold the image token.
        """
        pictures = several(picture)
        if self.tokenizer is None or not self.tokenizer.chat_template:
            lacks = "tokenizer (tokenizer.json)" if self.tokenizer is None else "chat template"
            raise CheckpointError(
                f"{self.name} has no {lacks}, so it cannot read a prompt: add the published tokenizer files, "
                "chat_template.jinja among them, or give token ids to prepare_ids"
            )
        content: list[dict[str, str]] = [{"type": "image"} for _ in pictures]
        content.append({"type": "text", "text": prompt})
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return replace(self.prepare_ids(pictures, torch.tensor([ids])), prompt=prompt)

    def prepare_ids(self, picture: Image.Image | Sequence[Image.Image], input_ids: Tensor) -> Inputs:
        """As `prepare`, for a prompt that is tokenised already.

        Args:
            picture: the picture, or several.
            input_ids: [1, n] int64 with one image token (`image_token_id` of config.json) for every picture; the
                begin and end tokens around it are added here.

        Raises:
            PictureError: a picture is too narrow.
            UsageError: there are more or fewer places than pictures, or no picture.
        """
        pictures = several(picture)
        ids = input_ids[0].cpu()
        places = (ids == self._config.image_token_id).nonzero()[:, 0].tolist()
        if len(places) != len(pictures) or not pictures:
            raise UsageError(
                f"the prompt has {len(places)} places for a picture (image token id {self._config.image_token_id}) "
                f"and {len(pictures)} pictures are given: give one picture for each place, and at least one"
            )
        patches = cut_patches(pictures, self._image_processor, self._config.vision_config.pooling_kernel_size)
        parts: list[Tensor] = []
        starts: list[int] = []
        begin = end = 0
        for place, (rows, cols) in zip(places, patches.grids, strict=True):
            image = ids[place].repeat(rows * cols)
            parts += [ids[begin:place], ids.new_tensor([self._config.boi_token_id]), image]
            starts.append(end + place - begin + 1)
            end = starts[-1] + len(image) + 1
            parts.append(ids.new_tensor([self._config.eoi_token_id]))
            begin = place + 1
        whole = torch.cat([*parts, ids[begin:]])[None].to(self.device)
        encoder = self.model.get_submodule(ENCODER)
        pixels = patches.pixels.to(self.device)
        # A caller's inference mode must not taint what the engine later differentiates through.
        with torch.inference_mode(False), torch.no_grad():
            embeddings = encoder.get_input_embeddings()(whole)
            read = encoder.get_image_features(pixels, patches.positions.to(self.device), return_dict=True)
            image = read.pooler_output.to(embeddings.device, embeddings.dtype)
            embeddings[whole == self._config.image_token_id] = image
        return Inputs(
            prompt="",
            picture_sizes=patches.sizes,
            embeddings=embeddings,
            views=patches.views(starts),
            image_span=(starts[0], end - 1),
            pixels=pixels,
        )

    def unconditional(self, inputs: Inputs) -> Inputs:
        """There is none: the family has no classifier-free guidance.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(f"{FAMILY} has no guidance: leave sampler.guidance_scale at 0")

    def hidden(self, ids: Tensor, positions: Sequence[int]) -> Tensor:
        """The same answer with random tokens at some positions, the same ones every time."""
        noise = torch.randint(
            self._config.text_config.vocab_size, ids.shape, generator=torch.Generator().manual_seed(0)
        )
        hidden = ids.clone()
        hidden[list(positions)] = noise[list(positions)]
        return hidden

    def denoise(
        self,
        inputs: Inputs,
        settings: SamplerSettings,
        on_step: Callable[[DenoisingStep], None] | None = None,
    ) -> Trajectory:
        """Writes the answer with the model's own `generate`, and records how.

        Args:
            inputs: the prepared prompt.
            settings: a `BlockDiffusionSettings`, from `default_sampler`.
            on_step: called after every step, once its canvas is known: when the next step begins.

        Raises:
            ConfigurationError: the settings are of another family.
        """
        if not isinstance(settings, BlockDiffusionSettings):
            raise ConfigurationError(
                f"{FAMILY} cannot sample with {type(settings).__name__}: change its default_sampler instead"
            )
        nothing = torch.zeros(settings.answer_length, dtype=torch.int64)
        noise = self.hidden(nothing, range(settings.answer_length))
        return generate(self.model, inputs, settings, noise, image_types(inputs), on_step)

    def encode_prefix(self, inputs: Inputs) -> Prefix:
        """Keys and values of the prompt: image tokens see each other, all else what stands before it."""
        cache = DynamicCache(config=self._config.get_text_config(decoder=True))
        self._encode(cache, inputs.embeddings, image_types(inputs).to(self.device))
        return Prefix(keys_values=cache)

    def replay(
        self,
        inputs: Inputs,
        states: Tensor,
        positions: Tensor,
        prefix: Prefix | None = None,
        conditioning: Sequence[CanvasConditioning | None] | None = None,
    ) -> Tensor:
        """The decoder's pass over the canvas of each position, behind the canvases before it.

        Args:
            inputs: the prepared prompt.
            states: [B, G] int64, ids of the answer region. Canvases are cut from its beginning.
            positions: [P] int64, answer positions. Each is computed in its own canvas: what stands in later ones
                is not read.
            prefix: the encoded prompt; None: it is encoded here. It is left as it is.
            conditioning: what each state's step was handed. It holds for the canvas that it names; any other is
                computed as at its first step.

        Returns:
            [B, P, V] float32.
        """
        cache = (prefix or self.encode_prefix(inputs)).keys_values
        length = self._config.canvas_length
        handed = list(conditioning or [None] * len(states))
        cache = _copied(cache, len(states))
        canvas_of = positions // length
        rows: dict[int, Tensor] = {}
        for canvas in range(int(canvas_of.max()) + 1):
            ids = states[:, canvas * length : (canvas + 1) * length]
            if canvas > 0:
                before = states[:, (canvas - 1) * length : canvas * length]
                self._encode(cache, self.model.get_submodule(LANGUAGE).embed_tokens(before))
            own = (canvas_of == canvas).nonzero()[:, 0]
            if len(own):
                where = positions[own] - canvas * length
                logits = self._decode(cache, ids, where, self._expected(handed, canvas, ids))
                rows |= dict(zip(own.tolist(), logits.unbind(1), strict=True))
        return torch.stack([rows[index] for index in range(len(positions))], dim=1)

    def _encode(self, cache: DynamicCache, embeddings: Tensor, types: Tensor | None = None) -> None:
        """Appends [B, n, D] embeddings to a cache, as the encoder reads them in `generate`."""
        encoder, start = self.model.get_submodule(ENCODER), cache.get_seq_length()
        batch, count, _ = embeddings.shape
        position_ids = torch.arange(start, start + count, dtype=torch.int32, device=embeddings.device)[None]
        masks = encoder.create_masks_for_generate(
            config=self._config,
            inputs_embeds=embeddings[..., :0],
            attention_mask=torch.ones(batch, start + count, dtype=torch.bool, device=embeddings.device),
            past_key_values=cache,
            position_ids=position_ids,
            mm_token_type_ids=types,
        )
        encoder(
            inputs_embeds=embeddings,
            attention_mask=masks,
            position_ids=position_ids,
            past_key_values=cache,
        )

    def _decode(self, cache: DynamicCache, ids: Tensor, where: Tensor, expected: Tensor | None) -> Tensor:
        """[B, P, V] float32, logits at positions [P] of a canvas [B, K] that reads a cache."""
        decoder, start = self.model.get_submodule(DECODER), cache.get_seq_length()
        position_ids = torch.arange(start, start + ids.shape[1], dtype=torch.int32, device=ids.device)[None]
        with nullcontext() if expected is None else self._handed(expected):
            hidden = decoder(
                decoder_input_ids=ids, past_key_values=cache, decoder_position_ids=position_ids
            ).last_hidden_state
        bound = self.model.final_logit_softcapping
        logits: Tensor = self.model.get_submodule(HEAD)(hidden[:, where]).float()
        return torch.tanh(logits / bound) * bound

    @contextmanager
    def _handed(self, expected: Tensor) -> Iterator[None]:
        """Within the block, the decoder reads these embeddings [B, K, D] as what the step before expected."""

        def hand(module: nn.Module, args: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return args[0], expected

        handle = self.model.get_submodule(SELF_CONDITIONING).register_forward_pre_hook(hand)
        try:
            yield
        finally:
            handle.remove()

    def _expected(
        self, handed: Sequence[CanvasConditioning | None], canvas: int, ids: Tensor
    ) -> Tensor | None:
        """[B, K, D], what each state's step was handed in this canvas, zeros for nothing; None: nothing at all."""
        own = [given.embeddings if given and given.canvas == canvas else None for given in handed]
        some = next((embeddings for embeddings in own if embeddings is not None), None)
        if some is None:
            return None
        nothing = torch.zeros_like(some)
        return torch.stack([nothing if given is None else given for given in own]).to(ids.device)


def image_types(inputs: Inputs) -> Tensor:
    """[1, L] int64 on the CPU, 1 at image tokens and 0 elsewhere: which positions see each other both ways."""
    types = torch.zeros(1, inputs.prompt_length, dtype=torch.int64)
    for view in inputs.views:
        types[0, view.positions.flatten().cpu()] = 1
    return types


def _copied(cache: DynamicCache, batch: int) -> DynamicCache:
    """A cache that can be appended to without changing this one, for a batch; keys and values stay in the graph."""
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in copied.layers:
        layer.keys = layer.keys.expand(batch, -1, -1, -1)
        layer.values = layer.values.expand(batch, -1, -1, -1)
    return copied
