"""The attribution of the preset `llava-cam` against LLaVA-CAM's own numbers (tests/fixtures/method)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

import dcam_plugins.plugin
from dcam_plugins.attributions import GradCAM

FIXTURES = Path(__file__).parents[1] / "fixtures" / "method"
PRESET = Path(dcam_plugins.plugin.__file__).parent / "methods" / "llava-cam.yaml"


def test_base_map():
    named = OmegaConf.to_container(OmegaConf.load(PRESET).attribution)
    assert named.pop("name") == "grad-cam"
    with np.load(FIXTURES / "llava_cam.npz") as archive:
        arrays = {name: torch.from_numpy(values) for name, values in archive.items()}
    # The gradient is pooled over the image tokens: those alone are handed over, as the probe does.
    features, gradients = arrays["features"][None, 34:610], arrays["grad"][None, 34:610]
    (evidence,) = GradCAM(**named)(features, gradients)
    found = evidence / evidence.max()
    found = found.where(found >= 0.5, 0).view(24, 24)
    torch.testing.assert_close(found, arrays["heatmap"].to(found), atol=1e-5, rtol=0)
    assert 0 < int((found > 0).sum()) < found.numel()
