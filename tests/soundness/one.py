"""Every contract of one network. Its row is written before the graphs are made, and again."""

import copy
import json
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from examples.random_weights import enliven
from handler.atomic_write import write_whole
from handler.model.classifier import Classifier
from handler.picture.preprocess import Preprocessing
from tests.soundness.contracts import CONTRACTS, Case, Finding, graphs
from tests.soundness.layout import layout_of
from tests.soundness.networks import MANY_MODULES, Network, find_network
from tests.soundness.pictures import pictures
from tests.soundness.product import Crashed, Refused, ask, classifier_of, has_guided, torch_engine, write_graphs
from tests.soundness.reference import Reference
from tests.soundness.verdict import judged

ROW_VERSION = 1  # rises with what makes older rows incomparable
Row = dict[str, Any]


def look_at(network: Network, save: Callable[[Row], None] = lambda _row: None, *, with_graphs: bool = True) -> Row:
    """The row of one network.

    Args:
        network: of the list.
        save: is called with the row before the graphs are made.
        with_graphs: whether they are made at all.
    """
    started = time.perf_counter()
    row: Row = {"version": ROW_VERSION, "group": network.group, "network": network.name, "side": network.side}
    with tempfile.TemporaryDirectory() as folder:
        try:
            _check(network, row, Path(folder), with_graphs, lambda: save(judged(row, network.odd)))
        except Refused as refusal:
            row["refusal"] = str(refusal).replace(f"{folder}/", "")
        except Crashed as crash:
            row["traceback"] = str(crash)
        except Exception as error:  # of a check's own: nothing is known of the network
            said = (str(error).splitlines() or [""])[0][:200]
            row["failed"] = f"{type(error).__name__}: {said}"
            traceback.print_exc()
    row["seconds"] = round(time.perf_counter() - started, 1)
    return judged(row, network.odd)


def _check(network: Network, row: Row, folder: Path, with_graphs: bool, save: Callable[[], None]) -> None:
    case, classifier, row["reference"] = prepared(network, folder)
    row |= {"layer": case.layer, "map": list(classifier.layers[case.layer]), "checks": {}, "notes": []}
    rule = classifier.layer_rule
    row["rule"] = rule
    for name, contract in CONTRACTS.items():
        _note(row, name, contract(case))
    save()
    modules = sum(1 for _ in classifier.module.modules())
    if not with_graphs or modules > MANY_MODULES:
        row["notes"] += [f"no graphs: {modules} modules"] if with_graphs else []
        return
    engine, refused = write_graphs(classifier, folder)
    row["notes"] += [f"no {kind} graph: {why}" for kind, why in refused.items()]
    if engine:
        _note(row, "graphs", graphs(case, engine))


def _note(row: Row, name: str, found: Finding) -> None:
    row["checks"][name] = {"wrong": found.wrong, **found.figures}


def _state(network: Network) -> dict[str, torch.Tensor]:
    module, fields = network.build().eval(), pictures(4, network.side, seed=1)
    if network.odd is None or network.odd.enlivened:
        try:
            module(fields.clone())  # gives lazy layers their weights
            enliven(module.requires_grad_(False), fields, classes=network.classes)
        except Exception:  # an odd network that takes no such batch keeps the weights it has
            if network.odd is None:
                raise
    return module.eval().state_dict()


def prepared(network: Network, folder: Path) -> tuple[Case, Classifier, str]:
    """What the contracts are checked on, the product's classifier, and the reference's precision.

    Args:
        network: of the list.
        folder: for its checkpoint.

    Raises:
        Refused: by the product.
        Crashed: likewise.
    """
    labels = [f"class {index}" for index in range(network.classes)]
    how = Preprocessing(resize_size=network.side, crop_size=network.side, mean=(0.5,) * 3, std=(0.25,) * 3)
    torch.save(_state(network), folder / "weights.pth")
    classifier = ask(classifier_of, network.architecture, folder / "weights.pth", labels, how)
    layer = classifier.default_layer
    layout = layout_of(classifier, layer)

    looked_at = pictures(3, network.side)

    def reference(dtype: torch.dtype) -> Reference:
        return Reference(_copy(network, classifier), layer, layout, looked_at[:1], dtype)

    own = reference(torch.float32)
    try:
        exact, said = reference(torch.float64), "float64"
    except Exception as error:  # a network whose code insists on float32
        exact, said = own, f"float32, since float64 fails: {str(error).splitlines()[0][:120]}"
    engine = torch_engine(classifier)
    guided, _ = has_guided(engine, looked_at[:1])
    return Case(engine, layer, layout, exact, own, looked_at, network.classes, guided), classifier, said


def run(key: str, file: Path, log: Path, with_graphs: bool) -> None:
    """Writes a network's row; to be run in a process of its own.

    Args:
        key: of the network.
        file: for the row.
        log: for all that libraries print.
        with_graphs: whether graphs are made.
    """
    with log.open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")

    def save(row: Row) -> None:
        write_whole(file, json.dumps(row, indent=1).encode())

    save(look_at(find_network(key), save, with_graphs=with_graphs))


def _copy(network: Network, classifier: Classifier) -> torch.nn.Module:
    try:
        return copy.deepcopy(classifier.module)
    except Exception:  # it keeps tensors with a history, or functions that cannot be copied
        module = network.build().requires_grad_(False)
        module.load_state_dict(classifier.module.state_dict())
        return module
