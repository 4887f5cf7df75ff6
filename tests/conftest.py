"""What several test files share."""

import pytest
from children import start


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory):
    """What Kindred keeps in a user's home stays out of the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished run of a small SimCLR on digits: 3 epochs of 4 steps, each evaluated."""
    directory = tmp_path_factory.mktemp("session") / "run"
    assert start(directory) == 0
    return directory
