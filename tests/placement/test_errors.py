import pickle

import pytest

from placement.config.problems import ConfigError, Problem
from placement.errors import Busy, Cold, TierceError, UserError, WorldError


@pytest.mark.parametrize("kind", [TierceError, UserError, WorldError, Cold, Busy])
def test_an_error_survives_pickling(kind):
    """Class, code, message and hint are the same after a journey between processes."""
    error = pickle.loads(pickle.dumps(kind("TRC010", "coder has no slot", "ask again")))  # noqa: S301
    assert type(error) is kind
    assert (error.code, error.message, error.hint) == ("TRC010", "coder has no slot", "ask again")


def test_an_error_reads_as_its_message_and_code():
    """The text of an error is one sentence and its code; the hint is shown apart."""
    assert str(UserError("CFG021", "unknown tier 'vrm'", "write VRAM")) == "unknown tier 'vrm' [CFG021]"


@pytest.mark.parametrize(("kind", "code"), [(UserError, 2), (WorldError, 1), (Cold, 1), (ConfigError, 2)])
def test_the_family_says_how_a_command_ends(kind, code):
    """What the user did wrong ends in 2, what the world did in 1."""
    assert kind.exit_code == code


def test_a_config_error_survives_pickling():
    """A ConfigError keeps all its problems and its text."""
    problems = (
        Problem("CFG020", "unknown field 'teir'", "roles.coder.teir", "cluster.yaml", 3, 5),
        Problem("L3", "no role reads this shard", "rag.x", "cluster.yaml", 9, 3, severity="warning"),
    )
    error = pickle.loads(pickle.dumps(ConfigError(problems)))  # noqa: S301
    assert error.problems == problems
    assert error.code == "CFG020"
    assert str(error) == "cluster.yaml:3:5 roles.coder.teir: unknown field 'teir' [CFG020]"
