from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsort_worker import tarbatch, tarhash, tarmembers, tarrecords
from dsort_worker.tarhash import hash_matrix, hash_names
from dsort_worker.tarmember import Kind, Member
from dsort_worker.tarrecords import settle
from tests.support.tarblocks import END, header, long_name, member, pax
from tests.support.tarscans import IGNORE, scan


def file(name: str) -> Member:
    return Member(Kind.FILE, 0, 1, name.encode())


def link(name: str, target: str) -> Member:
    return Member(Kind.LINK, 0, 1, name.encode(), target.encode())


@pytest.mark.parametrize(
    ("members", "kept", "unsupported"),
    [
        ([file("a.x"), file("a.y")], {0, 1}, set()),
        ([file("a.x"), file("a.y"), file("a.x")], {1, 2}, set()),
        ([file("a.x")] * 4, {3}, set()),
        ([file("a.x"), link("a.y", "a.x")], {0, 1}, set()),
        ([file("a.x"), link("a.y", "a.x"), link("a.z", "a.y")], {0, 1, 2}, set()),
        ([link("a.y", "a.x"), file("a.x")], {1}, {0}),
        ([file("a.x"), link("a.y", "b.x")], {0}, {1}),
        ([link("a.y", "nowhere")], set(), {0}),
        # A link to an unsupported link is unsupported.
        ([link("a.y", "nowhere"), link("a.z", "a.y"), file("a.x")], {2}, {0, 1}),
        # The target's kept copy stands behind the link.
        ([file("a.x"), link("a.y", "a.x"), file("a.x")], {2}, {1}),
        ([file("a.x"), link("a.y", "a.x"), file("a.x"), link("a.y", "a.x")], {2, 3}, set()),
        # A member that was archived twice: GNU tar writes a link to itself. The payload must survive.
        ([file("a.x"), link("a.x", "a.x")], {0}, {1}),
        # A link that is left out takes nobody's place.
        ([file("a.x"), link("a.x", "nowhere"), link("a.y", "a.x")], {0, 2}, {1}),
        ([file("a.x"), file("a.y"), link("a.y", "a.x"), file("a.x")], {1, 3}, {2}),
    ],
)
def test_duplicates_and_hard_links_are_settled_together(
    members: list[Member], kept: set[int], unsupported: set[int]
) -> None:
    assert settle(members) == (kept, unsupported)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "a", "b", "c", "d"])), max_size=9))
def test_what_is_kept_stands_on_what_is_kept(names: list[tuple[str, str]]) -> None:
    members = [link(name, target) if target else file(name) for name, target in names]
    kept, unsupported = settle(members)
    assert not kept & unsupported
    seen: set[bytes] = set()
    for index in sorted(kept):
        one = members[index]
        assert one.name not in seen
        assert one.kind is not Kind.LINK or one.link in seen
        seen.add(one.name)
    for index, one in enumerate(members):
        if index not in kept | unsupported:  # a duplicate: its name is kept from a later copy
            assert any(members[other].name == one.name for other in kept if other > index)
        if one.kind is Kind.FILE:
            assert one.name in seen


def blocks(*parts: bytes) -> bytes:
    return b"".join(parts)


A_X, A_Y, A_Z = member(b"a.x", b"1"), member(b"a.y", b"2" * 600), member(b"a.z", b"3")
B_X, B_Y, C_X = member(b"b.x", b"4"), member(b"b.y", b"5"), member(b"c.x")


def test_members_of_a_record_need_not_be_neighbours() -> None:
    found = scan(blocks(A_X, B_X, A_Y, C_X, B_Y, A_Z) + END)
    assert found.keys == [b"a", b"b", b"c"]
    assert found.records == [A_X + A_Y + A_Z, B_X + B_Y, C_X]
    assert found.index.slices.tolist() == [3, 2, 1]
    assert found.index.members.tolist() == [3, 2, 1]


def test_neighbours_are_one_slice_and_a_gap_begins_another() -> None:
    folder = member(b"d", kind=b"5")
    found = scan(blocks(A_X, A_Y, folder, A_Z, B_X, folder, C_X) + END)
    assert found.records == [A_X + A_Y + A_Z, B_X, C_X]
    assert found.index.slices.tolist() == [2, 1, 1]
    assert found.index.extra.shape == (2, 2)
    assert found.index.counts.directories == 2


def test_a_record_stands_where_its_first_kept_member_stands() -> None:
    fifo = member(b"a.fifo", kind=b"6")
    found = scan(blocks(fifo, B_X, A_Y) + END, records=IGNORE)
    assert found.keys == [b"b", b"a"]
    copy = member(b"a.x", b"the copy")
    found = scan(blocks(A_X, B_X, A_Y, copy) + END, records=IGNORE)
    assert found.keys == [b"b", b"a"]
    assert found.records == [B_X, A_Y + copy]
    found = scan(blocks(A_X, B_X, copy) + END, records=IGNORE)
    assert found.records == [B_X, copy]


