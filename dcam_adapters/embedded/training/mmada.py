"""tiny-mmada: an image tokenizer, trained on patches, and a language model that reads its codes as tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dcam_adapters.common.transformer import AttentionFunction
from dcam_adapters.embedded.training import configs
from dcam_adapters.embedded.training.initialisation import initialise_blocks
from dcam_adapters.embedded.training.optimisation import Schedule
from dcam_adapters.embedded.training.prompts import Frame
from dcam_adapters.embedded.training.recipe import Recipe, miniature
from dcam_adapters.embedded.training.scenes import SceneArrays, SceneDataset
from dcam_adapters.embedded.training.students import QUESTION, Student, half_attention
from dcam_adapters.embedded.training.vq import PictureTokenizerStage
from dcam_adapters.embedded.training.workplace import Workplace
from dcam_adapters.mmada.adapter import MMaDAAdapter
from dcam_adapters.mmada.config import MMaDAConfig
from dcam_adapters.mmada.magvit import Magvit, MagvitConfig
from dcam_adapters.mmada.modeling import MMaDA
from dcam_adapters.mmada.prompt import chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["MMaDARecipe", "MMaDAStudent", "miniature_mmada", "train_mmada"]

FRAME_TOKENS = ("<|mmu|>", "<|soi|>", "<|eoi|>")
"""What stands around the picture. The published tokenizer does not know these names; this one does."""

CODE_NOISE = 0.02
"""Standard deviation of what tells the embeddings of codes apart beyond their bits, at the start."""


@dataclass(frozen=True)
class MMaDARecipe(Recipe):
    """Sizes and lengths; the shipped checkpoint took about as many steps, in several runs that its card tells of.

    Attributes:
        picture_tokenizer: schedule of stage 1.
        magvit: dimensions of the image tokenizer. The first level, whose pictures are the largest, only halves
            them: a residual block there would cost as much as all others.
    """

    picture_tokenizer: Schedule = field(
        default_factory=lambda: Schedule(steps=1200, batch=32, warmup=100, average=0.995)
    )
    magvit: MagvitConfig = field(
        default_factory=lambda: MagvitConfig(
            ch=32, ch_mult=(1, 1, 2, 4), num_res_blocks=(0, 1, 2, 3), z_channels=11
        )
    )

    @property
    def cells(self) -> int:
        """Image tokens per side of the picture."""
        return self.size // self.magvit.factor

    @property
    def rope_theta(self) -> float:
        """Base with which the second rotary frequency of every head turns once per row of image tokens.

        Positions run on from row to row, and no newline tokens stand between them: what a column is can only be
        told from a frequency of this period.
        """
        return float((self.cells / (2 * math.pi)) ** (self.width // configs.HEADS / 2))

    def config(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """config.json, with the fields of the published checkpoints and the ids that are not the published ones."""
        text, codes = len(tokenizer), self.magvit.codebook_size
        return {
            "architectures": ["MMadaModelLM"],
            "model_type": "mmada",
            **configs.olmo(self, rows=text + codes, eos=tokenizer.eos_token_id),
            "rope_theta": self.rope_theta,
            "codebook_size": codes,
            "llm_vocab_size": text,
            "new_vocab_size": text + codes,
            "num_new_special_tokens": 0,
            "num_vq_tokens": self.cells**2,
            "tie_word_embeddings": False,
            "w_clip_vit": False,
            "mask_token_id": tokenizer.mask_token_id,
            "image_token_offset": text,
            "special_token_ids": {token: tokenizer.convert_tokens_to_ids(token) for token in FRAME_TOKENS},
        }


class MMaDAStudent(Student):
    """MMaDA's language model, and a frozen image tokenizer.

    Args:
        values: content of config.json.
        tokenizer: the model's tokenizer.
        generation: content of generation_config.json.
        vq: the trained image tokenizer.
        attention: how softmax attention is computed.
    """

    views = 1

    def __init__(
        self,
        values: Mapping[str, Any],
        tokenizer: PreTrainedTokenizerBase,
        generation: Mapping[str, Any],
        vq: Magvit,
        attention: AttentionFunction = half_attention,
    ) -> None:
        super().__init__()
        self._tokenizer, self._generation = tokenizer, generation
        self._config = MMaDAConfig.from_dict(values)
        self.network = MMaDA(self._config, attention=attention)
        self.vq = vq.requires_grad_(False)
        self._offset = len(tokenizer)
        task, start, end = FRAME_TOKENS
        between, after = chat(tokenizer, QUESTION).split(QUESTION)
        self.frame = Frame(task + start, end + between, after)

    @property
    def backbone(self) -> Any:
        """See the class above."""
        return self.network.get_submodule("model")

    @property
    def embedding(self) -> nn.Module:
        """See the class above."""
        return self.network.get_submodule("model.transformer.wte")

    @property
    def head(self) -> nn.Module:
        """See the class above."""
        return self.network.get_submodule("model.transformer.ff_out")

    def picture(self, pixels: Tensor, views: Sequence[int]) -> tuple[Tensor, Tensor, int]:
        """Embeddings of the picture's codes."""
        with torch.no_grad():
            # In the precision of the training, which changes one code of a thousand.
            values = self.vq.encoder(pixels)
            codes = self.vq.quantize(values)
        tokens = self.embedding(codes + self._offset).to(values.dtype)
        count = codes.shape[1]
        return tokens, torch.arange(count), count

    def adapter(self) -> MMaDAAdapter:
        """See the class above."""
        return MMaDAAdapter(self.network, self._config, self.vq, self._tokenizer, generation=self._generation)

    @torch.no_grad()
    def initialise(self, pixels: Tensor) -> None:
        """Codes that share bits start with similar embeddings: what is learnt of one holds for its neighbours."""
        initialise_blocks(self.network.get_submodule("model.transformer.blocks"), self.embedding, self.head)
        rows = self.embedding.get_parameter("weight")
        scale = rows.std()
        bits = self.vq.quantize.embedding
        meanings = torch.randn(bits.shape[1], rows.shape[1]) * bits.shape[1] ** -0.5
        rows[self._offset :] = scale * (bits @ meanings) + CODE_NOISE * torch.randn(len(bits), rows.shape[1])

    def save(self, folder: Path) -> None:
        """The language model's weights, and the image tokenizer in a folder of its own."""
        super().save(folder)
        save_magvit(self.vq, folder / "vq")


