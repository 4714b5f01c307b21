"""Explain every picture of a folder: an explanation of each, by one process or several, continued at any time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

import dcam_core
from dcam_core.distributed import Processes, SharedWork
from dcam_core.distributed.one_launch import OneLaunch, is_empty
from dcam_core.errors import (
    ConfigurationError,
    PictureError,
    SavedExplanationError,
    UnknownNameError,
    UsageError,
)
from dcam_core.evaluation.model_source import ModelSource
from dcam_core.explainer import Explainer
from dcam_core.method import DEFAULT_METHOD
from dcam_core.plugins import default_manager
from dcam_core.progress import Progress
from dcam_core.results.report.index import render_index
from dcam_core.results.request import plain, refuse_another
from dcam_core.results.storage import UNFINISHED

if TYPE_CHECKING:
    from dcam_core.adapter import Adapter
    from dcam_core.plugins import PluginManager
    from dcam_core.results.explanation import Explanation

__all__ = ["ExplainedFolder", "explain_folder"]

_RUN, _SKIPPED, _INDEX = "run.json", "skipped", "index.html"


@dataclass(frozen=True)
class ExplainedFolder:
    """What became of the pictures of a folder.

    Attributes:
        explained: name of a picture's file -> folder of its explanation.
        skipped: name of a picture's file -> why there is no explanation of it.
    """

    explained: Mapping[str, Path]
    skipped: Mapping[str, str]


def explain_folder(
    model: str | Path,
    folder: str | Path,
    prompt: str,
    out: str | Path,
    *,
    method: str | Path = DEFAULT_METHOD,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    gradient_target: Mapping[str, Any] | None = None,
    explaining: Mapping[str, Any] | None = None,
    replaying: Mapping[str, Any] | None = None,
    loading: Mapping[str, Any] | None = None,
    devices: int | str | None = None,
    nodes: int = 1,
    strategy: str | None = None,
    manager: PluginManager | None = None,
    progress: Progress | None = None,
) -> ExplainedFolder:
    """Explain the model's answer about every picture of a folder.

    The explanation of `cat.jpg` is `OUT/cat.jpg/`, written whole or not at all: the same call explains what is not
    explained yet. A picture that cannot be read, or whose answer has no such target, is skipped; why is kept in
    `OUT/skipped/`: without the file there, it is tried again. `OUT/index.html` shows all of them, and links their
    reports.

    Several processes may share the pictures, as in `dcam_core.evaluation.evaluate`.

    Args:
        model: what `dcam_core.load_model` takes.
        folder: the pictures; folders in it, and files that are no pictures by their names, are passed over.
        prompt: what is asked about every picture.
        out: new, empty, or begun by the same call; for one launch at a time.
        method: name of a method, or a YAML file.
        overrides: settings of the method, as in `Explainer`.
        gradient_target: name and parameters of a gradient target in place of the method's own, as in `Explainer`.
        explaining: further keywords for `Explainer.explain`: `targets`, `baselines`, `seed`.
        replaying: keywords for `Explainer` that bound memory: `states_per_forward`, `targets_per_backward`,
            `checkpointing`, `offload`. The folder does not hold to them.
        loading: further keywords for `dcam_core.load_model`.
        devices: number of devices per node, or "auto"; None: this process explains all, unless nodes or a strategy
            are given.
        nodes: number of nodes.
        strategy: as in `dcam_core.distributed.Processes`; None: "ddp".
        manager: the plugins; None: all that are installed.
        progress: called after every picture; with several processes in the first of them, for its share.

    Returns:
        What is explained, by this call or an earlier one, and what was skipped.

    Raises:
        PictureError: the folder is missing, or holds no picture.
        UsageError: `out` holds something else, or was begun with other settings; it says with which.
    """
    manager = manager or default_manager()
    source = ModelSource(model, loading or {}, manager)
    processes = Processes.asked(source.loading, devices, nodes, strategy)
    request = {
        "model": source.name,
        "loading": dict(source.loading),
        "folder": str(Path(folder).expanduser().resolve()),
        "prompt": prompt,
        "method": str(method),
        "overrides": dict(overrides) if isinstance(overrides, Mapping) else list(overrides),
        "gradient_target": gradient_target,
        "explaining": dict(explaining or {}),
        "versions": {
            "dcam": dcam_core.__version__,
            "torch": str(torch.__version__),
            "plugins": manager.versions(),
        },
    }
    work = _Pictures(
        _pictures_in(Path(folder).expanduser()),
        Path(out).expanduser(),
        plain(request),
        source,
        lambda model: Explainer(
            model,
            method,
            overrides=overrides,
            gradient_target=gradient_target,
            manager=manager,
            **(replaying or {}),
        ),
        lambda explainer, picture: explainer.explain(picture, prompt, **(explaining or {})),
    )
    try:
        if work.remaining():
            if processes is None:
                work.do_all(progress)
            else:
                processes.share(work, progress)
        if processes is None or processes.is_first():
            work.show()
    finally:
        work.launch.release()
    return work.outcome


@dataclass
class _Pictures(SharedWork):
    """The pictures of a folder as work.

    Attributes:
        pictures: their files, sorted.
        out: where the explanations go.
        request: what is asked for, as plain data.
        source: the model.
        ready: makes the method ready for it.
        ask: explains a picture.
    """

    stage = "explaining"

    pictures: Sequence[Path]
    out: Path
    request: Mapping[str, Any]
    source: ModelSource
    ready: Callable[[Adapter], Explainer]
    ask: Callable[[Explainer, Path], Explanation]
    explainer: Explainer | None = field(default=None, init=False)
    launch: OneLaunch = field(init=False)

    def __post_init__(self) -> None:
        self.launch = OneLaunch(self.out)
        if self.out.exists() and not self.out.is_dir():
            raise UsageError(f"output folder {self.out} is a file: give a folder")
        if (self.out / _RUN).is_file():
            try:
                kept = dict(json.loads((self.out / _RUN).read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError) as error:
                raise SavedExplanationError(
                    f"{self.out / _RUN} is damaged: {error}; give another folder"
                ) from error
            refuse_another(self.out, "run over a folder", kept, self.request)
        elif self.out.is_dir() and not is_empty(self.out):
            raise UsageError(
                f"output folder {self.out} is not empty and holds no explanations of a folder: give a folder that is "
                "empty or does not exist"
            )

    @property
    def outcome(self) -> ExplainedFolder:
        """What has become of the pictures so far."""
        explained, skipped = {}, {}
        for picture in self.pictures:
            if self._explanation_of(picture).is_dir():
                explained[picture.name] = self._explanation_of(picture)
            elif self._reason_for(picture).is_file():
                skipped[picture.name] = self._reason_for(picture).read_text(encoding="utf-8").strip()
        return ExplainedFolder(explained, skipped)

    def do_all(self, progress: Progress | None) -> None:
        """Explain everything in this process."""
        self.prepare(None)
        remaining = self.remaining()
        self.join(0)
        for number, index in enumerate(remaining, start=1):
            self.do(index)
            if progress is not None:
                progress(self.stage, number, len(remaining))

    def prepare(self, device: torch.device | None) -> None:
        """Load the model; without a device, where it is asked for."""
        source = self.source if device is None else self.source.on(device)
        self.explainer = self.ready(source.adapter)

    def remaining(self) -> Sequence[int]:
        """The pictures that have neither an explanation nor a reason why not."""
        outcome = self.outcome
        known = {*outcome.explained, *outcome.skipped}
        return [index for index, picture in enumerate(self.pictures) if picture.name not in known]

    def join(self, rank: int) -> None:
        """Make the folder; it keeps what is asked for, which is the same in all processes."""
        try:
            (self.out / _SKIPPED).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"output folder {self.out} cannot be made: {error}") from error
        if rank == 0:
            self.launch.hold()
            for left in self.out.glob(UNFINISHED):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
        text = json.dumps(self.request, indent=2, ensure_ascii=False)
        self._write(self.out / _RUN, text, part=f"{_RUN}.{rank}")

    def do(self, index: int) -> None:
        """Explain a picture, or keep why not."""
        picture = self.pictures[index]
        if self.explainer is None:
            raise RuntimeError("the work was not prepared")
        try:
            explanation = self.ask(self.explainer, picture)
        except (ConfigurationError, UnknownNameError):  # would be said of every picture
            raise
        except UsageError as error:  # what is wrong with this picture or its answer, and no other
            self._write(self._reason_for(picture), " ".join(str(error).split()), part=f"{picture.name}.part")
        else:
            self._save(explanation, self._explanation_of(picture))

    def _save(self, explanation: Explanation, folder: Path) -> None:
        """Keep an explanation, unless a process that was given up for dead has done so meanwhile."""
        try:
            explanation.save(folder)
        except SavedExplanationError:
            if not (folder.is_dir() and any(folder.iterdir())):
                raise

    def finish(self, done: int) -> None:
        """See that all is there.

        Raises:
            SavedExplanationError: what some process wrote is not.
        """
        if missing := self.remaining():
            raise SavedExplanationError(
                f"{self.out} misses {len(missing)} explanations after {done} pictures were done: what some process "
                "wrote cannot be read here; give a folder on a disk that all nodes share"
            )

    def show(self) -> None:
        """Write the page of all pictures; of several processes, the first does."""
        outcome = self.outcome
        page = render_index(outcome.explained, outcome.skipped, self.request["prompt"])
        self._write(self.out / _INDEX, page, part=f"{_INDEX}.part")

    def _explanation_of(self, picture: Path) -> Path:
        return self.out / picture.name

    def _reason_for(self, picture: Path) -> Path:
        return self.out / _SKIPPED / f"{picture.name}.txt"

    def _write(self, path: Path, text: str, *, part: str) -> None:
        """Write a file whole or not at all."""
        half = self.out / _SKIPPED / part
        half.write_text(f"{text}\n", encoding="utf-8")
        half.replace(path)


def _pictures_in(folder: Path) -> list[Path]:
    """The files of a folder that are pictures by their names, sorted."""
    if not folder.is_dir():
        raise PictureError(f"folder of pictures {folder} does not exist")
    endings = Image.registered_extensions()
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in endings and path.is_file())
    if not pictures:
        raise PictureError(
            f"folder {folder} holds no picture: give one with PNG, JPEG, WebP or similar files"
        )
    return pictures
