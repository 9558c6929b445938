"""The CustomResourceDefinition of DSortJob, from the models: `make generate` writes it to crds/.

    python -m dsort_api.crd                 print it
    python -m dsort_api.crd --write DIR     write DIR/dsort.dev_dsortjobs.yaml
    python -m dsort_api.crd --check DIR     fail when the file there is not what the models say

What is here and not in the models are the rules that the API server is to check by itself, as patterns and CEL. Each
mirrors a validator of `spec`, `urls` or `quantity`, and one table of examples holds both sides to the same answers. The
server checks less, never more: what the grammar of a template allows is checked by the loader alone, and a job that it
refuses ends as InvalidSpec.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from dsort_api import podtemplate, quantity, urls
from dsort_api.fields import LARGEST_QUANTITY
from dsort_api.labels import GROUP
from dsort_api.spec import LEAST_BUDGET, MANAGER, VERSION, DSortJobSpec
from dsort_api.status import DSortJobStatus

PLURAL: Final = "dsortjobs"
FILE: Final = f"{GROUP}_{PLURAL}.yaml"
_HEADER: Final = "# Generated from the models of api/dsort_api by `make generate`. Edit those.\n"
# Beyond it a JSON number, as which the server keeps a bound, is not exact. All such bounds are int64's own.
_EXACT: Final = 1 << 53


def _rule(rule: str, message: str) -> dict[str, str]:
    return {"rule": rule, "message": message}


def _immutable(field: str) -> dict[str, str]:
    return _rule("self == oldSelf", f"{field} is immutable; create another DSortJob")


# Whether it is whole bytes is left to the loader: quantity's isInteger() says no to 1.5Gi and 4Ei.
_IS_SIZE: Final = _rule(
    f"type(self) == int ? self >= 1 && self <= {LARGEST_QUANTITY} : isQuantity(self) "
    "&& quantity(self).isGreaterThan(quantity('0')) && quantity(self).compareTo(quantity('4Ei')) <= 0",
    "must be a quantity of bytes between 1 and 4Ei, such as 256Mi",
)
_IS_SHARE_OR_SIZE: Final = _rule(
    f"type(self) == string && self.matches('{quantity.PERCENT}') || ({_IS_SIZE['rule']})",
    "must be a percentage from 1% to 100%, or a quantity of bytes such as 512Mi",
)
_IS_ENOUGH: Final = _rule(
    f"type(self) == int ? self >= {LEAST_BUDGET} : !isQuantity(self) || quantity(self).compareTo(quantity('64Mi')) >= 0",
    "must be 64Mi or more",
)
_ENOUGH_FOR_LANES: Final = _rule(
    f"type(self.memory.budget) == int ? self.memory.budget >= self.workers.lanes * {LEAST_BUDGET} "
    ": !isQuantity(self.memory.budget) "
    f"|| !quantity(self.memory.budget).sub(self.workers.lanes * {LEAST_BUDGET}).isLessThan(quantity('0'))",
    "memory.budget must be 64Mi or more for each of workers.lanes",
)
_PERCENT: Final = {"maxLength": 4, "pattern": quantity.PERCENT}


def _percent(field: str) -> str:
    return f"int(self.{field}.replace('%', ''))"


_URL: Final = {
    "pattern": urls.PATTERN + "[^?#]*$",
    "x-kubernetes-validations": [_rule(r"!self.matches('/\\.\\.(/|$)')", "must not have a '..'")],
}

_AMOUNTS: Final = {
    "maxLength": quantity.LONGEST,
    "x-kubernetes-validations": [
        _rule(
            "type(self) == int ? self >= 0 : isQuantity(self) && !quantity(self).isLessThan(quantity('0'))",
            "must be a quantity such as 500m or 2Gi, and not negative",
        )
    ],
}
_NAME: Final = {"pattern": podtemplate.NAME}
_LABELS: Final = _rule(
    f"self.all(key, key.matches('{podtemplate.LABEL_KEY}'))",
    "must be names of labels or annotations, such as example.com/team",
)
_LABEL: Final = {"pattern": podtemplate.LABEL_VALUE, "maxLength": podtemplate.LONGEST_LABEL}
_OWN: Final = ", ".join(f"'{one}'" for one in podtemplate.OWN_LABELS)
_TEMPLATE: Final[Mapping[str, Mapping[str, Any]]] = {
    "metadata.labels": {
        "x-kubernetes-validations": [
            _LABELS,
            _rule(
                f"self.all(key, !key.startsWith('{GROUP}/') && !(key in [{_OWN}]))",
                "must not set the operator's own labels",
            ),
        ]
    },
    "metadata.labels{}": _LABEL,
    "metadata.annotations": {"x-kubernetes-validations": [_LABELS]},
    "spec.nodeSelector": {"x-kubernetes-validations": [_LABELS]},
    "spec.nodeSelector{}": _LABEL,
    "spec.tolerations": {"x-kubernetes-list-type": "atomic"},
    "spec.resources.requests{}": _AMOUNTS,
    "spec.resources.limits{}": _AMOUNTS,
    "spec.priorityClassName": _NAME,
    "spec.runtimeClassName": _NAME,
    "spec.schedulerName": _NAME,
    "spec.imagePullSecrets": {"x-kubernetes-list-type": "atomic"},
    "spec.imagePullSecrets[].name": _NAME,
    "spec.securityContext.supplementalGroups": {"x-kubernetes-list-type": "atomic"},
}

EXTRAS: Final[Mapping[str, Mapping[str, Any]]] = {
    "": {
        "x-kubernetes-validations": [
            _rule(
                "has(self.managedBy) == has(oldSelf.managedBy) && (!has(self.managedBy) || self.managedBy == oldSelf.managedBy)",
                "managedBy is immutable; create another DSortJob",
            ),
            _ENOUGH_FOR_LANES,
        ]
    },
    "input": {"x-kubernetes-validations": [_immutable("input")]},
    "input.url": _URL,
    "input.shards": {"x-kubernetes-list-type": "atomic"},
    "input.shards[]": {"pattern": "^[^/]"},
    "output": {
        "x-kubernetes-validations": [
            _immutable("output"),
            _rule(
                "[has(self.shardSize), has(self.recordsPerShard), has(self.shardCount)].filter(given, given).size() <= 1",
                "shardSize, recordsPerShard and shardCount exclude each other; keep one",
            ),
            # Every number that has no end is written with a %, and a valid name has no other %.
            _rule(
                "!self.name.contains('%') || has(self.shardSize) || has(self.recordsPerShard) || has(self.shardCount)",
                "one of shardSize, recordsPerShard and shardCount is needed: the name has no end",
            ),
        ]
    },
    "output.url": _URL,
    "output.name": {"maxLength": 255, "pattern": "^[^./][^/]*$"},
    "output.shardSize": {"maxLength": quantity.LONGEST, "x-kubernetes-validations": [_IS_SIZE]},
    "order": {
        "default": {},
        "x-kubernetes-validations": [
            _immutable("order"),
            # The server tries the rules on the default itself before it fills in the defaults within it: hence has().
            _rule(
                "!has(self.seed) || (has(self.kind) && self.kind == 'Shuffle')",
                "a seed goes with kind Shuffle",
            ),
            _rule(
                "!has(self.descending) || !self.descending || (has(self.kind) && self.kind in ['Key', 'MD5'])",
                "descending goes with kind Key or MD5",
            ),
        ],
    },
    "records": {"default": {}, "x-kubernetes-validations": [_immutable("records")]},
    "workers": {
        "default": {},
        "x-kubernetes-validations": [
            _immutable("workers"),
            _rule(
                "!has(self.placement) || self.placement != 'Count' || has(self.count)",
                "placement Count needs a count",
            ),
            _rule(
                "!has(self.placement) || self.placement != 'OnePerNode' || !has(self.count)",
                "placement OnePerNode and a count exclude each other; keep one",
            ),
        ],
    },
    "workers.scratchSizeLimit": {"maxLength": quantity.LONGEST, "x-kubernetes-validations": [_IS_SIZE]},
    **{f"workers.template.{path}": extra for path, extra in _TEMPLATE.items()},
    "memory": {
        "default": {},
        "x-kubernetes-validations": [
            _immutable("memory"),
            _rule(
                f"!has(self.resumeAt) || !has(self.throttleAt) || {_percent('resumeAt')} < {_percent('throttleAt')}",
                "resumeAt must be less than throttleAt",
            ),
            _rule(
                f"!has(self.throttleAt) || !has(self.abortAt) || {_percent('throttleAt')} <= {_percent('abortAt')}",
                "abortAt must be no less than throttleAt",
            ),
        ],
    },
    "memory.budget": {
        "maxLength": quantity.LONGEST,
        "x-kubernetes-validations": [_IS_SHARE_OR_SIZE, _IS_ENOUGH],
    },
    "memory.throttleAt": _PERCENT,
    "memory.resumeAt": _PERCENT,
    "memory.abortAt": _PERCENT,
    "dryRun": {"x-kubernetes-validations": [_immutable("dryRun")]},
    "backoffLimit": {"x-kubernetes-validations": [_immutable("backoffLimit")]},
    "abort": {"x-kubernetes-validations": [_rule("self || !oldSelf", "abort cannot be taken back")]},
    "managedBy": {"pattern": MANAGER},
}
"""What the server checks beyond types and bounds, by path in the spec. Sections that may not change are filled in with
their defaults, so that adding what is meant anyway is no change."""

_WIDE: Final = {"priority": 1}
_COLUMNS: Final[tuple[tuple[str, str, str, str, Mapping[str, int]], ...]] = (
    ("Status", "string", ".status.state", "The job in one word.", {}),
    ("Progress", "string", ".status.progress.share", "Share of the job that is done, about.", {}),
    ("Ranks", "string", ".status.ready", "Ranks that answer, of all ranks.", {}),
    (
        "Throttled",
        "string",
        ".status.conditions[?(@.type=='Throttled')].status",
        "Whether it is held back.",
        {},
    ),
    ("Age", "date", ".metadata.creationTimestamp", "Time since the job was created.", {}),
    ("Records", "integer", ".status.recordsOut", "Records written to the output.", _WIDE),
    ("Bytes", "integer", ".status.bytesOut", "Bytes of the records written.", _WIDE),
    ("Rate", "string", ".status.rate", "Payload written per second.", _WIDE),
)
"""Name, type, path, description; wide: only with -o wide. A priority of 0 is left out as the server does, or else every
`kubectl apply` would find something to change."""


def custom_resource_definition() -> dict[str, Any]:
    """The resource, as the API server takes it."""
    spec = structural(DSortJobSpec, extras=EXTRAS)
    status = structural(
        DSortJobStatus,
        extras={
            "conditions": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
            "abnormalRanks": {"x-kubernetes-list-type": "atomic"},
        },
    )
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, "description": description, **extra}
            for name, kind, path, description, extra in _COLUMNS
        ],
        "schema": {
            "openAPIV3Schema": {
                "description": "A DSortJob reads all records of the input shards and writes them to new shards, shuffled, "
                "sorted or repacked. The same inputs and spec give the same bytes.",
                "type": "object",
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"description": f"{GROUP}/{VERSION}.", "type": "string"},
                    "kind": {"description": "DSortJob.", "type": "string"},
                    "metadata": {"type": "object"},
                    "spec": spec,
                    "status": status,
                },
            }
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "plural": PLURAL,
                "singular": "dsortjob",
                "kind": "DSortJob",
                "listKind": "DSortJobList",
                "shortNames": ["dsj"],
            },
            "versions": [version],
        },
    }


def structural(model: type[BaseModel], *, extras: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The structural schema of a model, with what `extras` adds by path ("a.b", "a.list[]", "a.map{}").

    Raises KeyError for an extra whose path is not there.
    """
    schema = model.model_json_schema(by_alias=True)
    left = dict(extras)
    result = _structural(schema, schema.get("$defs", {}), "", left)
    if left:
        raise KeyError(f"no such field: {', '.join(left)}")
    return result


