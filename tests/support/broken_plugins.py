"""Plugins that are broken in every way that the hooks allow, as files of a distribution, and what a user reads."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

__all__ = ["ASKED", "DECIDED", "LOADED", "OBSERVED", "Broken"]

EXPLAIN = (
    "-p dcam_core.testing.plugin explain picture.png --prompt moon --model toy --method grad-cam -t @1 -o out"
)
"""The command in which plugins are asked: the toy model explains one word."""


@dataclass(frozen=True)
class Broken:
    """One broken plugin: entry point "broken" of the distribution "dcam-broken" 1.0.

    Attributes:
        what: what is broken, for people.
        source: source of its module, behind the import of `hookimpl`.
        shown: parts of the one line that the user must read.
        arguments: what is added to the command that shows it.
    """

    what: str
    source: str
    shown: tuple[str, ...]
    arguments: str = ""

    @property
    def module(self) -> str:
        """Source of the module."""
        return f"from dcam_core.hookspecs import hookimpl\n{textwrap.dedent(self.source)}"


def _hook(signature: str, body: str) -> str:
    return f"@hookimpl\ndef {signature}:\n    {body}\n"


def _offer(kind: str, target: str, source: str = "", **metadata: object) -> str:
    """A plugin that offers one thing, named "odd"."""
    facts = "".join(f", {key}={value!r}" for key, value in metadata.items())
    return source + _hook(f"dcam_register_{kind}(register)", f"register('odd', {target}{facts})")


def _attribution(body: str) -> str:
    source = "from dcam_core import Attribution\nclass Odd(Attribution):\n"
    source += "    def forward(self, activations, gradients):\n"
    return _offer("attributions", "Odd", f"{source}        {body}\n")


def _refiner(body: str) -> str:
    source = "from dcam_core import Refiner\nclass Odd(Refiner):\n    def forward(self, maps, context):\n"
    return _offer("refiners", "Odd", f"{source}        {body}\n")


def _states(answer: str) -> str:
    return "from dcam_core import ProbeState\n" + _hook(
        "dcam_mask_step(target, trajectory)", f"return {answer}"
    )


def _score(score: str, more: str = "") -> str:
    return "from dcam_core import GradientTarget\n" + _hook(
        "dcam_gradient_target(target)", f"return GradientTarget({score}{more})"
    )


FAILED = "plugin 'broken' (dcam-broken 1.0) failed to"
WHO = "plugin 'broken' (dcam-broken 1.0)"

LOADED = (
    Broken(
        "a module that cannot be imported",
        "import no_such_module",
        (f"{FAILED} import: ModuleNotFoundError",),
    ),
    Broken("a syntax error", "def :", (f"{FAILED} import: SyntaxError",)),
    Broken("sys.exit() at import", "raise SystemExit(3)", (f"{FAILED} import: SystemExit: 3",)),
    Broken(
        "an argument that the hook does not have",
        _hook("dcam_mask_step(polcy, target)", "return None"),
        (f"{FAILED} validate: dcam_mask_step asks for the argument 'polcy'", "Did you mean 'policy'?"),
    ),
    Broken(
        "a misspelt hook",
        _hook("dcam_mask_stp(policy)", "return None"),
        (f"{FAILED} validate: dcam_mask_stp is no hook of dcam", "Did you mean 'dcam_mask_step'?"),
    ),
    Broken(
        "a hook without its marker",
        "def dcam_explained(explanation):\n    pass\n",
        (f"{FAILED} validate: dcam_explained is named like a hook but not marked: add @hookimpl",),
    ),
    Broken(
        "a generator for a hook",
        _hook("dcam_explained(explanation)", "yield"),
        (f"{FAILED} validate: dcam_explained is a generator or async function",),
    ),
    Broken(
        "an async hook",
        "@hookimpl\nasync def dcam_explained(explanation):\n    pass\n",
        (f"{FAILED} validate: dcam_explained is a generator or async function",),
    ),
    Broken("no hook at all", "", (f"{FAILED} validate: it has no function marked with @hookimpl",)),
    *(
        Broken(
            f"an exception in dcam_register_{kind}",
            _hook(f"dcam_register_{kind}(register)", "raise OSError('no disk')"),
            (f"{FAILED} register in dcam_register_{kind}: OSError: no disk",),
        )
        for kind in ("adapters", "attributions", "refiners", "methods", "metrics", "datasets", "models")
    ),
    Broken(
        "a registering hook that returns a list",
        _hook("dcam_register_refiners(register)", "return ['odd']"),
        (f"{FAILED} register: dcam_register_refiners returned a list: expected nothing; call register(",),
    ),
    Broken(
        "an import string that is none",
        _offer("refiners", "'broken.Odd'"),
        (f"{FAILED} register: refiner 'odd' is registered as 'broken.Odd', which is no import string",),
    ),
    Broken(
        "a name that is taken",
        _hook("dcam_register_refiners(register)", "register('min-max', object)"),
        (
            f"{FAILED} register: refiner 'min-max' of plugin 'broken' (dcam-broken) is already registered by ",
            "plugin 'methods' (dcam), which stays: rename it, or switch one of the two off (`-p no:methods`)",
        ),
    ),
    Broken(
        "a string for a list of architectures",
        _offer("adapters", "object", architectures="OddLM"),
        (f"{FAILED} register: architectures of adapter 'odd' is a string: give a list of strings",),
    ),
    Broken(
        "a pattern that is no regular expression",
        _offer("adapters", "object", tensors=["("]),
        (f"{FAILED} register: tensors of adapter 'odd': '(' is no regular expression",),
    ),
)
"""Set aside when they are loaded: a warning, and the run goes on."""

ASKED = (
    Broken(
        "a refiner whose module is missing",
        _offer("refiners", "'no_such_module:Odd'"),
        ("refiner 'odd' of plugin 'broken' (dcam-broken) cannot be imported from 'no_such_module:Odd'",),
        "refiners.odd={}",
    ),
    Broken(
        "a refiner that is none",
        _offer("refiners", "'pathlib:Path'"),
        (
            "refiner 'odd' of plugin 'broken' (dcam-broken)",
            "is the class Path: expected a subclass of dcam_core.Refiner",
        ),
        "refiners.odd={}",
    ),
    Broken(
        "a refiner without forward",
        _offer("refiners", "Odd", "from dcam_core import Refiner\nclass Odd(Refiner):\n    pass\n"),
        ("refiner 'odd' of plugin 'broken' (dcam-broken) does not implement forward",),
        "refiners.odd={}",
    ),
    Broken(
        "an adapter that is none",
        _offer("adapters", "'builtins:dict'"),
        (
            "adapter 'odd' of plugin 'broken' (dcam-broken)",
            "is the class dict: expected a subclass of dcam_core.Adapter",
        ),
        "--adapter odd",
    ),
    Broken(
        "an attribution that is an instance",
        _offer("attributions", "3"),
        ("attribution 'odd' of plugin 'broken' (dcam-broken) is an int: expected a class, a subclass of",),
        "attribution.name=odd",
    ),
    Broken(
        "a method whose file is not there",
        _offer("methods", "Path('/nowhere.yaml')", "from pathlib import Path\n"),
        ("method 'odd' of plugin 'broken' (dcam-broken) is /nowhere.yaml, which is not there",),
        "--method odd",
    ),
    Broken(
        "a model whose folder is not there",
        _offer("models", "Path('/nowhere')", "from pathlib import Path\n", adapter="toy"),
        ("model 'odd' of plugin 'broken' (dcam-broken) is /nowhere, which is not there",),
        "--model odd",
    ),
    *(
        Broken(
            f"an attribution that {what}",
            _attribution(body),
            ("attribution 'odd' of plugin 'broken' (dcam-broken)", found),
            "attribution.name=odd",
        )
        for what, body, found in (
            (
                "raises",
                "raise ValueError('no luck')",
                "failed at 'blocks.1', on activations [1, 16, 24]: ValueError: no luck",
            ),
            ("gives a list", "return [1]", "gave a list: expected a floating-point tensor of shape [1, 16]"),
            (
                "gives another shape",
                "return activations",
                "gave a float32 tensor of shape [1, 16, 24]: expected",
            ),
            (
                "gives integers",
                "return activations.sum(-1).long()",
                "gave an int64 tensor of shape [1, 16]: expected",
            ),
            ("gives NaN", "return activations.sum(-1) * float('nan')", "gave values that are not finite at"),
            ("gives evidence below 0", "return activations.abs().sum(-1) - 99", "gave values down to -"),
        )
    ),
    *(
        Broken(
            f"a refiner that {what}",
            _refiner(body),
            ("refiner 'odd' of plugin 'broken' (dcam-broken)", found, expected),
            "refiners.odd={}",
        )
        for what, body, found, expected in (
            ("raises", "raise ValueError('no luck')", "failed on maps [1, 3, 4]", "ValueError: no luck"),
            (
                "gives a list",
                "return [1]",
                "gave a list",
                "expected finite [1, 3, 4] torch.float32 in [0, 1]",
            ),
            (
                "gives another shape",
                "return maps[:, 1:]",
                "gave a float32 tensor of shape [1, 2, 4]",
                "expected finite",
            ),
            (
                "gives another dtype",
                "return maps.half()",
                "gave a float16 tensor of shape [1, 3, 4]",
                "expected finite",
            ),
            (
                "gives NaN",
                "return maps * float('nan')",
                "with 12 values that are not finite",
                "expected finite",
            ),
            ("gives values out of range", "return maps * 3", "gave values from 0 to 3", "in [0, 1]"),
        )
    ),
)
"""Loaded, but what they offer is broken: an error when it is asked for."""

DECIDED = (
    *(
        Broken(
            f"an exception in {signature.partition('(')[0]}",
            _hook(signature, f"raise {error}"),
            (f"{WHO} failed in {signature.partition('(')[0]}: ", shown),
        )
        for signature, error, shown in (
            ("dcam_probe_layer(adapter)", "ZeroDivisionError('by zero')", "ZeroDivisionError: by zero"),
            ("dcam_mask_step(target)", "KeyError('colour')", "KeyError: 'colour'"),
            ("dcam_gradient_target(target)", "SystemExit(3)", "SystemExit: 3"),
        )
    ),
    Broken(
        "a mapping for a layer",
        _hook("dcam_probe_layer()", "return {'blocks.0': 1}"),
        (f"{WHO} answered dcam_probe_layer with a dict: expected a module path, the number of a block",),
    ),
    Broken(
        "a layer that is not there",
        _hook("dcam_probe_layer()", "return 'blocks.9'"),
        (
            f"{WHO} answered dcam_probe_layer with 'blocks.9': expected a layer of this model",
            "such as 'blocks.2'",
        ),
    ),
    *(
        Broken(what, _states(answer), (f"{WHO} answered dcam_mask_step with {found}", expected))
        for what, answer, found, expected in (
            (
                "one state, no list",
                "ProbeState(trajectory.final, target.positions, 0)",
                "a ProbeState",
                "a list of",
            ),
            ("no state", "[]", "no state to replay for 'red'", "expected at least one ProbeState"),
            (
                "ids for states",
                "[trajectory.final]",
                "an int64 tensor of shape [8] among the states",
                "int64 ids of",
            ),
            (
                "ids of another shape",
                "[ProbeState(trajectory.final[:5], target.positions, 0)]",
                "ids that are an int64 tensor of shape [5]",
                "expected ProbeStates with int64 ids of shape [8]",
            ),
            (
                "ids of another dtype",
                "[ProbeState(trajectory.final.float(), target.positions, 0)]",
                "ids that are a float32 tensor of shape [8]",
                "expected ProbeStates with int64 ids of shape [8]",
            ),
            (
                "ids below 0",
                "[ProbeState(trajectory.final - 99, target.positions, 0)]",
                "the id -",
                "int64 ids",
            ),
            (
                "positions that are not the target's",
                "[ProbeState(trajectory.final, (1, 6), 0)]",
                "a state that reads positions (1, 6)",
                "that read positions out of (1,) of 'red'",
            ),
            (
                "a step that was not taken",
                "[ProbeState(trajectory.final, target.positions, 99)]",
                "step 99",
                "from 0 to 7",
            ),
        )
    ),
    Broken(
        "a function for a gradient target",
        _hook("dcam_gradient_target()", "return lambda logits, ids: logits.sum()"),
        (f"{WHO} answered dcam_gradient_target with a function: expected a GradientTarget",),
    ),
    *(
        Broken(what, _score(score), (f"{WHO} answered dcam_gradient_target with {found}", expected))
        for what, score, found, expected in (
            (
                "a score that is no scalar",
                "lambda logits, ids: logits[0]",
                "a score that is a float32 tensor",
                "scalar",
            ),
            (
                "a score that is a number",
                "lambda logits, ids: 3.0",
                "a score that is a float",
                "scalar tensor",
            ),
            (
                "a score without gradient",
                "lambda logits, ids: logits[0, 5].detach()",
                "a score that has no",
                "computed",
            ),
            (
                "a score that is not finite",
                "lambda logits, ids: logits.sum()",
                "a score that is -inf for 'red'",
                "finite",
            ),
        )
    ),
    Broken(
        "a score that raises",
        _score("lambda logits, ids: 1 / 0"),
        (f"the score that {WHO} answered dcam_gradient_target with failed for 'red'", "ZeroDivisionError"),
    ),
    Broken(
        "a score that reads outside of the answer",
        _score("lambda logits, ids: logits[0, 5]", ", context=(99,)"),
        (f"gradient_target, answered by {WHO}, reads answer positions (99,)", "has positions 0 to 7"),
    ),
)
"""Answers that stop the run."""

OBSERVED = tuple(
    Broken(
        f"an exception in {hook}",
        _hook(f"{hook}()", "raise OSError('full disk')"),
        (f"{WHO} failed in {hook}: OSError: full disk",),
    )
    for hook in ("dcam_denoising_step", "dcam_maps_made", "dcam_explained")
)
"""Failures of those who only hear: a warning and the run goes on; in strict mode an error."""
