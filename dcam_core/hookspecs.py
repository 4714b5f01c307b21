"""Every hook of dcam, kind by kind; `dcam_core/plugins/life.py` tells the order in which a run calls them.

A plugin is a module (or any object) with functions named like the hooks below and marked with `hookimpl`.
It may ask for fewer arguments than a hook declares, never for others. Hook wrappers are not offered.

Three kinds of hook:

* **Registering** hooks are called once, when the plugin is loaded, with a `register` callback. They name
  what the plugin offers as import strings, so that loading a plugin costs nothing. An exception here, or a
  name that is already taken, is that plugin's failure: it is set aside, recorded, and nothing else suffers.
* **Deciding** hooks: the first answer that is not None wins. Asked in this order: what the user passed to
  this engine (functions first, then plugins), the chosen adapter's own plugin, all other plugins, the core's
  default. A plugin that brings other families' adapters, but not the chosen one, is never asked. An exception
  here stops the run, and so does an answer that does not fit: each hook says by which error.
* **Observing** hooks: every plugin hears them and their return value is ignored. An exception here is
  reported as a warning that names the plugin, and the run goes on; in strict mode it stops the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

if TYPE_CHECKING:
    from torch import Tensor

    from dcam_core.adapter import Adapter, Layer
    from dcam_core.denoising import DenoisingStep
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.probing.gradient_targets import GradientTarget
    from dcam_core.probing.mask_steps import ProbeState
    from dcam_core.probing.targets import Target
    from dcam_core.results.explanation import Explanation

__all__ = ["PROJECT", "Register", "hookimpl", "hookspec"]

PROJECT = "dcam"
"""Name of the pluggy project, and of the entry-point group in which plugins are found."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Register(Protocol):
    """The callback of the registering hooks."""

    def __call__(self, name: str, target: object, /, **metadata: Any) -> None:
        """Offer one thing under a name.

        Args:
            name: how users ask for it; "_" and "-", upper and lower case are the same.
            target: an import string "package.module:attribute", imported only when somebody asks for the
                thing, or the thing itself.
            metadata: facts that must be known without importing it; each kind says which.

        Raises:
            PluginError: the name is taken, or a string target is no import string.
        """


# -- registering ---------------------------------------------------------------------------------------------


@hookspec
def dcam_register_adapters(register: Register) -> None:
    """Offer adapters, subclasses of `dcam_core.Adapter`; the name is the family ("llada-v").

    Args:
        register: `register(family, target, architectures=[...], model_types=[...], tensors=[...])`. The first
            two lists are the values in a checkpoint's config.json by which the family is recognised; an
            architecture, which names one model class, counts more than a model type, which families may
            share. `tensors` are regular expressions for names of the checkpoint's tensors: if another
            family's adapter fails to load such a checkpoint, its error says that it looks like this one.
    """


@hookspec
def dcam_register_attributions(register: Register) -> None:
    """Offer attributions, subclasses of `dcam_core.Attribution` or of `dcam_core.ModelAttribution`.

    Args:
        register: `register(name, target)`; a method asks for it by `attribution: {name: NAME}`.
    """


@hookspec
def dcam_register_refiners(register: Register) -> None:
    """Offer refiners, subclasses of `dcam_core.Refiner`.

    Args:
        register: `register(name, target)`; a method asks for it by `refiners: {NAME: {}}`.
    """


@hookspec
def dcam_register_methods(register: Register) -> None:
    """Offer methods: presets that name an attribution, its states and targets, and refiners.

    Args:
        register: `register(name, target)` with a `pathlib.Path` to a YAML file; users ask for it by
            `Explainer(model, NAME)` or `--method NAME`. With `baseline=True` it is what other methods are compared
            with: `dcam evaluate` adds it to every table.
    """


@hookspec
def dcam_register_metrics(register: Register) -> None:
    """Offer metrics: subclasses of `dcam_core.Metric`, which compare maps with masks, or of `dcam_core.ModelMeasure`.

    Args:
        register: `register(name, target)`. With `columns=[...]` it is measured by `dcam evaluate` if the user names
            no metric, once for each entry: "" for the metric as it is, "KEY=VALUE" for one with this parameter.
    """


@hookspec
def dcam_register_datasets(register: Register) -> None:
    """Offer datasets of pictures, prompts and object masks, subclasses of `dcam_core.ExplanationDataset`.

    Args:
        register: `register(name, target)`.
    """


