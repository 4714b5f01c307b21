"""Working with a module tree that need not be ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from dcam_core.errors import CheckpointError

__all__ = ["first_tensor", "require_modules"]


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
