"""A real Kubernetes API without nodes, for tests that need no kubelet: etcd, kube-apiserver and, where asked for, the
controller manager, on loopback.

The programs come from `tests/kind/assets` or from the folder named by KUBEBUILDER_ASSETS. Data, certificates and logs are
in a temporary folder; `stop` kills what was started, by its process id, and removes the folder. Nothing is worth a clean
shutdown, so there is none. Should the tests themselves be killed, the kernel ends the programs with them.
"""

from __future__ import annotations

import csv
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pytest

KIND: Final = Path(__file__).resolve().parents[1] / "kind"
PROGRAMS: Final = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
ADMIN: Final = "admin"
CONTROLLERS: Final = "system:kube-controller-manager"
# Runs a program that ends with the thread that started it: prctl(PR_SET_PDEATHSIG, SIGKILL), then exec.
BOUND: Final = (
    sys.executable,
    "-IS",
    "-c",
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])",
)


def find_assets() -> Path | None:
    """The folder of the programs, if they are all there; nothing is built here."""
    named = os.environ.get("KUBEBUILDER_ASSETS")
    if named:
        folder = Path(named)
    else:
        where = subprocess.run([KIND / "build", "where"], capture_output=True, text=True, check=True)
        folder = Path(where.stdout.strip())
    return folder if all((folder / program).exists() for program in PROGRAMS) else None


