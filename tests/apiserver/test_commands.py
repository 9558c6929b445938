"""`dsort submit`, `watch`, `abort`, `logs` and `release` against a real API server. No operator runs: the tests write the status."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import parse_qsl

import pytest
import yaml

from dsort_cli import release
from dsort_cli.cluster import Cluster, ClusterError
from dsort_cli.main import main
from tests.support.apiserver import ControlPlane
from tests.support.crd import await_that

FINALIZER: Final = "dsort.dev/operator"
MERGE: Final = "application/merge-patch+json"
PATIENCE: Final = 60.0


@pytest.fixture
def namespace(dsort_api: ControlPlane) -> str:
    name = f"commands-{uuid.uuid4().hex[:8]}"
    dsort_api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    return name


class Place:
    """A namespace of the cluster, a kubeconfig whose context is there, and job files."""

    def __init__(self, dsort_api: ControlPlane, namespace: str, folder: Path) -> None:
        self.api = dsort_api
        self.namespace = namespace
        self.folder = folder
        self.kubeconfig = str(dsort_api.kubeconfig(namespace=namespace))

    def file(self, name: str = "a-job", **spec: Any) -> str:
        """A file with a job; `spec` replaces parts of it."""
        job: dict[str, Any] = {
            "apiVersion": "dsort.dev/v1alpha1",
            "kind": "DSortJob",
            "metadata": {"name": name},
            "spec": {
                "input": {"url": "pvc://datasets/in"},
                "output": {"url": "pvc://datasets/out", "name": "part-%06d", "shardSize": "8Mi"},
                **spec,
            },
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(job))
        return str(path)

    def path(self, name: str = "a-job") -> str:
        return f"/apis/dsort.dev/v1alpha1/namespaces/{self.namespace}/dsortjobs/{name}"

    def job(self, name: str = "a-job") -> dict[str, Any]:
        found: dict[str, Any] = self.api.request("GET", self.path(name))
        return found

    def jobs(self) -> list[str]:
        listed = self.api.request("GET", self.path("")[:-1])
        return [one["metadata"]["name"] for one in listed["items"]]

    def status(self, name: str = "a-job", **status: Any) -> None:
        """What an operator would write."""
        self.api.request("PATCH", self.path(name) + "/status", {"status": status}, kind=MERGE)

    def ends(self, kind: str, name: str = "a-job", *, reason: str, message: str, **status: Any) -> None:
        condition = {
            "type": kind,
            "status": "True",
            "reason": reason,
            "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        self.status(name, state=kind, conditions=[condition], **status)

    def run(self, command: str, *arguments: str) -> int:
        """In this process."""
        return main([command, *arguments, "--kubeconfig", self.kubeconfig])

    @contextlib.contextmanager
    def start(self, command: str, *arguments: str) -> Iterator[Running]:
        """As a process of its own."""
        line = [sys.executable, "-m", "dsort_cli", command, *arguments, "--kubeconfig", self.kubeconfig]
        process = subprocess.Popen(
            line,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TERM": "dumb"},
        )
        try:
            yield Running(process)
        finally:
            process.kill()
            process.wait()


class Running:
    """A command that goes on, and what it has said so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []
        self.printed: list[str] = []
        self._threads = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((process.stderr, self.said), (process.stdout, self.printed))
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _read(stream: Any, lines: list[str]) -> None:
        with stream:
            for line in stream:
                lines.append(line.rstrip("\n"))  # noqa: PERF401 - one by one, as they come

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until it holds; fail with what was said when it does not."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, (self.said, self.printed)
            assert self.process.poll() is None, (self.said, self.printed)
            time.sleep(0.02)

    def says(self, part: str) -> None:
        """Wait until a line of standard error has this in it."""
        self.until(lambda: any(part in line for line in list(self.said)))

    def ends(self) -> int:
        """Wait for the exit code."""
        code = self.process.wait(timeout=PATIENCE)
        for thread in self._threads:
            thread.join()
        return code

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.printed]


@pytest.fixture
def place(dsort_api: ControlPlane, namespace: str, tmp_path: Path) -> Place:
    return Place(dsort_api, namespace, tmp_path)


