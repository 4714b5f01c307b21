"""The report: one HTML page that carries everything it shows, or the same as a fragment for notebooks.

The page needs no network and no script; a few lines of script only add a preview. Its policy
(Content-Security-Policy) forbids everything else, and the template engine escapes every text.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dcam_core.errors import SavedExplanationError
from dcam_core.results.explanation import Explanation
from dcam_core.results.picture_maps import PictureMaps, stretch_map
from dcam_core.results.reliance import WordReliance
from dcam_core.results.report.in_time import HEAT_TABLES, in_time
from dcam_core.results.report.overlay import (
    display_picture,
    display_size,
    heat_layer,
    percent,
    step_colour,
)
from dcam_core.results.report.templating import flattened, heat_gradient, page_environment, script_digest
from dcam_core.results.words import ExplainedTarget, Word

__all__ = ["render_fragment", "render_report", "write_report"]

_CARD_SIDE = 640  # longest side in pixels of the picture behind the maps: cards are shown at most this large
_HEAT_SIDE = 320  # the same of the maps' layers: smooth, so that the browser may enlarge them


@dataclass(frozen=True)
class _Piece:
    """A stretch of the answer: a word, or what stands between words (`word` is None)."""

    text: str
    word: Word | None = None
    colour: str = ""
    target: int | None = None
    reliance: str = ""
    grounded: bool = True

    @property
    def numbered(self) -> bool:
        """Whether the step is written beside it: at a comma that is not explained it would only disturb."""
        spoken = self.target is not None or any(character.isalnum() for character in self.text)
        return self.word is not None and self.word.step is not None and spoken


@dataclass(frozen=True)
class _Shown:
    """A picture as the page carries it: once large, and once behind the maps."""

    name: str
    picture: str
    behind: str
    width: int
    height: int

    @property
    def grow(self) -> str:
        """Share of a row's width (CSS flex-grow), so that pictures side by side are equally high."""
        return f"{max(1.0, 100 * self.width / self.height):.4g}"


@dataclass(frozen=True)
class _View:
    """A target's map over one picture; `share` is what the picture has of the evidence."""

    heat: str
    peak: tuple[float, float] | None
    mark: tuple[float, float] | None
    share: str


@dataclass(frozen=True)
class _Card:
    """What the page says about one target."""

    label: str
    target: ExplainedTarget
    views: tuple[_View, ...]
    strongest: str
    step: int | None
    colour: str
    probability: str
    replayed: str
    reliance: str
    grounded: bool


@dataclass(frozen=True)
class _Dependence:
    """What the page says about one word's dependence on the picture."""

    word: str
    nats: str
    seen: str
    unseen: str
    grounded: bool


def render_report(explanation: Explanation) -> str:
    """Give the whole page as text."""
    environment = page_environment()
    contents = _contents(explanation)
    script = environment.get_template("report.js").render(moving=contents["moving"])
    return environment.get_template("page.html.jinja").render(
        **contents, scripted=True, script_digest=script_digest(script)
    )


def render_fragment(explanation: Explanation) -> str:
    """Give the page's body with its style, without script: what a notebook shows."""
    return (
        page_environment()
        .get_template("fragment.html.jinja")
        .render(**_contents(explanation), scripted=False)
    )


def write_report(explanation: Explanation, path: Path) -> Path:
    """Write the page as UTF-8.

    Raises:
        SavedExplanationError: if the file cannot be written.
    """
    page = render_report(explanation)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise SavedExplanationError(
            f"the report cannot be written to {path}: {error.strerror}; choose a file in a folder "
            "that exists and that you may write to"
        ) from error
    return path


def _contents(explanation: Explanation) -> dict[str, Any]:
    """Everything that the templates use."""
    last = _last_step(explanation)
    return {
        "explanation": explanation,
        "identity": _identity(explanation),
        "pictures": [_shown(explanation, number) for number in range(len(explanation.pictures))],
        "pieces": list(_pieces(explanation, last)),
        "cards": [_card(explanation, index, last) for index in range(len(explanation.targets))],
        "given": _given(explanation.settings),
        "rather_than": explanation.rather_than,
        "dependence": _dependence(explanation),
        "ungrounded": _ungrounded(explanation),
        "moving": in_time(explanation),
        "heat_tables": HEAT_TABLES,
        "last_step": last,
        "step_colours": ", ".join(step_colour(i, 8) for i in range(9)),
        "heat_colours": heat_gradient(),
        "settings": list(flattened(explanation.settings)),
        "model": list(flattened(explanation.model)),
        "versions": list(flattened(explanation.versions)),
    }


def _identity(explanation: Explanation) -> str:
    """A name for the page's anchors, so that several reports can stand in one notebook."""
    digest = hashlib.sha256(explanation.answer.encode())
    for part in explanation.pictures:
        digest.update(part.maps.numpy().tobytes())
    return f"dcam-{digest.hexdigest()[:10]}"