def free_port() -> int:
    """A port of loopback that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ControlPlane:
    """One API server with its store; a context manager.

    `users` are those that may sign in besides the administrator, each with its groups; what they may do is up to the
    RBAC rules of the test. Without `controllers` no one fills in service accounts, makes pods of Jobs or collects
    garbage. `flags` are further ones for kube-apiserver. RuntimeError, with the end of the log, when one of the
    programs does not get ready.
    """

    def __init__(
        self,
        assets: Path,
        *,
        controllers: bool = False,
        users: Mapping[str, tuple[str, ...]] | None = None,
        flags: tuple[str, ...] = (),
        patience: float = 120,
    ) -> None:
        self.assets = assets
        self.controllers = controllers
        self.flags = flags
        self.patience = patience
        """Seconds that a program may take to get ready."""
        self.users = {ADMIN: ("system:masters",), CONTROLLERS: ("system:masters",), **(users or {})}
        self.tokens = {user: secrets.token_urlsafe() for user in self.users}
        self.folder = Path(tempfile.mkdtemp(prefix="dsort-apiserver-"))
        self.url = ""
        self._port = 0
        self._etcd = ""
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def authority(self) -> Path:
        """The certificate to trust, PEM."""
        return self.folder / "certificates" / "apiserver.crt"

    def kubeconfig(self, user: str = ADMIN, *, namespace: str = "default", url: str | None = None) -> Path:
        """A kubeconfig for `user`, by way of `url` where something stands in between (its name must be 127.0.0.1)."""
        named = {"name": "test"}
        path = self.folder / f"kubeconfig-{secrets.token_hex(4)}"
        cluster = {"server": url or self.url, "certificate-authority": str(self.authority)}
        context = {"cluster": "test", "user": "test", "namespace": namespace}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [named | {"cluster": cluster}],
            "users": [named | {"user": {"token": self.tokens[user]}}],
            "contexts": [named | {"context": context}],
        }
        path.write_text(json.dumps(content))  # JSON is YAML
        return path

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        user: str = ADMIN,
        kind: str = "application/json",
    ) -> Any:
        """One request to the API, and the JSON (or else the text) of its answer; urllib's errors."""
        asked = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.tokens[user]}", "Content-Type": kind},
        )
        trust = ssl.create_default_context(cafile=self.authority)
        with urllib.request.urlopen(asked, context=trust, timeout=10) as answer:
            content = answer.read()
            is_json = answer.headers.get_content_type() == "application/json"
            return json.loads(content) if is_json else content.decode()

    def kubectl(self, *arguments: str, stdin: str | None = None, user: str = ADMIN) -> str:
        """What kubectl prints; subprocess.CalledProcessError, with its stderr, when it fails."""
        command = [str(self.assets / "kubectl"), f"--kubeconfig={self.kubeconfig(user)}", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout

    def start(self) -> None:
        """Start what is not running, and wait until it is ready."""
        if not self._port:
            self._prepare()
        if "etcd" not in self._running:
            self._start_etcd()
        self.start_api()
        if self.controllers and "kube-controller-manager" not in self._running:
            self._start_controllers()

    def start_api(self) -> None:
        """Start the API server, at its old address and on its old data, and wait until it is ready."""
        if "kube-apiserver" in self._running:
            return
        certificates = self.folder / "certificates"
        # It makes its own certificate at its first start, and signs the service accounts' tokens with the same key.
        key = certificates / "apiserver.key"
        admission = () if self.controllers else ("--disable-admission-plugins=ServiceAccount",)
        self._run(
            "kube-apiserver",
            f"--etcd-servers={self._etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--cert-dir={certificates}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--endpoint-reconciler-type=none",  # no Service leads here
            "--allow-privileged",
            "--profiling=false",
            *admission,
            *self.flags,
        )
        self._await("kube-apiserver", lambda: self.request("GET", "/readyz") == "ok")

    def stop_api(self) -> None:
        """Kill the API server; the data stays."""
        self._kill("kube-apiserver")

    def stop(self) -> None:
        """Kill all that runs, and remove the folder; to be called any number of times."""
        for program in list(self._running):
            self._kill(program)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _prepare(self) -> None:
        self._port = free_port()
        self.url = f"https://127.0.0.1:{self._port}"
        with (self.folder / "tokens.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            for user, groups in self.users.items():
                rows.writerow([self.tokens[user], user, user, ",".join(groups)])

    def _start_etcd(self) -> None:
        # Sockets, not ports: there are none to be taken by others meanwhile. The number is part of a socket's name.
        self._etcd = f"unix://{self.folder / 'etcd.sock'}:1"
        self._run(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={self._etcd}",
            f"--advertise-client-urls={self._etcd}",
            f"--listen-peer-urls=unix://{self.folder / 'peer.sock'}:1",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )

    def _start_controllers(self) -> None:
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig(CONTROLLERS)}",
            f"--service-account-private-key-file={self.folder / 'certificates' / 'apiserver.key'}",
            f"--root-ca-file={self.authority}",
            "--secure-port=0",
            "--leader-elect=false",
            "--profiling=false",
        )
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self._await("kube-controller-manager", lambda: bool(self.request("GET", account)))

    def _run(self, program: str, *flags: str) -> None:
        with (self.folder / f"{program}.log").open("ab") as log:
            self._running[program] = subprocess.Popen(
                [*BOUND, str(self.assets / program), *flags],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _await(self, program: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.patience
        while True:
            try:
                if ready():
                    return
            except (OSError, urllib.error.URLError):
                pass  # not listening yet, no certificate yet, or not ready
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode}: {self._last_words(name)}")
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"{program} is not ready after {self.patience} s: {self._last_words(program)}"
                )
            time.sleep(0.05)

    def _last_words(self, program: str) -> str:
        return (self.folder / f"{program}.log").read_text(errors="replace")[-2000:]

    def _kill(self, program: str) -> None:
        process = self._running.pop(program, None)
        if process is not None:
            process.kill()
            process.wait()


@pytest.fixture(scope="package")
def kubernetes_assets() -> Path:
    """The folder of the programs; without them the test is skipped, in CI it fails."""
    folder = find_assets()
    if folder is None:
        why = "no etcd and kube-apiserver: run tests/kind/assets, or set KUBEBUILDER_ASSETS"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return folder


@pytest.fixture(scope="package")
def apiserver(kubernetes_assets: Path) -> Iterator[ControlPlane]:
    """One API server for all tests of the layer: objects are stored and checked, and nothing acts on them."""
    with ControlPlane(kubernetes_assets) as running:
        yield running


@pytest.fixture(scope="package")
def control_plane(kubernetes_assets: Path) -> Iterator[ControlPlane]:
    """The same with the controller manager: Jobs get pods, owners take their children along. No pod ever runs."""
    with ControlPlane(kubernetes_assets, controllers=True) as running:
        yield running
