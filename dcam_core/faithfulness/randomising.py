"""Sanity checks: a map that explains the model must change when the model, or the word, is another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dcam_core.errors import ConfigurationError, TargetError
from dcam_core.faithfulness.similarity import spearman, structural_similarity
from dcam_core.probing.normalise import joint_min_max

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.probing.targets import Target

__all__ = [
    "Randomised",
    "modules_from_the_top",
    "other_labels",
    "parameter_randomisation",
    "randomised_parameters",
]


@dataclass(frozen=True, eq=False)
class Randomised:
    """The maps of T words after some parameters were randomised.

    Attributes:
        module: the module whose parameters were randomised; in a cascade, after all those before it.
        maps: [T, h, w], the maps of the randomised model.
        spearman: [T] float64 in [-1, 1], rank correlation with the original maps; NaN where one of the two is flat.
        ssim: [T] float64 in [-1, 1], structural similarity to the original maps, each stretched to [0, 1].
    """

    module: str
    maps: Tensor
    spearman: Tensor
    ssim: Tensor


def modules_from_the_top(adapter: Adapter) -> tuple[str, ...]:
    """Paths of what is randomised: the head, where the adapter names it, and the blocks from the last to the first.

    A head that is no module of the model's tree, but a part of what another module computes, is left as it is.
    Where the head shares its weights with the embedding of the words, randomising the one randomises the other.
    """
    paths = {id(module): path for path, module in adapter.model.named_modules()}
    head = adapter.parity_modules.get("logits")
    top = head if isinstance(head, str) else paths.get(id(head))
    return tuple(([] if top is None else [top]) + [paths[id(block)] for block in reversed(adapter.blocks)])


@contextmanager
def randomised_parameters(model: nn.Module, modules: Sequence[str], seed: int = 0) -> Iterator[None]:
    """Run the body with the parameters of some modules in random order; put every value back after.

    Each tensor keeps its values and loses their places. So it is a network of the same scale, layer by layer,
    whatever scheme it was initialised by, and of what training found nothing else is left.

    Args:
        model: the model.
        modules: paths of modules in it.
        seed: the same seed, the same order, whatever else is randomised; no global random state is touched.

    Raises:
        ConfigurationError: a module has no floating parameter, e.g. because it is quantised, or its parameters are
            not in memory.
    """
    shuffled: dict[nn.Parameter, Tensor] = {}
    for path in modules:
        shuffled |= _shuffled(model, path, seed, shuffled)
    with _in_place(shuffled):
        yield


def parameter_randomisation(
    adapter: Adapter,
    explain: Callable[[], Tensor],
    *,
    modules: Sequence[str] | None = None,
    cascading: bool = True,
    seed: int = 0,
) -> Iterator[Randomised]:
    """Explain the same words with more and more of the model randomised, from the top.

    Args:
        adapter: the model; its parameters are as they were after every item, bit for bit. A second copy of those that
            are randomised is held in memory.
        explain: gives the maps [T, h, w], of any scale, of the words with the model as it then is. The words must
            stay the same: explain a recorded run (`Explainer.explain_run`), do not write a new answer. Look at raw
            and refined maps each: what refiners do is no part of the model.
        modules: module paths, in order; None: `modules_from_the_top`.
        cascading: True: each module on top of those before; False: each alone.
        seed: of the random order.

    Yields:
        One item per module.

    Raises:
        ConfigurationError: as `randomised_parameters`.

    Source: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018.
    """
    paths = modules_from_the_top(adapter) if modules is None else tuple(modules)
    original = explain()
    shuffled: dict[nn.Parameter, Tensor] = {}
    for path in paths:
        if not cascading:
            shuffled = {}
        shuffled |= _shuffled(adapter.model, path, seed, shuffled)
        with _in_place(shuffled):
            maps = explain()
        # Raw maps may be of any scale, and the index counts in shares of the range.
        alike = structural_similarity(*(joint_min_max([each])[0] for each in (original, maps)))
        yield Randomised(path, maps, spearman(original, maps), alike)


def other_labels(targets: Sequence[Target], seed: int = 0) -> tuple[Target, ...]:
    """The same places of the answer, each asked for words that stand elsewhere in it: label randomisation.

    Args:
        targets: the words.
        seed: of the choice; no global random state is touched.

    Returns:
        Targets at the same positions, whose tokens are other tokens of `targets`; explain them like the originals.

    Raises:
        TargetError: a word has no other token to take.
    """
    generator = torch.Generator().manual_seed(seed)
    pool = sorted({token for target in targets for token in target.token_ids})
    texts = {
        token: text for target in targets for token, text in zip(target.token_ids, target.tokens, strict=True)
    }
    changed = []
    for target in targets:
        others = [token for token in pool if token not in target.token_ids]
        if not others:
            raise TargetError(
                f"target {target.word!r} has no other token beside it: give at least two different words"
            )
        drawn = torch.randint(len(others), (len(target.positions),), generator=generator).tolist()
        ids = tuple(others[index] for index in drawn)
        tokens = tuple(texts[token] for token in ids)
        changed.append(replace(target, word="".join(tokens).strip(), token_ids=ids, tokens=tokens))
    return tuple(changed)


def _shuffled(
    model: nn.Module, path: str, seed: int, known: Mapping[nn.Parameter, Tensor]
) -> dict[nn.Parameter, Tensor]:
    """The values of a module's parameters in random order; without those that are known already."""
    parameters = [p for p in model.get_submodule(path).parameters() if p.is_floating_point()]
    if not parameters:
        raise ConfigurationError(
            f"{path!r} has no floating parameters to randomise: load the model unquantised, or leave it out"
        )
    if any(parameter.is_meta for parameter in parameters):
        raise ConfigurationError(
            f"{path!r} has its parameters on disk, where they cannot be randomised: load the model with it in "
            "memory (device_map), or leave it out"
        )
    generator = torch.Generator().manual_seed(seed)
    shuffled = {}
    # What is made in inference mode could not be differentiated through.
    with torch.inference_mode(False), torch.no_grad():
        for parameter in parameters:
            if parameter not in known:
                order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                shuffled[parameter] = parameter.detach().flatten()[order].view_as(parameter)
    return shuffled


@contextmanager
def _in_place(values: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Run the body with other values in parameters; after it, each holds its own tensor again.

    Tensors are exchanged and none is written to, so that coming back costs nothing and cannot lose a bit.
    """
    own = {parameter: parameter.data for parameter in values}
    try:
        for parameter, value in values.items():
            parameter.data = value
        yield
    finally:
        for parameter, data in own.items():
            parameter.data = data
