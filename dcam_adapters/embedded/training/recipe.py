"""The whole recipe: scenes, tower, language model, and a checkpoint folder in the published layout.

Everything is drawn from one seed. Training that is interrupted goes on from its last checkpoint when it is
called again with the same folder.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dcam_adapters.embedded.training import configs
from dcam_adapters.embedded.training.curriculum import CURRICULUM, Phase
from dcam_adapters.embedded.training.optimisation import Schedule
from dcam_adapters.embedded.training.scenes import SceneDataset
from dcam_adapters.embedded.training.workplace import Workplace
from dcam_adapters.lavida.adapter import LaViDaAdapter
from dcam_adapters.llada_v.adapter import LLaDAVAdapter

__all__ = ["Recipe", "miniature", "train_lavida", "train_llada_v"]


@dataclass(frozen=True)
class Recipe:
    """Sizes and lengths; the shipped checkpoints took about as many steps, in several runs that their cards tell of.

    Attributes:
        scenes: scenes of the training split.
        validation_scenes: scenes of the validation split on which the tower is measured.
        asked_scenes: scenes of it on which the language model is asked.
        tower: schedule of stage 1.
        refinement: schedule for a tower that goes on with patches of another size.
        language: schedule of stage 2.
        curriculum: what its batches consist of as it goes on.
        validate_every: steps between two validations.
        save_every: steps between two checkpoints.
        shown_scenes: validation scenes whose words are explained while the language model learns.
        show_every: steps between two such moments.
        size: side of the pictures in pixels.
        patch: side of a patch in pixels.
        pooled_patch: the same where two by two patches become one token.
        tower_width: width of the tower.
        tower_layers: layers that the tower runs.
        width: width of the language model.
        layers: blocks of the language model.
        answer_length: positions of the answer region.
    """

    scenes: int = 50_000
    validation_scenes: int = 512
    asked_scenes: int = 16
    tower: Schedule = field(default_factory=lambda: Schedule(steps=1500, batch=64))
    refinement: Schedule = field(default_factory=lambda: Schedule(steps=200, batch=64, rate=1e-3, warmup=50))
    language: Schedule = field(
        default_factory=lambda: Schedule(steps=8000, batch=16, warmup=100, average=0.995)
    )
    curriculum: tuple[Phase, ...] = CURRICULUM
    validate_every: int = 800
    save_every: int = 250
    shown_scenes: int = 3
    show_every: int = 400
    size: int = 96
    patch: int = 8
    pooled_patch: int = 6
    tower_width: int = 128
    tower_layers: int = 6
    width: int = 160
    layers: int = 4
    answer_length: int = 16

    @property
    def inner(self) -> int:
        """Width of the language model's feed-forward network."""
        return self.width * 27 // 10

    @property
    def generation(self) -> dict[str, Any]:
        """generation_config.json: one token a step, in one block."""
        length = self.answer_length
        return {"gen_length": length, "block_length": length, "steps": length}


def train_llada_v(*, out: Path, dataset: SceneDataset, seed: int = 0, recipe: Recipe | None = None) -> Path:
    """Train `tiny-llada-v` from scratch.

    Args:
        out: folder for scenes, logs, checkpoints and, at the end, the model in `out/tiny-llada-v`.
        dataset: class of the generated scenes.
        seed: seed of everything that is drawn.
        recipe: sizes and lengths; None: those of the shipped checkpoint.

    Returns:
        The checkpoint folder.
    """
    place = Workplace(out, dataset, seed, recipe or Recipe())
    return place.teach_llava("tiny-llada-v", LLaDAVAdapter, configs.llada_v, place.tower)


def train_lavida(*, out: Path, dataset: SceneDataset, seed: int = 0, recipe: Recipe | None = None) -> Path:
    """Train `tiny-lavida` from scratch; its tower is LLaDA-V's, refined for smaller patches.

    Args:
        out: folder for scenes, logs, checkpoints and, at the end, the model in `out/tiny-lavida`.
        dataset: class of the generated scenes.
        seed: seed of everything that is drawn.
        recipe: sizes and lengths; None: those of the shipped checkpoint.

    Returns:
        The checkpoint folder.
    """
    place = Workplace(out, dataset, seed, recipe or Recipe())
    return place.teach_llava("tiny-lavida", LaViDaAdapter, configs.lavida, place.refined_tower)


def miniature() -> Recipe:
    """A recipe that runs in a minute: for tests, and for trying changes."""
    return replace(
        Recipe(),
        scenes=256,
        validation_scenes=64,
        asked_scenes=2,
        shown_scenes=1,
        tower=Schedule(steps=20, batch=16, warmup=5),
        refinement=Schedule(steps=10, batch=16, warmup=5),
        language=Schedule(steps=20, batch=8, warmup=5),
        validate_every=20,
        save_every=10,
        show_every=10,
        tower_width=64,
        tower_layers=2,
        width=64,
        layers=2,
    )
