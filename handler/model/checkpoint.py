"""Checkpoints: a model's weights, with the architecture, labels and preprocessing that their use needs.

Checkpoints are written as safetensors, with the description in the file's metadata. They are read from safetensors, or
from a state dict of ``torch.save`` with ``weights_only=True``, which refuses pickles that would run code.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torchvision.models import GoogLeNet, Inception3

from handler.atomic_write import whole_file
from handler.errors import ModelError
from handler.picture.preprocess import Preprocessing

_WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys of weights whose names have no dots, unlike a network's
_WRITTEN: dict[str, Callable[[Any], str]] = {  # fields in the metadata of a file, and what makes their texts
    **dict.fromkeys(("architecture", "head", "output"), str),
    **{"labels": json.dumps, "preprocessing": Preprocessing.to_json, "options": json.dumps},
}
_DEPTH = 4  # of dictionaries in a file of torch.save
_FOREIGN = {  # how files begin that are no checkpoints, and what they are
    rb"$": "is empty",
    rb"version https://git-lfs": "is a Git LFS pointer and not the file itself, which `git lfs pull` fetches",
    rb"\s*<(!doctype|html|\?xml)": "is a web page and not the file that the page offers; download that",
    rb"\x1f\x8b": "is compressed; `gunzip` unpacks it",
}
_BROKEN = {  # what torch.load says, and what that means
    "TorchScript": "is a TorchScript archive, which is code",
    "central directory|unexpected EOF": "is truncated, which downloading or copying it again may mend",
}
_DENSENETS_OLD_NAMES = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights and their description, which a plain state dict lacks."""

    architecture: str | None = None  # its name; handler.model.makers says of which kinds
    labels: list[str] | None = None  # one per class, in the order of the scores
    preprocessing: Preprocessing | None = None
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)  # free text by name: seed, accuracy, …
    head: str = ""  # what makes probabilities of the scores, see ``find_reading``; empty: what the network shows
    output: str = ""  # name of the scores in what the network returns; empty if it returns one tensor
    options: dict[str, Any] = field(default_factory=dict)  # options of what builds it; JSON values
    origins: dict[str, str] = field(default_factory=dict)  # where parts of the description come from; not written


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint as safetensors, whole or not at all."""
    told = {name: write(value) for name, write in _WRITTEN.items() if (value := getattr(checkpoint, name))}
    # copies, because safetensors refuses weights that share memory
    state = {name: value.clone(memory_format=torch.contiguous_format) for name, value in checkpoint.state.items()}
    with whole_file(path) as unfinished:
        save_file(state, unfinished, checkpoint.notes | told)


def read_checkpoint(path: Path, state: str | None = None) -> Checkpoint:
    """Reads safetensors or a state dict of ``torch.save``; the content tells the format, not the name.

    ``state`` is the key of the state dict that is meant, in a file of ``torch.save`` with several; None takes the one
    that is no moving average (EMA). A ModelError says why the file is none.
    """
    check_file(path, "checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError:
        return Checkpoint(state=_read_state_dict(path, state))
    return _described(path, tensors, metadata)


def check_file(path: Path, kind: str) -> None:
    """Raises a ModelError if the file is missing, or is a web page, empty or of another foreign form.

    ``kind`` is the word for the file in the message, as "checkpoint".
    """
    if not path.is_file():
        raise ModelError(f"{kind} {path} does not exist")
    with path.open("rb") as file:
        beginning = file.read(256)
    for pattern, what in _FOREIGN.items():
        if re.match(pattern, beginning, re.IGNORECASE):
            raise ModelError(f"{kind} {path} {what}")


def names_in(network: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """For each name in a file's state dict, the name in the network's, which may lack it; none appears twice.

    The names are the file's own, unless more weights fit by name and shape without a common prefix (``module.``),
    without torch.compile's additions, and with DenseNet's old ``norm.1`` as ``norm1``.
    """
    bare = {name: _DENSENETS_OLD_NAMES.sub(r"\1\2", name.replace("_orig_mod.", "")) for name in state}
    shared = os.path.commonprefix(list(bare.values()))
    cuts = [0, *(dot.end() for dot in re.finditer(r"\.", shared))]
    choices = [{name: name for name in state}, *({name: new[cut:] for name, new in bare.items()} for cut in cuts)]

    def fitting(names: dict[str, str]) -> int:
        fit = sum(new in network and network[new].shape == state[name].shape for name, new in names.items())
        return fit if len(set(names.values())) == len(names) else -1

    return max(choices, key=fitting)


def hash_state(module: nn.Module) -> str:
    """SHA-256 over the names and bytes of all weights and buffers, in the order of the names.

    Those that only training uses are left out, because they are random if the checkpoint lacks them.
    """
    digest, state = hashlib.sha256(), module.state_dict()
    for name in sorted(name for name in state if not name.startswith(training_only(module))):
        content = state[name].cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()  # numpy has no bfloat16
        digest.update(f"{name}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


def training_only(module: nn.Module) -> tuple[str, ...]:
    """Prefixes of the names of weights that only training uses, in auxiliary heads, and that a checkpoint may lack."""
    return ("aux1.", "aux2.", "AuxLogits.") if isinstance(module, (GoogLeNet, Inception3)) else ()


def _described(path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str]) -> Checkpoint:
    told: dict[str, Any] = {name: metadata.pop(name) for name in _WRITTEN if metadata.get(name)}
    try:
        told |= {name: json.loads(told[name]) for name in ("labels", "options") if name in told}
        labels = told.get("labels", [])
        if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
            raise TypeError("labels must be a list of texts")
        if not isinstance(told.get("options", {}), dict):
            raise TypeError("options must be a mapping")
        if "preprocessing" in told:
            told["preprocessing"] = Preprocessing.from_json(told["preprocessing"])
        return Checkpoint(**told, state=state, notes=metadata)
    except (TypeError, ValueError) as error:
        raise ModelError(f"checkpoint {path} describes itself wrongly: {error}") from error


def _read_state_dict(path: Path, chosen: str | None) -> dict[str, torch.Tensor]:
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises exceptions of many types on foreign bytes
        name = re.search(r"GLOBAL (\S+)", str(error))
        what = f"holds {name[1]} beside tensors" if name else "is neither safetensors nor a file of torch.save"
        what = next((meant for said, meant in _BROKEN.items() if re.search(said, str(error))), what)
        save = "safetensors.torch.save_file(model.state_dict(), path) or torch.save(model.state_dict(), path)"
        safe = "and files load with weights_only=True"
        raise ModelError(f"checkpoint {path} {what}, {safe}; save it with {save}") from error
    found = _state_dicts(loaded)
    if not found:
        raise ModelError(f"checkpoint {path} holds no state dict (a mapping of parameter names to tensors)")
    meant = [place for place in found if chosen in (None, place, *place.split("/"))]
    if chosen is None:
        plain = [place for place in found if "ema" not in place.lower()] or meant
        meant = [place for place in plain if {*place.split("/")} <= {*_WRAPPERS}] or plain
    if len(meant) != 1:
        valid = "valid is state= with a key of one of them"
        raise ModelError(f"checkpoint {path} holds the state dicts {', '.join(found)}; {valid}")
    return {str(name): value for name, value in found[meant[0]].items()}


def _state_dicts(loaded: Any, place: str = "") -> dict[str, dict[Any, torch.Tensor]]:
    """The state dicts in a saved object, by the path of keys to each; a state dict is not searched for others."""
    if not isinstance(loaded, dict) or not loaded or place.count("/") >= _DEPTH:
        return {}
    if all(isinstance(value, torch.Tensor) for value in loaded.values()):
        named = not place or place.rpartition("/")[2] in _WRAPPERS or any("." in str(name) for name in loaded)
        return {place or "the file itself": loaded} if named else {}  # others are an optimizer's
    found: dict[str, dict[Any, torch.Tensor]] = {}
    for name, value in loaded.items():
        found |= _state_dicts(value, f"{place}/{name}".removeprefix("/"))
    return found
