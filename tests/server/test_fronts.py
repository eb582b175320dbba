"""Both fronts, one beside the other: the same requests to the same archive get the same answers."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.mixture import HTTP
from tests.support.same import assert_same
from tests.support.serving import Client, error_of, serving

pytestmark = pytest.mark.server

BEYOND = {  # what the archive's graphs do not hold, which TorchServe's front answers with PyTorch
    "raw, another layer",
    "v1 explained",
}
OF_ALL_MAPS = "raw, all maps"


@pytest.fixture(scope="module")
def fronts(tmp_path_factory, shapes_archive) -> Iterator[tuple[Client, Client]]:
    logs = tmp_path_factory.mktemp("logs")
    store = shapes_archive.parent
    with (
        serving(store, "shapes", logs / "torchserve") as torchserve,
        serving(store, "shapes", logs / "light", "light") as light,
    ):
        yield torchserve, light


@pytest.mark.parametrize("name", sorted(set(HTTP) - BEYOND - {OF_ALL_MAPS}))
def test_the_answers_are_equal_but_for_timings(fronts, name):
    one, other = (HTTP[name](client) for client in fronts)
    assert (one.status_code, one.headers["content-type"]) == (other.status_code, other.headers["content-type"])
    assert one.headers.get("X-Image-Sha256") == other.headers.get("X-Image-Sha256")
    assert_same(name, one.headers["content-type"], one.content, other.content)


@pytest.mark.parametrize("name", sorted(BEYOND))
def test_what_the_graphs_do_not_hold_is_answered_by_one_front_and_refused_by_the_other(fronts, name):
    torchserve, light = fronts
    assert HTTP[name](torchserve).status_code == 200
    assert "the ONNX graphs do not hold this evidence" in error_of(HTTP[name](light), 422)


def test_all_maps_are_those_that_the_graphs_hold(fronts):
    one, other = (HTTP[OF_ALL_MAPS](client).json()["explanations"][0]["maps"] for client in fronts)
    assert [*one] == [*other, "saliency"]


def without_nulls(content: dict[str, Any]) -> dict[str, Any]:
    known = {key: value for key, value in content.items() if value is not None}
    return {key: without_nulls(value) if isinstance(value, dict) else value for key, value in known.items()}


def test_the_descriptions_differ_in_engine_and_maps_alone(fronts):
    torchserve, light = (client.describe() for client in fronts)
    known = without_nulls(light)  # which TorchServe leaves out
    assert set(torchserve) == set(known)
    assert {key for key in known if torchserve[key] != known[key]} == {"engine", "maps"}
