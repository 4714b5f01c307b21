"""Stage 2: the language model on conversations about scenes, with the masked-diffusion loss.

What reads the picture, a tower or an image tokenizer, comes from stage 1 and is frozen. No mask supervises
anything here: the model learns from words alone which tokens of the picture to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from dcam_adapters.embedded.training.conversations import Conversations
from dcam_adapters.embedded.training.evaluation import accuracy
from dcam_adapters.embedded.training.optimisation import Schedule, optimisers
from dcam_adapters.embedded.training.prompts import PromptIds
from dcam_adapters.embedded.training.scenes import SceneLike
from dcam_adapters.embedded.training.segments import PackedBatch, attention_mask, segment_positions
from dcam_adapters.embedded.training.students import Student

__all__ = ["LanguageStage"]


class LanguageStage(L.LightningModule):
    """Learns to talk about scenes.

    Args:
        student: the network.
        prompts: token ids of what is said.
        conversations: the prompts on which it is validated.
        asked: the scenes on which it is validated.
        schedule: length and learning rate.
    """

    before: Tensor
    between: Tensor

    def __init__(
        self,
        student: Student,
        prompts: PromptIds,
        conversations: Conversations,
        asked: Sequence[SceneLike],
        schedule: Schedule,
    ) -> None:
        super().__init__()
        self.student, self.schedule = student, schedule
        self.conversations, self.asked = conversations, asked
        self.register_buffer("before", torch.tensor(prompts.before, dtype=torch.int64), persistent=False)
        self.register_buffer("between", torch.tensor(prompts.between, dtype=torch.int64), persistent=False)
        self.run: Any = self.logits

    def on_fit_start(self) -> None:
        """Compile; not earlier, because the averaged copy of this module is made before."""
        self.run = torch.compile(self.logits, dynamic=False)

    def logits(self, batch: PackedBatch) -> list[Tensor]:
        """For every group of segments [B, K * (1 + G), V] logits at its rows."""
        prompt, positions, start = self._prompt(batch)
        backbone = self.student.backbone
        prefix = backbone.encode(prompt, None, positions)[1] if batch.packed else None
        found = []
        for group in batch.groups:
            segments, length = group.ids.shape[1:]
            text = self.student.embedding(group.ids.flatten(1)).to(prompt.dtype)
            mask = attention_mask(prompt.shape[1], group.lengths, length)
            places = segment_positions(start, segments, length)
            if prefix is not None:
                hidden = backbone(text, mask, places, prefix)
            else:
                both = torch.cat([prompt, text], dim=1)
                hidden = backbone(both, mask, torch.cat([positions, places]))[:, prompt.shape[1] :]
            rows = (torch.arange(segments)[:, None] * length + group.rows).flatten(1)
            read = hidden.gather(1, rows[..., None].expand(-1, -1, hidden.shape[-1]))
            found.append(self.student.head(read))
        return found

    def _prompt(self, batch: PackedBatch) -> tuple[Tensor, Tensor, int]:
        """[B, P, D] embeddings up to the question, [P] their positions, and the position behind them."""
        picture, places, whole = self.student.picture(batch.pixels, batch.views)
        count, before, between = len(picture), len(self.before), len(self.between)
        text = self.student.embedding(torch.cat([self.before, self.between])).to(picture.dtype)
        text = text.expand(count, -1, -1)
        start = before + whole + between
        positions = [torch.arange(before), before + places, torch.arange(start - between, start)]
        return torch.cat([text[:, :before], picture, text[:, before:]], dim=1), torch.cat(positions), start

    def training_step(self, batch: PackedBatch, index: int) -> Tensor:
        """Cross entropy of masked tokens, each divided by the time at which it was masked (LLaDA)."""
        loss = torch.zeros(())
        for group, found in zip(batch.groups, self.run(batch), strict=True):
            targets, weights = group.targets.flatten(), group.weights.flatten()
            losses = F.cross_entropy(found.float().flatten(0, 1), targets, reduction="none")
            # Every kind of segment counts the same, however many there are.
            loss = loss + (losses * weights).sum() / group.lengths.numel()
            if batch.packed:
                right = (found.flatten(0, 1).argmax(-1) == targets).float()
                kind = "captions" if group is batch.groups[0] else "questions"
                self.log(f"train/{kind}", (right * weights).sum() / weights.sum(), prog_bar=True)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Tensor, index: int) -> None:
        """Let it answer, with the sampler and the adapter that users have."""
        with torch.autocast("cpu", enabled=False):
            scenes = (self.asked[int(i)] for i in batch)
            found = accuracy(self.student.adapter(), scenes, self.conversations)
        self.log_dict(
            {f"validation/{kind}": value for kind, value in found.items()}, prog_bar=True, batch_size=1
        )

    def configure_optimizers(self) -> Any:
        """AdamW, warm-up and cosine."""
        return optimisers(self, self.schedule)
