"""The listing: every kind of entry, in the order of the spec, and nothing silently left out or taken twice."""

from __future__ import annotations

import glob
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsort_api.manifest import PinnedInput
from dsort_api.reasons import DSortError, Reason
from dsort_api.spec import Input, Reaction
from dsort_worker import listing
from dsort_worker.listing import take_listing


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))


def names(root: Path, *shards: str, missing: Reaction = Reaction.ABORT) -> list[str]:
    source = Input(url=f"file://{root}", shards=shards, missing_shards=missing)
    return [shard.name for shard in take_listing(source, root=str(root)).shards]


def refused(root: Path, *shards: str) -> DSortError:
    with pytest.raises(DSortError) as caught:
        names(root, *shards)
    return caught.value


def test_nothing_given_is_every_known_archive_below_by_byte_order(tmp_path: Path) -> None:
    make(tmp_path, "b.tar", "a/c.tar", "a-.tar", "Z.tar", "é.tar", "notes.txt", "a/deep/er/x.tar", "tar")
    make(tmp_path, ".hidden.tar", ".dsort/job/stage/y.tar", "a/.z.tar")
    assert names(tmp_path) == ["Z.tar", "a-.tar", "a/c.tar", "a/deep/er/x.tar", "b.tar", "é.tar"]


def test_entries_keep_their_order_and_a_shard_counts_once(tmp_path: Path) -> None:
    make(tmp_path, "p-2.tar", "p-1.tar", "p-0.tar", "q.tar", "sub/b.tar", "sub/a.tar")
    assert names(tmp_path, "q.tar", "p-{0..1}.tar", "*.tar", "sub/") == [
        "q.tar",
        "p-0.tar",
        "p-1.tar",
        "p-2.tar",
        "sub/a.tar",
        "sub/b.tar",
    ]


def test_shards_are_pinned_by_size_and_time(tmp_path: Path) -> None:
    make(tmp_path, "a.tar", "bb.tar")
    os.utime(tmp_path / "a.tar", ns=(1, 1_700_000_000_123_456_789))
    found = take_listing(Input(url=f"file://{tmp_path}"), root=str(tmp_path))
    assert found.shards[0] == PinnedInput("a.tar", 5, 1_700_000_000_123_456_789)
    assert found.missing == ()


@pytest.mark.parametrize("reaction", [Reaction.WARN, Reaction.IGNORE])
def test_missing_shards_are_named_once(tmp_path: Path, reaction: Reaction) -> None:
    make(tmp_path, *(f"p-{number:03}.tar" for number in range(500) if number % 10))
    source = Input(
        url=f"file://{tmp_path}",
        shards=("p-{000..499}.tar", "p-000.tar", "gone-@2.tar"),
        missing_shards=reaction,
    )
    found = take_listing(source, root=str(tmp_path))
    assert len(found.shards) == 450
    assert list(found.missing) == [f"p-{number:03}.tar" for number in range(0, 500, 10)] + [
        f"gone-{n}.tar" for n in range(3)
    ]


def test_a_missing_shard_aborts_by_default(tmp_path: Path) -> None:
    make(tmp_path, "p-1.tar")
    error = refused(tmp_path, "p-{0..3}.tar")
    assert error.reason is Reason.MISSING_SHARDS
    assert "p-0.tar (and 2 more)" in error.message
    assert "shard p-0.tar is missing" in refused(tmp_path, "p-{0..1}.tar").message


def test_globs_and_folders_take_what_is_there(tmp_path: Path) -> None:
    make(tmp_path, "a.tar")
    assert names(tmp_path, "x*.tar", "gone/", "gone/*.tar", "a.tar/*.tar", "*/gone.tar", "a.tar") == ["a.tar"]


def test_no_input_is_an_invalid_spec(tmp_path: Path) -> None:
    make(tmp_path, "notes.txt")
    assert refused(tmp_path).reason is Reason.INVALID_SPEC
    source = Input(url=f"file://{tmp_path}", shards=("p-@99.tar",), missing_shards=Reaction.IGNORE)
    with pytest.raises(DSortError, match="all 100 shards named are missing") as caught:
        take_listing(source, root=str(tmp_path))
    assert caught.value.reason is Reason.INVALID_SPEC


def test_a_missing_location_is_told_at_once(tmp_path: Path) -> None:
    error = refused(tmp_path / "gone")
    assert error.reason is Reason.INPUT_UNREADABLE
    assert "does not exist" in error.message
    make(tmp_path, "file")
    assert "is not a folder" in refused(tmp_path / "file").message


