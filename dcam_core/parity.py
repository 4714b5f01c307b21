"""Compare a loaded checkpoint with numbers that the family's original code recorded.

A fixture (format 1) is a folder with a checkpoint in the published layout, a picture, and what the original
code computed with them: `inputs.safetensors`, `expected.safetensors`, `trajectories.safetensors`, and
`parity.json` with lengths, positions, settings and tolerances. Everything is computed in float32 on the
CPU, through the adapter's own methods; what happens inside them is read by forward hooks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from dcam_core.denoising.settings import SamplerSettings
from dcam_core.errors import ConfigurationError, UsageError
from dcam_core.models import load_model
from dcam_core.probing.gradient_targets import GradientTarget
from dcam_core.probing.probe import probe
from dcam_core.probing.replayed import Reading
from dcam_core.probing.untouched import untouched

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.inputs import Inputs
    from dcam_core.plugins import PluginManager

__all__ = ["Quantity", "compare"]

FORMAT = 1

FILES = ("parity.json", "image.png", "inputs.safetensors", "expected.safetensors")


@dataclass(frozen=True)
class Quantity:
    """One recorded quantity, compared.

    Attributes:
        name: name in the fixture: "pixel_values", "hidden.3", "plain.steps", ...
        error: largest absolute difference; infinite if the shapes differ; None if not compared.
        tolerance: largest error that passes.
        reason: why it was not compared.
    """

    name: str
    error: float | None
    tolerance: float
    reason: str = ""

    @property
    def status(self) -> Literal["pass", "fail", "skipped"]:
        """Whether the error is within tolerance."""
        if self.error is None:
            return "skipped"
        return "pass" if self.error <= self.tolerance else "fail"

    def __str__(self) -> str:
        """One line: status, name, largest error and tolerance, or the reason for skipping."""
        head = f"{self.status:<8}{self.name:<26}"
        if self.error is None:
            return f"{head}{self.reason}"
        return f"{head}largest error {self.error:.2e}, tolerance {self.tolerance:.0e}"


@torch.no_grad()
def compare(folder: str | Path, *, manager: PluginManager | None = None) -> list[Quantity]:
    """Load a fixture's checkpoint and compute everything that was recorded of it.

    Args:
        folder: the fixture.
        manager: the plugins to use; None: all that are installed.

    Returns:
        One entry per recorded quantity; those that cannot be computed are marked as skipped.

    Raises:
        UsageError: the folder is not a fixture of format 1.
        CheckpointError: its checkpoint cannot be loaded.
    """
    fixture = _Fixture.read(Path(folder))
    adapter = load_model(fixture.folder.resolve(), dtype=torch.float32, manager=manager)
    with untouched(adapter.model):
        found, inputs = _prepared(adapter, fixture)
        found |= _forward(adapter, inputs, fixture)
        if "grad" in fixture.expected:
            found["grad"] = _gradient(adapter, inputs, fixture)
        if "prefix.grad" in fixture.expected:
            found |= _prefix(adapter, inputs, fixture)
        layout = [fixture.judge(name, value, recorded) for name, value, recorded in _layout(inputs, fixture)]
        runs = [quantity for name in fixture.runs for quantity in _run(adapter, inputs, fixture, name)]
    return [
        *layout,
        *(fixture.judge(name, found.get(name), fixture.expected[name]) for name in fixture.names),
        *runs,
    ]


@dataclass(frozen=True, eq=False)
class _Fixture:
    """The content of a fixture folder."""

    folder: Path
    facts: Mapping[str, Any]
    inputs: Mapping[str, Tensor]
    expected: Mapping[str, Tensor]
    trajectories: Mapping[str, Tensor]

    @classmethod
    def read(cls, folder: Path) -> _Fixture:
        if absent := [name for name in FILES if not (folder / name).is_file()]:
            raise UsageError(
                f"{folder} is no parity fixture: it has no {', '.join(absent)}; give the fixture's folder"
            )
        facts = json.loads((folder / "parity.json").read_text(encoding="utf-8"))
        if facts.get("format") != FORMAT:
            raise UsageError(
                f"{folder}/parity.json has format {facts.get('format')!r}: this version reads {FORMAT}"
            )
        trajectories = folder / "trajectories.safetensors"
        return cls(
            folder,
            facts,
            load_file(folder / "inputs.safetensors"),
            load_file(folder / "expected.safetensors"),
            load_file(trajectories) if trajectories.is_file() else {},
        )

    @property
    def names(self) -> list[str]:
        """The recorded quantities, in the order in which a model computes them."""
        order = list(self.facts["tolerances"])
        return sorted(self.expected, key=lambda name: (order.index(self._kind(name)), name))

    @property
    def runs(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings of the recorded denoising runs."""
        return dict(self.facts.get("runs", {}))

    @property
    def states(self) -> Tensor:
        """[1, G] ids of the answer region in the recorded forward pass."""
        return self.inputs["state_ids"]

    def tolerance(self, name: str) -> float:
        return float(self.facts["tolerances"].get(self._kind(name), 0))

    def judge(self, name: str, found: Tensor | None, recorded: Tensor) -> Quantity:
        if found is None:
            return self.skip(name, "the adapter names no module for it (parity_modules)")
        return Quantity(name, _largest_error(found, recorded), self.tolerance(name))

    def skip(self, name: str, reason: str) -> Quantity:
        return Quantity(name, None, self.tolerance(name), reason)

    def _kind(self, name: str) -> str:
        """The entry of the tolerances that speaks of a quantity: "hidden" for "hidden.3"."""
        candidates = (name, name.rpartition(".")[0], name.rpartition(".")[2])
        return next((kind for kind in candidates if kind in self.facts["tolerances"]), name)


