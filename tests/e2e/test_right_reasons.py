"""docs/right-reasons.md, played: the map's loss takes the model off the shortcut, the task's loss alone does not."""

import pytest
from support.right_reasons import experiment

pytestmark = pytest.mark.slow

OBJECT, BADGE = "says the object's colour", "says the badge's colour"
ON_OBJECT, ON_BADGE = "evidence on the object", "evidence on the badge"


def test_the_map_takes_the_model_off_the_badge():
    shipped, planted, task, with_map = experiment().values()
    assert shipped[OBJECT] > 0.9
    for shortcut in (planted, task):
        assert shortcut[BADGE] > 0.6
        assert shortcut[ON_BADGE] > shortcut[ON_OBJECT]
    assert with_map[OBJECT] > task[OBJECT] + 0.3
    assert with_map[ON_OBJECT] > task[ON_OBJECT] + 0.1
    assert with_map[ON_BADGE] < task[ON_BADGE] - 0.1