def save_magvit(vq: Magvit, folder: Path) -> None:
    """Writes an image tokenizer in the published layout, with the dimensions that the published config.json lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"_class_name": "MAGVITv2", **asdict(vq.config)}
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n")
    weights = {name: _half(value).contiguous() for name, value in vq.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # written as a private file


def train_mmada(
    *, out: Path, dataset: SceneDataset, seed: int = 0, recipe: MMaDARecipe | None = None
) -> Path:
    """Train `tiny-mmada` from scratch.

    Args:
        out: folder for scenes, logs, checkpoints and, at the end, the model in `out/tiny-mmada`.
        dataset: class of the generated scenes.
        seed: seed of everything that is drawn.
        recipe: sizes and lengths; None: those of the shipped checkpoint.

    Returns:
        The checkpoint folder.
    """
    recipe = recipe or MMaDARecipe()
    place = Workplace(out, dataset, seed, recipe)
    place.tokenizer.add_tokens(list(FRAME_TOKENS), special_tokens=True)
    scenes, validation = (place.scenes(split, recipe.magvit.factor) for split in ("train", "validation"))
    vq = _picture_tokenizer(place, recipe, scenes, validation)
    values = recipe.config(place.tokenizer)
    student = MMaDAStudent(values, place.tokenizer, recipe.generation, vq)
    return place.teach("tiny-mmada", student, values, scenes)


def _picture_tokenizer(
    place: Workplace, recipe: MMaDARecipe, scenes: SceneArrays, validation: SceneArrays
) -> Magvit:
    """Stage 1: the image tokenizer, with the weights that are shipped."""
    schedule, dataset = recipe.picture_tokenizer, place.dataset

    def train() -> nn.Module:
        stage = PictureTokenizerStage(recipe.magvit, len(dataset.shapes), len(dataset.colours), schedule)
        place.fit_patches(stage, scenes, validation, schedule, "magvit")
        # Rounded to half precision from here on: the language model learns the codes that users will get.
        return stage.tokenizer.half()

    vq = Magvit(recipe.magvit)
    vq.load_state_dict(place.once("magvit", train))
    return vq.eval()


def _half(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() else value


def miniature_mmada() -> MMaDARecipe:
    """A recipe that runs in a minute: for tests, and for trying changes."""
    lengths = vars(miniature())
    return replace(
        MMaDARecipe(**lengths),
        picture_tokenizer=Schedule(steps=20, batch=16, warmup=5),
        magvit=MagvitConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=(0, 0, 1, 1), z_channels=6),
    )
