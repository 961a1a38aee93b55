"""How a command waits for its workers."""

import pytest

from hiddenkey.cli.running import pause_after


@pytest.mark.parametrize(("look", "pause"), [(0.001, 0.5), (0.5, 5.0), (60.0, 15.0)])
def test_the_pause_between_two_looks_is_bounded(look, pause):
    assert pause_after(look) == pytest.approx(pause)
