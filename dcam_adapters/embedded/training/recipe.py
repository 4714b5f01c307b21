"""The whole recipe: scenes, tower, language model, and a checkpoint folder in the published layout.

Everything is drawn from one seed. Training that is interrupted goes on from its last checkpoint when it is
called again with the same folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dcam_adapters.common.llava import LlavaAdapter
from dcam_adapters.common.siglip import VisionConfig
from dcam_adapters.embedded.training import configs
from dcam_adapters.embedded.training.conversations import Conversations, build_tokenizer
from dcam_adapters.embedded.training.curriculum import CURRICULUM, Phase
from dcam_adapters.embedded.training.initialisation import resampled_tower
from dcam_adapters.embedded.training.language import LanguageStage
from dcam_adapters.embedded.training.optimisation import Schedule
from dcam_adapters.embedded.training.prompts import PromptIds
from dcam_adapters.embedded.training.scenes import SceneArrays, SceneDataset
from dcam_adapters.embedded.training.segments import PackedBatches
from dcam_adapters.embedded.training.students import LlavaStudent, Student
from dcam_adapters.embedded.training.tower import PatchBatches, TowerStage, validation_batches
from dcam_adapters.embedded.training.trainer import fit
from dcam_adapters.lavida.adapter import LaViDaAdapter
from dcam_adapters.llada_v.adapter import LLaDAVAdapter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Recipe", "Workplace", "miniature", "train_lavida", "train_llada_v"]


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


class Workplace:
    """A folder, and the stages that leave their results in it.

    Args:
        out: the folder.
        dataset: class of the generated scenes.
        seed: seed of everything that is drawn.
        recipe: sizes and lengths.

    Attributes:
        conversations: what is said about the scenes.
        tokenizer: word level, with LLaDA's special tokens.
    """

    def __init__(self, out: Path, dataset: SceneDataset, seed: int, recipe: Recipe) -> None:
        self.out, self.dataset, self.seed, self.recipe = out, dataset, seed, recipe
        self.conversations = Conversations(dataset.shapes, dataset.colours)
        self.tokenizer = build_tokenizer(dataset.shapes, dataset.colours)

    def scenes(self, split: str, patch: int) -> SceneArrays:
        """Rendered scenes with labels for patches of some size."""
        recipe = self.recipe
        count = {"train": recipe.scenes, "validation": recipe.validation_scenes}[split]
        folder = self.out / f"scenes-{patch}" / split
        return SceneArrays.rendered(folder, self.dataset, split, count, size=recipe.size, patch=patch)

    def fit(
        self, stage: L.LightningModule, batches: Any, validation: Any, schedule: Schedule, name: str
    ) -> None:
        """Trains one stage in the folder of its name; see `dcam_adapters.embedded.training.trainer.fit`."""
        recipe = self.recipe
        every = {"validate_every": recipe.validate_every, "save_every": recipe.save_every}
        fit(stage, batches, validation, schedule, self.out / name, **every)

    def once(self, name: str, train: Callable[[], nn.Module]) -> dict[str, Tensor]:
        """Weights that a stage leaves: trained, seeded anew, if the folder does not hold them yet.

        Args:
            name: of the file that keeps them, without its ending.
            train: trains, and gives the module with these weights.
        """
        done = self.out / f"{name}.safetensors"
        if not done.is_file():
            L.seed_everything(self.seed)
            trained = train().state_dict()
            save_file({key: value.contiguous() for key, value in trained.items()}, done)
        return load_file(done)

    # -- stage 1 -------------------------------------------------------------------------------------

    def fit_patches(
        self,
        stage: L.LightningModule,
        scenes: SceneArrays,
        validation: SceneArrays,
        schedule: Schedule,
        name: str,
    ) -> None:
        """Trains a stage that tells what every patch shows."""
        self.fit(
            stage,
            lambda first: PatchBatches(scenes, schedule.batch, self.seed, first),
            validation_batches(validation, schedule.batch),
            schedule,
            name,
        )

    def tower(self, vision: VisionConfig) -> dict[str, Tensor]:
        """Weights of the tower, trained from scratch."""
        return self._tower("tower", vision, self.recipe.tower, None)

    def refined_tower(self, vision: VisionConfig) -> dict[str, Tensor]:
        """Weights of a tower that was trained for patches of the usual size first."""
        usual = self.tower(replace(vision, patch_size=self.recipe.patch))
        start = resampled_tower(usual, vision)
        return self._tower("refined_tower", vision, self.recipe.refinement, start)

    def _tower(
        self, name: str, vision: VisionConfig, schedule: Schedule, start: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor]:
        def train() -> nn.Module:
            scenes, validation = (self.scenes(split, vision.patch_size) for split in ("train", "validation"))
            stage = TowerStage(vision, len(self.dataset.shapes), len(self.dataset.colours), schedule)
            if start is not None:
                stage.tower.load_state_dict(start)
            self.fit_patches(stage, scenes, validation, schedule, name)
            return stage.tower

        return self.once(name, train)

    # -- stage 2 -------------------------------------------------------------------------------------

    def teach_llava(
        self,
        name: str,
        adapter: type[LlavaAdapter[Any]],
        values: Callable[[Recipe, PreTrainedTokenizerBase], dict[str, Any]],
        tower: Callable[[VisionConfig], Mapping[str, Tensor]],
    ) -> Path:
        """Both stages of a LLaVA-style family.

        Args:
            name: of the model.
            adapter: the family's.
            values: makes config.json.
            tower: makes the tower's weights.

        Returns:
            The checkpoint folder.
        """
        content = values(self.recipe, self.tokenizer)
        vision = adapter.config_type.of(content).vision
        student = LlavaStudent(adapter, content, self.tokenizer, self.recipe.generation, tower(vision))
        return self.teach(name, student, content, self.scenes("train", vision.patch_size))

    def teach(self, name: str, student: Student, values: Mapping[str, Any], scenes: SceneArrays) -> Path:
        """Stage 2: trains the language model, and writes the checkpoint folder.

        Args:
            name: of the model.
            student: the network, what reads its pictures trained.
            values: content of config.json.
            scenes: the training split.

        Returns:
            The checkpoint folder.
        """
        recipe, schedule = self.recipe, self.recipe.language
        L.seed_everything(self.seed)
        student.initialise(scenes.batch(np.arange(min(32, len(scenes))), mirrored=False)[0])
        prompts = PromptIds(
            self.tokenizer,
            student.frame,
            recipe.answer_length,
            [*self.dataset.shapes, *self.dataset.colours],
        )
        asked = self.dataset("validation", recipe.asked_scenes, recipe.size)
        stage = LanguageStage(student, prompts, self.conversations, asked, schedule)
        self.fit(
            stage,
            lambda first: PackedBatches(
                scenes,
                self.conversations,
                prompts,
                views=student.views,
                size=schedule.batch,
                curriculum=recipe.curriculum,
                steps=schedule.steps,
                seed=self.seed,
                start=first,
            ),
            DataLoader(range(recipe.asked_scenes), batch_size=recipe.asked_scenes),  # type: ignore[arg-type]
            schedule,
            f"{name}-language",
        )
        return self._export(student, values, self.out / name)

    def _export(self, student: Student, values: Mapping[str, Any], folder: Path) -> Path:
        """Write the checkpoint folder, whole or not at all."""
        new = folder.with_name(folder.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        student.save(new)
        (new / "config.json").write_text(json.dumps(values, indent=1) + "\n")
        (new / "generation_config.json").write_text(json.dumps(self.recipe.generation, indent=1) + "\n")
        self.tokenizer.save_pretrained(str(new))
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
        return folder


def miniature() -> Recipe:
    """A recipe that runs in a minute: for tests, and for trying changes."""
    return replace(
        Recipe(),
        scenes=256,
        validation_scenes=64,
        asked_scenes=2,
        tower=Schedule(steps=20, batch=16, warmup=5),
        refinement=Schedule(steps=10, batch=16, warmup=5),
        language=Schedule(steps=20, batch=8, warmup=5),
        validate_every=20,
        save_every=10,
        tower_width=64,
        tower_layers=2,
        width=64,
        layers=2,
    )
