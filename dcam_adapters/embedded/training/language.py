"""Stage 2: projector and language model on conversations about scenes, with the masked-diffusion loss.

The tower comes from stage 1 and is frozen. No mask supervises anything here: the model learns from words alone
which tokens of the picture to read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from dcam_adapters.common.llama_block import plain_attention
from dcam_adapters.embedded.training.conversations import Conversations
from dcam_adapters.embedded.training.evaluation import accuracy
from dcam_adapters.embedded.training.initialisation import initialise_language
from dcam_adapters.embedded.training.optimisation import Schedule, optimisers
from dcam_adapters.embedded.training.scenes import SceneLike
from dcam_adapters.embedded.training.segments import PackedBatch, attention_mask, position_ids
from dcam_adapters.llada_v.adapter import LLaDAVAdapter
from dcam_adapters.llada_v.config import LLaDAVConfig
from dcam_adapters.llada_v.layout import picture_layout
from dcam_adapters.llada_v.modeling import LLaDAV

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["LanguageStage"]


class LanguageStage(L.LightningModule):
    """Learns to talk about scenes.

    Args:
        config: the model's configuration.
        tower: state dict of the trained tower.
        pixels: [B, 3, S, S] some pictures, by which the projector is initialised.
        tokenizer: the model's tokenizer.
        before: ids of the text before the picture.
        conversations: the prompts on which it is validated.
        asked: the scenes on which it is validated.
        generation: content of generation_config.json.
        schedule: length and learning rate.
    """

    before: Tensor

    def __init__(
        self,
        config: LLaDAVConfig,
        tower: Mapping[str, Tensor],
        pixels: Tensor,
        tokenizer: PreTrainedTokenizerBase,
        before: Sequence[int],
        conversations: Conversations,
        asked: Sequence[SceneLike],
        generation: Mapping[str, Any],
        schedule: Schedule,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.config, self.tokenizer, self.generation = config, tokenizer, dict(generation)
        self.conversations, self.asked = conversations, asked
        side = config.vision.image_size
        self.layout = picture_layout(config, (side, side))
        self.register_buffer("before", torch.tensor(before), persistent=False)
        self.model = LLaDAV(config, attention=plain_attention, vision_attention="eager")
        self.model.model.vision_tower.load_state_dict(tower)
        initialise_language(self.model, pixels)
        self.model.model.vision_tower.requires_grad_(False)
        self.run: Any = self.answer_logits

    def on_fit_start(self) -> None:
        """Compile; not earlier, because the averaged copy of this module is made before."""
        self.run = torch.compile(self.answer_logits, dynamic=False)

    def answer_logits(
        self,
        pixels: Tensor,
        ids: Tensor,
        positions: Tensor,
        mask: Tensor,
        places: Tensor,
        views: tuple[str, ...],
    ) -> Tensor:
        """[B, K * G, V] logits at the answers of all segments.

        Args:
            pixels: [B, 3, S, S].
            ids: [B, K * T] ids behind the picture.
            positions: [n] rotary positions.
            mask: who reads whom.
            places: [B, K * G] where in the sequence the answers are.
            views: the views in which the pictures are shown.
        """
        backbone = self.model.model
        with torch.no_grad():
            features = backbone.vision_tower(pixels)
        # A square picture of the tower's own size is its own only tile: the tower sees it once, and the
        # language model twice. What `AnyResolutionLayout.merge` does for one picture, for a batch.
        base = backbone.mm_projector(features)
        batch, _, width = base.shape
        cells = self.config.vision.patches_per_side
        ends = backbone.image_newline.to(base.dtype).expand(batch, cells, 1, width)
        grid = torch.cat([base.unflatten(1, (cells, cells)), ends], dim=2).flatten(1, 2)
        shown = [{"base": base, "grid": grid}[view] for view in views]
        text = backbone.embed_tokens(torch.cat([self.before.expand(batch, -1), ids], dim=1)).to(base.dtype)
        start = len(self.before)
        hidden = backbone(torch.cat([text[:, :start], *shown, text[:, start:]], dim=1), mask, positions)
        read = hidden.gather(1, places[..., None].expand(-1, -1, width))
        logits: Tensor = self.model.lm_head(read)
        return logits

    def training_step(self, batch: PackedBatch, index: int) -> Tensor:
        """Cross entropy of the masked tokens, each divided by the time at which it was masked (LLaDA)."""
        segments, length = batch.ids.shape[1:]
        before, cells = len(self.before), self.config.vision.patches_per_side**2
        begins = {"base": (before, before + cells), "grid": (before + cells, before + self.layout.length)}
        prefix = torch.cat([torch.arange(before), *(torch.arange(*begins[view]) for view in batch.views)])
        positions = position_ids(prefix, before + self.layout.length, segments, length)
        mask = attention_mask(len(prefix), batch.lengths, length)
        answers = len(prefix) + torch.arange(segments) * length + batch.answers
        places = (answers[..., None] + torch.arange(batch.targets.shape[-1])).flatten(1)
        logits = self.run(batch.pixels, batch.ids.flatten(1), positions, mask, places, batch.views).float()
        losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
        loss = (losses * batch.weights.flatten()).sum() / batch.targets.numel()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Tensor, index: int) -> None:
        """Let it answer, with the sampler and the adapter that users have."""
        adapter = LLaDAVAdapter(self.model, self.config, self.tokenizer, generation=self.generation)
        with torch.autocast("cpu", enabled=False):
            found = accuracy(adapter, (self.asked[int(i)] for i in batch), self.conversations)
        self.log_dict(
            {f"validation/{kind}": value for kind, value in found.items()}, prog_bar=True, batch_size=1
        )

    def configure_optimizers(self) -> Any:
        """AdamW, warm-up and cosine."""
        return optimisers(self, self.schedule)
