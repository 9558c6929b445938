"""The batched walk and the one that takes every member by itself say the same of every archive, damaged or not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsort_worker import tarwalk
from dsort_worker.shardreader import ShardReader
from dsort_worker.tarmember import CorruptTar
from dsort_worker.tarmembers import Scan
from dsort_worker.tarrecords import MemberLog, assemble
from tests.support.tarblocks import END, GNU, POSIX, V7, base256, header, long_name, member, padded, pax

WALKS = ["hop", "follow", "read through", "small batches", "small chunks"]


@contextmanager
def walking(walk: str) -> Iterator[None]:
    """Every way to walk, and batches so small that everything straddles their borders."""
    with pytest.MonkeyPatch.context() as patch:
        if walk in {"hop", "follow"}:
            patch.setattr(tarwalk, "_DENSE", 0)
        if walk == "follow":
            patch.setattr(tarwalk.Walker, "_hop", tarwalk.Walker._follow)
        if walk in {"read through", "small chunks"}:
            patch.setattr(tarwalk, "_DENSE", 1 << 40)
            patch.setattr(tarwalk, "_HOPS", 1)
        if walk in {"small batches", "small chunks"}:
            patch.setattr(tarwalk, "_buffers", tarwalk._Buffers(chunk=2048, rows=5))
        yield


@dataclass
class Seen:
    """All that a scan says."""

    columns: dict[str, Any]
    rest: tuple[Any, ...]


def scanned(data: bytes, *, plainly: bool) -> Seen:
    """What a walk finds; of a damaged archive where and why."""
    fd = os.memfd_create("shard")
    try:
        os.write(fd, data)
        scan = Scan(
            ShardReader(fd, name="shard.tar", size=len(data)), want_keys=True, cancelled=lambda: False
        )
        try:
            scan.walk(plainly=plainly)
        except CorruptTar as error:
            return Seen({}, ("corrupt", error.offset, error.detail, error.member))
        unsettled = scan.log.unsettled
        found = scan.log.join()
        columns = {name: getattr(found, name).tolist() for name in found._fields}
        log = MemberLog()
        log.add(found, unsettled)
        records = assemble(log, lost_keys=scan.lost_keys, read=scan.again, cancelled=lambda: False)
        columns |= {
            f"record's {name}": np.asarray(getattr(records, name)).tolist()
            for name in records._fields
            if name != "left_out"
        }
        counts = (scan.members, scan.directories, scan.global_headers, scan.position)
        return Seen(columns, (counts, scan.lost_keys, scan.left_out, records.left_out))
    finally:
        os.close(fd)


def names(alphabet: bytes = b"ab./.") -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(list(alphabet)), max_size=6).map(bytes) | st.sampled_from(
        [
            b"a.x",
            b"a.y",
            b"b.x",
            b"d/a.x",
            b"a..b",
            b"n" * 99 + b".x",
            b"\xc3\xbc.x",
            b"x" * 31,
            b"x" * 32,
            b"x" * 33,
        ]
    )


payloads = st.sampled_from([0, 1, 511, 512, 513, 5000]).map(lambda size: b"p" * size) | st.just(
    # A tar as payload looks like headers where none are.
    padded(member(b"inner.x", b"1") + member(b"inner.y"))
)
plain = st.builds(
    member,
    names(),
    payloads,
    kind=st.sampled_from([b"0", b"\x00", b"7"]),
    magic=st.sampled_from([POSIX, GNU, V7]),
)
keywords = st.dictionaries(
    st.sampled_from([b"mtime", b"uid", b"comment", b"SCHILY.dev", b"LIBARCHIVE.creationtime", b"SCHILY.xattr.a", b"path",
                     b"linkpath", b"size", b"GNU.sparse.major", b"mtimes", b"z"]),
    st.sampled_from([b"", b"0", b"a.z", b"1700000000.25", b"x\n11 path=b\n", b"v" * 400, b"v" * 600]),
    max_size=4,
)  # fmt: skip
extensions = st.one_of(
    st.dictionaries(st.sampled_from([b"mtime", b"atime", b"uname"]), st.sampled_from([b"1.5", b""])).map(pax),
    keywords.map(pax),
    st.sampled_from(
        [b"", b"x", b"3 a", b"6 a=b\n\x00\x00", b"006 a=b\n", b"5 a=b\n", b"6 =bc\n", b"4  =\n"]
    ).map(pax),
    names().map(long_name),
    st.builds(long_name, names(), kind=st.just(b"K")),
    st.just(pax({b"comment": b"c"}, kind=b"g")),
    st.just(pax({b"path": b"p.p"}, kind=b"X")),
)
odd = st.one_of(
    st.builds(member, names(), kind=st.sampled_from([b"1", b"2", b"5", b"6", b"3", b"V", b"\xff"]), link=names()),
    st.builds(header, names(), prefix=st.sampled_from([b"p", b"a/b"]), magic=st.sampled_from([POSIX, GNU])),
    st.builds(
        header,
        names(),
        size=st.sampled_from([b"          7 ", b"000000000000", b" 0 1", base256(0), b"+0000000000\x00", b"-0000000777\x00",
                              b"0_000000000\x00"]),
    ),
    names(b"\xc3.\xbc").map(lambda name: header(name, checksum="signed")),
    st.just(header(b"s.x", kind=b"S", magic=GNU, extra={482: b"\x01"}) + bytes(512)),
    st.just(pax({b"path": b"g.x"}, kind=b"g")),
    # A checksum of seven digits is right too.
    st.just(header(b"a.x", checksum=b"0000000\x00")),
)  # fmt: skip
archives = st.lists(
    plain | plain | plain | odd | st.tuples(extensions, plain).map(b"".join) | extensions, max_size=12
)


@pytest.mark.parametrize("walk", WALKS)
@given(parts=archives)
@example(parts=[header(b"", size=b"          7 "), pax({}), member(b"a.x")])
def test_both_ways_say_the_same_of_any_archive(walk: str, parts: list[bytes]) -> None:
    data = b"".join(parts) + END
    with walking(walk):
        assert scanned(data, plainly=True) == scanned(data, plainly=False)


@pytest.mark.parametrize("walk", WALKS)
@given(parts=archives, place=st.integers(0, 1 << 20), flip=st.integers(1, 255), cut=st.booleans())
def test_both_ways_say_the_same_of_a_damaged_archive(
    walk: str, parts: list[bytes], place: int, flip: int, cut: bool
) -> None:
    data = bytearray(b"".join(parts) + END)
    place %= len(data)
    if cut:
        del data[place:]
    else:
        data[place] ^= flip
    with walking(walk):
        assert scanned(bytes(data), plainly=True) == scanned(bytes(data), plainly=False)


@pytest.mark.parametrize("walk", WALKS)
def test_both_ways_say_the_same_of_every_cut(walk: str) -> None:
    parts = [
        member(b"a.x", b"1" * 700),
        pax({b"mtime": b"1.5"}) + member(b"a.y", b"2" * 600),
        member(b"b.x", b"3"),
    ]
    data = b"".join(parts) + END
    with walking(walk):
        for cut in range(0, len(data), 100):
            assert scanned(data[:cut], plainly=True) == scanned(data[:cut], plainly=False), cut


@pytest.mark.parametrize("walk", WALKS)
def test_both_ways_find_a_name_that_stands_again_far_away(walk: str) -> None:
    many = [b"r.%d" % number for number in range(40)]
    for names in (many, [*many, b"r.0"], [*many, b"r.39"], [b"r.1", b"r.2", b"r.3", b"r.4", b"r.1"]):
        data = b"".join(member(name) for name in names) + END
        with walking(walk):
            found = scanned(data, plainly=True)
            assert found == scanned(data, plainly=False)
        assert found.columns["record's members"] == [len(set(names))]


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize(
    "odd",
    [member(b"d/", kind=b"\x00"), member(b"d/e.f/"), pax({b"mtime": b"1"}) + pax({b"path": b"p.x"}) + member(b"q.x"),
     pax({b"path": b"p.x"}) + pax({b"mtime": b"1"}) + member(b"q.x"), long_name(b"l.x") + pax({b"uid": b"1"}) + member(b"q.x")],
)  # fmt: skip
def test_both_ways_see_what_only_looks_plain(walk: str, odd: bytes) -> None:
    data = member(b"a.x") + odd + member(b"b.x") + END
    with walking(walk):
        assert scanned(data, plainly=True) == scanned(data, plainly=False)
