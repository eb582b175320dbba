import pytest
import yaml

from export.packing.archive import DEFAULT_CONFIG
from handler.errors import ModelError
from handler.protocol.options import Options
from handler.serving.settings import Settings, read_settings


def test_the_packed_settings_are_the_documented_defaults():
    section = yaml.safe_load(DEFAULT_CONFIG.read_text(encoding="utf-8"))["explain"]
    assert read_settings(section) == Settings() == read_settings(None)


def test_defaults_are_read_like_a_request():
    settings = read_settings({"defaults": {"maps": "none", "top_k": 3}, "max_pixels": 1, "threads": 0})
    assert settings.defaults == Options(maps=(), top_k=3)
    assert (settings.max_pixels, settings.threads) == (1, 0)


@pytest.mark.parametrize("engine", ["auto", "torch", "onnx"])
def test_the_engine_is_read(engine):
    assert read_settings({"engine": engine}).engine == engine


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"max_pixel": 5}, "explain.max_pixel does not exist, valid are defaults, max_pixels"),
        ({"max_pixels": "many"}, "explain.max_pixels must be a whole number"),
        ({"max_pixels": 0}, "explain.max_pixels"),
        ({"engine": "onxx"}, "explain.engine 'onxx' is not valid, valid are auto, torch, onnx"),
        ({"engine": None}, "explain.engine None"),
        ({"engine": ["onnx"]}, "explain.engine"),
        ({"threads": -1}, "explain.threads must be a whole number from 0 up, not -1"),
        ({"threads": True}, "explain.threads must be a whole number from 0 up, not True"),
        ({"max_answer_bytes": 0}, "explain.max_answer_bytes must be a whole number from 1 up, not 0"),
        ({"defaults": {"maps": "heat"}}, "explain.defaults: map 'heat' does not exist"),
        ({"defaults": 3}, "explain.defaults"),
        ([1], "must be a mapping"),
        (5, "must be a mapping"),
    ],
)
def test_wrong_settings_are_refused(section, said):
    with pytest.raises(ModelError, match=said):
        read_settings(section)