def _data_uri(picture: Image.Image) -> str:
    """Encode a picture as PNG in a data: address."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _last_step(explanation: Explanation) -> int:
    """The last step known to the report: the end of the colour scale."""
    steps = [word.step for word in explanation.words if word.step is not None]
    steps += [step for target in explanation.targets for step in target.commit_steps]
    return max([0, len(explanation.steps) - 1, *steps])


def _pieces(explanation: Explanation, last: int) -> Iterator[_Piece]:
    """Cut the answer into words and what stands between them."""
    position = 0
    for word in sorted(explanation.words, key=lambda word: word.start):
        if word.start > position:
            yield _Piece(explanation.answer[position : word.start])
        colour = "" if word.step is None else step_colour(word.step, last)
        own = explanation.reliance_of(word.positions)
        yield _Piece(
            text=word.text,
            word=word,
            colour=colour,
            target=_target_of(word, explanation.targets),
            reliance=_nats(own) if own else "",
            grounded=_is_grounded(explanation, own),
        )
        position = word.stop
    if position < len(explanation.answer):
        yield _Piece(explanation.answer[position:])


def _target_of(word: Word, targets: tuple[ExplainedTarget, ...]) -> int | None:
    """The target that a word leads to: of those that share a token with it, the shortest."""
    sharing = [i for i, target in enumerate(targets) if set(target.positions) & set(word.positions)]
    return min(sharing, key=lambda i: len(targets[i].positions), default=None)


def _shown(explanation: Explanation, number: int) -> _Shown:
    picture = explanation.pictures[number].picture
    width, height = picture.size
    return _Shown(
        name=_picture_name(explanation, number),
        picture=_data_uri(display_picture(picture, display_size(width, height))),
        behind=_data_uri(display_picture(picture, display_size(width, height, largest=_CARD_SIDE))),
        width=width,
        height=height,
    )


def _picture_name(explanation: Explanation, number: int) -> str:
    """How the page speaks of a picture: numbered from 0, as in Python, where there are several."""
    return "the picture" if len(explanation.pictures) == 1 else f"picture {number}"


def _card(explanation: Explanation, index: int, last: int) -> _Card:
    target = explanation.targets[index]
    strongest = max(range(len(explanation.pictures)), key=lambda i: explanation.pictures[i].maps[index].max())
    peak = explanation.peak(index, picture=strongest)
    place = "nowhere" if peak is None else f"x {peak[0]:.0f}, y {peak[1]:.0f} px"
    if peak is not None and len(explanation.pictures) > 1:
        place = f"{_picture_name(explanation, strongest)}, {place}"
    shares = explanation.evidence_shares(index)
    own = explanation.reliance_of(target.positions)
    return _Card(
        label=explanation.label(index),
        target=target,
        views=tuple(
            _view(part, index, share, marked=number == strongest)
            for number, (part, share) in enumerate(zip(explanation.pictures, shares, strict=True))
        ),
        strongest=place,
        step=target.last_step,
        colour="" if target.last_step is None else step_colour(target.last_step, last),
        probability=percent(target.probability),
        replayed=_replayed(target),
        reliance=_nats(own) if own else "",
        grounded=_is_grounded(explanation, own),
    )


def _given(settings: Mapping[str, Any]) -> str:
    """Why the answer has no steps; empty where the model wrote it."""
    if "why_not" in settings:
        return f"“{settings['why_not']}” stands in the place of “{settings['in_place_of']}”, which was the answer."
    return "This text was given: no denoising step decided its words." if "given_answer" in settings else ""


def _dependence(explanation: Explanation) -> list[_Dependence]:
    """Every word that was asked about, in reading order."""
    if explanation.reliance is None:
        return []
    return [
        _Dependence(
            word=item.word,
            nats=_nats(item),
            seen=percent(math.exp(item.log_probability)),
            unseen=percent(math.exp(item.log_probability - item.nats)),
            grounded=explanation.reliance.is_grounded(item),
        )
        for item in explanation.reliance.words
    ]


def _ungrounded(explanation: Explanation) -> list[str]:
    """The words that do not depend on the picture, each once."""
    items = () if explanation.reliance is None else explanation.reliance.ungrounded
    return list(dict.fromkeys(item.word for item in items))


def _is_grounded(explanation: Explanation, item: WordReliance | None) -> bool:
    """Whether a word is called grounded; one that was not asked about is not called anything else."""
    return item is None or explanation.reliance is None or explanation.reliance.is_grounded(item)


def _nats(item: WordReliance) -> str:
    return f"{item.nats + 0.0:.2f} nats".replace("-0.00", "0.00")


def _view(part: PictureMaps, index: int, share: float, *, marked: bool) -> _View:
    width, height = part.picture.size
    scale = _HEAT_SIDE / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    peak = part.peak(index)
    return _View(
        heat=_data_uri(heat_layer(stretch_map(part.maps[index], size))),
        peak=peak,
        mark=(100 * peak[0] / width, 100 * peak[1] / height) if peak and marked else None,
        share=percent(share),
    )


def _replayed(target: ExplainedTarget) -> str:
    """Say which states were replayed: the policy, and the recorded steps if it chose any."""
    steps = sorted({step for step in target.probed_steps if step is not None})
    if not steps:
        return target.state
    if len(steps) > 4:
        return f"{target.state}: {len(steps)} steps, {steps[0]} to {steps[-1]}"
    return f"{target.state}: step{'s' if len(steps) > 1 else ''} {', '.join(map(str, steps))}"
