"""The description of the front's addresses, against the addresses that it answers."""

import re
from dataclasses import fields
from typing import Any

import yaml

from deploy.light.routes import Front
from handler.protocol.options import ENCODINGS, MAX_PASSES, MAX_SEED, SIZES, Options
from tests.support.serving import ROOT

DESCRIBED = yaml.safe_load((ROOT / "deploy/light/openapi.yaml").read_text(encoding="utf-8"))
VERBS = {"get", "post"}
# TorchServe's further spellings of described addresses, and what describes itself
BESIDE = {
    "/openapi.json",
    "/predictions/{name}/{below}",
    "/explanations/{name}/{below}",
    "/v2/models/{name}/explain",
}


def answered() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for route in Front(None).application().routes:  # type: ignore[arg-type]
        path = re.sub(r":path}", "}", route.path)
        found.setdefault(path, set()).update(method.lower() for method in route.methods)
    return found


def references(part: Any) -> set[str]:
    if isinstance(part, dict):
        own = {part["$ref"]} if "$ref" in part else set()
        return own.union(*map(references, part.values()))
    return set().union(*map(references, part)) if isinstance(part, list) else set()


def test_the_addresses_that_are_answered_are_described():
    routes = answered()
    assert set(routes) - set(DESCRIBED["paths"]) == BESIDE
    below = {"/predictions/{name}/healthz", "/predictions/{name}/{version}", "/explanations/{name}/{version}"}
    assert set(DESCRIBED["paths"]) - set(routes) == below
    for path, item in DESCRIBED["paths"].items():
        described = VERBS & set(item)
        assert described
        assert described <= routes.get(path, routes["/predictions/{name}/{below}"]), path


def test_every_reference_leads_somewhere_and_every_operation_has_a_name_of_its_own():
    for reference in references(DESCRIBED):
        part: Any = DESCRIBED
        for key in reference.removeprefix("#/").split("/"):
            part = part[key]
    operations = [item[verb] for item in DESCRIBED["paths"].values() for verb in VERBS & set(item)]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names) > 15
    assert all("200" in operation["responses"] for operation in operations)


def test_every_option_and_its_values_are_described():
    shared = DESCRIBED["components"]["parameters"]
    asked = {reference["$ref"] for reference in DESCRIBED["paths"]["/predictions/{name}"]["post"]["parameters"]}
    assert asked == {f"#/components/parameters/{field.name}" for field in fields(Options)}
    assert shared["size"]["schema"]["enum"] == [*SIZES]
    assert shared["encoding"]["schema"]["enum"] == [*ENCODINGS]
    assert (shared["seed"]["schema"]["maximum"], shared["passes"]["schema"]["maximum"]) == (MAX_SEED, MAX_PASSES)


def test_the_parameters_of_an_address_are_described():
    shared = DESCRIBED["components"]["parameters"]
    for path, item in DESCRIBED["paths"].items():
        own = [reference["$ref"].rpartition("/")[2] for reference in item.get("parameters", [])]
        assert {shared[name]["name"] for name in own if shared[name]["in"] == "path"} == set(
            re.findall(r"{(\w+)}", path)
        )
