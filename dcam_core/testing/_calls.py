"""What the checks of several kinds share: pure functions on tensors, called under watch."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dcam_core.conformance.check import BrokenPromiseError, expect

__all__ = [
    "HALF",
    "by_keyword",
    "close",
    "copied",
    "deterministic",
    "found",
    "inputs_untouched",
    "on_the_device_of_its_inputs",
    "random_states_untouched",
    "seeded",
    "transposed",
    "without_graph",
]

HALF = (torch.float16, torch.bfloat16)
"""The half precisions."""

Call = Callable[[], Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own: examples are always the same, and the global random state is left alone."""
    return torch.Generator().manual_seed(seed)


def found(tensor: object) -> str:
    """What something is, for messages: "[2, 3] torch.float32 on cpu"."""
    if not isinstance(tensor, Tensor):
        return f"a {type(tensor).__name__}"
    return f"{list(tensor.shape)} {tensor.dtype} on {tensor.device}"


def close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> str:
    """Hold two results to each other; NaN equals NaN.

    Args:
        actual: one result.
        expected: the other.
        tolerance: the largest difference that rounding explains.
        what: beginning of the message.

    Returns:
        The largest difference.
    """
    expect(actual.shape == expected.shape, f"{what}: {found(actual)}, expected {found(expected)}")
    actual, expected = actual.double(), expected.double()
    unequal = ((actual - expected).abs() > tolerance) | (actual.isnan() != expected.isnan())
    largest = (actual - expected).nan_to_num(nan=0.0).abs().max().item() if actual.numel() else 0.0
    expect(
        not unequal.any(),
        f"{what}: {int(unequal.sum())} of {actual.numel()} values differ, largest difference {largest:.3g}",
    )
    return f"largest difference {largest:.1e}"


def deterministic(call: Call) -> str:
    """Called twice, the same bits."""
    first, second = call(), call()
    return close(second, first, 0.0, "the second call with the same inputs gave something else")


def inputs_untouched(call: Call, inputs: Sequence[Tensor]) -> str:
    """What was given is as it was given."""
    before = [each.clone() for each in inputs]
    call()
    changed = [index for index, each in enumerate(inputs) if not torch.equal(each, before[index])]
    expect(
        not changed, f"it wrote into its inputs: number {', '.join(map(str, changed))} has other values now"
    )
    return f"{len(inputs)} inputs unchanged"


def random_states_untouched(call: Callable[[], object]) -> str:
    """No global generator of torch, numpy or Python has moved on, nor been seeded anew."""
    torch_state, python_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    call()
    same = {
        "torch": torch.equal(torch.get_rng_state(), torch_state),
        "random": random.getstate() == python_state,
        "numpy.random": repr(np.random.get_state()) == repr(numpy_state),
    }
    moved = [name for name, unchanged in same.items() if not unchanged]
    expect(
        not moved, f"it changed the global random state of {', '.join(moved)}: use a generator of your own"
    )
    return "torch, random and numpy.random as before"


def on_the_device_of_its_inputs(call: Call) -> str:
    """Whatever it makes is made on the device of its inputs. Found without a second device.

    What is made without saying where lands on the default device: that is set to "meta", where no tensor meets
    one on the CPU.
    """
    expected = call()
    try:
        with torch.device("meta"):
            actual = call()
    except Exception as error:
        raise BrokenPromiseError(
            "it makes a tensor without saying on which device, which fails where the inputs are on another than "
            f"the default one: give device=... ({type(error).__name__}: {error})"
        ) from error
    expect(
        actual.device == expected.device,
        f"its result is on the default device, not on {expected.device} with the inputs: give device=...",
    )
    return close(actual, expected, 0.0, "the result depends on the default device")


def transposed(tensor: Tensor) -> Tensor:
    """The same values in another memory layout: the last two dimensions lie the other way round."""
    return tensor.mT.contiguous().mT


def without_graph(call: Call) -> str:
    """It runs in inference mode, and asks for no gradients of its own."""
    with torch.inference_mode():
        result = call()
    expect(not result.requires_grad, "its result requires gradients though grad mode is off")
    return "runs in inference mode"


def copied(module: nn.Module, call: Callable[[nn.Module], Tensor]) -> str:
    """A deep copy, and a copy that took its state_dict, give the same."""
    expected = call(module)
    twin = copy.deepcopy(module)
    close(call(twin), expected, 0.0, "a deep copy gives something else")
    twin.load_state_dict(module.state_dict())
    return close(call(twin), expected, 0.0, "a copy that loaded the state_dict gives something else")


def by_keyword(instance: object) -> str:
    """All parameters of `__init__` can be given by name, as a method's YAML and the command line give them."""
    if type(instance).__init__ in (nn.Module.__init__, object.__init__):  # their signatures take anything
        return "no parameters"
    parameters = inspect.signature(type(instance)).parameters.values()
    unnamed = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)]
    expect(
        not unnamed, f"__init__ takes {', '.join(unnamed)} by position alone: methods give parameters by name"
    )
    return ", ".join(p.name for p in parameters) or "no parameters"
