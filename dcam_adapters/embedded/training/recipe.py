"""The whole recipe: scenes, tower, language model, and a checkpoint folder in the published layout.

Everything is drawn from one seed. Training that is interrupted goes on from its last checkpoint when it is
called again with the same folder.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader

from dcam_adapters.embedded.training.conversations import Conversations, build_tokenizer
from dcam_adapters.embedded.training.language import LanguageStage
from dcam_adapters.embedded.training.optimisation import Schedule
from dcam_adapters.embedded.training.scenes import SceneArrays, SceneDataset
from dcam_adapters.embedded.training.segments import PackedBatches, PromptIds
from dcam_adapters.embedded.training.tower import PatchBatches, TowerStage, validation_batches
from dcam_adapters.llada_v.config import LLaDAVConfig

__all__ = ["Recipe", "train_llada_v"]


@dataclass(frozen=True)
class Recipe:
    """Sizes and lengths; the defaults made the shipped checkpoint.

    Attributes:
        scenes: scenes of the training split.
        validation_scenes: scenes of the validation split on which the tower is measured.
        asked_scenes: scenes of it on which the language model is asked.
        tower: schedule of stage 1.
        language: schedule of stage 2.
        validate_every: steps between two validations.
        save_every: steps between two checkpoints.
        size: side of the pictures in pixels.
        patch: side of a patch in pixels.
        tower_width: width of the tower.
        tower_layers: layers that the tower runs.
        width: width of the language model.
        layers: blocks of the language model.
        answer_length: positions of the answer region.
    """

    scenes: int = 50_000
    validation_scenes: int = 512
    asked_scenes: int = 32
    tower: Schedule = field(default_factory=lambda: Schedule(steps=1500, batch=64))
    language: Schedule = field(
        default_factory=lambda: Schedule(steps=4500, batch=24, rate=1.5e-3, average=0.995)
    )
    validate_every: int = 500
    save_every: int = 250
    size: int = 96
    patch: int = 8
    tower_width: int = 128
    tower_layers: int = 6
    width: int = 160
    layers: int = 4
    answer_length: int = 16

    def config(self, tokenizer: Any) -> dict[str, Any]:
        """config.json, with the fields of the published checkpoints."""
        ids = tokenizer.convert_tokens_to_ids
        eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
        return {
            "architectures": ["LlavaLLaDAModelLM"],
            "model_type": "llava_llada",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "hidden_act": "silu",
            "hidden_size": self.width,
            "initializer_range": 0.02,
            "intermediate_size": self.width * 27 // 10,
            "max_position_embeddings": 1024,
            "num_attention_heads": 4,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-5,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "use_cache": False,
            "vocab_size": len(tokenizer),
            "image_aspect_ratio": "anyres_max_4",
            "image_crop_resolution": None,
            "image_grid_pinpoints": [[self.size, self.size]],
            "image_split_resolution": None,
            "mm_hidden_size": self.tower_width,
            "mm_newline_position": "grid",
            "mm_patch_merge_type": "spatial_unpad",
            "mm_projector_type": "mlp2x_gelu",
            "mm_resampler_type": None,
            "mm_use_im_patch_token": False,
            "mm_use_im_start_end": False,
            "mm_vision_select_feature": "patch",
            "mm_vision_select_layer": -2,
            "mm_vision_tower": "siglip",
            "tokenizer_model_max_length": 1024,
            "tokenizer_padding_side": "right",
            "use_mm_proj": True,
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": self.tower_width,
                "intermediate_size": self.tower_width * 3,
                "num_hidden_layers": self.tower_layers + 1,  # nominal: the last one is dropped
                "num_attention_heads": 4,
                "num_channels": 3,
                "image_size": self.size,
                "patch_size": self.patch,
                "hidden_act": "gelu_pytorch_tanh",
                "layer_norm_eps": 1e-6,
                "attention_dropout": 0.0,
            },
            "mask_token_id": tokenizer.mask_token_id,
            "suppressed_token_ids": [eos, bos, ids("<|start_header_id|>"), ids("<|end_header_id|>")],
        }

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
    recipe = recipe or Recipe()
    tokenizer = build_tokenizer(dataset.shapes, dataset.colours)
    values = recipe.config(tokenizer)
    config = LLaDAVConfig.from_dict(values)
    scenes = {
        split: SceneArrays.rendered(
            out / "scenes" / split, dataset, split, length, size=recipe.size, patch=recipe.patch
        )
        for split, length in (("train", recipe.scenes), ("validation", recipe.validation_scenes))
    }

    tower_weights = out / "tower.safetensors"
    if not tower_weights.is_file():
        L.seed_everything(seed)
        tower = TowerStage(config.vision, len(dataset.shapes), len(dataset.colours), recipe.tower)
        _fit(
            tower,
            lambda start: PatchBatches(scenes["train"], recipe.tower.batch, seed, start),
            validation_batches(scenes["validation"], recipe.tower.batch),
            recipe.tower,
            recipe,
            out / "tower",
        )
        save_file(_contiguous(tower.tower.state_dict()), tower_weights)

    L.seed_everything(seed)
    conversations = Conversations(dataset.shapes, dataset.colours)
    prompts = PromptIds(tokenizer, recipe.answer_length)
    language = LanguageStage(
        config,
        load_file(tower_weights),
        scenes["train"].batch(np.arange(min(32, recipe.scenes)), mirrored=False)[0],
        tokenizer,
        prompts.before,
        conversations,
        dataset("validation", recipe.asked_scenes, recipe.size),
        recipe.generation,
        recipe.language,
    )
    _fit(
        language,
        lambda start: PackedBatches(
            scenes["train"],
            conversations,
            prompts,
            size=recipe.language.batch,
            steps=recipe.language.steps,
            seed=seed,
            start=start,
        ),
        DataLoader(range(recipe.asked_scenes), batch_size=recipe.asked_scenes),  # type: ignore[arg-type]
        recipe.language,
        recipe,
        out / "language",
    )
    return _export(language, values, recipe, out / "tiny-llada-v")


def _fit(
    stage: L.LightningModule,
    batches: Any,
    validation: DataLoader[Any],
    schedule: Schedule,
    recipe: Recipe,
    folder: Path,
) -> None:
    """Train one stage, from its last checkpoint if there is one; its averaged weights are left in it."""
    last = folder / "last.ckpt"
    # The checkpoint is our own; Lightning's callbacks keep more than tensors in it.
    saved = torch.load(last, map_location="cpu", weights_only=False) if last.is_file() else None
    start = int(saved["global_step"]) if saved else 0
    if saved and start >= schedule.steps:
        # Nothing is left to train. The trainer would put back the weights as trained, not their average.
        stage.load_state_dict(saved["state_dict"])
        return
    trainer = L.Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_steps=schedule.steps,
        gradient_clip_val=1.0,
        val_check_interval=min(recipe.validate_every, schedule.steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=CSVLogger(folder, name="logs", flush_logs_every_n_steps=20),
        log_every_n_steps=20,
        enable_model_summary=False,
        callbacks=[
            EMAWeightAveraging(decay=schedule.average),
            ModelCheckpoint(
                folder, filename="last", every_n_train_steps=recipe.save_every, enable_version_counter=False
            ),
        ],
    )
    rank_zero_info(f"training {type(stage).__name__} from step {start} to {schedule.steps}")
    loader: DataLoader[Any] = DataLoader(batches(start), batch_size=None)
    trainer.fit(stage, loader, validation, ckpt_path=last if start else None, weights_only=False)


def _export(stage: LanguageStage, values: dict[str, Any], recipe: Recipe, folder: Path) -> Path:
    """Write the checkpoint folder, whole or not at all."""
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    weights = {name: value.half() for name, value in stage.model.state_dict().items()}
    save_file(_contiguous(weights), new / "model.safetensors", metadata={"format": "pt"})
    (new / "model.safetensors").chmod(0o644)  # written as a private file
    (new / "config.json").write_text(json.dumps(values, indent=1) + "\n")
    (new / "generation_config.json").write_text(json.dumps(recipe.generation, indent=1) + "\n")
    stage.tokenizer.save_pretrained(str(new))
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    return folder


def _contiguous(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().contiguous().clone() for name, value in weights.items()}


def miniature() -> Recipe:
    """A recipe that runs in a minute: for tests, and for trying changes."""
    return replace(
        Recipe(),
        scenes=256,
        validation_scenes=64,
        asked_scenes=2,
        tower=Schedule(steps=20, batch=16, warmup=5),
        language=Schedule(steps=20, batch=8, warmup=5),
        validate_every=20,
        save_every=10,
        tower_width=64,
        tower_layers=2,
        width=64,
        layers=2,
    )
