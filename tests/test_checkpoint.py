import pytest
import torch

from handler.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from handler.errors import ModelError
from handler.preprocess import Preprocessing

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.zeros(2)}
HOW = Preprocessing(232, 224, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic")


def test_a_written_checkpoint_is_read_back_whole(tmp_path):
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, Checkpoint("resnet18", ["cat", "dög"], HOW, STATE, {"seed": "7"}))
    read = read_checkpoint(path)
    assert (read.architecture, read.labels, read.preprocessing, read.notes) == (
        "resnet18",
        ["cat", "dög"],
        HOW,
        {"seed": "7"},
    )
    assert all(torch.equal(read.state[name], value) for name, value in STATE.items())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict"])
def test_a_plain_state_dict_is_read_wrapped_or_not(tmp_path, wrapper):
    path = tmp_path / "a.pth"
    state = {f"module.{name}": value for name, value in STATE.items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    read = read_checkpoint(path)
    assert list(read.state) == list(STATE)
    assert (read.architecture, read.labels, read.preprocessing) == (None, None, None)


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


@pytest.mark.parametrize("content", [{"fc": Bomb()}, [1, 2], {}, {"fc.weight": "text"}])
def test_what_is_no_state_dict_is_refused_and_no_code_is_run(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "a.pth")
    with pytest.raises(ModelError, match="state dict"):
        read_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100])
def test_a_file_of_neither_kind_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ModelError, match="neither safetensors nor a state dict"):
        read_checkpoint(tmp_path / "a")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        read_checkpoint(tmp_path / "gone")