def _prepared(adapter: Adapter, fixture: _Fixture) -> tuple[dict[str, Tensor], Inputs]:
    """From the picture to the merged prompt."""
    with Image.open(fixture.folder / "image.png") as picture, _captured(adapter, fixture.names) as found:
        inputs = adapter.prepare_ids(picture, fixture.inputs["input_ids"])
    found["prompt_embeds"] = inputs.embeddings
    found["rects"] = _rectangles(inputs)
    if inputs.pixels is not None:
        found["pixel_values"] = inputs.pixels
    return found, inputs


def _forward(adapter: Adapter, inputs: Inputs, fixture: _Fixture) -> dict[str, Tensor]:
    """The recorded forward pass: every block, the final norm, the head at every position."""
    with _captured(adapter, ["final_norm"], blocks=True) as found:
        replayed = adapter.replay(inputs, fixture.states, torch.arange(fixture.states.shape[1]))
    head = adapter.parity_modules.get("logits")
    if head is not None and "final_norm" in found:
        # The adapter forms logits where they are needed; the fixture recorded them at every row.
        logits = _first(_module(adapter, head)(found["final_norm"])).float()
        start = inputs.prompt_length - adapter.prediction_shift
        found["logits"] = logits
        found["logits"][:, start : start + replayed.shape[1]] = replayed
    return found


def _prefix(adapter: Adapter, inputs: Inputs, fixture: _Fixture) -> dict[str, Tensor]:
    """Logits of the answer's rows under prefix caching, and the gradient of one with respect to the prompt."""
    recorded, length = fixture.facts["probe"], fixture.states.shape[1]
    # Rows that predict a position of the answer: with a shift, the last row predicts what lies behind it.
    rows = length - adapter.prediction_shift
    positions = torch.arange(rows) + adapter.prediction_shift
    replayed = adapter.replay(inputs, fixture.states, positions, adapter.encode_prefix(inputs))
    logits = torch.cat([replayed, fixture.expected["prefix.logits"][:, rows:]], dim=1)
    settings = SamplerSettings(answer_length=length, cache="prefix")
    position = recorded["prefix_position"] + adapter.prediction_shift
    return {
        "prefix.logits": logits,
        "prefix.grad": _probed(adapter, inputs, fixture, position, inputs.prompt_length, settings),
    }


def _gradient(adapter: Adapter, inputs: Inputs, fixture: _Fixture) -> Tensor:
    """[1, L + G, D], gradient of one logit with respect to the output of one block, by the engine's probe."""
    length = fixture.states.shape[1]
    position = fixture.facts["probe"]["position"] - inputs.prompt_length + adapter.prediction_shift
    settings = SamplerSettings(answer_length=length)
    return _probed(adapter, inputs, fixture, position, inputs.prompt_length + length, settings)


def _probed(
    adapter: Adapter,
    inputs: Inputs,
    fixture: _Fixture,
    position: int,
    rows: int,
    settings: SamplerSettings,
) -> Tensor:
    """[1, rows, D], gradient of the recorded token's logit at an answer position, by the engine's probe."""
    recorded = fixture.facts["probe"]
    reading = Reading(
        state=fixture.states[0],
        positions=(position,),
        token_ids=(recorded["vocab"],),
        objective=GradientTarget(lambda logits, ids: logits[0, ids[0]]),
    )
    layer = adapter.layer_path(recorded["block"])
    (probed,) = probe(adapter, inputs, layer, [reading], torch.arange(rows), settings)
    return probed.gradients


