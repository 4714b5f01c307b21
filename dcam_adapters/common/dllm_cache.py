"""dLLM-Cache (Liu et al., 2025): from one denoising step to the next, most rows of every block are kept.

The prompt hardly changes while the answer is written, and neither does most of the answer. So each block
keeps what it added to every row of the sequence, and computes again

* the prompt's rows at every `prompt_interval`-th forward pass, the first included,
* the answer's rows at every `answer_interval`-th, and in between only those, a share `transfer_ratio` of
  them, whose value vectors have turned away most from the kept ones.

Rows that are computed attend to the whole sequence, through kept keys and values where a row was not computed.
Source: LLaDA-V spec, sections 8.1 and 8.2. Results differ from those of full passes, except at the first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dcam_adapters.common.transformer import Rotary, apply_rotary, plain_attention, rotary_tables
from dcam_core.denoising.settings import SamplerSettings
from dcam_core.errors import ConfigurationError

__all__ = ["DllmCache", "is_exact", "stale_image_span"]


def stale_image_span(settings: SamplerSettings, step: int) -> str | None:
    """Why a denoising step's image tokens were not computed at that step, or None if they were.

    Every step of a run is one forward pass, so step s is pass s + 1 of the original's counting.

    Args:
        settings: those of the run.
        step: number of the step, from 0.
    """
    age = step % settings.prompt_interval
    if settings.cache != "dllm" or age == 0:
        return None
    return (
        f"its image span was served from the cache of step {step - age} (sampler.cache=dllm computes it at "
        f"every {settings.prompt_interval}th step, sampler.prompt_interval)"
    )


def is_exact(settings: SamplerSettings, step: int) -> bool:
    """Whether a denoising step computed every row, so that replaying it in full gives its very logits.

    Args:
        settings: those of the run.
        step: number of the step, from 0.
    """
    if settings.cache != "dllm":
        return True
    whole_answer = step % settings.answer_interval == 0 or settings.transfer_ratio == 1
    return step % settings.prompt_interval == 0 and whole_answer


class DllmCache:
    """The forward passes of one denoising run: the `forward` of `dcam_core.denoising.sampler.denoise`.

    It calls the language model's submodules by the names of LLaMA's key layout, whoever wrote them, and keeps
    what it keeps to itself: the model is not changed, and what hooks the blocks themselves is not called.
    Memory: four tensors of the sequence's size per block.

    Args:
        backbone: the module that has `embed_tokens`, `layers` and `norm`.
        head: normed hidden states [1, P, D] -> logits [1, P, V].
        prompt: [1, L, D] embeddings of the prompt.
        settings: `prompt_interval`, `answer_interval` and `transfer_ratio` are read.
        head_dim: width of one attention head.
        theta: base of the rotary frequencies.

    Raises:
        ConfigurationError: the settings ask for guidance, or the blocks are not all on the prompt's device.
    """

    def __init__(
        self,
        backbone: Any,
        head: Callable[[Tensor], Tensor],
        prompt: Tensor,
        settings: SamplerSettings,
        *,
        head_dim: int,
        theta: float,
    ) -> None:
        if settings.guidance_scale != 0:
            raise ConfigurationError(
                f"sampler.guidance_scale is {settings.guidance_scale} and sampler.cache is 'dllm': the cache "
                "holds one prompt, guidance reads two; leave one of them out"
            )
        places = {parameter.device for parameter in backbone.layers.parameters()}
        if places != {prompt.device}:
            # Submodules are called past the hooks by which accelerate moves a block's input and weights.
            raise ConfigurationError(
                f"sampler.cache is 'dllm', which needs all blocks on {prompt.device}, but their weights are on "
                f"{', '.join(sorted(map(str, places)))}: load the model on one device, or leave the cache out"
            )
        self._backbone, self._head, self._prompt, self._settings = backbone, head, prompt, settings
        self._head_dim, self._theta = head_dim, theta
        self._blocks = [_CachedBlock(block, head_dim) for block in backbone.layers]
        self._step = 0

    @torch.no_grad()
    def __call__(self, states: Tensor, positions: Tensor) -> Tensor:
        """The next forward pass.

        Args:
            states: [1, G] int64, ids of the answer region.
            positions: [P] int64, answer positions.

        Returns:
            [1, P, V] logits, as the head makes them.
        """
        hidden = torch.cat([self._prompt, self._backbone.embed_tokens(states)], dim=1)
        split, settings = self._prompt.shape[1], self._settings
        rows = torch.arange(hidden.shape[1], device=hidden.device)
        rotary = rotary_tables(rows, self._head_dim, self._theta, hidden.dtype)
        prompt, answer = rows[:split], rows[split:]
        if self._step % settings.prompt_interval != 0:
            prompt = prompt[:0]
        whole_answer = self._step % settings.answer_interval == 0
        count = int(len(answer) * settings.transfer_ratio)
        for block in self._blocks:
            moved = answer if whole_answer else block.most_changed(hidden, answer, count)
            hidden = block(hidden, torch.cat([prompt, moved]), rotary)
        self._step += 1
        return self._head(self._backbone.norm(hidden[:, split + positions]))


class _CachedBlock:
    """A transformer block that computes some rows and keeps the others as they were.

    Kept of every row: key and value before rotation, and what attention and feed-forward network add to it.
    """

    def __init__(self, block: Any, head_dim: int) -> None:
        self._block, self._head_dim = block, head_dim
        self._kept: dict[str, Tensor] = {}

    def most_changed(self, hidden: Tensor, rows: Tensor, count: int) -> Tensor:
        """[count] of the rows: those with the least cosine similarity of new and kept value vector."""
        if count == 0:
            return rows[:0]
        values = self._block.self_attn.v_proj(self._block.input_layernorm(hidden[:, rows]))
        similarity = F.cosine_similarity(values, self._kept["values"][:, rows], dim=-1)
        return rows[similarity[0].topk(count, largest=False).indices]

    def __call__(self, hidden: Tensor, rows: Tensor, rotary: Rotary) -> Tensor:
        """[1, n, D] -> [1, n, D]; `rows` [r] are computed, all of them in the first call."""
        block, attention = self._block, self._block.self_attn
        if len(rows) > 0:
            normed = block.input_layernorm(hidden[:, rows])
            keys = self._keep("keys", rows, attention.k_proj(normed))
            values = self._keep("values", rows, attention.v_proj(normed))
            mixed = self._attend(attention.q_proj(normed), keys, values, rows, rotary)
            self._keep("attended", rows, attention.o_proj(mixed))
        hidden = hidden + self._kept["attended"]
        if len(rows) > 0:
            normed = block.post_attention_layernorm(hidden[:, rows])
            self._keep("transformed", rows, block.mlp(normed))
        return hidden + self._kept["transformed"]

    def _keep(self, name: str, rows: Tensor, fresh: Tensor) -> Tensor:
        """Write rows into what is kept; the whole of it comes back."""
        if name in self._kept:
            self._kept[name][:, rows] = fresh
        else:
            self._kept[name] = fresh
        return self._kept[name]

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, rows: Tensor, rotary: Rotary) -> Tensor:
        """Attention of r rows to all n; [1, r, heads * head_dim]."""
        q, k, v = (
            flat.view(*flat.shape[:2], -1, self._head_dim).transpose(1, 2)  # [1, heads, rows, head_dim]
            for flat in (queries, keys, values)
        )
        cosines, sines = rotary
        q, k = apply_rotary(q, (cosines[rows], sines[rows])), apply_rotary(k, rotary)
        if (groups := q.shape[1] // k.shape[1]) > 1:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        return plain_attention(q, k, v, None).transpose(1, 2).flatten(-2)
