"""A LightningModule that trains the toy, with dropout, so that any random number drawn in between would show."""

from __future__ import annotations

import lightning as L
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from dcam_core import Explainer
from dcam_core.dataset import Sample
from dcam_core.testing.toy import WORDS, ToyAdapter, toy_adapter, toy_picture
from support.toy_things import things

__all__ = ["ToyTraining", "batches", "fit", "looking_elsewhere", "scene", "trainer"]

LENGTH = 8


class ToyTraining(L.LightningModule):
    """Teaches the toy one answer per batch."""

    def __init__(self) -> None:
        super().__init__()
        self.adapter = toy_adapter()
        self.model = self.adapter.model
        self.model.train()
        self.losses: list[float] = []
        with torch.no_grad():
            self.inputs = self.adapter.prepare(toy_picture(), "the red circle")

    def training_step(self, batch, batch_idx):
        states = torch.zeros_like(batch)
        logits = self.adapter.replay(self.inputs, states, torch.arange(LENGTH, device=batch.device))
        loss = F.cross_entropy(logits.flatten(0, 1), batch.flatten())
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch, batch_idx):
        return None

    def test_step(self, batch, batch_idx):
        return None

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], 1e-2)


def batches(count: int = 32) -> DataLoader:
    """Batches of 4, shuffled by the global random state."""
    seeded = torch.Generator().manual_seed(0)
    return DataLoader(torch.randint(3, 3 + len(WORDS), (count, LENGTH), generator=seeded), 4, shuffle=True)


def scene(key: str = "scene") -> Sample:
    """A picture whose every word has a mask."""
    return Sample(key, toy_picture(), "the red circle", things(), "a red circle")


def looking_elsewhere(adapter: ToyAdapter, word: str) -> torch.Tensor:
    """The share of a word's evidence that lies outside of the upper left quarter of the picture, to be lowered."""
    explainer = Explainer(adapter, "grad-cam", probe_layer=0)
    maps = explainer.differentiable(toy_picture(), "the red circle", [word], answer="a red circle")
    quarter = torch.zeros(36, 48, dtype=torch.bool)
    quarter[:18, :24] = True
    return 1 - maps.share_within(quarter).sum()


def trainer(folder, *callbacks: L.Callback, **settings) -> L.Trainer:
    """A quiet trainer on the CPU."""
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": folder,
    }
    return L.Trainer(callbacks=list(callbacks), **{**quiet, **settings})


def fit(folder, *callbacks: L.Callback, module: ToyTraining | None = None, **settings) -> ToyTraining:
    """Train from the same seed."""
    L.seed_everything(1, verbose=False)
    module = module or ToyTraining()
    trainer(folder, *callbacks, **settings).fit(module, batches())
    return module
