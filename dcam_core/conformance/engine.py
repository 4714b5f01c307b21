"""Does the whole work: in another precision, with impossible wishes, and from picture to map?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from dcam_core.conformance.check import BrokenPromiseError, NotApplicableError, expect
from dcam_core.conformance.pictures import scene
from dcam_core.conformance.subject import Subject
from dcam_core.errors import ConfigurationError, DcamError
from dcam_core.explainer import Explainer
from dcam_core.plugins import default_manager
from dcam_core.probing.picture_grid import PictureGrid, select_views

__all__ = ["bfloat16", "errors", "explanation"]

LARGEST_COPY = 2 * 2**30
"""Bytes of a model that is copied into another dtype without asking."""


def bfloat16(subject: Subject) -> str:
    """With weights in bfloat16 everything is finite, and of the same shape.

    Half precision is how published checkpoints are stored and run. A copy of the model is examined, so that
    the one at hand stays as it is.
    """
    adapter = subject.adapter
    if not adapter.dtype.is_floating_point or any(
        not parameter.is_floating_point() for parameter in adapter.model.parameters()
    ):
        raise NotApplicableError("the model's weights are quantised")
    if adapter.dtype != torch.bfloat16:
        size = sum(parameter.nbytes for parameter in adapter.model.parameters())
        if size > LARGEST_COPY:
            raise NotApplicableError(
                f"a copy of the model would take {size / 2**30 / adapter.dtype.itemsize * 2:.0f} GiB: load it in "
                "bfloat16 and check it again"
            )
        # A copy of the adapter: it may hold modules of the model, and things beside it.
        adapter = copy.deepcopy(adapter)
        adapter.model.to(torch.bfloat16)
    narrow = Subject(adapter, subject.picture, subject.prompt, subject.prompt_ids, subject.manager)
    embeddings = narrow.inputs.embeddings
    expect(
        embeddings.dtype == torch.bfloat16 and bool(embeddings.isfinite().all()),
        f"embeddings are {embeddings.dtype}, expected finite bfloat16",
    )
    expect(
        embeddings.shape == subject.inputs.embeddings.shape,
        f"the prompt has {embeddings.shape[1]} positions, in {subject.adapter.dtype} {subject.inputs.prompt_length}",
    )
    run = narrow.default_run
    expect(
        run.final.shape == subject.default_run.final.shape,
        f"the answer region has {len(run.final)} positions",
    )
    decided = run.commit_steps >= 0
    expect(bool(run.commit_logits[decided].isfinite().all()), "logits of decided tokens are not finite")
    gradients = narrow.probed(adapter.layer_path(0), {"cache": None}).gradients
    expect(bool(gradients.isfinite().all()), "gradients are not finite")
    return f"{int(decided.sum())} tokens decided, logits and gradients finite"


def errors(subject: Subject) -> str:
    """What cannot be done is refused with a message of one line, never with an accident inside.

    Whoever reads it must learn what was found and what to do; a traceback out of a tokenizer says neither.
    """
    adapter, refused = subject.adapter, 0
    mute = copy.copy(adapter)
    mute.tokenizer = None
    impossible: dict[str, Callable[[], Any]] = {
        "a prompt without a tokenizer": lambda: mute.prepare(subject.shown, subject.prompt),
        "an unknown probe layer": lambda: adapter.layer_path("no.such.module"),
        "a cache that is not offered": lambda: adapter.denoise(
            subject.inputs, subject.settings.merged({"cache": "no-such-cache"})
        ),
    }
    if "prefix" not in adapter.caches:
        impossible["a prefix cache that is not offered"] = lambda: adapter.encode_prefix(subject.inputs)
    for wish, attempt in impossible.items():
        expect(_refusal(wish, attempt), f"{wish} was not refused")
        refused += 1
    # These may be possible; if they are not, they are refused.
    doubtful: dict[str, Callable[[], Any]] = {
        "a picture of one pixel": lambda: subject.prepare(scene((1, 1))),
        "a picture as narrow as a line": lambda: subject.prepare(scene((40 * adapter.image_size, 2))),
    }
    if adapter.tokenizer is not None:
        doubtful["an empty prompt"] = lambda: adapter.prepare(subject.shown, "")
    answered = [wish for wish, attempt in doubtful.items() if not _refusal(wish, attempt)]
    refused += len(doubtful) - len(answered)
    return f"{refused} refused" + (f"; possible: {', '.join(answered)}" if answered else "")


def _refusal(wish: str, attempt: Callable[[], Any]) -> bool:
    """Whether an attempt is refused, and well."""
    try:
        attempt()
    except DcamError as error:
        expect("\n" not in str(error).strip() and bool(str(error)), f"{wish}: the message is not one line")
        return True
    except Exception as error:
        line = " ".join(str(error).split())
        raise BrokenPromiseError(f"{wish} ends in {type(error).__name__}: {line}") from error
    return False


def explanation(subject: Subject) -> str:
    """Every installed method makes finite maps in [0, 1] of a word, from raw ones on the grid over the picture.

    From the picture to the map, through the same door as `dcam explain`.
    """
    manager = subject.manager or default_manager()
    methods = manager.registries.methods.names
    if not methods:
        raise NotApplicableError("no method is installed")
    if subject.prompt_ids is not None:
        raise NotApplicableError("the engine asks in words, and the prompt was given as ids")
    words = subject.default_run.answer_length
    if words == 0:
        raise NotApplicableError("the answer is empty: give a picture and a prompt that the model answers")
    grids, refused = {}, []
    for name in methods:
        try:
            grids[name] = _map(subject, name, _overrides(subject))
        except ConfigurationError as reason:
            # A method may ask for what a family need not have, and says so; the others must work.
            refused.append(f"{name} ({reason})")
    if not grids:
        raise BrokenPromiseError(f"no method works with this model: {'; '.join(refused)}")
    rows, columns = next(iter(grids.values()))
    without = f"; not with this model: {'; '.join(refused)}" if refused else ""
    return f"{', '.join(grids)}: {rows} x {columns} cells{without}"


def _overrides(subject: Subject) -> Mapping[str, Any]:
    """The settings of the subject's runs, as an answer to explain should not take longer than they do."""
    settings = subject.settings
    return {
        "sampler": {
            name: value
            for name, value in settings.as_dict().items()
            if name in ("answer_length", "block_length", "steps") and value is not None
        }
    }


def _map(subject: Subject, method: str, overrides: Mapping[str, Any]) -> tuple[int, int]:
    """Grid of the map that a method makes of the answer's first token."""
    explainer = Explainer(subject.adapter, method, overrides=overrides, manager=subject.manager)
    made = explainer.explain(subject.shown, subject.prompt, targets=[0], baselines=())
    views = select_views(subject.inputs, explainer.method.views)
    grid = PictureGrid.over(views, subject.shown.size)
    raw, maps = made.raw, made.maps
    expect(
        raw.shape == (1, grid.rows, grid.cols),
        f"{method}: the raw maps are {list(raw.shape)}, expected {[1, grid.rows, grid.cols]}",
    )
    low, high = float(maps.min()), float(maps.max())
    expect(math.isfinite(low + high) and low >= 0 and high <= 1, f"{method}: the maps lie in [{low}, {high}]")
    return grid.rows, grid.cols