@hookspec
def dcam_register_papers(register: Register) -> None:
    """Offer published tables, to be measured anew and set beside what is found.

    Args:
        register: `register(name, target)` with a `pathlib.Path` to a YAML file (docs/reproducing.md says what it
            holds); users ask for it by `dcam reproduce NAME`.
    """


@hookspec
def dcam_register_models(register: Register) -> None:
    """Offer checkpoints that can be asked for by name instead of by folder.

    Args:
        register: `register(name, target, adapter=FAMILY, ...)`; the target gives the checkpoint's folder.
            Embedded models add `demo_picture`, `demo_prompt`, and, if they can be retrained,
            `recipe="module:function"`, called with the keywords `out` (a `Path`), `dataset` (what is
            registered under the name `dataset=NAME`) and `seed`.
    """


# -- deciding ------------------------------------------------------------------------------------------------


@hookspec(firstresult=True)
def dcam_probe_layer(adapter: Adapter, method: Mapping[str, Any]) -> Layer | Sequence[Layer] | None:
    """Choose the module whose output is probed, or several.

    What the user passed to this engine is asked always; installed plugins are asked where the method leaves
    `probe_layer` open.

    Args:
        adapter: the chosen model.
        method: the merged method configuration, as plain data; its `probe_layer` is None where it is left open.

    Returns:
        A module path ("model.layers.2.input_layernorm"), the number of a block (negative: from the end), a
        fraction of depth in [0, 1], or a list of these (their maps are averaged); None to pass the question on.

    Raises:
        PluginError: the answer is no layer of the model.
        ConfigurationError: the method itself names a layer that the model does not have.
    """


@hookspec(firstresult=True)
def dcam_mask_step(
    policy: str | int, target: Target, trajectory: Trajectory, adapter: Adapter
) -> Sequence[ProbeState] | None:
    """Choose the states of the answer that are replayed to explain a target.

    Args:
        policy: the method's `mask_step`: the name of a policy, or the number of a step.
        target: the word or phrase to explain.
        trajectory: the recorded denoising run.
        adapter: the chosen model.

    Returns:
        The `ProbeState`s to replay (their maps are averaged, weighted by the positions read), or None:
        "this policy is not mine".

    Raises:
        ConfigurationError: no plugin answered.
        PluginError: no state at all, a state of another shape or dtype than the answer region, one that reads
            positions which are not the target's, or one of a step that was not taken.
        StructuralValidityError: the step of a state cannot be probed: its forward pass did not hold the whole
            picture, or computed nothing at a position that is to be read.
    """


@hookspec(firstresult=True)
def dcam_gradient_target(
    name: str, parameters: Mapping[str, Any], target: Target, adapter: Adapter, trajectory: Trajectory
) -> GradientTarget | None:
    """Choose the scalar that is differentiated.

    Args:
        name: the method's `gradient_target.name`.
        parameters: the other keys of the method's `gradient_target`.
        target: the word or phrase to explain.
        adapter: the chosen model.
        trajectory: the recorded denoising run.

    Returns:
        The score to differentiate, and the positions beside the word's own whose logits it reads, or None:
        "this name is not mine".

    Raises:
        ConfigurationError: no plugin answered, or a position lies outside the answer region.
        PluginError: the answer is no `GradientTarget`, or its score fails, or gives what is not a finite scalar
            that depends on the logits.
    """


# -- observing -----------------------------------------------------------------------------------------------


@hookspec
def dcam_denoising_step(step: DenoisingStep, adapter: Adapter) -> None:
    """Hear that a denoising step was taken.

    Args:
        step: its number, the ids of the answer region after it, and the positions that it decided.
        adapter: the model that took it.
    """


@hookspec
def dcam_maps_made(targets: Sequence[Target], raw: Tensor, maps: Tensor, picture: int) -> None:
    """Hear that the maps over one picture were made, before they become an explanation.

    Args:
        targets: T explained targets.
        raw: [T, H, W] float32, the maps of the attribution over this picture; not to be written to.
        maps: [T, H, W] float32 in [0, 1], the maps after all refiners, on the grid of the raw maps or a finer one;
            not to be written to. Pictures differ in H and W; the maps of one target share one scale over all of them.
        picture: which picture the maps lie over, counted from 0 in the order of the prompt.
    """


@hookspec
def dcam_explained(explanation: Explanation) -> None:
    """Hear that an explanation is complete.

    Args:
        explanation: the result as the user will get it.
    """
