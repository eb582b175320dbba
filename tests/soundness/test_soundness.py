"""What CI runs of `make soundness`: all odd networks and some of each library; and that the contracts notice."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from handler.explanation.evidence import LayerEvidence
from tests.soundness import reference
from tests.soundness.contracts import CONTRACTS, differences, evidence, place
from tests.soundness.layout import Layout
from tests.soundness.networks import find_network, networks
from tests.soundness.one import prepared
from tests.soundness.pictures import followed, pictures
from tests.soundness.place import find_place
from tests.soundness.report import HOW, render
from tests.soundness.sweep import sweep

pytestmark = pytest.mark.timeout(1800)  # the first test waits for all networks

SOME = {
    "torchvision": ("resnet18", "googlenet", "swin_t", "vit_b_32"),
    "timm": ("test_vit", "test_convnext", "xcit_nano_12_p8_224", "deit_tiny_distilled_patch16_224"),
    "huggingface": ("dinov2_with_registers", "swin", "levit", "segformer"),
}
WITH_GRAPHS = ("sequential", "flip_averaging", "clamp_from_zero")
EXTRAS = {"timm": "timm", "huggingface": "transformers"}


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soundness")
    wanted = networks("odd")
    for group, names in SOME.items():
        try:
            wanted += [one for one in networks(group) if one.name in names]
        except ModuleNotFoundError:
            continue
    limits = {"jobs": 2, "seconds": 60}
    sweep([one for one in wanted if one.name not in WITH_GRAPHS], folder, **limits, with_graphs=False)
    sweep([one for one in wanted if one.name in WITH_GRAPHS], folder, **limits, with_graphs=True)
    return {file.stem: json.loads(file.read_bytes()) for file in folder.glob("*.json")}


@pytest.mark.parametrize("name", [one.name for one in networks("odd")])
def test_an_odd_network_is_treated_as_it_should_be(rows, name):
    row = rows[f"odd.{name}"]
    assert row["verdict"] in ("right", "refused"), row.get("traceback") or row["wrong"]


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, names in SOME.items() for name in names])
def test_a_network_of_a_library_is_right_or_refused(rows, group, name):
    if group in EXTRAS:
        pytest.importorskip(EXTRAS[group])
    row = rows[f"{group}.{name}"]
    assert row["verdict"] in ("right", "refused"), row.get("traceback") or row["wrong"]


def test_graphs_are_checked(rows):
    assert all("graphs" in rows[f"odd.{name}"]["checks"] for name in WITH_GRAPHS)


def test_the_page_says_how_each_contract_is_checked():
    assert set(HOW) == {*CONTRACTS, "graphs"}


def test_the_page_names_every_network(rows):
    machine = {"packages": {}, "python": "3"}
    page = render({"machine": machine, "networks": list(rows.values())})
    assert all(row["network"] in page for row in rows.values())


@pytest.fixture(scope="session")
def case():
    return _case("odd.sequential")


def _case(key):
    network = find_network(key)
    with tempfile.TemporaryDirectory() as folder:
        return prepared(network, Path(folder))[0]


class Broken:
    """An engine whose evidence is changed on its way."""

    def __init__(self, engine, change):
        self.engine, self.change = engine, change

    def run(self, inputs, targets, needs):
        return self.change(self.engine.run(inputs, targets, needs))


def _of_layers(change):
    def changed(found):
        layers = {
            path: LayerEvidence(*map(change, (its.activation, its.gradient))) for path, its in found.layers.items()
        }
        return replace(found, layers=layers)

    return changed


MUTANTS = {  # and the contract that notices
    "mirrored": (_of_layers(lambda maps: maps[..., ::-1]), "evidence"),
    "upside down": (_of_layers(lambda maps: maps[..., ::-1, :]), "evidence"),
    "transposed": (_of_layers(lambda maps: maps.swapaxes(-1, -2)), "evidence"),
    "of another row": (_of_layers(lambda maps: maps[::-1]), "rows"),
    "of the first row": (_of_layers(lambda maps: maps[:1].repeat(len(maps), 0)), "rows"),
    "gradient a little off": (lambda found: _scaled_gradients(found, 1.01), "evidence"),
    "scores of another row": (lambda found: replace(found, logits=found.logits[::-1]), "rows"),
    "coverage claims more": (lambda found: replace(found, coverage="3 of 3 activations"), "guided"),
    "coverage counts fewer": (lambda found: replace(found, coverage="2 of 1 activations"), "guided"),
    "nothing": (lambda found: found, None),
}


def _scaled_gradients(found, factor):
    layers = {path: LayerEvidence(its.activation, its.gradient * factor) for path, its in found.layers.items()}
    return replace(found, layers=layers)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_engine_is_noticed(case, name):
    change, notices = MUTANTS[name]
    broken = replace(case, engine=Broken(case.engine, change))
    found = {contract: check(broken).wrong for contract, check in CONTRACTS.items()}
    assert found[notices] if notices else not any(found.values())


def test_a_plain_gradient_that_is_called_guided_is_noticed(case):
    class Plain:
        def run(self, inputs, targets, needs):
            found = case.engine.run(inputs, targets, replace(needs, guided=False, saliency=True))
            return replace(found, guided=found.saliency, coverage="2 of 2 activations")

    assert any("guided gradient off" in said for said in evidence(replace(case, engine=Plain())).wrong)


@pytest.mark.parametrize(
    ("name", "layer", "said"),
    [
        ("mirrored_inside", "c3", "mirrored left and right"),
        ("upside_down_inside", "c3", "mirrored up and down"),
        ("transposed_inside", "c3", "axes are exchanged"),
        ("centre_crop_inside", "c3", "changes no cell"),
        ("scrambled_cells", "c3", "do not follow"),
    ],
)
def test_cells_that_lie_elsewhere_are_noticed(name, layer, said):
    network = find_network(f"odd.{name}")
    looked_at = pictures(3, network.side)
    its = reference.Reference(network.build(), layer, Layout(16, 16), looked_at[:1], torch.float64)
    assert any(said in one for one in find_place(*followed(its.changes, looked_at)).wrong)


def test_edges_that_no_cell_sees_are_noticed():
    case = _case("odd.sequential")
    seen = torch.nn.functional.pad(torch.ones(48, 48), (8, 8, 8, 8))
    case.own.module.register_forward_pre_hook(lambda _module, inputs: (inputs[0] * seen.to(inputs[0]),))
    assert sum("edge changes no cell" in said for said in place(case).wrong) == 4


def test_central_differences_notice_pytorchs_wrong_batch_norm(monkeypatch):
    """PyTorch 2.14.1's own backward of batch norm on the CPU; where this fails, the reference need not spell it out."""
    case = _case("odd.small_tokens_of_a_batch_norm")
    assert not differences(case).wrong
    monkeypatch.setattr(reference, "_BatchNorms", lambda: torch.enable_grad())
    assert any("picture" in said for said in differences(_case("odd.small_tokens_of_a_batch_norm")).wrong)
