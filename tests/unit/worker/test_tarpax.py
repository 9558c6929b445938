from __future__ import annotations

import pytest

from dsort_worker.tarpax import PaxError, is_harmless, is_sparse, parse_records, sparse_name
from tests.support.tarblocks import record


def test_records_are_read_by_their_lengths() -> None:
    value = b"two\nlines=1\n11 path=evil\n"
    data = record(b"comment", value) + record(b"path", b"\xff/n") + b"008 a=b\n" + record(b"mtime", b"")
    assert parse_records(data) == {b"comment": value, b"path": b"\xff/n", b"a": b"b", b"mtime": b""}


def test_the_last_of_equal_keywords_counts() -> None:
    assert parse_records(record(b"path", b"1") + record(b"path", b"2")) == {b"path": b"2"}


def test_zeros_end_the_list() -> None:
    assert parse_records(record(b"a", b"b") + bytes(9)) == {b"a": b"b"}
    assert parse_records(b"") == {}


@pytest.mark.parametrize(
    "data",
    [b"x", b"6", b" 6 a=b\n", b"6  a=b", b"7 a=b\n", b"5 a=b\n", b"6 a=b ", b"-6 a=b\n", b"+6 a=b\n", b"6 ab=\n6", b"5 =b\n",
     b"0 a=b\n", b"1 a=b\n", b"99 path=a", b"6\ta=b\n", b"9" * 30 + b" a=b\n", b"5 abc\n", b"6 a=b\nrest"],
)  # fmt: skip
def test_what_is_no_sequence_of_records_is_refused(data: bytes) -> None:
    with pytest.raises(PaxError):
        parse_records(data)


@pytest.mark.parametrize(
    ("keyword", "harmless"),
    [(b"mtime", True), (b"SCHILY.xattr.user.x", True), (b"LIBARCHIVE.creationtime", True), (b"unheard.of", True),
     (b"path", False), (b"linkpath", False), (b"size", False), (b"GNU.sparse.map", False), (b"GNU.sparse.major", False)],
)  # fmt: skip
def test_keywords_that_change_a_member_are_known(keyword: bytes, harmless: bool) -> None:
    assert is_harmless({b"mtime": b"1", keyword: b"2"}) is harmless


def test_the_name_of_a_sparse_member_is_its_own_keyword() -> None:
    assert is_sparse({b"GNU.sparse.name": b"n"})
    assert sparse_name({b"GNU.sparse.name": b"n", b"path": b"GNUSparseFile.0/n"}) == b"n"
    assert sparse_name({}) is None
