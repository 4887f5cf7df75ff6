"""What a command prints of an error."""

import pytest
from torch.utils.data import DataLoader

from kindred.errors import AbsentError, ConfigError, KindredError, UnwritableError, lines


class Unreadable:
    def __len__(self):
        return 1

    def __getitem__(self, position):
        try:
            raise OSError("torn")
        except OSError as error:
            raise ConfigError("a/1.png cannot be decoded: remove it") from error


def test_an_error_of_kindreds_own_is_its_lines():
    assert lines(ConfigError("seed must be 0 or more", "model.tau:\n  no such key")) == [
        "seed must be 0 or more",
        "model.tau: no such key",
    ]
    for kind, base in ((AbsentError, FileNotFoundError), (UnwritableError, OSError), (ConfigError, ValueError)):
        assert issubclass(kind, KindredError)
        assert issubclass(kind, base)
        assert lines(kind("runs/a: gone")) == ["runs/a: gone"]


def test_what_a_loaders_worker_raises_is_its_message():
    with pytest.raises(ConfigError) as caught:
        next(iter(DataLoader(Unreadable(), num_workers=1, multiprocessing_context="fork")))
    assert "Traceback" in str(caught.value)
    assert lines(caught.value) == ["a/1.png cannot be decoded: remove it"]


def test_a_file_that_the_system_refuses_is_a_line(tmp_path):
    with pytest.raises(OSError, match="directory") as caught:
        (tmp_path / "a" / "b").write_text("")
    assert lines(caught.value) == [f"{tmp_path / 'a' / 'b'}: No such file or directory"]


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("division by zero"), ValueError("x"), TypeError(), OSError("lost")]
)
def test_nobody_foresaw_the_rest(error):
    assert lines(error) is None
