"""Nodes for tests: they run the pods of workers and of cleanups as processes of this machine, and say what became of them.

What a kubelet and a container runtime do is done for real as far as a job can tell: the program and its arguments are the
pod's own, volumes are folders (paths in the arguments are replaced by theirs), every pod has an address of its own in
127.0.0.0/8, readiness is asked for, deletion is SIGTERM and then SIGKILL, exit code and last words are reported. Images,
memory limits and network policies are not.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

from dsort_api.labels import FIELD_MANAGER, MANAGED_BY_LABEL, WORKER_CONTAINER
from tests.support.apiserver import ADMIN, BOUND, ControlPlane
from tests.support.controlgroups import ControlGroup
from tests.support.measuring import unmeasured

MERGE: Final = "application/merge-patch+json"
_SELECTOR: Final = f"{MANAGED_BY_LABEL}={FIELD_MANAGER}"
_BEAT: Final = 10.0


class Refused(Exception):
    """An answer of the API server that is no success."""


@dataclass(slots=True)
class Pod:
    """A pod on its node. gate: further environment of its processes."""

    body: dict[str, Any]
    folder: Path
    ip: str
    deleted: asyncio.Event = field(default_factory=asyncio.Event)
    process: asyncio.subprocess.Process | None = None

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.body['metadata']['namespace']}/pods/{self.name}"

    @property
    def container(self) -> dict[str, Any]:
        return dict(self.body["spec"]["containers"][0])


class Kubelet:
    """All nodes of a test cluster, in a thread of their own. A context manager.

    claims: the folder that stands for each claim, by namespace/name. environment: of the processes of a DSortJob's pods, by the
    job's name; to be filled before the job is applied. groups: the control group that all pods of a DSortJob are in.
    """

    def __init__(self, plane: ControlPlane, *, nodes: int = 2) -> None:
        self.plane = plane
        self.nodes = [f"node-{number}" for number in range(nodes)]
        self.claims: dict[str, Path] = {}
        self.environment: dict[str, Mapping[str, str]] = {}
        self.groups: dict[str, ControlGroup] = {}
        self.ran: list[str] = []
        """Names of all pods that were ever run."""
        self.ended: dict[str, float] = {}
        """When the process of each pod ended, by time.monotonic."""
        self._folder = Path(tempfile.mkdtemp(prefix="dsort-kubelet-"))
        self._pods: dict[str, Pod] = {}
        self._addresses = 0
        self._thread = threading.Thread(target=self._run, name="kubelet", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._ready = threading.Event()
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(60), "the nodes are not ready"
        if self.error is not None:
            raise self.error
        return self

    def __exit__(self, *_: object) -> None:
        if self._main is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join(30)
        shutil.rmtree(self._folder, ignore_errors=True)
        if self.error is not None:
            raise self.error

    def processes(self, job: str) -> list[int]:
        """Process ids of the pods of a DSortJob that run now."""
        return [
            pod.process.pid
            for pod in list(self._pods.values())
            if pod.process is not None
            and pod.process.returncode is None
            and pod.body["metadata"]["labels"].get("dsort.dev/job-name") == job
        ]

    # The thread

    def _run(self) -> None:
        async def live() -> None:
            self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
            try:
                await self._live()
            finally:
                await asyncio.sleep(0.2)  # for the TLS connections to say goodbye

        try:
            asyncio.run(live())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self._ready.set()

    async def _live(self) -> None:
        trust = ssl.create_default_context(cafile=self.plane.authority)
        headers = {"Authorization": f"Bearer {self.plane.tokens[ADMIN]}"}
        connector = aiohttp.TCPConnector(limit=0, ssl=trust)
        async with aiohttp.ClientSession(
            self.plane.url, connector=connector, headers=headers
        ) as self._session:
            for node in self.nodes:
                await self._register(node)
            self._ready.set()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._beat())
                    if self.nodes:
                        group.create_task(self._watch(group))
            finally:
                for pod in self._pods.values():
                    if pod.process is not None and pod.process.returncode is None:
                        pod.process.kill()

    async def _ask(
        self, method: str, path: str, body: object = None, *, kind: str = "application/json"
    ) -> Any:
        """One request; tried again while nobody answers, as a kubelet does."""
        while True:
            try:
                async with self._session.request(
                    method,
                    path,
                    data=None if body is None else json.dumps(body),
                    headers={"Content-Type": kind},
                ) as answer:
                    content = await answer.text()
                    if answer.status >= 500 or answer.status == 429:
                        raise aiohttp.ClientError(content)
                    if answer.status >= 300:
                        raise Refused(f"{method} {path}: {answer.status} {content[:300]}")
                    return json.loads(content)
            except aiohttp.ClientError:
                await asyncio.sleep(0.2)

    async def _register(self, node: str) -> None:
        labels = {"kubernetes.io/hostname": node}
        await self._ask("POST", "/api/v1/nodes", {"metadata": {"name": node, "labels": labels}})
        lease = {"metadata": {"name": node}, "spec": {"holderIdentity": node, "leaseDurationSeconds": 40}}
        await self._ask("POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", lease)
        await self._say_ready(node)

    async def _say_ready(self, node: str) -> None:
        condition = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": _now()}
        status = {"status": {"conditions": [condition], "capacity": {"pods": "100"}}}
        await self._ask("PATCH", f"/api/v1/nodes/{node}/status", status, kind=MERGE)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT)
            for node in self.nodes:
                path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}"
                await self._ask("PATCH", path, {"spec": {"renewTime": _now(micro=True)}}, kind=MERGE)
                await self._say_ready(node)

    async def _watch(self, group: asyncio.TaskGroup) -> None:
        async for event in self._events():
            body = event["object"]
            uid = body["metadata"]["uid"]
            pod = self._pods.get(uid)
            if event["type"] == "DELETED":
                if pod is not None:
                    pod.deleted.set()  # by force
                continue
            if pod is None and body["status"].get("phase") == "Pending":
                pod = self._pods[uid] = self._new_pod(body)
                group.create_task(self._tend(pod), name=pod.name)
            elif pod is not None and body["metadata"].get("deletionTimestamp"):
                pod.body["metadata"] = body["metadata"]
                pod.deleted.set()

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        path = f"/api/v1/pods?labelSelector={_SELECTOR}"
        while True:
            listed = await self._ask("GET", path)
            for item in listed["items"]:
                yield {"type": "ADDED", "object": item}
            since = listed["metadata"]["resourceVersion"]
            try:
                timeout = aiohttp.ClientTimeout(total=None)
                async with self._session.get(
                    f"{path}&watch=true&resourceVersion={since}", timeout=timeout
                ) as stream:
                    buffer = b""
                    async for piece in stream.content.iter_any():
                        *lines, buffer = (buffer + piece).split(b"\n")
                        for line in lines:
                            event = json.loads(line)
                            if event["type"] == "ERROR":
                                break
                            yield event
            except aiohttp.ClientError:
                await asyncio.sleep(0.2)

    # A pod

    def _new_pod(self, body: dict[str, Any]) -> Pod:
        self._addresses += 1
        ip = f"127.77.{self._addresses >> 8}.{self._addresses & 255}"
        folder = self._folder / body["metadata"]["uid"]
        folder.mkdir()
        self.ran.append(body["metadata"]["name"])
        return Pod(body, folder, ip)

    async def _tend(self, pod: Pod) -> None:
        """A pod's whole life."""
        with contextlib.suppress(Refused):  # it was taken away by force
            node = self.nodes[len(self.ran) % len(self.nodes)]
            target = {"apiVersion": "v1", "kind": "Node", "name": node}
            binding = {"metadata": {"name": pod.name}, "target": target}
            await self._ask("POST", f"{pod.path}/binding", binding)
            await self._start(pod)
            assert pod.process is not None
            await self._report(pod, "Running", {"running": {"startedAt": _now()}}, ready=False)
            async with asyncio.TaskGroup() as group:
                readying = group.create_task(self._await_ready(pod))
                ending = group.create_task(self._end_when_deleted(pod))
                code = await pod.process.wait()
                self.ended[pod.name] = time.monotonic()
                readying.cancel()
                ending.cancel()
            words = (pod.folder / "termination-log").read_text(errors="replace")[:4096]
            ended = {
                "exitCode": 128 - code if code < 0 else code,
                "reason": "Completed" if code == 0 else "Error",
            }
            state = {"terminated": {**ended, "message": words, "finishedAt": _now()}}
            await self._report(pod, "Failed" if code else "Succeeded", state, ready=False)
            await pod.deleted.wait()
            # Options in a body are all that counts: what the query says besides is passed over.
            options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod.body["metadata"]["uid"]}}
            await self._ask("DELETE", pod.path, options)
        if pod.process is not None and pod.process.returncode is None:
            pod.process.kill()
            await pod.process.wait()
        shutil.rmtree(pod.folder, ignore_errors=True)

    async def _start(self, pod: Pod) -> None:
        container = pod.container
        places = await self._volumes(pod)
        places["/dev/termination-log"] = pod.folder / "termination-log"
        places["/dev/termination-log"].touch()
        environment = await self._variables(pod)
        command = [*container["command"][1:], *container.get("args", ())]
        arguments = [_placed(_expanded(argument, environment), places) for argument in command]
        job = pod.body["metadata"]["labels"].get("dsort.dev/job-name", "")
        line = [*BOUND, sys.executable, "-m", "dsort_cli", *arguments]
        if job in self.groups:
            line = self.groups[job].command(line)
        with (pod.folder / "log").open("wb") as log:
            pod.process = await asyncio.create_subprocess_exec(
                *line,
                cwd=pod.folder,
                env={**unmeasured(), **self.environment.get(job, {}), **environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def _volumes(self, pod: Pod) -> dict[str, Path]:
        """The folder behind each path where something is mounted."""
        namespace = pod.body["metadata"]["namespace"]
        folders: dict[str, Path] = {}
        for volume in pod.body["spec"].get("volumes", ()):
            folder = pod.folder / volume["name"]
            if "configMap" in volume:
                path = f"/api/v1/namespaces/{namespace}/configmaps/{volume['configMap']['name']}"
                folder.mkdir()
                for name, text in (await self._ask("GET", path))["data"].items():
                    (folder / name).write_text(text)
            elif "persistentVolumeClaim" in volume:
                folder = self.claims[f"{namespace}/{volume['persistentVolumeClaim']['claimName']}"]
            elif "hostPath" in volume:
                folder = Path(volume["hostPath"]["path"])
            else:
                assert "emptyDir" in volume, volume
                folder.mkdir()
            folders[volume["name"]] = folder
        mounts = pod.container.get("volumeMounts", ())
        return {mount["mountPath"]: folders[mount["name"]] for mount in mounts}

    async def _variables(self, pod: Pod) -> dict[str, str]:
        metadata = pod.body["metadata"]
        values = {}
        for variable in pod.container.get("env", ()):
            source = variable.get("valueFrom", {})
            if "secretKeyRef" in source:
                name, key = source["secretKeyRef"]["name"], source["secretKeyRef"]["key"]
                path = f"/api/v1/namespaces/{metadata['namespace']}/secrets/{name}"
                value = base64.b64decode((await self._ask("GET", path))["data"][key]).decode()
            elif "fieldRef" in source:
                field_path = source["fieldRef"]["fieldPath"]
                index = "batch.kubernetes.io/job-completion-index"
                value = pod.ip if field_path == "status.podIP" else metadata["annotations"][index]
            else:
                value = variable.get("value", "")
            values[variable["name"]] = value
        return values

    async def _await_ready(self, pod: Pod) -> None:
        probe = pod.container.get("readinessProbe")
        if probe is None:
            return
        url = f"http://{pod.ip}:{probe['httpGet']['port']}{probe['httpGet']['path']}"
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with self._session.get(url) as answer:
                    if answer.status == 200:
                        break
            await asyncio.sleep(0.1)
        await self._report(pod, "Running", {"running": {"startedAt": _now()}}, ready=True)

    async def _end_when_deleted(self, pod: Pod) -> None:
        await pod.deleted.wait()
        assert pod.process is not None
        with contextlib.suppress(ProcessLookupError):
            pod.process.terminate()
            await asyncio.sleep(pod.body["metadata"].get("deletionGracePeriodSeconds") or 0)
            pod.process.kill()

    async def _report(self, pod: Pod, phase: str, state: dict[str, Any], *, ready: bool) -> None:
        container = {
            "name": pod.container.get("name", WORKER_CONTAINER),
            "image": pod.container["image"],
            "imageID": "",
            "ready": ready,
            "started": "running" in state,
            "restartCount": 0,
            "state": state,
        }
        said = "True" if ready else "False"
        conditions = [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Initialized", "status": "True"},
            {"type": "ContainersReady", "status": said},
            {"type": "Ready", "status": said},
        ]
        if pod.deleted.is_set() and phase in {"Failed", "Succeeded"}:
            now = await self._ask("GET", pod.path)  # others set conditions, too: DisruptionTarget
            ours = {one["type"] for one in conditions}
            conditions += [one for one in now["status"].get("conditions", ()) if one["type"] not in ours]
        status = {
            "phase": phase,
            "podIP": pod.ip,
            "podIPs": [{"ip": pod.ip}],
            "hostIP": "127.0.0.1",
            "conditions": conditions,
            "containerStatuses": [container],
        }
        body = {"metadata": {"uid": pod.body["metadata"]["uid"]}, "status": status}
        await self._ask("PATCH", f"{pod.path}/status", body, kind=MERGE)


def _expanded(text: str, variables: Mapping[str, str]) -> str:
    for name, value in variables.items():
        text = text.replace(f"$({name})", value)
    return text


def _placed(argument: str, places: Mapping[str, Path]) -> str:
    """The argument with a container's path in it replaced by the folder behind it."""
    name, sign, path = argument.rpartition("=")
    for mount in sorted(places, key=len, reverse=True):
        if path == mount or path.startswith(f"{mount}/"):
            return f"{name}{sign}{places[mount]}{path[len(mount) :]}"
    return argument


def _now(*, micro: bool = False) -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")
