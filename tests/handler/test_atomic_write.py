"""A file is there whole or not at all, whatever happens while it is written."""

import pytest

import handler.atomic_write as atomic_write
from handler.atomic_write import whole_file, write_whole


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"older")
    return tmp_path / "a.bin"


def contents(path):
    return {one.name: one.read_bytes() for one in path.parent.iterdir()}


def test_the_older_file_is_there_until_the_new_one_is_whole(path):
    with whole_file(path) as unfinished:
        unfinished.write_bytes(b"ne")
        assert path.read_bytes() == b"older"
        unfinished.write_bytes(b"newer")
    assert contents(path) == {"a.bin": b"newer"}


def interrupted(path):
    with whole_file(path) as unfinished:
        unfinished.write_bytes(b"ne")
        raise KeyboardInterrupt


def test_nothing_is_left_of_a_file_that_failed_half_way(path):
    with pytest.raises(KeyboardInterrupt):
        interrupted(path)
    assert contents(path) == {"a.bin": b"older"}


def test_nothing_is_left_of_a_file_that_could_not_take_its_place(path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(atomic_write.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"newer")
    assert contents(path) == {"a.bin": b"older"}


def test_a_missing_folder_is_made(tmp_path):
    write_whole(tmp_path / "a" / "b" / "c.bin", b"first")
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"first"
