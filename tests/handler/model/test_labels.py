import json

import pytest

from handler.errors import ModelError
from handler.model.sources import read_labels


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "cat\ndog\n"),
        ("a.txt", "\ufeffcat\r\ndog"),
        ("a.json", '["cat", "dog"]'),
        ("a.json", '{"1": "dog", "0": "cat"}'),
        ("a.json", '{"0": ["n01", "cat"], "1": ["n02", "dog"]}'),
    ],
)
def test_labels_are_read_from_text_and_json(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_labels(tmp_path / name) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "", "one non-empty label"),
        ("a.txt", "cat\n\ndog", "one non-empty label"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", json.dumps({"0": "cat", "2": "dog"}), "without gaps"),
        ("a.json", "[1, 2]", "list of names"),
        ("a.json", "3", "list of names"),
    ],
)
def test_other_label_files_are_refused(tmp_path, name, text, said):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=said):
        read_labels(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"gone\.txt cannot be read"):
        read_labels(tmp_path / "gone.txt")