def last_error(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def test_submit_creates_configures_and_leaves_alone(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.run("submit", "-f", place.file()) == 0
    assert place.run("submit", "-f", place.file()) == 0
    assert place.run("submit", "-f", place.file(suspend=True)) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == [
        "created",
        "unchanged",
        "configured",
    ]
    assert place.job()["spec"]["suspend"] is True
    managers = {one["manager"]: one["operation"] for one in place.job()["metadata"]["managedFields"]}
    assert managers == {"dsort-submit": "Apply"}


def test_what_may_not_change_is_said_by_the_server(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.run("submit", "-f", place.file()) == 0
    capsys.readouterr()
    assert place.run("submit", "-f", place.file(order={"kind": "Key"})) == 1
    assert "immutable" in last_error(capsys)


def test_submit_refuses_what_a_run_refuses_and_sends_nothing(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = place.file(order={"kind": "Shuffle", "sed": 42})
    assert place.run("submit", "-f", wrong) == 3
    submitted = last_error(capsys)
    assert main(["run", "-f", wrong]) == 3
    assert submitted == last_error(capsys)
    assert "sed" in submitted
    assert place.jobs() == []


def test_a_job_without_a_name_is_refused_and_a_generated_one_taken(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    job = yaml.safe_load(Path(place.file()).read_text())
    path = place.folder / "nameless.yaml"
    path.write_text(yaml.safe_dump(job | {"metadata": {}}))
    assert place.run("submit", "-f", str(path)) == 3
    assert "metadata.name" in last_error(capsys)
    path.write_text(yaml.safe_dump(job | {"metadata": {"generateName": "nightly-"}}))
    assert place.run("submit", "-f", str(path)) == 0
    (name,) = place.jobs()
    assert name.startswith("nightly-")


def test_the_namespace_is_that_of_the_flag_the_file_or_the_context(
    place: Place, dsort_api: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = str(dsort_api.kubeconfig())  # its context is in `default`
    assert main(["submit", "-f", place.file(), "-n", place.namespace, "--kubeconfig", elsewhere]) == 0
    job = yaml.safe_load(Path(place.file("other")).read_text())
    job["metadata"]["namespace"] = place.namespace
    path = place.folder / "other.yaml"
    path.write_text(yaml.safe_dump(job))
    assert main(["submit", "-f", str(path), "--kubeconfig", elsewhere]) == 0
    assert sorted(place.jobs()) == ["a-job", "other"]
    capsys.readouterr()
    assert main(["submit", "-f", str(path), "-n", "default", "--kubeconfig", elsewhere]) == 3
    assert place.namespace in last_error(capsys)


def test_watch_tells_the_story_and_exits_0_for_complete(place: Place) -> None:
    assert place.run("submit", "-f", place.file()) == 0
    with place.start("watch", "a-job") as watching:
        watching.says("pending")
        place.status(state="Starting", ready="1/2", ranksReady=1, ranks=2)
        watching.says("starting: 1/2 ranks ready")
        place.status(state="Running", phase="Create", progress={"share": "42%", "bytesDone": 2048})
        watching.says("create: 42%, 2.00 KiB")
        place.ends(
            "Complete",
            reason="Complete",
            message="done",
            recordsOut=1234,
            bytesOut=1 << 20,
            manifest="pvc://datasets/out/dsort-manifest.json",
        )
        assert watching.ends() == 0
    assert watching.printed == [
        "a-job is complete: 1,234 records, 1.00 MiB; manifest pvc://datasets/out/dsort-manifest.json"
    ]


def test_submit_and_wait_exits_with_the_code_of_the_reason(place: Place) -> None:
    with place.start("submit", "--wait", "-f", place.file()) as waiting:
        waiting.says("pending")
        place.ends("Failed", reason="CorruptShard", message="part-000003.tar: cut off at byte 512")
        assert waiting.ends() == 6
    assert waiting.said[-1] == "error: a-job failed: CorruptShard: part-000003.tar: cut off at byte 512"
    assert waiting.printed == ["dsortjob.dsort.dev/a-job created"]


def test_watch_of_a_job_that_has_ended_ends_at_once(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.run("submit", "-f", place.file()) == 0
    place.ends("Failed", reason="SomethingOfANewerVersion", message="unheard of")
    assert place.run("watch", "a-job") == 1
    assert "SomethingOfANewerVersion: unheard of" in last_error(capsys)


def test_watch_as_json(place: Place) -> None:
    assert place.run("submit", "-f", place.file(dryRun=True)) == 0
    with place.start("watch", "a-job", "--json") as watching:
        watching.until(lambda: watching.printed)
        place.status(state="Running", phase="Pack", throughput=7)
        watching.until(lambda: len(watching.printed) == 2)
        place.ends(
            "Complete",
            reason="Planned",
            message="done",
            plan={"shards": 3, "records": 5, "bytes": 7},
        )
        assert watching.ends() == 0
    first, second, last = watching.events
    assert (first["event"], first["state"], first["percent"]) == ("progress", "Pending", None)
    assert (second["phase"], second["bytesPerSecond"]) == ("Pack", 7)
    assert last["event"] == "result"
    assert last["plan"] == {"shards": 3, "records": 5, "bytes": 7}
    assert watching.said == []


def test_ctrl_c_leaves_the_job_and_says_so(place: Place) -> None:
    with place.start("submit", "--wait", "-f", place.file()) as waiting:
        waiting.says("pending")
        waiting.process.send_signal(signal.SIGINT)
        assert waiting.ends() == 130
    assert "job a-job goes on" in waiting.said[-1]
    assert not place.job()["spec"].get("abort")


def test_watch_ends_when_the_job_is_deleted(place: Place) -> None:
    assert place.run("submit", "-f", place.file()) == 0
    with place.start("watch", "a-job") as watching:
        watching.says("pending")
        place.api.request("DELETE", place.path())
        assert watching.ends() == 1
    assert watching.said[-1] == "error: dsortjob a-job was deleted"


def test_watch_outlives_the_api_server(place: Place, dsort_api: ControlPlane) -> None:
    assert place.run("submit", "-f", place.file()) == 0
    with place.start("watch", "a-job") as watching:
        watching.says("pending")
        try:
            dsort_api.stop_api()
            watching.says("trying again")
        finally:
            dsort_api.start_api()
        place.ends("Complete", reason="Complete", message="done")
        assert watching.ends() == 0
    assert len([line for line in watching.said if line.startswith("warning: ")]) == 1


def test_abort_is_asked_for_once(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.run("submit", "-f", place.file()) == 0
    assert place.run("abort", "a-job") == 0
    assert place.job()["spec"]["abort"] is True
    assert place.run("abort", "a-job") == 0
    place.ends("Failed", reason="Aborted", message="by the user")
    capsys.readouterr()
    assert place.run("abort", "a-job") == 0
    assert "has ended already: Failed" in capsys.readouterr().out
    assert place.run("watch", "a-job") == 130


@pytest.mark.parametrize("command", ["watch", "abort", "logs"])
def test_a_job_that_is_not_there(place: Place, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.run(command, "none") == 1
    assert last_error(capsys) == 'dsortjobs.dsort.dev "none" not found (status 404)'


def test_release_takes_off_one_finalizer_and_no_other(
    place: Place, dsort_api: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("held", "held-twice", "free"):
        assert place.run("submit", "-f", place.file(name)) == 0
    for name, finalizers in (("held", [FINALIZER]), ("held-twice", ["example.com/mine", FINALIZER])):
        change = {"metadata": {"finalizers": finalizers}}
        dsort_api.request("PATCH", place.path(name), change, kind=MERGE)
        dsort_api.request("DELETE", place.path(name))
    assert sorted(place.jobs()) == ["free", "held", "held-twice"]
    capsys.readouterr()
    assert place.run("release") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "released 2 jobs"
    assert sorted(place.jobs()) == ["free", "held-twice"]
    assert place.job("held-twice")["metadata"]["finalizers"] == ["example.com/mine"]
    assert place.run("release", "--all-namespaces") == 0
    assert capsys.readouterr().out == "released 0 jobs\n"


class Kubelet(http.server.BaseHTTPRequestHandler):
    """Answers for the logs of containers as a node would. Of a pod that is called so the connection is cut off once."""

    cut: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        pod, asked = path.split("/")[3], dict(parse_qsl(query))
        lines = [
            ("2026-01-01T00:00:00.5Z", f"hello from {pod}\n"),
            ("2026-01-01T00:00:01.05Z", f"how are you, {pod}\n"),
            ("2026-01-01T00:00:01.25Z", f"and good bye from {pod}"),
        ]
        if "timestamps" in asked:
            since = asked.get("sinceTime", "").removesuffix("Z")
            lines = [(stamp, f"{stamp} {text}") for stamp, text in lines if stamp >= since]
        body = "".join(text for _, text in lines).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if pod == "cut" and pod not in self.cut:
            self.cut.add(pod)
            body = "".join(text for _, text in lines[:2]).encode()
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the test prints what it wants."""


@pytest.fixture
def node(dsort_api: ControlPlane) -> Iterator[str]:
    """A node whose kubelet knows logs and nothing else."""
    certificates = dsort_api.folder / "certificates"
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.load_cert_chain(certificates / "apiserver.crt", certificates / "apiserver.key")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Kubelet) as server:
        server.socket = trust.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        name = f"node-{uuid.uuid4().hex[:8]}"
        dsort_api.request("POST", "/api/v1/nodes", {"metadata": {"name": name}})
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": server.server_address[1]}},
        }
        dsort_api.request("PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, kind=MERGE)
        yield name
        dsort_api.request("DELETE", f"/api/v1/nodes/{name}")
        server.shutdown()
        thread.join()


def make_pod(place: Place, name: str, *, index: int, node: str, started: bool = True) -> None:
    labels = {
        "app.kubernetes.io/component": "worker",
        "dsort.dev/job-uid": place.job()["metadata"]["uid"],
        "batch.kubernetes.io/job-completion-index": str(index),
    }
    pods = f"/api/v1/namespaces/{place.namespace}/pods"
    spec = {"nodeName": node, "containers": [{"name": "worker", "image": "x"}]}
    place.api.request("POST", pods, {"metadata": {"name": name, "labels": labels}, "spec": spec})
    state = {"running": {}} if started else {"waiting": {"reason": "ContainerCreating"}}
    container = {"name": "worker", "image": "x", "imageID": "", "ready": started, "restartCount": 0}
    status = {"containerStatuses": [container | {"state": state}]}
    place.api.request("PATCH", f"{pods}/{name}/status", {"status": status}, kind=MERGE)


def created(place: Place, pod: str) -> str:
    path = f"/api/v1/namespaces/{place.namespace}/pods/{pod}"
    return str(place.api.request("GET", path)["metadata"]["creationTimestamp"])


def server_time(place: Place) -> str:
    """What the API server's clock says."""
    body = {"metadata": {"generateName": "clock-"}}
    made = place.api.request("POST", f"/api/v1/namespaces/{place.namespace}/configmaps?dryRun=All", body)
    return str(made["metadata"]["creationTimestamp"])


def test_logs_of_all_pods_and_of_the_pod_of_a_rank(
    place: Place, node: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.run("submit", "-f", place.file(workers={"count": 2, "lanes": 4})) == 0
    capsys.readouterr()
    assert place.run("logs", "a-job") == 1
    assert last_error(capsys) == "job a-job has no pods; it is pending"
    make_pod(place, "zeroth", index=0, node=node)
    make_pod(place, "second", index=1, node=node)
    began = created(place, "zeroth")
    await_that(lambda: server_time(place) > began, "a second is over, which is how exactly times are kept")
    make_pod(place, "first", index=0, node=node)  # in the place of the zeroth
    assert place.run("logs", "a-job") == 0
    assert capsys.readouterr().out.splitlines() == [
        "[0] hello from first",
        "[0] how are you, first",
        "[0] and good bye from first",
        "[1] hello from second",
        "[1] how are you, second",
        "[1] and good bye from second",
    ]
    assert place.run("logs", "a-job", "--rank", "5") == 0
    assert capsys.readouterr().out.splitlines()[::2] == ["hello from second", "and good bye from second"]
    assert place.run("logs", "a-job", "--rank", "8") == 1
    assert "no pod of that rank" in last_error(capsys)


def test_a_pod_that_has_not_started_is_named(
    place: Place, node: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.run("submit", "-f", place.file()) == 0
    make_pod(place, "waiting", index=0, node=node, started=False)
    capsys.readouterr()
    assert place.run("logs", "a-job") == 0
    assert capsys.readouterr() == ("", "warning: pod waiting has not started\n")


def test_logs_follow_pods_that_come_later_until_the_job_has_ended(place: Place, node: str) -> None:
    assert place.run("submit", "-f", place.file()) == 0
    with place.start("logs", "a-job", "--follow") as following:
        make_pod(place, "early", index=0, node=node)
        following.until(lambda: "[0] and good bye from early" in following.printed)
        make_pod(place, "cut", index=1, node=node)
        following.until(lambda: "[1] and good bye from cut" in following.printed)
        place.ends("Complete", reason="Complete", message="done")
        assert following.ends() == 0
    # What came before a connection was lost, or ended without a word, is not printed again.
    assert sorted(following.printed) == [
        "[0] and good bye from early",
        "[0] hello from early",
        "[0] how are you, early",
        "[1] and good bye from cut",
        "[1] hello from cut",
        "[1] how are you, cut",
    ]


def test_logs_outlive_an_api_server_that_is_away(
    place: Place, node: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place.run("submit", "-f", place.file()) == 0
    make_pod(place, "first", index=0, node=node)
    place.ends("Complete", reason="Complete", message="done")
    asked, away = Cluster.ask, iter([True, True])

    def ask(cluster: Cluster, *arguments: Any, **more: Any) -> Any:
        if "/pods" in arguments[1] and next(away, False):
            raise ClusterError("etcd is away", status=503)
        return asked(cluster, *arguments, **more)

    monkeypatch.setattr(Cluster, "ask", ask)
    monkeypatch.setattr("dsort_cli.logs._AGAIN_SECONDS", 0.01)
    capsys.readouterr()
    assert place.run("logs", "a-job", "--follow") == 0
    assert "warning: etcd is away; trying again" in capsys.readouterr().err


def test_release_gives_up_where_an_operator_holds_on(
    place: Place, dsort_api: ControlPlane, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It puts back what is taken off, and changes what is looked at."""
    assert place.run("submit", "-f", place.file()) == 0
    dsort_api.request("PATCH", place.path(), {"metadata": {"finalizers": [FINALIZER]}}, kind=MERGE)
    held = release._held

    def held_and_changed(cluster: Cluster, path: str) -> list[Any]:
        found = held(cluster, path)
        annotation = {"metadata": {"annotations": {"changed": uuid.uuid4().hex}}}
        dsort_api.request("PATCH", place.path(), annotation, kind=MERGE)
        return found

    monkeypatch.setattr(release, "_held", held_and_changed)
    assert place.run("release") == 1
    assert "a-job: changed with every try" in last_error(capsys)


def test_a_cluster_that_is_not_there(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    away = place.api.kubeconfig(url="https://127.0.0.1:1")
    assert main(["watch", "a-job", "--kubeconfig", str(away)]) == 1
    assert "https://127.0.0.1:1 cannot be reached" in last_error(capsys)
    for text in (None, "x", "[]", "a: b: c", "\0"):
        file = tmp_path / "kubeconfig"
        if text is not None:
            file.write_text(text)
        assert main(["watch", "a-job", "--kubeconfig", str(file)]) == 1
        assert last_error(capsys).startswith(f"no cluster to talk to: {file}: ")
    assert main(["watch", "a-job", "--kubeconfig", place.kubeconfig, "--context", "moon"]) == 1
    assert "moon" in last_error(capsys)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert main(["watch", "a-job"]) == 1
    assert "no cluster to talk to" in last_error(capsys)


def test_kubectl_finds_the_plugin(place: Place, kubernetes_assets: Path) -> None:
    plugin = place.folder / "kubectl-dsort"
    plugin.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m dsort_cli \"$@\"\n")
    plugin.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{place.folder}:{os.environ['PATH']}",
        "KUBECONFIG": place.kubeconfig,
    }
    command = [str(kubernetes_assets / "kubectl"), "dsort", "submit", "-f", place.file()]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "dsortjob.dsort.dev/a-job created\n"), ran.stderr
