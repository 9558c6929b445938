"""Where urls lie on this machine."""

from __future__ import annotations

import pytest

from dsort_api.reasons import DSortError, Reason
from dsort_worker.locations import resolve


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("file:///data/in", "/data/in"),
        ("file:///with%20space/%C3%A9", "/with space/é"),
        ("pvc://claim", "/mnt/claim"),
        ("pvc://claim/", "/mnt/claim"),
        ("pvc://claim/a/b%20c/", "/mnt/claim/a/b c"),
    ],
)
def test_urls_are_folders(url: str, folder: str) -> None:
    assert resolve(url, {"claim": "/mnt/claim"}, field="spec.input.url") == folder


def test_a_claim_without_a_folder_is_told_by_its_field() -> None:
    with pytest.raises(DSortError, match=r"spec\.output\.url: pvc://other/x: .* --pvc other=DIR") as caught:
        resolve("pvc://other/x", {"claim": "/mnt/claim"}, field="spec.output.url")
    assert caught.value.reason is Reason.INVALID_SPEC
