"""The test kit for whoever writes a plugin: its promises as tests, and a tiny real model to try things on.

```python
import pytest

from dcam_core.testing import RefinerConformance
from my_package import MyRefiner


class TestMyRefiner(RefinerConformance):
    @pytest.fixture
    def refiner(self):
        return MyRefiner()
```

The conformance classes need pytest, which dcam itself does not. `dcam_core.testing.toy` needs nothing more than
dcam: a model small enough for a bug report.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

__all__ = [
    "AdapterConformance",
    "AttributionConformance",
    "DatasetConformance",
    "MetricConformance",
    "ModelAttributionConformance",
    "ModelMeasureConformance",
    "RefinerConformance",
]

# Public name -> module. Imported when first used, so that the toy model needs no pytest.
_EXPORTS = {
    "AdapterConformance": "adapters",
    "AttributionConformance": "attributions",
    "DatasetConformance": "datasets",
    "MetricConformance": "metrics",
    "ModelAttributionConformance": "model_attributions",
    "ModelMeasureConformance": "model_measures",
    "RefinerConformance": "refiners",
}

if TYPE_CHECKING:
    from dcam_core.testing.adapters import AdapterConformance
    from dcam_core.testing.attributions import AttributionConformance
    from dcam_core.testing.datasets import DatasetConformance
    from dcam_core.testing.metrics import MetricConformance
    from dcam_core.testing.model_attributions import ModelAttributionConformance
    from dcam_core.testing.model_measures import ModelMeasureConformance
    from dcam_core.testing.refiners import RefinerConformance


def __getattr__(name: str) -> Any:
    """Import a conformance class when it is first used.

    Raises:
        ImportError: pytest is not installed.
    """
    if name not in _EXPORTS:
        raise AttributeError(f"module 'dcam_core.testing' has no attribute {name!r}")
    if importlib.util.find_spec("pytest") is None:
        raise ImportError(
            f"dcam_core.testing.{name} is a class of tests and needs pytest, which is not installed: "
            "pip install pytest"
        )
    return getattr(importlib.import_module(f"dcam_core.testing.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
