"""Visual reliance and given answers on an embedded model: it knows which of its words the picture gave it."""

from __future__ import annotations

import pytest

from dcam_core import Explainer
from dcam_plugins.scenes import Scenes


@pytest.fixture(scope="module")
def explainer():
    return Explainer("tiny-llada-v", overrides={"mask_step": "infill"})


@pytest.fixture(scope="module")
def scene():
    return next(scene for scene in Scenes("test", 50) if len(scene.objects) == 2)


def test_names_are_explained_and_function_words_are_not(explainer, scene):
    explanation = explainer.explain(scene.image, "describe the picture")
    assert explanation.answer == scene.caption
    names = {word for thing in scene.objects for word in (thing.colour, thing.shape)}
    assert {target.word for target in explanation.targets} == names
    assert {item.word for item in explanation.reliance.ungrounded} <= {"a", "an", "and"}
    assert explanation.reliance.baselines == tuple(f"scene-{number}.png" for number in range(59992, 59996))


def test_no_is_not_grounded_and_yes_is(explainer, scene):
    there = scene.objects[0].shape
    absent = next(shape for shape in Scenes.shapes if shape not in {thing.shape for thing in scene.objects})
    yes, no = (explainer.explain(scene.image, f"is there a {shape} ?") for shape in (there, absent))
    assert (yes.answer, no.answer) == ("yes", "no")
    assert [target.word for target in yes.targets] == ["yes"]
    assert no.targets == ()


def test_a_wrong_caption_is_found_out(explainer, scene):
    """Of a given caption in which one word is wrong, that word speaks against the picture."""
    thing = scene.objects[0]
    wrong = next(
        c for c in Scenes.colours if all(c != other.colour for other in scene.objects) and c[0] not in "aeiou"
    )
    caption = scene.caption.replace(thing.colour, wrong, 1)
    explanation = explainer.explain(scene.image, "describe the picture", answer=caption)
    reliance = {item.word: item.nats for item in explanation.reliance.words}
    assert reliance[wrong] < 0 < 0.7 < reliance[thing.shape]
    assert wrong not in {target.word for target in explanation.targets}
    not_said = explainer.explain(scene.image, "describe the picture", [thing.colour], why_not=wrong)
    assert not_said.answer == caption
    assert not_said.targets[0].probability < 0.01
