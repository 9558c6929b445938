"""kopf: its watches, its indexes, and events that wake. Nothing of a DSortJob is decided or written here.

All handlers are coroutines, though they await nothing: kopf runs others in threads. There are no handlers of the kinds
create, update, delete, daemon or timer: those keep their state in annotations of the object, and put a finalizer of kopf's
own on it.
"""

from __future__ import annotations

import logging
import random
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import aiohttp
import kopf
from kubernetes.aio.client import Configuration

from dsort_api.labels import FIELD_MANAGER, GROUP, JOB_UID_LABEL, MANAGED_BY_LABEL
from dsort_api.spec import VERSION
from dsort_operator.children import Body, part
from dsort_operator.forgetful import NoDifferences, NoProgress
from dsort_operator.kube import BATCH, CORE, DSORTJOBS, path_of
from dsort_operator.probes import WATCH_SECONDS
from dsort_operator.settings import Settings
from dsort_operator.sight import Sight, trimmed

log = logging.getLogger(__name__)

_CHILDREN: Final = f"{MANAGED_BY_LABEL}={FIELD_MANAGER},{JOB_UID_LABEL}"
_RETRY_CAP: Final = 8.0


class Pauses:
    """Between tries of kopf's own requests: growing, with jitter, and without an end. The operator outlives its server."""

    def __iter__(self) -> Iterator[float]:
        """Seconds."""
        pause = 0.25
        while True:
            yield pause * random.uniform(0.5, 1.0)
            pause = min(_RETRY_CAP, pause * 2)


def kopf_settings() -> kopf.OperatorSettings:
    """How kopf is to behave: it watches, and writes nothing."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # log lines are no events
    settings.persistence.diffbase_storage = NoDifferences()
    settings.persistence.progress_storage = NoProgress()
    settings.peering.standalone = True
    settings.scanning.disabled = True  # that would need rights in the whole cluster
    settings.networking.error_backoffs = Pauses()
    settings.networking.connect_timeout = 5.0
    settings.networking.request_timeout = 60.0
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.label_selectors["pods"] = _CHILDREN
    settings.watching.label_selectors["batch", "jobs"] = _CHILDREN
    settings.queueing.idle_timeout = 1.0
    settings.process.ultimate_exiting_timeout = 20.0
    return settings


def job_paths(settings: Settings) -> list[str]:
    """The collections of DSortJobs that are watched, by their paths."""
    return _paths(settings, DSORTJOBS, "dsortjobs")


def watched_paths(settings: Settings) -> list[str]:
    """All collections that are watched, by their paths."""
    return [*job_paths(settings), *_paths(settings, BATCH, "jobs"), *_paths(settings, CORE, "pods")]


def _paths(settings: Settings, prefix: str, plural: str) -> list[str]:
    if not settings.watch_namespaces:
        return [f"{prefix}/{plural}"]
    return [path_of(prefix, plural, namespace=namespace) for namespace in settings.watch_namespaces]


def registry_of(
    *,
    sight: Sight,
    wake: Callable[[str], None],
    ending: Callable[[], None],
    login: Callable[[], Any],
) -> kopf.OperatorRegistry:
    """The handlers. wake: called with the uid of the DSortJob that an event is about; ending: when the operator ends."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def log_in(**_: Any) -> kopf.AiohttpSession:
        session: kopf.AiohttpSession = await login()
        return session

    @kopf.on.startup(registry=registry)
    async def begin(**indexes: Any) -> None:
        sight.jobs = indexes["dsort_jobs"]
        sight.workloads = indexes["dsort_workloads"]
        sight.pods = indexes["dsort_pods"]

    @kopf.on.cleanup(registry=registry)
    async def end(**_: Any) -> None:
        ending()

    @kopf.index(GROUP, VERSION, "dsortjobs", id="dsort_jobs", registry=registry)
    async def index_job(body: kopf.Body, **_: Any) -> Mapping[str, Body]:
        return {part(body, "metadata")["uid"]: dict(body)}

    @kopf.index("batch", "v1", "jobs", id="dsort_workloads", registry=registry)
    async def index_workload(body: kopf.Body, **_: Any) -> Mapping[str, Body]:
        return {_owner(body): trimmed(body)}

    @kopf.index("v1", "pods", id="dsort_pods", registry=registry)
    async def index_pod(body: kopf.Body, **_: Any) -> Mapping[str, Body]:
        return {_owner(body): trimmed(body)}

    @kopf.on.event(GROUP, VERSION, "dsortjobs", registry=registry)
    async def job_changed(event: kopf.RawEvent, body: kopf.Body, **_: Any) -> None:
        uid = part(body, "metadata")["uid"]
        wake(uid)
        if event["type"] == "DELETED":
            sight.forget(uid)

    @kopf.on.event("batch", "v1", "jobs", registry=registry)
    async def workload_changed(body: kopf.Body, **_: Any) -> None:
        wake(_owner(body))

    @kopf.on.event("v1", "pods", registry=registry)
    async def pod_changed(body: kopf.Body, **_: Any) -> None:
        wake(_owner(body))

    return registry


async def session_of(configuration: Configuration, *, tracing: aiohttp.TraceConfig) -> kopf.AiohttpSession:
    """The session that kopf watches with: the same server and credentials as ours, and traced.

    kopf asks for another one when the server answers 401, as it does when a token was replaced.
    """
    trust = ssl.create_default_context(cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data)
    if configuration.cert_file:
        trust.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    token = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=trust),
        headers={"User-Agent": FIELD_MANAGER, **({"Authorization": token} if token else {})},
        trace_configs=[tracing],
    )
    return kopf.AiohttpSession(server=configuration.host, aiohttp_session=session)


def _owner(body: Body) -> str:
    return str(part(part(body, "metadata"), "labels").get(JOB_UID_LABEL, ""))
