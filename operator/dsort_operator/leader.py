"""Leader election by a Lease: of several replicas one works, the others wait.

Times are this process's own: the lease of another is over when it has not changed for its duration as seen from here, so
clocks need not agree. The loop of kubernetes.aio's leaderelection is not used: it ends with the first connection that is
lost, and does not give a Lease back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from dsort_operator.kube import LEASES, ApiError, Body, Kube, path_of

log = logging.getLogger(__name__)

LEASE_SECONDS: Final = 15.0
RENEW_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 2.0


class LeadershipLostError(Exception):
    """Another replica may work from now on: this process must end."""


@dataclass(slots=True)
class Lease:
    """A candidate for one Lease.

    lease_seconds: others may take over when the holder was silent so long. renew_seconds: the holder gives up when it could
    not renew for so long, which is less, so that two never work at once. retry_seconds: between two tries.
    """

    kube: Kube
    namespace: str
    name: str
    identity: str
    lease_seconds: float = LEASE_SECONDS
    renew_seconds: float = RENEW_SECONDS
    retry_seconds: float = RETRY_SECONDS
    clock: Callable[[], float] = time.monotonic
    _seen: Body | None = None
    _seen_at: float = 0.0
    _lease: Body | None = None
    leading: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while this candidate leads."""

    async def hold(self) -> None:
        """Wait for the Lease, then renew it for ever. Raises LeadershipLostError when that fails for too long."""
        renewed = 0.0
        while True:
            asked = self.clock()
            try:
                # A request that hangs must not outlast the right to work that it is about.
                async with asyncio.timeout(self.renew_seconds):
                    held = await self._try()
            except (ApiError, TimeoutError) as error:
                log.warning("the Lease cannot be renewed: %s", error)
                held = False
            if held:
                renewed = asked
                if not self.leading.is_set():
                    log.info("leading: holds the Lease %s/%s", self.namespace, self.name)
                    self.leading.set()
            elif self.leading.is_set() and (
                self._holder not in {"", self.identity} or self.clock() - renewed >= self.renew_seconds
            ):
                self.leading.clear()
                raise LeadershipLostError(f"the Lease {self.namespace}/{self.name} is lost")
            await asyncio.sleep(self.retry_seconds)

    async def give_back(self) -> None:
        """Let another take over at once, if this one leads."""
        if self.leading.is_set() and self._lease is not None:
            self.leading.clear()
            try:
                await self._write("")
            except ApiError as error:
                log.warning("the Lease could not be given back: %s", error)

    @property
    def _holder(self) -> str:
        return ((self._lease or {}).get("spec") or {}).get("holderIdentity") or ""

    async def _try(self) -> bool:
        path = path_of(LEASES, "leases", namespace=self.namespace, name=self.name)
        lease = self._lease = await self.kube.get(path)
        if lease is None:
            created = await self.kube.create(
                path_of(LEASES, "leases", namespace=self.namespace),
                {
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": self.name},
                    "spec": self._spec(self.identity, {}),
                },
            )
            self._lease = created
            return created is not None
        spec = lease.get("spec") or {}
        if spec != self._seen:
            self._seen, self._seen_at = spec, self.clock()
        duration = spec.get("leaseDurationSeconds") or self.lease_seconds
        if self._holder not in {"", self.identity} and self.clock() - self._seen_at < duration:
            return False
        try:
            await self._write(self.identity)
        except ApiError as error:
            if error.status == 409:  # another was faster
                return False
            raise
        return True

    async def _write(self, holder: str) -> None:
        assert self._lease is not None
        lease = {**self._lease, "spec": self._spec(holder, self._lease.get("spec") or {})}
        path = path_of(LEASES, "leases", namespace=self.namespace, name=self.name)
        self._lease = await self.kube.replace(path, lease)
        self._seen, self._seen_at = self._lease.get("spec"), self.clock()

    def _spec(self, holder: str, before: Body) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        same = before.get("holderIdentity") == holder
        return {
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(self.lease_seconds)),
            "acquireTime": before.get("acquireTime") if same else now,
            "renewTime": now,
            "leaseTransitions": (before.get("leaseTransitions") or 0) + (0 if same else 1),
        }
