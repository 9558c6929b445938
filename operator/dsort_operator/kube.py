"""The API server: the only module that talks to it, but for kopf's watches. Plain mappings in, plain mappings out.

What the operator may do, and why (`dsort operator` needs these rights and no others):

| group | resource | verbs | for |
|---|---|---|---|
| dsort.dev | dsortjobs | get, list, watch, patch, delete | following them; the finalizer; time to live |
| dsort.dev | dsortjobs/status | patch | the status |
| dsort.dev | dsortjobs/finalizers | update | owner references that block deletion, where the cluster checks them |
| batch | jobs | get, list, watch, create, patch, delete | worker and cleanup Jobs; suspending them |
| (core) | pods | list, watch | what became of them |
| (core) | pods/status | patch | giving up the pod of a lost node |
| (core) | configmaps, secrets | get, create | the definition and the token of a job |
| (core) | persistentvolumeclaims | get | access modes |
| (core) | namespaces | get | whether pods end because their namespace does |
| networking.k8s.io | networkpolicies | get, create | with --network-policy |
| events.k8s.io | events | create, list | telling of transitions; what keeps a Job from making its pods |
| metrics.k8s.io | pods | get | memory of pods whose ranks do not answer, where there is such an API |
| (core), cluster-wide | nodes | get, list | placement OnePerNode, and which node is lost or short of memory |
| coordination.k8s.io, own namespace | leases | get, create, update | with --leader-election |

All but nodes and leases are needed in the watched namespaces alone. Without the right to nodes, OnePerNode waits.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from dsort_api.labels import FIELD_MANAGER, GROUP
from dsort_api.spec import VERSION

Body = Mapping[str, Any]

APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
"""Adds to lists that have a key, such as conditions, where MERGE replaces them."""
DSORTJOBS: Final = f"/apis/{GROUP}/{VERSION}"
BATCH: Final = "/apis/batch/v1"
CORE: Final = "/api/v1"
EVENTS: Final = "/apis/events.k8s.io/v1"
NETWORKING: Final = "/apis/networking.k8s.io/v1"
LEASES: Final = "/apis/coordination.k8s.io/v1"

_TRIES: Final = 4
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0
_TIMEOUT: Final = aiohttp.ClientTimeout(total=20.0, sock_connect=5.0)
_CONNECTIONS: Final = 32
"""Requests under way at once; the others wait for their turn, which is no time of theirs."""

log = logging.getLogger(__name__)


class ApiError(Exception):
    """An answer that is no success. status: of HTTP, 0 when there was no answer at all; reason: the API's word for it."""

    def __init__(
        self, what: str, *, status: int, reason: str, message: str, causes: Sequence[str] = ()
    ) -> None:
        super().__init__(f"{what}: {status or 'no answer'} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.causes = tuple(causes)

    @property
    def is_lasting(self) -> bool:
        """Whether the same request would be refused again: what it says or asks for is not allowed."""
        return self.status in {400, 403, 422} and not self.is_namespace_ending

    @property
    def is_namespace_ending(self) -> bool:
        """Whether nothing can be created because the namespace is being deleted."""
        return self.status == 403 and "NamespaceTerminating" in self.causes


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses that double from `first` to `longest` seconds, with jitter so that a thousand jobs do not come back at once."""

    first: float
    longest: float

    def seconds(self, failures: int) -> float:
        """The pause after so many failures in a row, 1 or more."""
        return min(self.longest, self.first * 2.0 ** min(failures - 1, 30)) * random.uniform(0.5, 1.0)


async def load_configuration() -> Configuration:
    """How to reach the API server: the pod's service account, else KUBECONFIG or ~/.kube/config.

    Raises kubernetes.aio.config.ConfigException when there is neither.
    """
    configuration = Configuration()
    if os.environ.get("KUBECONFIG") or "KUBERNETES_SERVICE_HOST" not in os.environ:
        await config.load_kube_config(client_configuration=configuration, persist_config=False)  # type: ignore[no-untyped-call]
    else:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    configuration.connection_pool_maxsize = _CONNECTIONS
    # Otherwise every request looks for a .netrc, in a thread. kopf goes by no proxy of the environment either.
    configuration.client_session_kwargs = {"trust_env": False}
    return configuration


class Kube:
    """Requests to the API server. An async context manager; owns its connections.

    Answers of 429 and 5xx, and lost connections, are tried again a few times here, with growing pauses: every request is
    one that may be repeated. What fails then, and everything else that is no success, raises ApiError.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._client = ApiClient(configuration)
        self._host = configuration.host.rstrip("/")
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._turns = asyncio.Semaphore(_CONNECTIONS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()  # type: ignore[no-untyped-call]

    async def get(self, path: str, **query: str) -> Body | None:
        """An object, or None when it is not there."""
        try:
            return await self._request("GET", path, query=query)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def items(self, path: str, **query: str) -> list[Body]:
        """All objects of a list."""
        found = await self._request("GET", path, query=query)
        return list(found.get("items") or ())

    async def create(self, path: str, body: Body) -> Body | None:
        """Create an object in a collection; None when one of that name is there already."""
        try:
            return await self._request("POST", path, body=body, query={"fieldManager": FIELD_MANAGER})
        except ApiError as error:
            if error.status == 409 and error.reason == "AlreadyExists":
                return None
            raise

    async def replace(self, path: str, body: Body) -> Body:
        """Replace an object; with a resourceVersion in it only if it has not changed since."""
        return await self._request("PUT", path, body=body, query={"fieldManager": FIELD_MANAGER})

    async def apply(self, path: str, body: Body) -> Body:
        """Server-side apply: the fields in `body` are ours, and those that were ours and are not in it go."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._request("PATCH", path, body=body, query=query, kind=APPLY)

    async def merge(self, path: str, body: Body, *, kind: str = MERGE) -> Body | None:
        """Merge-patch an object; None when it is not there."""
        try:
            return await self._request(
                "PATCH", path, body=body, query={"fieldManager": FIELD_MANAGER}, kind=kind
            )
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def delete(self, path: str, *, uid: str, propagation: str) -> None:
        """Delete the object of this uid, if it is still there."""
        body = {"propagationPolicy": propagation, "preconditions": {"uid": uid}}
        try:
            await self._request("DELETE", path, body=body)
        except ApiError as error:
            if error.status not in {404, 409}:  # 409: another object has the name now
                raise

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: Body | None = None,
        query: Mapping[str, str] | None = None,
        kind: str = "application/json",
    ) -> Body:
        url = self._host + path + (f"?{urlencode(query)}" if query else "")
        for failures in range(1, _TRIES + 1):
            pause = self._backoff.seconds(failures)
            try:
                async with self._turns:
                    status, asked, content = await self._once(method, url, body, kind)
            except (OSError, TimeoutError, aiohttp.ClientError) as error:
                refusal = ApiError(
                    f"{method} {path}", status=0, reason=type(error).__name__, message=str(error)
                )
            else:
                if 200 <= status < 300:
                    answer: Body = json.loads(content)
                    return answer
                refusal = _refusal(f"{method} {path}", status, content)
                if status != 429 and status < 500:
                    raise refusal
                pause = max(pause, min(asked, _LONGEST_PAUSE))
            if failures == _TRIES:
                raise refusal
            log.debug("%s; trying again in %.1f s", refusal, pause)
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _once(self, method: str, url: str, body: Body | None, kind: str) -> tuple[int, float, bytes]:
        """One request: status, the seconds that the server asks to wait, content."""
        headers = {"Content-Type": kind, "Accept": "application/json", "User-Agent": FIELD_MANAGER}
        token = await self._client.configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        if token:
            headers["Authorization"] = token
        answer = await self._client.call_api(
            method, url, header_params=headers, body=body, _request_timeout=_TIMEOUT
        )
        content: bytes = await answer.read()  # type: ignore[no-untyped-call]
        asked = answer.headers.get("Retry-After", "")
        return answer.status, float(asked) if asked.isdigit() else 0.0, content


def path_of(prefix: str, plural: str, *, namespace: str, name: str = "", subresource: str = "") -> str:
    """The path of a collection, an object or a subresource in a namespace."""
    parts = ["namespaces", namespace, plural, *filter(None, (name, subresource))]
    return "/".join([prefix, *(quote(part, safe="") for part in parts)])


def _refusal(what: str, status: int, content: bytes) -> ApiError:
    try:
        answer = json.loads(content)
        causes = [cause.get("reason", "") for cause in (answer.get("details") or {}).get("causes") or ()]
        return ApiError(
            what,
            status=status,
            reason=answer.get("reason") or "",
            message=answer.get("message") or "",
            causes=causes,
        )
    except (ValueError, AttributeError):  # something in between answered
        return ApiError(what, status=status, reason="", message=content[:200].decode(errors="replace"))