def _layout(inputs: Inputs, fixture: _Fixture) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, found, recorded) of where the image tokens are."""
    shown = {int(position) for view in inputs.views for position in view.positions.flatten()}
    found: dict[str, Any] = {
        "prompt_length": inputs.prompt_length,
        "image_span": inputs.image_span,
        "newline_positions": [position for position in range(*inputs.image_span) if position not in shown],
        "base_grid_hw": inputs.views[0].grid,
        "fine_grid_hw": inputs.views[1].grid if len(inputs.views) > 1 else (),
    }
    for name, value in found.items():
        if name in fixture.facts:
            yield f"layout.{name}", torch.tensor(value), torch.tensor(fixture.facts[name] or ())


def _run(adapter: Adapter, inputs: Inputs, fixture: _Fixture, name: str) -> list[Quantity]:
    """Both recorded quantities of one denoising run."""
    steps, final = f"{name}.steps", f"{name}.final"
    settings = _settings(fixture.runs[name], fixture.facts.get("suppressed_token_ids", ()))
    if isinstance(settings, str):
        return [fixture.skip(steps, settings), fixture.skip(final, settings)]
    if settings.cache is not None and settings.cache not in adapter.caches:
        reason = f'cache "{settings.cache}" is not offered by {adapter.family}'
        return [fixture.skip(steps, reason), fixture.skip(final, reason)]
    trajectory = adapter.denoise(inputs, settings)
    recorded = fixture.trajectories[steps]
    # A token that the prompt alone decides is a step of ours; the original code counts it to the next one.
    first = trajectory.steps - len(recorded) if adapter.prediction_shift and settings.cache else 0
    return [
        fixture.judge(steps, trajectory.states[1 + first :], recorded),
        fixture.judge(final, trajectory.answer_ids, fixture.trajectories[final]),
    ]


def _settings(run: Mapping[str, Any], suppressed: Sequence[int]) -> SamplerSettings | str:
    """Settings of a recorded run, or the reason why it cannot be repeated."""
    wanted: dict[str, Any] = {}
    for name, value in run.items():
        if value is not None and name not in NOTES:
            wanted |= RECORDED.get(name, lambda value, name=name: {name: value})(value)
    known = {field.name for field in fields(SamplerSettings)}
    if unknown := sorted(set(wanted) - known):
        return f"the sampler has no setting {', '.join(unknown)}"
    try:
        return SamplerSettings().merged({**wanted, "suppressed_ids": suppressed})
    except ConfigurationError as error:
        return str(error)


NOTES = ("stale_image_span_at_step", "alg_temp", "effective_eps", "logits_filter_note")
"""Entries of a recorded run that say something about it, or that have one value in all of them."""

RECORDED: Mapping[str, Callable[[Any], Mapping[str, Any]]] = {
    "remasking": lambda rule: {"remasking": str(rule).replace("_", "-")},
    "cache": lambda cache: {"cache" if name == "kind" else name: value for name, value in cache.items()},
    "prefix_cache": lambda on: {"cache": "prefix"} if on else {},
    "alg": lambda rule: {"remasking": rule, "schedule": "timesteps"},
    "effective_top_k": lambda count: {"top_k": count},
    "schedule_kwargs": dict,
}
"""Entries of a recorded run under the names of their original code -> settings of the sampler."""


def _rectangles(inputs: Inputs) -> Tensor:
    """[image tokens, 4] in the order of the sequence, NaN for newline tokens."""
    start, end = inputs.image_span
    out = torch.full((end - start, 4), float("nan"), dtype=torch.float64)
    for view in inputs.views:
        out[view.positions.flatten() - start] = view.rectangles.flatten(0, 1)
    return out


def _largest_error(found: Tensor, recorded: Tensor) -> float:
    """Largest absolute difference; infinite for different shapes or NaN at different places."""
    if found.shape != recorded.shape:
        return float("inf")
    difference = (found.double() - recorded.double()).abs()
    agreed = found.isnan() & recorded.isnan()
    difference = difference.masked_fill(agreed, 0.0).nan_to_num(nan=float("inf"))
    return float(difference.max()) if difference.numel() else 0.0


@contextmanager
def _captured(adapter: Adapter, names: Sequence[str], *, blocks: bool = False) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of the modules that stand for some quantities, and of all blocks."""
    paths = adapter.parity_modules
    modules = {name: _module(adapter, paths[name]) for name in names if name in paths}
    if blocks:
        modules |= {f"hidden.{index}": block for index, block in enumerate(adapter.blocks)}
    found: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name, module in modules.items():

            def record(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
                found[name] = _first(output)

            hooks.callback(module.register_forward_hook(record).remove)
        yield found


def _module(adapter: Adapter, module: str | nn.Module) -> nn.Module:
    """A module, or the model's module of that path."""
    return adapter.model.get_submodule(module) if isinstance(module, str) else module


def _first(output: Any) -> Tensor:
    """A module's output, or the first item of it."""
    first: Tensor = output if isinstance(output, Tensor) else output[0]
    return first
