"""Is the model left as it was found, whatever happens?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dcam_core.conformance.check import BrokenPromiseError, expect
from dcam_core.probing.untouched import untouched

if TYPE_CHECKING:
    from dcam_core.conformance.subject import Subject

__all__ = ["ModelState", "after_error", "after_interrupt", "after_success"]

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class _DeliberateError(RuntimeError):
    """Stands for whatever may go wrong inside a model, such as running out of memory."""


class _DeliberateInterrupt(KeyboardInterrupt):
    """Ctrl-C that nobody pressed."""


@dataclass(frozen=True)
class ModelState:
    """Everything about a model that a user would notice.

    Attributes:
        facts: what it is about ("values of layers.0.weight") -> the fact, in a form that can be compared;
            tensors by their digest.
    """

    facts: dict[str, Any]

    @classmethod
    def of(cls, model: nn.Module) -> ModelState:
        """The state of a model now."""
        facts: dict[str, Any] = {}
        for name, module in model.named_modules():
            facts[f"training flag of {name or 'the model'}"] = module.training
            facts[f"hooks of {name or 'the model'}"] = [len(getattr(module, kind)) for kind in HOOKS]
        for name, parameter in model.named_parameters():
            facts[f"values of {name}"] = _digest(parameter)
            facts[f"requires_grad of {name}"] = parameter.requires_grad
            facts[f"gradient of {name}"] = None if parameter.grad is None else _digest(parameter.grad)
        for name, buffer in model.named_buffers():
            facts[f"values of {name}"] = _digest(buffer)
        return cls(facts)

    def expect_unchanged(self, model: nn.Module, when: str) -> None:
        """Check that a model is still as it was.

        Raises:
            BrokenPromiseError: it is not; the first differences are named.
        """
        now = ModelState.of(model).facts
        changed = [name for name in {**self.facts, **now} if self.facts.get(name) != now.get(name)]
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        expect(not changed, f"{when}, changed: {', '.join(changed[:3])}{more}")


def after_success(subject: Subject) -> str:
    """A run and its explanation leave no trace in the model.

    No weight, buffer, hook, gradient or flag is another than before: the model is the user's.
    """
    _ = subject.default_run
    with _unusual(subject.adapter.model) as before:
        for name, work in _stages(subject).items():
            work()
            before.expect_unchanged(subject.adapter.model, f"after {name}")
    return f"{len(before.facts)} facts unchanged"


def after_error(subject: Subject) -> str:
    """An error in the middle of a run, or of its explanation, leaves no trace in the model."""
    return _stopped(subject, _DeliberateError("raised on purpose by the conformance check"))


def after_interrupt(subject: Subject) -> str:
    """Ctrl-C in the middle of a run, or of its explanation, leaves no trace in the model."""
    return _stopped(subject, _DeliberateInterrupt())


def _stages(subject: Subject) -> dict[str, Callable[[], object]]:
    """What the engine does with a model."""

    def denoising() -> None:
        with torch.no_grad(), untouched(subject.adapter.model):
            subject.adapter.denoise(subject.prepare(subject.shown), subject.settings)

    layer = subject.adapter.layer_path(0)
    stages: dict[str, Callable[[], object]] = {
        "denoising": denoising,
        "explaining": lambda: subject.probed(layer, {"cache": None}),
    }
    if "prefix" in subject.adapter.caches:
        stages["explaining with a prefix cache"] = lambda: subject.probed(layer, {"cache": "prefix"})
    return stages


def _stopped(subject: Subject, error: BaseException) -> str:
    """Stop every stage in the last block: denoising at its second call, if any, explaining at its first."""
    model, stages = subject.adapter.model, _stages(subject)
    # What is explained is computed before anything is stopped. A block of the prompt alone may be called once.
    _, denoising_calls = subject.default_run, _calls(subject.adapter.blocks[-1], stages["denoising"])
    with _unusual(model) as before:
        for name, work in stages.items():
            last = min(2, denoising_calls) if name == "denoising" else 1
            calls = 0

            def stop(module: nn.Module, args: Any, output: Any, last: int = last) -> None:
                nonlocal calls
                calls += 1
                if calls == last:
                    raise error

            handle = subject.adapter.blocks[-1].register_forward_hook(stop)
            try:
                work()
            except type(error):
                pass
            else:
                raise BrokenPromiseError(
                    f"a forward hook of the last block stops {name} at its call number {last}, but {name} went on: "
                    f"the hook was called {calls} times"
                )
            finally:
                handle.remove()
            before.expect_unchanged(model, f"after {type(error).__mro__[1].__name__} while {name}")
    return f"{len(before.facts)} facts unchanged, stopped while {', '.join(stages)}"


def _calls(module: nn.Module, work: Callable[[], object]) -> int:
    """How often a module's forward hooks are called in some work."""
    calls = 0

    def count(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal calls
        calls += 1

    handle = module.register_forward_hook(count)
    try:
        work()
    finally:
        handle.remove()
    return calls


@contextmanager
def _unusual(model: nn.Module) -> Iterator[ModelState]:
    """A model in a mixed state, so that what is not restored is seen: yields that state, and ends it after.

    Every second module is in training mode, every second parameter is frozen, the smallest has a gradient.
    """
    modes = {module: module.training for module in model.modules()}
    parameters = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    flags = [parameter.requires_grad for parameter in parameters]
    smallest = min(parameters, key=Tensor.numel)
    gradient = smallest.grad
    try:
        for index, module in enumerate(modes):
            module.training = index % 2 == 0
        for index, parameter in enumerate(parameters):
            parameter.requires_grad_(index % 2 == 0)
        smallest.grad = torch.ones_like(smallest)
        yield ModelState.of(model)
    finally:
        smallest.grad = gradient
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag)
        for module, mode in modes.items():
            module.training = mode


def _digest(tensor: Tensor) -> str:
    """Shape, dtype and a digest of the bits of a tensor."""
    shape = f"{list(tensor.shape)} {tensor.dtype}"
    if tensor.is_meta:  # kept in a file: there are no bits here
        return shape
    bits = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return f"{shape} {hashlib.blake2b(bits.numpy().tobytes(), digest_size=16).hexdigest()}"
