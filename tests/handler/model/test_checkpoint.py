import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import handler.model.checkpoint as checkpoints
from handler.errors import ModelError
from handler.model.checkpoint import Checkpoint, names_in, read_checkpoint, write_checkpoint
from handler.picture.preprocess import Preprocessing

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.zeros(2)}
AVERAGED = {name: value + 1 for name, value in STATE.items()}
HOW = Preprocessing(resize_size=232, crop_size=224, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="bicubic")


def test_a_written_checkpoint_is_read_back_whole(tmp_path):
    path = tmp_path / "a.safetensors"
    write_checkpoint(
        path,
        Checkpoint(architecture="resnet18", labels=["cat", "dög"], preprocessing=HOW, state=STATE, notes={"seed": "7"}),
    )
    read = read_checkpoint(path)
    assert (read.architecture, read.labels, read.preprocessing, read.notes) == (
        "resnet18",
        ["cat", "dög"],
        HOW,
        {"seed": "7"},
    )
    assert all(torch.equal(read.state[name], value) for name, value in STATE.items())
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "neighbour").touch()
    assert path.stat().st_mode == (tmp_path / "neighbour").stat().st_mode


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict"])
def test_a_plain_state_dict_is_read_wrapped_or_not(tmp_path, wrapper):
    path = tmp_path / "a.pth"
    torch.save({wrapper: STATE, "epoch": 3} if wrapper else STATE, path)
    read = read_checkpoint(path)
    assert list(read.state) == list(STATE)
    assert (read.architecture, read.labels, read.preprocessing) == (None, None, None)


def test_a_name_that_wraps_elsewhere_may_be_a_weights_own(tmp_path):
    torch.save({"model": torch.ones(2), "state_dict": torch.zeros(2)}, tmp_path / "a.pth")
    assert list(read_checkpoint(tmp_path / "a.pth").state) == ["model", "state_dict"]


def test_what_lies_beside_the_weights_is_not_taken_for_them(tmp_path):
    saved = {"model": {"name": "resnet", "depth": 18}, "state_dict": STATE, "optimizer": {"state": {0: STATE}}}
    torch.save(saved, tmp_path / "a.pth")
    assert list(read_checkpoint(tmp_path / "a.pth").state) == list(STATE)
    torch.save({"model": {"state_dict": STATE}}, tmp_path / "a.pth")
    assert list(read_checkpoint(tmp_path / "a.pth").state) == list(STATE)


def test_a_file_with_several_state_dicts_is_refused(tmp_path):
    torch.save({"state_dict": STATE, "model": {"state_dict": STATE}}, tmp_path / "a.pth")
    with pytest.raises(ModelError, match="holds the state dicts state_dict, model/state_dict; valid is state="):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("saved", "state", "place"),
    [
        ({"net": STATE}, None, "net"),
        ({"checkpoint": {"trainer": {"net": STATE}}}, None, "checkpoint/trainer/net"),
        ({"net": STATE, "net_ema": AVERAGED}, None, "net"),
        ({"net": STATE, "net_ema": AVERAGED}, "net_ema", "net_ema"),
        ({"model": {"a": AVERAGED, "b": STATE}}, "model/b", "model/b"),
        ({"ema_state_dict": AVERAGED}, None, "ema_state_dict"),
        ({"module": STATE, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, None, "module"),
    ],
)
def test_the_weights_lie_under_any_key_and_the_average_is_taken_if_it_is_asked_for(tmp_path, saved, state, place):
    torch.save(saved, tmp_path / "a.pth")
    expected = saved
    for key in place.split("/"):
        expected = expected[key]
    read = read_checkpoint(tmp_path / "a.pth", state).state
    assert list(read) == list(expected)
    assert all(torch.equal(read[name], value) for name, value in expected.items())


