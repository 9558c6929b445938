"""Read a DSortJob manifest from a file: YAML, strictly."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from dsort_api.reasons import DSortError, Reason

if TYPE_CHECKING:
    from dsort_api.spec import DSortJob

_DEEPEST = 100
"""Levels of nesting; a job has some ten."""


def read_job(path: str) -> DSortJob:
    """The job in the file at `path`, "-" for standard input.

    Raises DSortError InvalidSpec for everything that is wrong with it: no such file, no YAML, a key given
    twice, an unknown field, a bad value.
    """
    return _load(path)[0]


def read_manifest(path: str) -> dict[str, Any]:
    """The manifest in the file as it is written there, when it is one that `read_job` takes."""
    return _load(path)[1]


def _load(path: str) -> tuple[DSortJob, dict[str, Any]]:
    from dsort_api.spec import load_job

    manifest = parse_yaml(_read(path), name=path)
    return load_job(manifest, strict=True), manifest


def parse_yaml(text: str, *, name: str) -> dict[str, Any]:
    """The one mapping that a YAML text holds. Raises DSortError InvalidSpec naming the line and column in
    `name`.
    """
    import yaml

    try:
        _refuse_deep_nesting(text, name=name)
        loader = yaml.CSafeLoader(text)
        try:
            node = loader.get_single_node()
            _refuse_repeated_keys(node, name=name)
            document = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        where = _place(error.problem_mark or error.context_mark)
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise DSortError(Reason.INVALID_SPEC, f"{name}{where}: {what}") from None
    except (yaml.YAMLError, ValueError) as error:
        # A value such as 2024-13-45 looks like a date to YAML and is none: that error has no place.
        raise DSortError(Reason.INVALID_SPEC, f"{name}: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        what = "is empty" if document is None else "holds no mapping"
        raise DSortError(
            Reason.INVALID_SPEC,
            f"{name}: the file {what}; a DSortJob begins with apiVersion: dsort.dev/v1alpha1",
        )
    return document


def _read(path: str) -> str:
    try:
        if path == "-":
            return sys.stdin.buffer.read().decode()
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise DSortError(Reason.INVALID_SPEC, f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DSortError(Reason.INVALID_SPEC, f"{path}: not UTF-8 at byte {error.start}") from None


def _refuse_deep_nesting(text: str, *, name: str) -> None:
    """What composes the nodes calls itself for each level, in C: some ten thousand brackets end the process."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEEPEST:
                where = _place(event.start_mark)
                raise DSortError(Reason.INVALID_SPEC, f"{name}{where}: nested more than {_DEEPEST} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _refuse_repeated_keys(node: Any, *, name: str) -> None:
    """YAML lets the last of two equal keys win, silently; a person meant one of them. Aliases may make a loop."""
    import yaml

    pending, met = [node], set()
    while pending:
        here = pending.pop()
        if id(here) in met:  # an alias: the same node again
            continue
        met.add(id(here))
        if isinstance(here, yaml.SequenceNode):
            pending += here.value
        elif isinstance(here, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in here.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in keys:
                        raise DSortError(
                            Reason.INVALID_SPEC,
                            f"{name}{_place(key.start_mark)}: the key {key.value} stands here twice",
                        )
                    keys.add(key.value)
                pending.append(value)


def _place(mark: Any) -> str:
    return f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
