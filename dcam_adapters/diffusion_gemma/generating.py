"""One recorded run of transformers' `generate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    SuppressTokensLogitsProcessor,
)
from transformers.models.diffusion_gemma.generation_diffusion_gemma import EntropyBoundSamplerConfig

from dcam_adapters.diffusion_gemma.passes import DECODER, LANGUAGE, Passes
from dcam_adapters.diffusion_gemma.recording import Recorder
from dcam_adapters.diffusion_gemma.settings import BlockDiffusionSettings
from dcam_core.denoising.sampler import DenoisingStep
from dcam_core.denoising.stopping import first_stop
from dcam_core.denoising.trajectory import Trajectory
from dcam_core.inputs import Inputs

__all__ = ["generate"]


def generate(
    model: Any,
    inputs: Inputs,
    settings: BlockDiffusionSettings,
    noise: Tensor,
    types: Tensor,
    on_step: Callable[[DenoisingStep], None] | None,
) -> Trajectory:
    """Lets the model write its answer, and records how.

    All random numbers are drawn by torch's global generators, which are seeded for the run and restored after it.
    Those of the device are used: another device gives another answer.

    Args:
        model: `transformers.DiffusionGemmaForBlockDiffusion`.
        inputs: the prepared prompt; its embeddings are what the encoder reads.
        settings: settings of the run.
        noise: [G] int64, what stands in canvases that are not begun yet.
        types: [1, L] int64, 1 at image tokens.
        on_step: called after every step.
    """
    device, prompt = inputs.embeddings.device, inputs.prompt_length
    vocabulary = model.config.text_config.vocab_size
    recorder = Recorder(model.get_submodule(DECODER), settings, noise, vocabulary, on_step)
    processors = LogitsProcessorList()
    if settings.suppressed_ids:
        processors.append(SuppressTokensLogitsProcessor(list(settings.suppressed_ids), device=str(device)))
    processors.append(recorder)
    language = model.get_submodule(LANGUAGE)
    with _seeded(settings.seed, device), recorder.listening(), _prefilled(language, inputs.embeddings):
        model.generate(
            # The ids only say how long the prompt is: the encoder reads `inputs.embeddings` in their place.
            torch.zeros(1, prompt, dtype=torch.int64, device=device),
            mm_token_type_ids=types.to(device),
            # Given outright: a cache of fixed size, which a generation_config.json may ask for, is compiled.
            past_key_values=Passes(model).empty_cache(),
            cache_implementation=None,
            logits_processor=processors,
            stopping_criteria=StoppingCriteriaList([_Stop(prompt, settings)]),
            streamer=recorder,
            max_new_tokens=settings.answer_length,
            max_length=None,
            max_denoising_steps=settings.steps_per_canvas,
            sampler_config=EntropyBoundSamplerConfig(settings.entropy_bound),
            t_min=settings.t_min,
            t_max=settings.t_max,
            stability_threshold=settings.stability_threshold,
            confidence_threshold=settings.confidence_threshold,
            # Ends are `_Stop`'s; without these, nothing behind one is overwritten with padding.
            eos_token_id=None,
            pad_token_id=None,
        )
    return recorder.trajectory()


class _Stop(StoppingCriteria):
    """No further canvas once the answer holds a stop sequence."""

    def __init__(self, prompt: int, settings: BlockDiffusionSettings) -> None:
        self._prompt, self._sequences = prompt, settings.stop_sequences

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        found = first_stop(input_ids[0, self._prompt :], self._sequences) is not None
        return torch.full((len(input_ids),), found, device=input_ids.device)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Global random numbers from a seed within the block; as they were before, after it."""
    devices = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def _prefilled(language: nn.Module, embeddings: Tensor) -> Iterator[None]:
    """Within the block, the encoder's first call reads these embeddings [1, L, D] in place of its ids'."""

    def replaced(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        handle.remove()
        return args, {**kwargs, "inputs_embeds": embeddings}

    handle = language.register_forward_pre_hook(replaced, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
