"""What a job's urls are in a pod: claims and folders of the node, and where they are mounted. Pure.

A rank finds `pvc://claim/path` below `/volumes/claim`, and `file:///path` at its own path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from dsort_api.spec import DSortJobSpec

VOLUMES: Final = "/volumes"
"""Folder of the claims in a pod."""
MANIFEST: Final = "dsort-manifest.json"
"""Name of the manifest, beside the shards."""
SCRATCH: Final = "/scratch"
"""Folder for what a rank spills."""
DEFINITION: Final = "/etc/dsort"
"""Folder of the job's definition."""

_OWN: Final = ("bin", "dev", "etc", "lib", "lib64", "opt", "proc", "sbin", "scratch", "sys", "usr", "volumes")
"""Top folders of the container that must stay as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A volume of a worker pod. field: of the spec that asks for it. Either claim or host_path is set."""

    field: str
    claim: str = ""
    host_path: str = ""
    read_only: bool = False

    @property
    def path(self) -> str:
        """Where it is mounted."""
        return self.host_path or f"{VOLUMES}/{self.claim}"

    @property
    def hides(self) -> str:
        """The folder of the container's own that it would hide, or lie in; "" when it does no harm."""
        if self.host_path in {"", "/"}:
            return self.host_path
        top = self.host_path.split("/")[1]
        return f"/{top}" if top in _OWN else ""


def mounts_of(spec: DSortJobSpec) -> tuple[Mount, ...]:
    """The volumes of a worker pod; one that is input and output is mounted once, to be written to."""
    output = mount_of(spec.output.url, field="spec.output.url", read_only=False)
    read = mount_of(spec.input.url, field="spec.input.url", read_only=True)
    return (output,) if read.path == output.path else (read, output)


def mount_of(url: str, *, field: str, read_only: bool) -> Mount:
    """The volume behind a url of the spec."""
    parts = urlsplit(url)
    if parts.scheme == "pvc":
        return Mount(field=field, claim=parts.netloc, read_only=read_only)
    path = "/".join(part for part in unquote(parts.path).split("/") if part)
    return Mount(field=field, host_path=f"/{path}", read_only=read_only)


def claims_of(spec: DSortJobSpec) -> frozenset[str]:
    """The claims that the job names."""
    return frozenset(mount.claim for mount in mounts_of(spec) if mount.claim)
