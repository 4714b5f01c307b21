"""Working with a module tree that need not be ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dcam_core.errors import CheckpointError, ConfigurationError

__all__ = ["ModulePaths", "called_eagerly", "first_tensor", "only_rows", "require_modules", "unwrapped"]


@dataclass(frozen=True)
class ModulePaths:
    """Where the modules of a family are in its tree.

    Attributes:
        blocks: the list of transformer blocks.
        embedding: token ids to embeddings.
        norm: the final norm.
        head: normed hidden states to logits.
        backbone: what runs all blocks.
        tower: crops to patch features.
        projector: patch features to embeddings.
        newline: the vector that ends rows of image tokens, a parameter.
    """

    blocks: str
    embedding: str
    norm: str
    head: str
    backbone: str = "model"
    tower: str = "model.vision_tower"
    projector: str = "model.mm_projector"
    newline: str = "model.image_newline"


def first_tensor(output: Any) -> Tensor:
    """What a module puts out: a tensor, or the first item of a tuple, list or ModelOutput."""
    found = output if isinstance(output, Tensor) else output[0]
    if not isinstance(found, Tensor):
        raise CheckpointError(
            f"a module of the model puts out a {type(output).__name__} that does not begin with a tensor: "
            "it is not of this family"
        )
    return found


def require_modules(model: nn.Module, paths: Iterable[str], *, family: str) -> None:
    """Checks that a model has the modules that an adapter relies on.

    Args:
        model: the model.
        paths: module paths.
        family: name of the family, for the message.

    Raises:
        CheckpointError: modules are missing; all of them are named.
    """
    present = {path for path, _ in model.named_modules()}
    if absent := [path for path in paths if path not in present]:
        raise CheckpointError(
            f"{type(model).__name__} has no module {', '.join(absent)}: its module tree is not {family}'s; "
            "give the whole multimodal model, of this family"
        )


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, out of what training and deployment wrap around it.

    Undone are `torch.compile` (explanations run uncompiled: they hook modules and differentiate in batches),
    data parallelism, and peft's wrapper around LoRA and other adapters that live inside the modules: they
    stay in the tree and take part.

    Args:
        model: the model as the user holds it; not changed.

    Raises:
        ConfigurationError: the wrapper changes the computation from outside, or keeps the parameters away.
    """
    inner: Any
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(inner, nn.Module):  # torch.compile
            model = inner
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "peft_config") and isinstance(getattr(model, "base_model", None), nn.Module):
            _refuse_prompt_learning(model)
            # peft: PeftModel.base_model is the tuner (LoraModel, ...), and its .model the model it changed.
            inner = getattr(model, "base_model", None)
            model = inner.model if isinstance(getattr(inner, "model", None), nn.Module) else inner
        else:
            break
    if type(model).__name__ in ("FullyShardedDataParallel", "DeepSpeedEngine"):
        raise ConfigurationError(
            f"the model is wrapped in {type(model).__name__}, which keeps its parameters in pieces: gather them "
            "(for FSDP, save a full state dict), load that into the plain model, and wrap that one"
        )
    return model


def _refuse_prompt_learning(model: Any) -> None:
    for name, config in model.peft_config.items():
        if getattr(config, "is_prompt_learning", False):
            raise ConfigurationError(
                f"the peft adapter {name!r} ({type(config).__name__}) puts learned tokens before the prompt, which "
                "dcam's adapter would leave out: explain the base model (model.get_base_model()), or use LoRA"
            )


def called_eagerly(model: nn.Module) -> AbstractContextManager[Any]:
    """A context in which compiled parts of a model run uncompiled; it does nothing if there are none.

    Some originals compile their blocks in the source. Compiled functions cannot be differentiated in
    batches, and compile anew for every prompt length.
    """
    if not any(_is_compiled(module) for module in model.modules()):
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def _is_compiled(module: nn.Module) -> bool:
    return (
        getattr(module, "_compiled_call_impl", None) is not None
        or isinstance(getattr(module, "_orig_mod", None), nn.Module)
        or hasattr(module.forward, "_torchdynamo_orig_callable")
    )


@contextmanager
def only_rows(module: nn.Module, rows: Tensor) -> Iterator[None]:
    """Within the context a module called with [B, n, D] gets only these rows of it, [B, len(rows), D].

    For originals that form logits at every position: a vocabulary's worth of them for each image token.

    Args:
        module: the head.
        rows: [P] int64.
    """
    handle = module.register_forward_pre_hook(lambda module, args: (args[0][:, rows], *args[1:]))
    try:
        yield
    finally:
        handle.remove()
