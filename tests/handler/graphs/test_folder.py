from dataclasses import replace

import pytest

from handler.errors import ModelError
from handler.graphs.description import KIND_EXPLANATION, KIND_GRADCAM, KIND_PREDICTION, KINDS, Origin
from handler.graphs.session import check_origin, find_graphs, open_graphs
from tests.support.graphs import HOW, describe, write_graph

ORIGIN = Origin(architecture="tiny", weights_sha256="0" * 64, labels=["red", "green", "blue"], preprocessing=HOW)


def test_graphs_are_found_by_name_and_opened_by_kind(tmp_path):
    (tmp_path / "other.onnx").write_bytes(b"not looked at")
    paths = {kind: write_graph(tmp_path, describe(kind)) for kind in KINDS}
    assert find_graphs(tmp_path) == paths
    graphs = open_graphs(tmp_path, ORIGIN, threads=1)
    assert {kind: graph.description.kind for kind, graph in graphs.items()} == {kind: kind for kind in KINDS}


def test_a_single_graph_will_do(tmp_path):
    write_graph(tmp_path, describe(KIND_GRADCAM))
    assert list(open_graphs(tmp_path, ORIGIN, threads=1)) == [KIND_GRADCAM]


def test_a_folder_without_graphs_is_refused(tmp_path):
    assert find_graphs(tmp_path) == {}
    with pytest.raises(ModelError, match=r"holds no graph, valid are model\.onnx, model\.gradcam\.onnx"):
        open_graphs(tmp_path, ORIGIN, threads=1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights_sha256": "1" * 64}, "made for other weights than"),
        ({"labels": ["red", "blue", "green"]}, "made for other labels than"),
        ({"preprocessing": replace(HOW, std=(0.5, 1.0, 1.0))}, "made for other preprocessing than"),
        ({"preprocessing": replace(HOW, interpolation="bicubic")}, "made for other preprocessing than"),
        ({"architecture": "small", "weights_sha256": ""}, "made for other architecture and weights than"),
    ],
)
def test_graphs_of_another_origin_are_refused(tmp_path, changes, said):
    write_graph(tmp_path, describe(KIND_PREDICTION))
    path = write_graph(tmp_path, describe(KIND_EXPLANATION, **changes))
    with pytest.raises(ModelError, match=rf"graph {path} was {said}"):
        open_graphs(tmp_path, ORIGIN, threads=1)


def test_the_same_origin_is_accepted(tmp_path):
    check_origin(tmp_path, describe(verification="equal", versions={"torch": "2"}), ORIGIN)


def test_a_graph_under_another_kinds_name_is_refused(tmp_path):
    path = write_graph(tmp_path, describe(KIND_GRADCAM))
    path.rename(tmp_path / KINDS[KIND_PREDICTION].file)
    with pytest.raises(ModelError, match="of the kind 'gradcam', needed is prediction"):
        open_graphs(tmp_path, ORIGIN, threads=1)


def test_graphs_for_different_layers_are_refused(tmp_path):
    write_graph(tmp_path, describe(KIND_PREDICTION, layer="any"))
    write_graph(tmp_path, describe(KIND_GRADCAM, layer="conv5"))
    write_graph(tmp_path, describe(KIND_EXPLANATION, layer="conv4"))
    with pytest.raises(ModelError, match="different layers: conv4, conv5"):
        open_graphs(tmp_path, ORIGIN, threads=1)
