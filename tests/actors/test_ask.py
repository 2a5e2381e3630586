"""How an answer is drawn: what the question says stands before what its role says."""

from dataclasses import fields

import pytest

from actors.ask import SETTINGS, Ask, drawn_by
from actors.lm.request import Sampling
from placement.config.schema import Generation
from placement.errors import UserError

SAID = {
    "temperature": 0.0,
    "top_p": 0.5,
    "top_k": 3,
    "min_p": 0.1,
    "repetition_penalty": 1.2,
    "seed": 0,
    "max_tokens": 5,
    "stop": ("A:",),
}


def test_a_question_without_settings_is_drawn_as_the_role_says():
    """Each field of `generation` becomes the setting of its name."""
    own = Generation(**SAID | {"temperature": 0.3})
    assert drawn_by(Ask("why?"), own) == Sampling(**SAID | {"temperature": 0.3})
    assert {*SETTINGS} == {*Generation.model_fields}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_the_question_says_of_the_draw_is_done(name):
    """One setting of the question changes that setting, also to 0, and no other."""
    drawn, own = (drawn_by(ask, Generation()) for ask in (Ask("why?", **{name: SAID[name]}), Ask("why?")))
    changed = {one.name for one in fields(Sampling) if getattr(drawn, one.name) != getattr(own, one.name)}
    assert changed == {name}
    assert getattr(drawn, name) == SAID[name]


def test_stop_texts_may_be_a_list():
    """A list of texts is as good as a tuple, and a lone text is refused: it would be a list of letters."""
    assert drawn_by(Ask("why?", stop=["A:"]), Generation()).stop == ("A:",)
    with pytest.raises(UserError, match="stop"):
        drawn_by(Ask("why?", stop="A:"), Generation())
