"""Reads KServe's manifests with the ``kserve`` package's own models: run by that package's interpreter, not by pytest.

``python strict_inference_service.py FILE …`` prints a line for each file: "read", or what is wrong: a field that the
models do not know, one that they miss, a value of another type, or that it does not come out of them as it went in. It
ends with the number of wrong files.
"""

import re
import sys
from pathlib import Path
from typing import Any

import kserve.models
import kubernetes.client
import yaml

_PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object}
_KINDS = {
    ("serving.kserve.io/v1beta1", "InferenceService"): "V1beta1InferenceService",
    ("serving.kserve.io/v1alpha1", "ServingRuntime"): "V1alpha1ServingRuntime",
}
_BY_ITSELF = ("IntOrString", "ResourceQuantity", "datetime")  # no models: a string or a number


def read(content: Any, kind: str, where: str) -> Any:
    """The model of some content.

    Raises:
        ValueError: it is not what the model describes; says where.
    """
    if found := re.fullmatch(r"[Ll]ist\[(.+)\]", kind):
        _demand(content, list, where)
        return [read(one, found[1], f"{where}[{index}]") for index, one in enumerate(content)]
    if found := re.fullmatch(r"[Dd]ict[(\[](\w+), (.+)[)\]]", kind):
        _demand(content, dict, where)
        return {key: read(value, found[2], f"{where}.{key}") for key, value in content.items()}
    if kind in _PLAIN or kind in _BY_ITSELF:
        _demand(content, _PLAIN.get(kind, (str, int)), where)
        return content
    return _read_model(content, kind, where)


def _read_model(content: Any, kind: str, where: str) -> Any:
    kind = kind.removeprefix("K8sIoApiApps").removeprefix("K8sIoApiCore")  # what kserve calls those of kubernetes
    model = getattr(kserve.models, kind, None) or getattr(kubernetes.client, kind)
    _demand(content, dict, where)
    names = {json: name for name, json in model.attribute_map.items()}
    if unknown := sorted(set(content) - set(names)):
        raise ValueError(f"{where}: {kind} has no field {', '.join(unknown)}")
    known = {names[key]: value for key, value in content.items()}
    return model(**{name: read(value, model.openapi_types[name], f"{where}.{name}") for name, value in known.items()})


def _demand(content: Any, kind: Any, where: str) -> None:
    if not isinstance(content, kind) or (isinstance(content, bool) and kind is int):
        raise ValueError(f"{where}: {content!r} is not of the kind {kind}")


def written(content: Any) -> Any:
    """What a model is as JSON: without what is not set (kserve has an empty string for one that is not)."""
    if isinstance(content, list):
        return [written(one) for one in content]
    if isinstance(content, dict):
        return {key: written(value) for key, value in content.items()}
    if not hasattr(content, "attribute_map"):
        return content
    set_ones = {json: getattr(content, name) for name, json in content.attribute_map.items()}
    return {json: written(value) for json, value in set_ones.items() if value not in (None, "")}


def verdict(path: Path) -> str:
    """Whether a file can be read, in one line."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    model = _KINDS.get((content["apiVersion"], content["kind"]))
    if model is None:
        return "neither an InferenceService of v1beta1 nor a ServingRuntime of v1alpha1"
    try:
        again = written(read(content, model, path.name))
    except ValueError as error:  # pydantic's is one
        return " ".join(str(error).split())
    return "read" if again == content else f"what the models make of it differs: {again}"


def main() -> int:
    """Reads all files that the command line names."""
    verdicts = {path: verdict(path) for path in map(Path, sys.argv[1:])}
    for path, said in verdicts.items():
        print(f"{path.name}: {said}")
    return sum(said != "read" for said in verdicts.values())


if __name__ == "__main__":
    sys.exit(main())
