"""The folder in which a recipe works: each stage leaves its result there, and the next one begins with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning as L
import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dcam_adapters.common.llava import LlavaAdapter
from dcam_adapters.common.siglip import VisionConfig
from dcam_adapters.embedded.training.conversations import Conversations, build_tokenizer
from dcam_adapters.embedded.training.initialisation import resampled_tower
from dcam_adapters.embedded.training.language import LanguageStage
from dcam_adapters.embedded.training.optimisation import Schedule
from dcam_adapters.embedded.training.prompts import PromptIds
from dcam_adapters.embedded.training.scenes import SceneArrays, SceneDataset, SceneLike
from dcam_adapters.embedded.training.segments import PackedBatches
from dcam_adapters.embedded.training.students import LlavaStudent, Student
from dcam_adapters.embedded.training.tower import PatchBatches, TowerStage, validation_batches
from dcam_adapters.embedded.training.trainer import fit
from dcam_core.training import DiffusionCAM

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dcam_adapters.embedded.training.recipe import Recipe
    from dcam_core.dataset import Sample

__all__ = ["Workplace"]


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
        self,
        stage: L.LightningModule,
        batches: Any,
        validation: Any,
        schedule: Schedule,
        name: str,
        callbacks: Sequence[L.Callback] = (),
    ) -> None:
        """Trains one stage in the folder of its name; see `dcam_adapters.embedded.training.trainer.fit`."""
        fit(
            stage,
            batches,
            validation,
            schedule,
            self.out / name,
            validate_every=self.recipe.validate_every,
            save_every=self.recipe.save_every,
            callbacks=callbacks,
        )

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
            [self._maps(student, asked)],
        )
        return self._export(student, values, self.out / name)

    def _maps(self, student: Student, scenes: Sequence[SceneLike]) -> DiffusionCAM:
        """Shows what the words of the captions look at while they are learnt."""
        # A registered dataset holds samples; `SceneLike` says what else is used of them.
        samples = cast("Sequence[Sample]", [scenes[index] for index in range(self.recipe.shown_scenes)])
        return DiffusionCAM(samples, model=student.adapter(), every_n_train_steps=self.recipe.show_every)

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
