"""dcam: where in the picture each word of a diffusion multimodal LLM came from.

```python
import dcam_core as dcam

model = dcam.load_model("tiny-llada-v")
explainer = dcam.Explainer(model)
explanation = explainer.explain("scene.png", "describe the picture", targets=["circle"])
explanation.save("out/")
```
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> module. Imported when first used, so that `dcam --help` needs no torch.
_EXPORTS = {
    "Adapter": "adapter",
    "Attribution": "attribution",
    "DcamError": "errors",
    "Explainer": "explainer",
    "Explanation": "results.explanation",
    "ExplanationDataset": "dataset",
    "GradientTarget": "probing.gradient_targets",
    "ImageView": "inputs",
    "Inputs": "inputs",
    "LeftOut": "dataset",
    "Metric": "metric",
    "ModelAttribution": "attribution",
    "ModelMeasure": "model_measure",
    "PluginManager": "plugins",
    "ProbeState": "probing.mask_steps",
    "Refiner": "refiner",
    "RefinerContext": "refiner",
    "Sample": "dataset",
    "SampleObject": "dataset",
    "SamplerSettings": "denoising.settings",
    "Trajectory": "denoising.trajectory",
    "default_manager": "plugins",
    "estimate_memory": "estimating.estimating",
    "hookimpl": "hookspecs",
    "load_explanation": "results.explanation",
    "load_model": "models",
    "wrap_model": "models",
}

__all__ = [
    "Adapter",
    "Attribution",
    "DcamError",
    "Explainer",
    "Explanation",
    "ExplanationDataset",
    "GradientTarget",
    "ImageView",
    "Inputs",
    "LeftOut",
    "Metric",
    "ModelAttribution",
    "ModelMeasure",
    "PluginManager",
    "ProbeState",
    "Refiner",
    "RefinerContext",
    "Sample",
    "SampleObject",
    "SamplerSettings",
    "Trajectory",
    "__version__",
    "default_manager",
    "estimate_memory",
    "hookimpl",
    "load_explanation",
    "load_model",
    "wrap_model",
]

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.attribution import Attribution, ModelAttribution
    from dcam_core.dataset import ExplanationDataset, Sample, SampleObject
    from dcam_core.denoising.settings import SamplerSettings
    from dcam_core.denoising.trajectory import Trajectory
    from dcam_core.errors import DcamError
    from dcam_core.estimating.estimating import estimate_memory
    from dcam_core.explainer import Explainer
    from dcam_core.hookspecs import hookimpl
    from dcam_core.inputs import ImageView, Inputs
    from dcam_core.metric import Metric
    from dcam_core.model_measure import ModelMeasure
    from dcam_core.models import load_model, wrap_model
    from dcam_core.plugins import PluginManager, default_manager
    from dcam_core.probing.gradient_targets import GradientTarget
    from dcam_core.probing.mask_steps import ProbeState
    from dcam_core.refiner import Refiner, RefinerContext
    from dcam_core.results.explanation import Explanation, load_explanation


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'dcam_core' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dcam_core.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