def _structural(
    node: Mapping[str, Any], definitions: Mapping[str, Any], path: str, extras: dict[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """One node: references resolved, `or null` taken off, and only the words that the API server knows."""
    node = dict(node)
    for inner in (one for one in node.pop("anyOf", ()) if one != {"type": "null"}):
        node = {**inner, **node}
    if "$ref" in node:
        node = {**definitions[node.pop("$ref").rpartition("/")[2]], **node}
    words = (
        "description",
        "type",
        "format",
        "default",
        "enum",
        "minimum",
        "maximum",
        "maxLength",
        "maxItems",
        "maxProperties",
        "pattern",
    )
    result = {word: node[word] for word in words if node.get(word) is not None}
    if node.get("type") == "integer":
        result["format"] = "int64"
        if result.get("maximum", 0) >= _EXACT:
            del result["maximum"]
    result.update({word: value for word, value in node.items() if word.startswith("x-kubernetes-")})
    result.update(extras.pop(path, {}))
    values = node.get("additionalProperties")
    if values is True:
        result["x-kubernetes-preserve-unknown-fields"] = True
        if "properties" not in node:
            # Without a type the server compares it whole. In an object it would miss that an unknown key took the place
            # of another.
            del result["type"]
    elif isinstance(values, Mapping):
        result["additionalProperties"] = _structural(values, definitions, f"{path}{{}}", extras)
    if "items" in node:
        result["items"] = _structural(node["items"], definitions, f"{path}[]", extras)
    if "properties" in node:
        if node.get("required"):
            result["required"] = node["required"]
        prefix = f"{path}." if path else ""
        result["properties"] = {
            name: _structural(inner, definitions, prefix + name, extras)
            for name, inner in node["properties"].items()
        }
    return result


def to_yaml(value: Mapping[str, Any]) -> str:
    """YAML of mappings, lists, texts, numbers and booleans: enough for a manifest, without a library for it."""
    return "".join(f"{line}\n" for line in _mapping(value))


_PLAIN: Final = re.compile(r"[A-Za-z.][A-Za-z0-9._/()-]*")
_WORDS: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n", ".inf", ".nan"})


def _scalar(value: object) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)  # which is YAML too, empty lists and mappings included


def _mapping(value: Mapping[str, Any]) -> Iterator[str]:
    for key, inner in value.items():
        if inner and isinstance(inner, Mapping):
            yield f"{_scalar(key)}:"
            yield from (f"  {line}" for line in _mapping(inner))
        elif inner and isinstance(inner, list):
            yield f"{_scalar(key)}:"
            for item in inner:
                lines = list(_mapping(item)) if isinstance(item, Mapping) else [_scalar(item)]
                yield f"- {lines[0]}"
                yield from (f"  {line}" for line in lines[1:])
        else:
            yield f"{_scalar(key)}: {_scalar(inner)}"


def main(arguments: list[str] | None = None) -> int:
    """Print, write or check the file; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dsort_api.crd", description="The CRD of DSortJob.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", metavar="DIR", type=Path, help=f"write DIR/{FILE}")
    what.add_argument(
        "--check", metavar="DIR", type=Path, help=f"fail when DIR/{FILE} is not what the models say"
    )
    options = parser.parse_args(arguments)
    text = _HEADER + to_yaml(custom_resource_definition())
    if options.write is not None:
        options.write.mkdir(parents=True, exist_ok=True)
        (options.write / FILE).write_text(text, encoding="utf-8")
    elif options.check is not None:
        path = options.check / FILE
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            sys.stderr.write(f"error: {path} is not what the models say: make generate\n")
            return 1
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
