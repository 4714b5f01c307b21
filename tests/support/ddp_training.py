"""Two processes train the toy under DDP; rank zero explains. `python -m support.ddp_training FOLDER with|without`."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy

from dcam_core.training import DiffusionCAM
from support.toy_training import ToyTraining, batches, scene, trainer


def main(folder: Path, how: str) -> None:
    callback = DiffusionCAM(
        [scene()],
        every_n_train_steps=2,
        probe_layer=0,
        metrics=[],
        max_time_fraction=None,
        strict=True,
    )
    L.seed_everything(1, verbose=False)
    module = ToyTraining()
    # The loss does not reach the layer that embeds the picture.
    strategy = DDPStrategy(process_group_backend="gloo", find_unused_parameters=True)
    settings = {"max_steps": 4, "devices": 2, "strategy": strategy}
    trainer(folder, *([callback] if how == "with" else []), **settings).fit(module, batches())
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    torch.save(module.state_dict(), folder / f"weights-{rank}.pt")
    found = {"losses": module.losses, "history": callback.history}
    (folder / f"found-{rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]), sys.argv[2])
