"""A cluster with kubelets, for tests of the whole: kubectl and helm, requests to its API, conditions with a deadline."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

JOBS: Final = "/apis/dsort.dev/v1alpha1"
PATIENCE: Final = 300.0
"""Seconds after which a condition has failed; a busy machine of two cores needs a share of it."""
TEST_LABEL: Final = "dsort-test"
"""On all that tests make outside of namespaces, and on the namespaces: a later run knows by it what it may take away."""
_MERGE: Final = "application/merge-patch+json"
_APPLY: Final = "application/apply-patch+yaml"
_INTERVAL: Final = 0.1

Object = dict[str, Any]


class LiveCluster:
    """The cluster of a kubeconfig; a context manager.

    Requests go through `kubectl proxy`, which knows every way of signing in. tools: the folder of kubectl and helm, where
    they are not those of the PATH.
    """

    def __init__(self, kubeconfig: Path, *, tools: Path | None) -> None:
        self.kubeconfig = kubeconfig
        path = os.environ["PATH"]
        self.environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "PATH": f"{tools}{os.pathsep}{path}" if tools is not None else path,
        }
        self._url = ""
        self._proxy: subprocess.Popen[str] | None = None
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        # A run that is killed leaves no proxy.
        with_us = ["setpriv", "--pdeathsig=KILL"] if shutil.which("setpriv") else []
        self._proxy = subprocess.Popen(
            [*with_us, "kubectl", "proxy", "--port=0"],
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._proxy.stdout is not None
        said = self._proxy.stdout.readline()  # Starting to serve on 127.0.0.1:35341
        assert "127.0.0.1:" in said, said
        self._url = f"http://{said.split()[-1]}"
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.kill()
            process.wait()
        if self._proxy is not None:
            self._proxy.kill()
            self._proxy.communicate()

    # Commands

    def run(self, *command: str | Path, stdin: str | None = None, seconds: float = 300) -> str:
        """What a command prints. AssertionError with all that it said when it fails."""
        done = subprocess.run(
            command, env=self.environment, input=stdin, capture_output=True, text=True, timeout=seconds
        )
        assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, *command: str) -> None:
        """Start a command that ends on its own or with the cluster's block; what it says is of no interest."""
        self._started.append(
            subprocess.Popen(
                command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        )

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints."""
        return self.run("kubectl", *arguments, stdin=stdin)

    def helm(self, *arguments: str) -> str:
        """What helm prints."""
        return self.run("helm", *arguments)

    # Requests

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        kind: str = "application/json",
        seconds: float = 30,
    ) -> Any:
        """One request to the API: the JSON of the answer, or else its text. urllib's errors, with the server's words."""
        asked = urllib.request.Request(
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": kind},
        )
        try:
            with urllib.request.urlopen(asked, timeout=seconds) as answer:
                content = answer.read()
                is_json = answer.headers.get_content_type() == "application/json"
        except urllib.error.HTTPError as error:
            with error:
                error.add_note(error.read().decode(errors="replace")[:2000])
            raise
        return json.loads(content) if is_json else content.decode()

    def find(self, path: str) -> Any:
        """What is there; None when nothing is."""
        try:
            return self.ask("GET", path)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return None

    def items(self, path: str) -> list[Object]:
        """A list."""
        found: list[Object] = self.ask("GET", path)["items"]
        return found

    def patch(self, path: str, change: Object) -> Any:
        """A merge patch."""
        return self.ask("PATCH", path, change, kind=_MERGE)

    def apply(self, path: str, body: Object) -> Any:
        """A server-side apply."""
        return self.ask("PATCH", f"{path}?fieldManager=e2e&force=true", body, kind=_APPLY)

    def delete(self, path: str, options: Object | None = None) -> None:
        """Delete it, if it is there. options: a DeleteOptions."""
        with contextlib.suppress(urllib.error.HTTPError):
            self.ask("DELETE", path, options)

    def delete_and_wait(self, path: str) -> None:
        """Delete it, and return when it is gone."""
        self.delete(path)
        self.until(lambda: self.find(path) is None, f"{path} is there")

    def nodes(self) -> list[str]:
        """The names of the nodes that take pods without further ado."""
        return [
            node["metadata"]["name"]
            for node in self.items("/api/v1/nodes")
            if not node["spec"].get("unschedulable")
            and not [one for one in node["spec"].get("taints", []) if one["effect"] != "PreferNoSchedule"]
        ]

    def until(self, condition: Callable[[], object], what: str, *, seconds: float = PATIENCE) -> float:
        """Wait until it holds; the seconds that it took. AssertionError with `what` when it does not come to that."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < seconds, f"after {seconds} s: {what}"
            time.sleep(_INTERVAL)
        return time.monotonic() - began

    # What a failed test shows

    def story(self, namespace: str, *, operator_namespace: str) -> str:
        """What there is to know about what went wrong."""
        commands = (
            ("kubectl", "-n", namespace, "get", "dsj,jobs,pods", "-o", "wide"),
            ("kubectl", "-n", namespace, "get", "dsj", "-o", "yaml"),
            ("kubectl", "-n", namespace, "get", "events", "--sort-by=.metadata.creationTimestamp"),
            (
                *("kubectl", "-n", namespace, "logs", "-l", "app.kubernetes.io/name=dsort"),
                *("--prefix", "--tail=40", "--max-log-requests=20"),
            ),
            ("kubectl", "-n", operator_namespace, "get", "pods", "-o", "wide"),
            (
                *("kubectl", "-n", operator_namespace, "logs", "--prefix", "--tail=80"),
                *("-l", "app.kubernetes.io/component=operator"),
            ),
        )
        return "\n".join(self._told(*command) for command in commands)

    def _told(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        return f"$ {' '.join(command)}\n{done.stdout[-20_000:]}{done.stderr[-2000:]}"
