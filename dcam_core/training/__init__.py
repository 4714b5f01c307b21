"""dcam while a model is trained: a Lightning callback that shows what the model's words look at, as it learns.

```python
import lightning as L

from dcam_core.training import DiffusionCAM

trainer = L.Trainer(callbacks=[DiffusionCAM(samples, model="adapter", every_n_train_steps=200)])
```

Lightning is imported when `DiffusionCAM` is first asked for, not before.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["DiffusionCAM"]

if TYPE_CHECKING:
    from dcam_core.training.callback import DiffusionCAM


def __getattr__(name: str) -> Any:
    """Import the callback when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'dcam_core.training' has no attribute {name!r}")
    return getattr(importlib.import_module("dcam_core.training.callback"), name)


def __dir__() -> list[str]:
    return list(__all__)
