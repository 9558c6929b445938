"""Reading a manifest: every bad one is one line that says where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dsort_api.reasons import DSortError, Reason
from dsort_cli.jobfile import parse_yaml, read_job

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
apiVersion: dsort.dev/v1alpha1
kind: DSortJob
metadata: {name: a}
spec:
  input: {url: "file:///in"}
  output: {url: "file:///out", name: "o-%04d", shardSize: 64Mi}
"""


def test_a_good_manifest(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(GOOD)
    job = read_job(str(tmp_path / "job.yaml"))
    assert (job.metadata.name, job.spec.output.shard_size) == ("a", 64 << 20)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        pytest.param("", ["the file is empty"], id="empty"),
        pytest.param("# only a comment\n", ["the file is empty"], id="comment"),
        pytest.param("- a\n", ["holds no mapping"], id="a list"),
        pytest.param("a: 1\nb: [\n", ["job.yaml, line 3, column 1"], id="not YAML"),
        pytest.param("a: 1\n---\nb: 2\n", ["line 2", "single document"], id="two documents"),
        pytest.param(
            "spec:\n  input: 1\n  input: 2\n", ["line 3, column 3", "the key input"], id="a key twice"
        ),
        pytest.param("a: [{b: 1, c: {d: 1, d: 2}}]\n", ["the key d"], id="a key twice, deep"),
        pytest.param("a: 2024-13-45\n", ["job.yaml: "], id="no such day"),
        pytest.param("a: !!python/object:os.system {}\n", ["line 1"], id="a Python tag"),
        pytest.param("a: *b\n", ["undefined alias"], id="no such alias"),
        pytest.param("a:\n  " + "[" * 200_000, ["line 2, column", "nested more than"], id="deep"),
    ],
)
def test_bad_yaml(text: str, parts: list[str]) -> None:
    with pytest.raises(DSortError) as error:
        parse_yaml(text, name="job.yaml")
    assert error.value.reason is Reason.INVALID_SPEC
    assert "\n" not in error.value.message
    for part in ["job.yaml", *parts]:
        assert part in error.value.message


def test_an_alias_that_holds_itself_ends() -> None:
    assert set(parse_yaml("a: &a {b: *a}\n", name="x")) == {"a"}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("&n [*n]", r"spec.output.name: must be text, not \[\[...\]\]"),
        ("2024-01-01", "not the date 2024-01-01"),
    ],
)
def test_a_value_that_is_no_json_is_told(tmp_path: Path, value: str, words: str) -> None:
    (tmp_path / "job.yaml").write_text(GOOD.replace('"o-%04d"', value))
    with pytest.raises(DSortError, match=words):
        read_job(str(tmp_path / "job.yaml"))


def test_an_unknown_field_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(GOOD.replace("metadata:", "meta: {}\nmetadata:"))
    with pytest.raises(DSortError, match="meta"):
        read_job(str(tmp_path / "job.yaml"))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DSortError, match="No such file"):
        read_job(str(tmp_path / "none.yaml"))


def test_not_text(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(DSortError, match="not UTF-8 at byte 3"):
        read_job(str(tmp_path / "job.yaml"))
