"""The generated parts of the chart: its CRD template, from crds/, and the table of values in its README, from the comments
of values.yaml.

    python scripts/chart_files.py --write | --check
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
CRD: Final = ROOT / "crds" / "dsort.dev_dsortjobs.yaml"
CHART: Final = ROOT / "charts" / "dsort-operator"
TEMPLATE: Final = CHART / "templates" / "crds.yaml"
README: Final = CHART / "README.md"
TABLE: Final = re.compile(r"(<!-- values: .*? -->\n).*?(<!-- end of values -->\n)", flags=re.DOTALL)
NAME: Final = "  name: dsortjobs.dsort.dev\n"
METADATA: Final = """\
  labels:
    {{- include "dsort-operator.labels" . | nindent 4 }}
  {{- if .Values.crds.keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
"""


def crd_template(crd: str) -> str:
    """The CRD as a template: with the chart's labels, and behind its switches. ValueError when it has no name to find."""
    comment, _, body = crd.partition("\n")
    if body.count(NAME) != 1 or not comment.startswith("#"):
        raise ValueError(
            f"{CRD.name} does not look as expected: no comment first, or not one {NAME.strip()!r}"
        )
    literal = body.replace("{{", '{{ "{{" }}')
    head, tail = literal.split(NAME)
    return (
        "{{- /* Generated from crds/ by `make generate`. */}}\n"
        "{{- if .Values.crds.install }}\n" + head + NAME + METADATA + tail + "{{- end }}\n"
    )


def values(text: str) -> Iterator[tuple[str, str, str]]:
    """Path, default as JSON and description of every commented key; what lies below one belongs to it.

    ValueError for a value without a comment.
    """
    defaults = yaml.safe_load(text)
    path: list[str] = []
    comment: list[str] = []
    documented: str | None = None
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.removeprefix("#").strip())
            continue
        key = re.match(r"( *)([A-Za-z_]+):( |$)", line)
        if key is None:
            continue
        depth = len(key[1]) // 2
        path = [*path[:depth], key[2]]
        here = ".".join(path)
        if documented is not None and here.startswith(documented + "."):
            continue
        value = at(defaults, path)
        if comment and not _is_group(value, line, text):
            documented = here
            yield here, json.dumps(value), " ".join(comment)
        elif not comment and not isinstance(value, Mapping):
            raise ValueError(f"values.yaml: {here} has no comment")
        comment = []


def _is_group(value: object, line: str, text: str) -> bool:
    """Whether a key only holds others that have comments of their own: one begins on the next line, further in."""
    following = text[text.index(line + "\n") + len(line) + 1 :].split("\n", 1)[0]
    depth = len(line) - len(line.lstrip())
    return isinstance(value, Mapping) and re.match(rf" {{{depth + 1},}}#", following) is not None


def at(tree: Any, path: list[str]) -> Any:
    """The value at a path."""
    for key in path:
        tree = tree[key]
    return tree


def readme(current: str, table: str) -> str:
    """The README with another table. ValueError when it has no place for one."""
    new, count = TABLE.subn(lambda found: found[1] + table + found[2], current)
    if count != 1:
        raise ValueError("README.md has no place for the values")
    return new


def table(rows: Iterator[tuple[str, str, str]]) -> str:
    """The rows as Markdown."""
    lines = ["| value | default | what it is |", "|---|---|---|"]
    lines += [
        f"| `{path}` | `{default}` | {description.replace('|', chr(92) + '|')} |"
        for path, default, description in rows
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Write or check both; the exit code."""
    if arguments not in (["--write"], ["--check"]):
        sys.stderr.write(f"{__doc__}")
        return 2
    wanted = {
        TEMPLATE: crd_template(CRD.read_text(encoding="utf-8")),
        README: readme(
            README.read_text(encoding="utf-8"),
            table(values((CHART / "values.yaml").read_text(encoding="utf-8"))),
        ),
    }
    stale = [
        path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if arguments == ["--write"]:
            path.write_text(wanted[path], encoding="utf-8")
        else:
            sys.stderr.write(f"error: {path.relative_to(ROOT)} is not up to date: make generate\n")
    return 1 if stale and arguments == ["--check"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
