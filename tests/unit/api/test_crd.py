"""The CRD: what the tree has is what the models say, and what an API server takes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic.alias_generators import to_camel

from dsort_api.crd import EXTRAS, FILE, custom_resource_definition, main, structural, to_yaml
from dsort_api.spec import IMMUTABLE, DSortJobSpec

ROOT = Path(__file__).resolve().parents[3]
CRD = custom_resource_definition()
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
# What a structural schema may hold; anything else the API server refuses or drops.
WORDS = {
    "additionalProperties", "default", "description", "enum", "format", "items", "maxItems", "maxLength",
    "maxProperties", "maximum", "minimum", "pattern", "properties", "required", "type", "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys", "x-kubernetes-list-type", "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
}  # fmt: skip


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}{{}}")


NODES = dict(nodes(SCHEMA))


def test_the_tree_has_what_the_models_say() -> None:
    assert main(["--check", str(ROOT / "crds")]) == 0


def test_the_file_is_small_enough_for_client_side_apply() -> None:
    assert (ROOT / "crds" / FILE).stat().st_size < 60 << 10


def test_the_yaml_means_the_resource() -> None:
    assert yaml.safe_load((ROOT / "crds" / FILE).read_text()) == CRD


def test_every_field_is_described() -> None:
    fields = [path for path in NODES if path and not path.endswith(("[]", "{}")) and path != "metadata"]
    assert [path for path in fields if not NODES[path].get("description")] == []
    assert len(fields) > 50


@pytest.mark.parametrize("path", NODES)
def test_the_schema_is_structural(path: str) -> None:
    node = NODES[path]
    assert set(node) <= WORDS
    untyped = {"x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"}
    assert "type" in node or untyped & set(node)
    assert not ("properties" in node and "additionalProperties" in node)
    assert set(node.get("required", ())) <= set(node.get("properties", ()))
    assert abs(node.get("maximum", 0)) < 2**53


def test_what_may_be_null_in_python_is_optional_and_without_default() -> None:
    for path in (
        "spec.output.shardSize",
        "spec.order.seed",
        "spec.workers.count",
        "spec.activeDeadlineSeconds",
    ):
        assert "default" not in NODES[path]
        parent, _, name = path.rpartition(".")
        assert name not in NODES[parent].get("required", ())


def test_defaults_are_those_of_the_models() -> None:
    given = {
        path: node["default"] for path, node in NODES.items() if path.startswith("spec") and "default" in node
    }
    assert given == {
        "spec.input.shards": [],
        "spec.input.missingShards": "Abort",
        "spec.order": {},
        "spec.order.kind": "None",
        "spec.order.descending": False,
        "spec.records": {},
        "spec.records.duplicates": "Abort",
        "spec.records.unsupported": "Abort",
        "spec.records.trailingData": "Warn",
        "spec.records.collisions": "Warn",
        "spec.records.corruptShards": "Abort",
        "spec.workers": {},
        "spec.workers.lanes": 1,
        "spec.workers.shortCircuit": True,
        "spec.memory": {},
        "spec.memory.budget": "70%",
        "spec.memory.throttleAt": "85%",
        "spec.memory.resumeAt": "75%",
        "spec.memory.abortAt": "95%",
        "spec.memory.abortAfterSeconds": 30,
        "spec.dryRun": False,
        "spec.backoffLimit": 6,
        "spec.startDeadlineSeconds": 600,
        "spec.suspend": False,
        "spec.abort": False,
    }


def test_all_is_immutable_but_what_holds_ends_and_limits_a_job() -> None:
    """What may not change must be there always: no transition rule sees a field that comes or goes."""
    changeable = {
        "suspend",
        "abort",
        "activeDeadlineSeconds",
        "startDeadlineSeconds",
        "ttlSecondsAfterFinished",
    }
    assert changeable | {"managedBy", *map(to_camel, IMMUTABLE)} == NODES["spec"]["properties"].keys()
    for name, node in NODES["spec"]["properties"].items():
        rules = [one["rule"] for one in node.get("x-kubernetes-validations", ())]
        if name == "managedBy":
            assert any(
                "oldSelf.managedBy" in one["rule"] for one in NODES["spec"]["x-kubernetes-validations"]
            )
        elif name in changeable:
            assert "self == oldSelf" not in rules
        else:
            assert "self == oldSelf" in rules
            assert "default" in node or name in NODES["spec"]["required"]


def test_what_pods_have_of_a_later_kubernetes_is_kept() -> None:
    kept = {path for path, node in NODES.items() if "x-kubernetes-preserve-unknown-fields" in node}
    pod = "spec.workers.template.spec"
    assert kept == {
        f"{pod}.tolerations[]",
        f"{pod}.affinity",
        f"{pod}.affinity.nodeAffinity",
        f"{pod}.affinity.podAffinity",
        f"{pod}.affinity.podAntiAffinity",
    }


def test_every_rule_says_what_to_do() -> None:
    rules = [one for node in NODES.values() for one in node.get("x-kubernetes-validations", ())]
    assert len(rules) >= 12
    assert all(set(one) == {"rule", "message"} and one["message"] for one in rules)


def test_kubectl_shows_what_people_ask_for() -> None:
    columns = CRD["spec"]["versions"][0]["additionalPrinterColumns"]
    shown: dict[int, list[str]] = {0: [], 1: []}
    for one in columns:
        shown[one.get("priority", 0)].append(one["name"])
        path = one["jsonPath"].lstrip(".")
        if path in NODES:
            assert NODES[path]["type"] == one["type"]
    assert shown == {
        0: ["Status", "Progress", "Ranks", "Throttled", "Age"],
        1: ["Records", "Bytes", "Rate"],
    }
    assert CRD["spec"]["names"]["shortNames"] == ["dsj"]
    assert CRD["spec"]["versions"][0]["subresources"] == {"status": {}}


@pytest.mark.parametrize(
    ("path", "text", "fits"),
    [
        ("spec.input.url", "pvc://claim", True),
        ("spec.input.url", "pvc://claim/x y", True),
        ("spec.input.url", "file:///", True),
        ("spec.input.url", "file://x", False),
        ("spec.input.url", "pvc://Claim", False),
        ("spec.input.url", "pvc://claim/a?b", False),
        ("spec.output.url", "s3://bucket", False),
        ("spec.output.name", "%d", True),
        ("spec.output.name", "a/b", False),
        ("spec.output.name", ".a", False),
        ("spec.input.shards[]", "/a", False),
        ("spec.input.shards[]", "a/", True),
    ],
)
def test_patterns_take_and_refuse(path: str, text: str, fits: bool) -> None:
    assert bool(re.search(NODES[path]["pattern"], text)) is fits


def test_a_rule_for_a_field_that_is_gone_is_an_error() -> None:
    with pytest.raises(KeyError, match=r"no such field: input\.gone"):
        structural(DSortJobSpec, extras={**EXTRAS, "input.gone": {}})


def test_write_then_check_then_find_the_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "made" / "here"
    assert main(["--check", str(folder)]) == 1
    assert main(["--write", str(folder)]) == 0
    assert main(["--check", str(folder)]) == 0
    assert main([]) == 0
    told = capsys.readouterr()
    assert told.out == (folder / FILE).read_text()
    assert told.err == f"error: {folder / FILE} is not what the models say: make generate\n"
    with (folder / FILE).open("a") as file:
        file.write("#\n")
    assert main(["--check", str(folder)]) == 1


def test_it_runs_as_a_module() -> None:
    ran = subprocess.run([sys.executable, "-m", "dsort_api.crd"], capture_output=True, text=True, check=True)
    assert ran.stdout == (ROOT / "crds" / FILE).read_text()


def test_yaml_of_everything_that_looks_like_something_else() -> None:
    value: dict[str, Any] = {
        "words": [
            "true",
            "No",
            "null",
            "on",
            ".inf",
            "~",
            "",
            " a",
            "a ",
            "a: b",
            "a #b",
            "- a",
            "é",
            "1",
            "1e3",
            "a\nb",
        ],
        "numbers": [0, -1, 2**62],
        "flags": [True, False],
        "empty": {"list": [], "mapping": {}},
        "nested": [{"a": {"b": ["c"]}, "d": 1}, {"e": ["f", "g"]}],
        "yes": "key",
        "1": "key",
    }
    assert yaml.safe_load(to_yaml(value)) == value
