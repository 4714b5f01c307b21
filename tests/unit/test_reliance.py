"""Visual reliance: what stands in the picture's place, what is read, what is kept and shown."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image

from dcam_core import Explainer, load_explanation
from dcam_core.errors import ConfigurationError, DcamError, PictureError
from dcam_core.probing.baseline_pictures import default_baselines, stand_ins
from dcam_core.probing.reliance import hidden_log_probabilities
from dcam_core.probing.targets import all_words, read_answer, select_targets
from dcam_core.results.reliance import VisualReliance, WordReliance
from dcam_core.testing.toy import toy_adapter, toy_picture

PROMPT = "the blue moon"
ANSWER = "a red circle and a blue moon"


def _explain(*arguments, **options):
    return Explainer(toy_adapter(), "grad-cam", probe_layer=0).explain(
        toy_picture(), PROMPT, *arguments, **options
    )


# -- what stands in the picture's place ------------------------------------------------------------------------


def test_stand_ins_keep_the_size_and_show_what_they_say(tmp_path):
    picture = toy_picture()
    Image.new("RGB", (10, 30), "red").save(tmp_path / "b.png")
    Image.new("RGB", (200, 20), "blue").save(tmp_path / "a.png")
    (tmp_path / ".hidden").write_text("no picture")
    found = stand_ins(
        [picture, picture.resize((20, 50))],
        ["mean-colour", "blur", Image.new("RGB", (9, 9), "lime"), tmp_path / "b.png", tmp_path],
    )
    assert [item.name for item in found] == [
        *("mean-colour", "blur", "another picture", "b.png", "a.png", "b.png"),
    ]
    for item in found:
        assert [shown.size for shown in item.pictures] == [picture.size, (20, 50)]
    flat = found[0].pictures[0].getcolors()
    assert len(flat) == 1
    mean = torch.tensor(list(picture.tobytes()), dtype=torch.float64).view(-1, 3).mean(0)
    assert torch.tensor(flat[0][1]).double() == pytest.approx(mean, abs=0.51)
    blurred = [len(set(shown.tobytes())) for shown in (found[1].pictures[0], picture)]
    assert blurred[0] > blurred[1], "a blurred picture has transitions"
    assert [found[i].pictures[0].getpixel((5, 5)) for i in (2, 3, 4)] == [
        (0, 255, 0),
        (255, 0, 0),
        (0, 0, 255),
    ]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("grey", ConfigurationError, "neither one of mean-colour, blur nor a file or folder"),
        ("empty", ConfigurationError, "a folder without a picture"),
        ("text.png", PictureError, "text.png is not a picture"),
    ],
)
def test_what_cannot_stand_in_is_refused(tmp_path, monkeypatch, name, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(error, match=message):
        stand_ins([toy_picture()], [name])


def test_a_checkpoint_may_bring_its_own_pictures(tmp_path):
    assert default_baselines(None) == default_baselines(tmp_path) == ("mean-colour", "blur")
    (tmp_path / "baselines").mkdir()
    assert default_baselines(tmp_path) == (tmp_path / "baselines",)


# -- what is read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("states_per_forward", [1, 3, 8])
def test_each_word_is_read_where_it_alone_is_hidden(states_per_forward):
    adapter = toy_adapter()
    settings = adapter.default_sampler
    with torch.no_grad():
        inputs = adapter.prepare(toy_picture(), PROMPT)
        run = adapter.denoise(inputs, settings)
        answer = read_answer(run.answer_ids, adapter.tokenizer)
        targets = [
            *all_words(answer),
            *select_targets(answer, [f"{answer.words[0].text} {answer.words[1].text}"]),
        ]
        found = hidden_log_probabilities(
            adapter, inputs, run.final, targets, settings, states_per_forward=states_per_forward
        )
        assert len(targets[-1].positions) == 2
        for target, value in zip(targets, found, strict=True):
            state = run.final.clone()
            state[list(target.positions)] = adapter.mask_token_id
            logits = adapter.replay(inputs, state[None], torch.tensor(target.positions))[0]
            expected = logits.log_softmax(-1)[range(len(target.positions)), list(target.token_ids)].sum()
            assert float(value) == pytest.approx(float(expected), abs=1e-5)


def test_what_the_picture_does_not_change_relies_on_nothing():
    explanation = _explain(baselines=[toy_picture()], targets="all")
    assert explanation.reliance.baselines == ("another picture",)
    assert [item.nats for item in explanation.reliance.words] == [0] * len(explanation.reliance.words)
    other = _explain(baselines=[Image.new("RGB", (48, 36), "white")], targets="all").reliance
    assert all(item.nats != 0 for item in other.words)


def test_several_baselines_count_by_the_mean_of_their_probabilities():
    item = WordReliance("red", (0,), math.log(0.8), (math.log(0.6), math.log(0.2)))
    assert item.nats == pytest.approx(math.log(0.8 / 0.4))
    assert WordReliance("red", (0,), -1.0, (-2000.0, -3000.0)).nats == pytest.approx(1999 + math.log(2))


# -- which words are explained ---------------------------------------------------------------------------------


def test_words_above_the_threshold_are_explained_and_every_word_gets_its_number():
    every = _explain("all", answer=ANSWER)
    ranked = sorted(every.reliance.words, key=lambda item: item.nats)
    threshold = (ranked[3].nats + ranked[4].nats) / 2
    some = _explain(answer=ANSWER, grounded_above=threshold)
    assert len(every.targets) == len(some.reliance.words) == 7
    assert {target.positions for target in some.targets} == {item.positions for item in ranked[4:]}
    assert [target.word for target in some.targets] == [item.word for item in some.reliance.grounded]
    for index, target in enumerate(some.targets):
        same = next(i for i, other in enumerate(every.targets) if other.positions == target.positions)
        torch.testing.assert_close(some.raw[index], every.raw[same], atol=1e-6, rtol=1e-4)


def test_an_answer_without_grounded_words_has_no_maps(tmp_path):
    explanation = _explain(answer=ANSWER, grounded_above=math.inf)
    assert explanation.targets == ()
    assert explanation.maps.shape == (0, 3, 4)
    explanation = _explain(answer=ANSWER, grounded_above=1e9)
    again = load_explanation(explanation.save(tmp_path / "none"))
    assert again.targets == ()
    assert again.reliance == explanation.reliance
    page = (tmp_path / "none" / "report.html").read_text()
    assert "No heat maps" in page
    assert "No word of this answer depends on the picture enough" in page


def test_phrases_that_are_asked_for_are_measured_as_well():
    explanation = _explain(["red circle"], answer=ANSWER)
    own = explanation.reliance_of(explanation.targets[0].positions)
    assert own.word == "red circle"
    assert len(explanation.reliance.words) == 8


def test_without_baselines_nothing_is_measured():
    explanation = _explain(answer=ANSWER, baselines=())
    assert explanation.reliance is None
    assert explanation.reliance_of((0,)) is None
    assert len(explanation.targets) == 7


# -- what is kept and shown ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baselines": ()}, "at least one baseline"),
        ({"baselines": ("a", "b")}, "has 1 log-probabilities without the picture"),
        ({"words": (WordReliance("red", (0,), -math.inf, (0.0,)),)}, "not finite"),
    ],
)
def test_what_contradicts_itself_is_refused(change, message):
    values = {"baselines": ("blur",), "threshold": 0.7, "words": (WordReliance("red", (0,), -1.0, (-2.0,)),)}
    with pytest.raises(DcamError, match=message):
        VisualReliance(**(values | change))


def test_it_comes_back_and_the_report_tells_it(tmp_path):
    explanation = _explain(["red", "a#1"], answer=ANSWER, grounded_above=0.0)
    grounded = explanation.reliance.grounded
    assert 0 < len(grounded) < 7, "this picture must have words of both kinds"
    again = load_explanation(explanation.save(tmp_path / "kept"))
    assert again.reliance == explanation.reliance
    page = (tmp_path / "kept" / "report.html").read_text()
    assert "Answer that was given" in page
    assert "Not grounded in the picture:" in page
    for item in explanation.reliance.words:
        assert f'title="visual reliance {item.nats:.2f} nats"'.replace("-0.00", "0.00") in page
    assert page.count(' ungrounded"') == len(explanation.reliance.ungrounded)