@pytest.mark.parametrize("state", ["third", None])
def test_a_state_dict_that_is_not_named_or_not_there_is_refused_with_those_that_are(tmp_path, state):
    torch.save({"net": STATE, "other": AVERAGED}, tmp_path / "a.pth")
    with pytest.raises(ModelError, match="holds the state dicts net, other; valid is state= with a key of one"):
        read_checkpoint(tmp_path / "a.pth", state)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n  <!DOCTYPE html><html>404</html>", "is a web page and not the file that the page offers"),
        (b"<html></html>", "is a web page"),
        (b"\x1f\x8b\x08\0", "is compressed; `gunzip` unpacks it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a Git LFS pointer .* `git lfs pull`"),
    ],
)
def test_what_was_downloaded_in_the_place_of_a_checkpoint_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=said):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_was_not_copied_to_its_end_is_named(tmp_path, zipped):
    torch.save(STATE, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(whole[: len(whole) - 5 if not zipped else len(whole) // 2])
    with pytest.raises(ModelError, match="a.pth is truncated, which downloading or copying it again may mend, and"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_torchscript_archive_is_named(tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "a.pth")
    with pytest.raises(
        ModelError, match="a.pth is a TorchScript archive, which is code, and files load with weights_o"
    ):
        read_checkpoint(tmp_path / "a.pth")


def test_what_lies_beside_tensors_in_a_pickle_is_named(tmp_path):
    torch.save({"state_dict": STATE, "best": np.float64(0.9)}, tmp_path / "a.pth")
    with pytest.raises(ModelError, match=r"holds numpy\S*\.scalar beside tensors"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("file", "network"),
    [
        (["fc.weight", "fc.bias"], ["fc.weight", "fc.bias"]),
        (["module.fc.weight", "module.fc.bias"], ["fc.weight", "fc.bias"]),
        (["module.fc.weight", "module.fc.bias"], ["module.fc.weight", "module.fc.bias"]),
        (["module.module.fc.weight", "module.module.fc.bias"], ["module.fc.weight", "module.fc.bias"]),
        (["module._orig_mod.fc.weight", "module._orig_mod.fc.bias"], ["fc.weight", "fc.bias"]),
        (["net.backbone.fc.weight", "net.backbone.fc.bias"], ["fc.weight", "fc.bias"]),
        (["a._orig_mod.weight", "b.bias"], ["a.weight", "b.bias"]),
        (["a._orig_mod.weight", "b.bias"], ["a._orig_mod.weight", "b.bias"]),
        (
            ["denselayer1.norm.1.weight", "denselayer1.norm.1.bias"],
            ["denselayer1.norm1.weight", "denselayer1.norm1.bias"],
        ),
    ],
)
def test_a_prefix_is_taken_off_where_the_weights_fit_without_it(file, network):
    values = list(STATE.values())
    named = names_in(dict(zip(network, values, strict=True)), dict(zip(file, values, strict=True)))
    assert named == dict(zip(file, network, strict=True))


def test_names_stay_where_taking_off_helps_nothing():
    """No weight fits by shape; and two names of the file would become one."""
    assert names_in({"fc.weight": torch.zeros(9)}, {"module.fc.weight": torch.zeros(2)}) == {
        "module.fc.weight": "module.fc.weight"
    }
    twice = {"fc.weight": torch.zeros(2), "_orig_mod.fc.weight": torch.ones(2)}
    assert names_in({"fc.weight": torch.zeros(2)}, twice) == {name: name for name in twice}


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"labels": '["cat", 3]'}, "labels must be a list of texts"),
        ({"labels": '"cat"'}, "labels must be a list of texts"),
        ({"labels": '{"0": "cat"}'}, "labels must be a list of texts"),
        ({"labels": "[cat]"}, "Expecting value"),
        ({"options": "[]"}, "options must be a mapping"),
        ({"options": "null"}, "options must be a mapping"),
        ({"options": "{"}, "Expecting property name"),
        ({"preprocessing": "{}"}, "preprocessing must be an object with the fields"),
    ],
)
def test_a_description_that_is_malformed_is_refused_by_what_is_wrong(tmp_path, metadata, said):
    save_file(STATE, tmp_path / "a.safetensors", metadata)
    with pytest.raises(ModelError, match=rf"a\.safetensors describes itself wrongly: {said}"):
        read_checkpoint(tmp_path / "a.safetensors")


def test_an_interrupted_write_leaves_the_older_checkpoint_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    described = Checkpoint(architecture="resnet18", labels=["cat", "dog"], preprocessing=HOW, state=STATE)
    write_checkpoint(path, described)
    older = path.read_bytes()

    def interrupted(_state, target, _metadata):
        target.write_bytes(older[:50])
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(path, described)
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [older]


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


@pytest.mark.parametrize("content", [{"fc": Bomb()}, [1, 2], {}, {"fc.weight": "text"}])
def test_what_is_no_state_dict_is_refused_and_no_code_is_run(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "a.pth")
    with pytest.raises(ModelError, match="state dict|holds io.open beside tensors"):
        read_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"hello", b"\x00" * 100])
def test_a_file_of_neither_kind_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ModelError, match="neither safetensors nor a file of torch.save"):
        read_checkpoint(tmp_path / "a")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        read_checkpoint(tmp_path / "gone")
