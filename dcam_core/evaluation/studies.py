"""Studies of a method: what becomes of it when refiners are left out, one setting varies, or another layer is probed.

A study turns a method into variants: the method with settings laid over it. It knows nothing of models and pictures.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dcam_core.adapter import NORMS
from dcam_core.errors import ConfigurationError
from dcam_core.evaluation.making import read_parameters
from dcam_core.method import Method

if TYPE_CHECKING:
    from dcam_core.plugins.registry import Registry
    from dcam_core.refiner import Refiner

__all__ = ["ABLATIONS", "Ablation", "Layers", "Plan", "Step", "Study", "Sweep"]


@dataclass(frozen=True)
class Step:
    """One variant of a method.

    Attributes:
        name: what the variant is called, behind the method's name; "" is the method itself.
        value: where it stands in a picture: a number on an axis, or the text of a row.
        overrides: settings laid over the method.
    """

    name: str
    value: Any
    overrides: Mapping[str, Any]


class Study(ABC):
    """What turns a method into variants.

    Attributes:
        asked: the study in the words in which it is asked for; the same words, the same study.
        title: what varies, for people.
    """

    asked: str
    title: str

    @abstractmethod
    def steps(self, method: Method, depth: int, refiners: Registry[type[Refiner]]) -> list[Step]:
        """The variants of a method, in the order in which they are shown.

        Args:
            method: the method.
            depth: number of blocks of the model.
            refiners: the registered refiners.

        Returns:
            Nothing if the method does not have what the study varies.

        Raises:
            ConfigurationError: the study cannot be done with any method.
        """


# -- leaving refiners out ------------------------------------------------------------------------------------

Variants = Iterator[tuple[str, frozenset[str]]]
"""(name of a variant, which refiners it leaves out)."""


def _one_left_out(refiners: Sequence[str]) -> Variants:
    yield "", frozenset()
    for refiner in refiners:
        yield f"without {refiner}", frozenset({refiner})
    yield "unrefined", frozenset(refiners)


def _one_alone(refiners: Sequence[str]) -> Variants:
    yield "unrefined", frozenset(refiners)
    for refiner in refiners:
        yield f"only {refiner}", frozenset(refiners) - {refiner}
    yield "", frozenset()


def _one_after_the_other(refiners: Sequence[str]) -> Variants:
    yield "unrefined", frozenset(refiners)
    for number, refiner in enumerate(refiners, 1):
        yield f"up to {refiner}", frozenset(refiners[number:])
    yield "", frozenset()


class Plan(NamedTuple):
    """How refiners are left out.

    Attributes:
        title: what is done, for people.
        variants: (refiners that do more than to stretch the range, in order) -> variants.
    """

    title: str
    variants: Callable[[Sequence[str]], Variants]


ABLATIONS: Mapping[str, Plan] = {
    "refiners": Plan("each refiner left out", _one_left_out),
    "refiners:alone": Plan("each refiner alone", _one_alone),
    "refiners:cumulative": Plan("one refiner after the other", _one_after_the_other),
}
"""Name of an ablation -> how it is done."""


class Ablation(Study):
    """A method with some of its refiners left out.

    Refiners that only stretch the range of maps (`Refiner.range_only`) stay in every variant: without them it would
    be the range that is compared.

    Args:
        plan: "refiners" leaves each one out, and all; "refiners:alone" has each one alone; "refiners:cumulative" adds
            one after the other, in the method's order.

    Attributes:
        asked: "ablate PLAN".
        title: what the plan does.

    Raises:
        ConfigurationError: there is no such ablation.
    """

    def __init__(self, plan: str = "refiners") -> None:
        if plan not in ABLATIONS:
            raise ConfigurationError(f"there is no ablation {plan!r}: there are {', '.join(ABLATIONS)}")
        self.asked = f"ablate {plan}"
        self.title, self._variants = ABLATIONS[plan]

    def steps(self, method: Method, depth: int, refiners: Registry[type[Refiner]]) -> list[Step]:
        """See `Study.steps`. Two that leave out the same are one: the method itself, or the first."""
        present = [name for name, parameters in method.refiners.items() if parameters is not None]
        own = [name for name in present if not refiners.get(name).range_only]
        planned = list(self._variants(own))
        found: dict[frozenset[str], str] = {frozenset(): ""}
        for name, left_out in planned:
            found.setdefault(left_out, name)
        return [
            Step(name, name or method.name, {"refiners": dict.fromkeys(sorted(left_out))})
            for name, left_out in planned
            if own and found[left_out] == name
        ]


# -- one setting that varies ---------------------------------------------------------------------------------


class Sweep(Study):
    """A method with several values of one setting.

    Args:
        key: the setting, with dots: "mask_step", "refiners.NAME.PARAMETER". Methods that do not have this refiner are
            not concerned.
        values: plain data.

    Attributes:
        asked: "sweep KEY=VALUE,VALUE".
        title: the setting.
        key: the setting.
        values: its values.

    Raises:
        ConfigurationError: there is no value.
    """

    def __init__(self, key: str, values: Sequence[Any]) -> None:
        self.key, self.values = key.strip(), tuple(values)
        if not self.key or not self.values:
            raise ConfigurationError(
                f"sweep {key!r} has no values: give KEY=VALUE,VALUE, e.g. mask_step=infill,commit"
            )
        self.title = self.key
        self.asked = f"sweep {self.key}={','.join(map(_shown, self.values))}"

    @classmethod
    def read(cls, text: str) -> Sweep:
        """A sweep as the command line has it.

        Args:
            text: "KEY=VALUE,VALUE,..."; values are read as YAML, so [1,2] is one value.

        Raises:
            ConfigurationError: it is something else.
        """
        key, found, values = text.partition("=")
        if not found:
            raise ConfigurationError(f"sweep {text!r} is not KEY=VALUE,VALUE, e.g. mask_step=infill,commit")
        return cls(key, read_parameters([f"values=[{values}]"])["values"])

    def steps(self, method: Method, depth: int, refiners: Registry[type[Refiner]]) -> list[Step]:
        """See `Study.steps`."""
        section, _, rest = self.key.partition(".")
        if section == "refiners" and method.refiners.get(rest.partition(".")[0]) is None:
            return []
        # What is said of a refiner is known by the refiner's name.
        short = rest if section == "refiners" else self.key
        return [
            Step(f"{short}={_shown(value)}", _plotted(value), _nested(self.key, value))
            for value in self.values
        ]


class Layers(Study):
    """A method that probes one block after the other.

    Args:
        kind: "all": the outputs of all blocks; "attention-norm", "feed-forward-norm": what that part of every block
            reads.

    Attributes:
        asked: "layers KIND".
        title: "block", and what of it is probed.
        kind: which.

    Raises:
        ConfigurationError: there is no such kind of layers.
    """

    ALL = "all"

    def __init__(self, kind: str = ALL) -> None:
        if kind not in (self.ALL, *NORMS):
            raise ConfigurationError(
                f"there are no layers {kind!r}: give {self.ALL}, {', '.join(NORMS)}, or values of probe_layer with "
                "commas between them"
            )
        self.kind = kind
        self.asked = f"layers {kind}"
        self.title = f"block whose {'output' if kind == self.ALL else kind} is probed"

    @staticmethod
    def read(text: str) -> Study:
        """Layers as the command line has them: a kind, or values of the setting `probe_layer`."""
        if text.strip() in (Layers.ALL, *NORMS) or not re.search(r"[\d.,:\[]", text):
            return Layers(text.strip())
        return Sweep.read(f"probe_layer={text}")

    def steps(self, method: Method, depth: int, refiners: Registry[type[Refiner]]) -> list[Step]:
        """See `Study.steps`."""
        named = [number if self.kind == self.ALL else f"{self.kind}:{number}" for number in range(depth)]
        return [
            Step(f"probe_layer={layer}", number, {"probe_layer": layer}) for number, layer in enumerate(named)
        ]


def _nested(key: str, value: Any) -> dict[str, Any]:
    """A setting with a dotted key, as a nested mapping."""
    nested = OmegaConf.create({})
    try:
        OmegaConf.update(nested, key, value, force_add=True)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        line = " ".join(str(error).split())
        raise ConfigurationError(f"{key}={_shown(value)} is no setting: {line}") from error
    plain = OmegaConf.to_container(nested)
    return {str(name): setting for name, setting in plain.items()} if isinstance(plain, dict) else {}


def _shown(value: Any) -> str:
    """A value as it would be written on the command line."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _plotted(value: Any) -> float | str:
    """A number as it is, anything else as text."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else _shown(value)
