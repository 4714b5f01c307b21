"""DiffusionGemma behind dcam's adapter contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from PIL import Image
from torch import Tensor, nn

from dcam_adapters.common.merging import several
from dcam_adapters.common.module_tree import require_modules, unwrapped
from dcam_adapters.common.tokenizer import load_tokenizer
from dcam_adapters.diffusion_gemma.generating import generate
from dcam_adapters.diffusion_gemma.loading import load_network, outline_network
from dcam_adapters.diffusion_gemma.passes import ENCODER, HEAD, LANGUAGE, SELF_CONDITIONING, Passes
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
TOWER = f"{ENCODER}.vision_tower"


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
    model: Any
    _config: Any
    caches = ("prefix",)

    def __init__(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase | None = None, image_processor: Any = None
    ) -> None:
        # The attributes of transformers' classes are not typed.
        network: Any = unwrapped(model)
        require_modules(network, (LANGUAGE, TOWER, SELF_CONDITIONING, HEAD), family=FAMILY)
        self.name = type(network).__name__
        self.model = network
        self.tokenizer = tokenizer
        self._passes = Passes(network)
        self._config = network.config
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
        return cls._around(load_network(folder, placement), folder)

    @classmethod
    def outline(cls, folder: Path, placement: Placement = Placement()) -> Self:  # noqa: B008  (immutable)
        """The same on the meta device; see `Adapter.outline`.

        Args:
            folder: the checkpoint; its weights are not looked at.
            placement: dtype of the weights.

        Raises:
            CheckpointError: the configuration is missing, or not of this family.
        """
        return cls._around(outline_network(folder, placement), folder)

    @classmethod
    def _around(cls, model: Any, folder: Path) -> Self:
        """With what the checkpoint brings to prepare prompts."""
        return cls(model, load_tokenizer(folder), load_image_processor(folder, model.config.vision_config))

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

    def feed_forward_norm(self, block: nn.Module) -> nn.Module:
        """The dense network's; the experts' own is fed token by token."""
        return block.get_submodule("pre_feedforward_layernorm")

    @property
    def default_sampler(self) -> BlockDiffusionSettings:
        """The settings of the model's generation_config.json, answers as long as it says, in whole canvases."""
        return BlockDiffusionSettings.published(self.model.generation_config, self._config.canvas_length)

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
        content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": prompt}]
        message: dict[str, Any] = {"role": "user", "content": content}
        text = self.tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
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
        cache = self._passes.empty_cache()
        self._passes.encode(cache, inputs.embeddings, image_types(inputs))
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
            states: [B, G] int64, ids of the answer region, whole canvases.
            positions: [P] int64, answer positions. Each is computed in its own canvas: what stands in later ones
                is not read.
            prefix: the encoded prompt; None: it is encoded here. It is left as it is.
            conditioning: what each state's step was handed. It holds for the canvas that it names; any other is
                computed as at its first step.

        Returns:
            [B, P, V] float32.
        """
        encoded = self.encode_prefix(inputs) if prefix is None else prefix
        cache = self._passes.copied(encoded.keys_values, len(states))
        handed = [None] * len(states) if conditioning is None else conditioning
        canvases = states.view(len(states), -1, self._config.canvas_length).unbind(1)
        canvas_of = positions // self._config.canvas_length
        rows: dict[int, Tensor] = {}
        for canvas in range(int(canvas_of.max()) + 1):
            if canvas > 0:
                self._passes.append(cache, canvases[canvas - 1])
            own = (canvas_of == canvas).nonzero()[:, 0]
            if len(own):
                where = positions[own] % self._config.canvas_length
                expected = expected_embeddings(handed, canvas, states.device)
                logits = self._passes.decode(cache, canvases[canvas], where, expected)
                rows |= dict(zip(own.tolist(), logits.unbind(1), strict=True))
        return torch.stack([rows[index] for index in range(len(positions))], dim=1)


def image_types(inputs: Inputs) -> Tensor:
    """[1, L] int64 on the CPU, 1 at image tokens and 0 elsewhere: which positions see each other both ways."""
    types = torch.zeros(1, inputs.prompt_length, dtype=torch.int64)
    for view in inputs.views:
        types[0, view.positions.flatten().cpu()] = 1
    return types


def expected_embeddings(
    handed: Sequence[CanvasConditioning | None], canvas: int, device: torch.device
) -> Tensor | None:
    """[B, K, D], what each state's step was handed in a canvas, zeros for nothing; None: nothing at all."""
    own = [given.embeddings if given and given.canvas == canvas else None for given in handed]
    some = next((embeddings for embeddings in own if embeddings is not None), None)
    if some is None:
        return None
    nothing = torch.zeros_like(some)
    return torch.stack([nothing if given is None else given for given in own]).to(device)
