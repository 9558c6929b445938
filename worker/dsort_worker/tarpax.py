r"""PAX extended headers: the records of `x` and `g` members (POSIX.1-2024, pax, "pax Extended Header").

The data of an extended header is a sequence of records `<length> <keyword>=<value>\n`, where the decimal length counts the
whole record. Most writers put nothing there that changes what a member is (times, owners), so whole batches are checked
by `harmless` with numpy (tarbatch); `parse_records` reads any of them, one at a time. Both accept the same records.

Pure: bytes in, values out.
"""

from __future__ import annotations

from typing import Final

MEANINGFUL: Final = frozenset({b"path", b"linkpath", b"size"})
"""Keywords that change a member's name, its link target or where it ends. `GNU.sparse.*` makes it a sparse member."""

SPARSE: Final = b"GNU.sparse."
_SPARSE_NAME: Final = b"GNU.sparse.name"


class PaxError(ValueError):
    """The data of an extended header is not a sequence of PAX records."""


def parse_records(data: bytes) -> dict[bytes, bytes]:
    """The keywords of an extended header and their values; of a keyword given twice, the last value.

    A NUL where a record would begin ends the list (some writers pad with them). Raises PaxError.
    """
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data) and data[position]:
        space = data.find(b" ", position, position + 20)
        digits = data[position:space] if space > 0 else b""
        if not digits.isdigit():
            raise PaxError("a PAX record does not begin with its length")
        end = position + int(digits)
        equals = data.find(b"=", space, end)
        if end > len(data) or equals <= space + 1 or data[end - 1] != 0x0A:
            raise PaxError("a PAX record is not as long as it says")
        records[data[space + 1 : equals]] = data[equals + 1 : end - 1]
        position = end
    return records


def is_harmless(records: dict[bytes, bytes]) -> bool:
    """Whether these records leave the member what its own header says."""
    return not (records.keys() & MEANINGFUL or is_sparse(records))


def is_sparse(records: dict[bytes, bytes]) -> bool:
    """Whether these records describe a sparse member of GNU tar."""
    return any(keyword.startswith(SPARSE) for keyword in records)


def sparse_name(records: dict[bytes, bytes]) -> bytes | None:
    """The name of a sparse member of format 1.0, whose path is a stand-in for old readers."""
    return records.get(_SPARSE_NAME)