def test_a_record_without_members_is_left_out_and_counted_once() -> None:
    fifos = blocks(member(b"a.1", kind=b"6"), member(b"a.2", kind=b"6"), member(b"d/e.1", kind=b"6"))
    lonely = member(b"l.1", kind=b"1", link=b"nowhere") + member(b"m.1", kind=b"1", link=b"b.x")
    found = scan(blocks(fifos, lonely, B_X, member(b"b.1", kind=b"6")) + END)
    assert found.keys == [b"b"]
    counts = found.index.counts
    assert (counts.records, counts.records_left_out, counts.members, counts.members_left_out) == (5, 4, 7, 6)
    assert counts.unsupported == 6


def test_folders_and_dots_belong_to_the_key() -> None:
    names = [b"a.x", b"./a.x", b"d/a.x", b"d/e.f/a.x", b".a.x", b"a", b"\xff.x", b"A.x", b"d/.x"]
    keys = [b"a", b"./a", b"d/a", b"d/e.f/a", b".a", b"\xff", b"A", b"d/.x"]
    assert scan(b"".join(member(name) for name in names[:5] + names[6:]) + END).keys == keys
    assert scan(b"".join(member(name) for name in names) + END).keys == keys  # "a" joins the record a


def test_order_of_extensions_is_kept() -> None:
    """Case 11."""
    parts = [
        member(b"r/7" + extension, extension) for extension in (b".txt", b".json.info", b".info", b".json")
    ]
    found = scan(blocks(*parts) + END)
    assert (found.keys, found.records) == ([b"r/7"], [blocks(*parts)])


def test_long_and_short_names_make_one_record() -> None:
    long = b"k" * 98
    parts = [
        member(long + b".x", b"1"),
        long_name(long + b".yyyy") + member(b"cut"),
        pax({b"path": long + b".z"}) + member(b"s"),
    ]
    found = scan(blocks(*parts) + END)
    assert (found.keys, found.records) == ([long], [blocks(*parts)])


names = st.lists(st.sampled_from([b"a.x", b"a.y", b"b.x", b"b.y", b"c", b"d/a.x", b"a.x.y"]), max_size=12)


@given(names)
def test_equal_hashes_change_nothing(chosen: list[bytes]) -> None:
    """The hashes only say where to look: with the worst hash of all, every decision falls by the names."""
    data = b"".join(member(name, b"%d" % number) for number, name in enumerate(chosen)) + END
    expected = scan(data, records=IGNORE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tarbatch, "hash_matrix", lambda words, lengths: np.zeros(len(lengths), dtype=np.uint64))
        for module in (tarmembers, tarrecords):
            patch.setattr(module, "hash_names", lambda many: np.zeros(len(many), dtype=np.uint64))
        found = scan(data, records=IGNORE)
    assert (found.keys, found.records, found.index.counts) == (
        expected.keys,
        expected.records,
        expected.index.counts,
    )


@given(st.lists(st.binary(max_size=100).map(lambda name: name.replace(b"\x00", b"")), max_size=9))
def test_a_name_has_the_same_hash_in_a_matrix_and_alone(many: list[bytes]) -> None:
    lengths = np.array([len(name) for name in many], dtype=np.int64)
    matrix = np.frombuffer(b"".join(name.ljust(104, b"\x00") for name in many), dtype="<u8").reshape(-1, 13)
    assert hash_matrix(matrix.T, lengths).tolist() == hash_names(many).tolist()


def test_the_hash_is_the_documented_one() -> None:
    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        return x ^ (x >> 31)

    def documented(name: bytes) -> int:
        golden = 0x9E3779B97F4A7C15
        words = [int.from_bytes(name[low : low + 8], "little") for low in range(0, len(name), 8)]

        def fold(x: int) -> int:
            x = ((x ^ (x >> 32)) * 0xD6E8FEB86659FD93) % 2**64
            return x ^ (x >> 29)

        factors = [mix((index + 1) * golden % 2**64) | 1 for index in range(len(words))]
        total = sum(fold(word * factor % 2**64) for word, factor in zip(words, factors, strict=True))
        return mix((len(name) * golden + total) % 2**64)

    many = [b"", b"a", b"12345678", b"123456789", b"x" * 700, b"\xff" * 16]
    assert hash_names(many).tolist() == [documented(name) for name in many]
    assert len(tarhash.multipliers(100)) == 100


def test_hashes_of_similar_names_differ() -> None:
    many = [b"s%04d_%06d" % (shard, number) for shard in range(20) for number in range(5000)]
    many += [b"\x80" * count for count in range(1, 40)]
    assert len(set(hash_names(many).tolist())) == len(many)


def test_odd_members_between_plain_ones_keep_their_places() -> None:
    parts = [A_X, header(b"y", prefix=b"q"), member(b"q/y.1"), member(b"q/y.2", kind=b"2", link=b"z"), B_X]
    found = scan(blocks(*parts) + END)
    assert found.keys == [b"a", b"q/y", b"b"]
    assert found.records == [A_X, blocks(*parts[1:4]), B_X]