def test_a_folder_or_a_pipe_in_a_shards_place_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "d.tar").mkdir()
    os.mkfifo(tmp_path / "pipe.tar")
    for entry in ("d.tar", "pipe.tar", "*.tar"):
        error = refused(tmp_path, entry)
        assert error.reason is Reason.INPUT_UNREADABLE
        assert "is not a regular file" in error.message


def test_what_is_no_tar_is_refused_by_name(tmp_path: Path) -> None:
    make(tmp_path, "a.tar.gz", "notes.txt", "b.tar")
    assert "a.tar.gz: .tar.gz is not read by this version" in refused(tmp_path).message
    assert (
        "spec.input.shards[1]: 'notes.*': notes.txt: not a known archive"
        in refused(tmp_path, "b.tar", "notes.*").message
    )


def test_a_name_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    with open(os.path.join(os.fsencode(tmp_path), b"\xff.tar"), "wb"):
        pass
    error = refused(tmp_path)
    assert error.reason is Reason.INPUT_UNREADABLE
    assert r"\xff.tar" in error.message


@pytest.mark.parametrize("shards", [(), ("**/*.tar",), ("**",), ("sub/", "*.tar"), ("**/**/*.tar",)])
def test_links_to_folders_above_are_not_followed_for_ever(tmp_path: Path, shards: tuple[str, ...]) -> None:
    make(tmp_path, "a.tar", "sub/b.tar")
    (tmp_path / "sub" / "one").symlink_to(tmp_path)
    (tmp_path / "sub" / "two").symlink_to("..")
    (tmp_path / "sub" / "itself").symlink_to("itself")
    if shards == ("**",):
        with pytest.raises(DSortError, match="sub/itself: not a known archive"):
            names(tmp_path, *shards)
        (tmp_path / "sub" / "itself").unlink()
    assert sorted(names(tmp_path, *shards)) == ["a.tar", "sub/b.tar"]


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path: Path) -> None:
    make(tmp_path, "in/a.tar", "elsewhere/b.tar")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "c.tar").symlink_to(tmp_path / "elsewhere" / "b.tar")
    assert names(tmp_path / "in") == ["a.tar", "again/b.tar", "c.tar", "link/b.tar"]
    assert names(tmp_path / "in", "**/*.tar") == ["a.tar", "again/b.tar", "c.tar", "link/b.tar"]


@pytest.mark.parametrize("shards", [(), ("*.tar",)])
def test_a_link_to_nothing_is_a_missing_shard(tmp_path: Path, shards: tuple[str, ...]) -> None:
    make(tmp_path, "a.tar")
    (tmp_path / "x.tar").symlink_to("gone/x.tar")
    assert refused(tmp_path, *shards).reason is Reason.MISSING_SHARDS
    source = Input(url=f"file://{tmp_path}", shards=shards, missing_shards=Reaction.WARN)
    assert take_listing(source, root=str(tmp_path)).missing == ("x.tar",)


def test_a_shard_that_links_to_itself_is_unreadable(tmp_path: Path) -> None:
    make(tmp_path, "a.tar")
    (tmp_path / "x.tar").symlink_to("x.tar")
    error = refused(tmp_path)
    assert error.reason is Reason.INPUT_UNREADABLE
    assert "x.tar" in error.message


@pytest.mark.parametrize("shards", [(), ("sub/",), ("**/*.tar",), ("s*/*.tar",)])
def test_a_folder_that_cannot_be_read_is_told_of(
    tmp_path: Path, shards: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a.tar", "sub/b.tar")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    error = refused(tmp_path, *shards)
    assert error.reason is Reason.INPUT_UNREADABLE
    assert "sub: Permission denied" in error.message


TREE = (
    "a.tar", "ab.tar", ".h.tar", "[x].tar", "s/a.tar", "s/t/a.tar", "s/t/u/b.tar", ".d/a.tar", "s/.d/a.tar", "t/a.tar",
    "a.b/c.tar", "S/A.tar",
)  # fmt: skip
PART = st.sampled_from(
    [
        "*",
        "**",
        "?",
        "s",
        "t",
        "a*",
        "*.tar",
        "a.tar",
        "?.tar",
        "[a-b].tar",
        "[!a].tar",
        ".*",
        ".d",
        "*.b",
        "[[]x].tar",
        "[s]",
        ".",
    ]
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    make(root, *TREE)
    return root


@given(st.lists(PART, min_size=1, max_size=4).map("/".join))
def test_a_glob_matches_what_the_glob_module_does(tree: Path, pattern: str) -> None:
    theirs = glob.glob(pattern, root_dir=tree, recursive=True)
    files = {os.path.join(tree, name): name for name in theirs if os.path.isfile(os.path.join(tree, name))}
    assert listing._match(str(tree), pattern) == sorted(set(files.values()), key=os.fsencode)
