"""The life of a run: which hook is called when, by whom, and how often.

The reference page is written from this, and a test lets a plugin with every hook live through real runs and
compares what it heard.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LIFE", "Phase"]


@dataclass(frozen=True)
class Phase:
    """A stretch of a run in which some hooks are called, in their order, once for each of something.

    Attributes:
        name: what happens, as a sentence without its full stop.
        each: the hooks are called once for each of these, all of them before the next one's turn.
        hooks: names of the hooks, in the order in which they are called.
        caller: the function during which they are called, as an import string "package.module:qualified.name".
        says: what a plugin's author should know about this moment.
    """

    name: str
    each: str
    hooks: tuple[str, ...]
    caller: str
    says: str


LIFE: tuple[Phase, ...] = (
    Phase(
        name="The plugins are loaded",
        each="plugin",
        hooks=(
            "dcam_register_adapters",
            "dcam_register_attributions",
            "dcam_register_refiners",
            "dcam_register_methods",
            "dcam_register_metrics",
            "dcam_register_datasets",
            "dcam_register_papers",
            "dcam_register_models",
        ),
        caller="dcam_core.plugins.manager:PluginManager.load",
        says="A `PluginManager` does this when something is first asked for, not when it is made, and never "
        "again. Register names and import strings here and import nothing heavy: `dcam plugins` runs this too.",
    ),
    Phase(
        name="An `Explainer` is made",
        each="explainer",
        hooks=("dcam_probe_layer",),
        caller="dcam_core.explainer:Explainer.__init__",
        says="The model is loaded and the method is merged. Where the method names a layer, that is the answer, "
        "and of all plugins only those that the user passed to this engine are asked before it.",
    ),
    Phase(
        name="The answer is written",
        each="denoising step",
        hooks=("dcam_denoising_step",),
        caller="dcam_core.explainer:Explainer.explain",
        says="The picture was read, the prompt prepared. Gradients are off. An answer that reaches its stop "
        "sequence takes fewer steps than the sampler's settings allow.",
    ),
    Phase(
        name="What is read is chosen",
        each="target",
        hooks=("dcam_mask_step", "dcam_gradient_target"),
        caller="dcam_core.probing.readings:plan_readings",
        says="The answer is complete and its words are known. The questions for all targets are put before the "
        "first state is replayed, so an answer of the wrong kind costs no forward pass.",
    ),
    Phase(
        name="The maps are made",
        each="picture",
        hooks=("dcam_maps_made",),
        caller="dcam_core.explainer:Explainer.explain_run",
        says="All states were replayed, the attribution and the refiners have done their work.",
    ),
    Phase(
        name="The explanation is complete",
        each="explanation",
        hooks=("dcam_explained",),
        caller="dcam_core.explainer:Explainer.explain",
        says="The last thing before the user gets it. `Explainer.explain_run`, which explains an answer that is "
        "written already, begins with the choice of what is read and makes no explanation: it ends before this.",
    ),
)
"""Every hook, in the order in which a run calls them."""
