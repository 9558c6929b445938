"""The cluster that a command talks to, by the `kubernetes` client: plain requests, plain objects, errors in one line."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final, Self

from dsort_api.labels import GROUP
from dsort_api.spec import VERSION

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from kubernetes.client import ApiClient

Object = dict[str, Any]
"""An object of the API as it comes."""

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"

_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
_CONNECT_SECONDS: Final = 10.0
_ANSWER_SECONDS: Final = 30.0
_SILENCE_SECONDS: Final = 90.0
"""A watch that says nothing for this long has lost its server: one is asked to end sooner."""
_LONGEST_TEXT: Final = 1000


class ClusterError(Exception):
    """What keeps a command from asking the cluster, or what the cluster said: one line."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        line = " ".join(message.split())
        super().__init__("".join(one if one.isprintable() else "?" for one in line))
        self.status = status
        """The HTTP status of the answer; 0 when there was none."""

    @property
    def passes(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.status in {0, 408, 429} or self.status >= 500


class Cluster:
    """One API server, and the namespace that a command means. A context manager."""

    def __init__(self, client: ApiClient, *, namespace: str) -> None:
        self.namespace = namespace
        self._client = client

    @classmethod
    def of(cls, options: argparse.Namespace) -> Cluster:
        """The cluster that --kubeconfig, --context and --namespace name.

        Without them what kubectl would take: $KUBECONFIG, ~/.kube/config, or the pod's own service account. Raises
        ClusterError when there is none, or when the client is not installed.
        """
        try:
            from kubernetes import config
            from kubernetes.client import ApiClient, Configuration
        except ImportError:
            raise ClusterError(
                "the Kubernetes client is not installed: pip install 'dsort-operator[operator]'"
            ) from None
        settings = Configuration()
        settings.retries = False
        named = options.kubeconfig or options.context or os.environ.get("KUBECONFIG")
        in_pod = not named and "KUBERNETES_SERVICE_HOST" in os.environ
        try:
            if in_pod and not os.path.exists(os.path.expanduser(config.KUBE_CONFIG_DEFAULT_LOCATION)):
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
                default = _namespace_of_pod()
            else:
                where, context = options.kubeconfig, options.context
                config.load_kube_config(  # type: ignore[no-untyped-call]
                    config_file=where, context=context, client_configuration=settings, persist_config=False
                )
                contexts, current = config.list_kube_config_contexts(where)  # type: ignore[no-untyped-call]
                chosen = next((one for one in contexts if one["name"] == context), current)
                default = chosen["context"].get("namespace") or "default"
        except Exception as error:  # noqa: BLE001 - the library takes what stands in the file for what it should be
            file = options.kubeconfig or os.environ.get("KUBECONFIG") or config.KUBE_CONFIG_DEFAULT_LOCATION
            why = " ".join(str(error).split())
            raise ClusterError(f"no cluster to talk to: {'this pod' if in_pod else file}: {why}") from None
        return cls(ApiClient(settings), namespace=options.namespace or default)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()  # type: ignore[no-untyped-call]

    def jobs_path(self, *, namespace: str | None = None) -> str:
        """The path of the namespace's DSortJobs."""
        return f"/apis/{GROUP}/{VERSION}/namespaces/{namespace or self.namespace}/dsortjobs"

    def job(self, name: str) -> Object:
        """The DSortJob of that name. ClusterError when it is not there."""
        return self.ask("GET", f"{self.jobs_path()}/{name}")

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        kind: str = JSON,
    ) -> Object:
        """One request and the object that answers it. ClusterError with what the API server says."""
        response = self._send(
            method, path, query=query, body=body, kind=kind, timeout=(_CONNECT_SECONDS, _ANSWER_SECONDS)
        )
        try:
            answer = json.loads(self._whole(response))
        except ValueError:
            raise ClusterError(
                f"{method} {path}: the answer is not JSON; is this a Kubernetes API?"
            ) from None
        if not isinstance(answer, dict):
            raise ClusterError(f"{method} {path}: the answer is no object; is this a Kubernetes API?")
        return answer

    def watch(self, path: str, *, query: Mapping[str, str]) -> Iterator[Object]:
        """The events of one watch, {type, object}, until the server ends it, as it does now and then.

        ClusterError when it cannot be had, or is lost.
        """
        for line in self.lines(path, query={**query, "watch": "true", "timeoutSeconds": "60"}):
            try:
                event = json.loads(line)
            except ValueError:
                raise ClusterError(f"{path}: the watch was cut off") from None
            yield event

    def lines(
        self, path: str, *, query: Mapping[str, str], silence: float | None = _SILENCE_SECONDS
    ) -> Iterator[bytes]:
        """What is sent as it is sent, by lines without their ends. `silence`: seconds without a byte that count as a loss."""
        import urllib3

        response = self._send("GET", path, query=query, timeout=(_CONNECT_SECONDS, silence))
        rest = b""
        try:
            for piece in response.stream(1 << 16):
                *whole, rest = (rest + piece).split(b"\n")
                yield from whole
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(f"{path}: the connection was lost: {error}") from None
        finally:
            response.close()
        if rest:
            yield rest

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        kind: str = JSON,
        timeout: tuple[float, float | None],
    ) -> Any:
        """The answer, its body not read yet; ClusterError for every status but success."""
        import urllib3

        request = self._client.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": JSON} | ({"Content-Type": kind} if body is not None else {}),
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            response = self._client.call_api(*request, _request_timeout=timeout).response
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(
                f"{self._client.configuration.host} cannot be reached: {_cause(error)}"
            ) from None
        if not 200 <= response.status < 300:
            raise ClusterError(_words(self._whole(response), status=response.status), status=response.status)
        return response

    def _whole(self, response: Any) -> bytes:
        import urllib3

        try:
            data: bytes = response.data
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(f"the connection was lost: {error}") from None
        return data


def _words(answer: bytes, *, status: int) -> str:
    """What a Status object says, or the answer's text."""
    try:
        message = json.loads(answer)["message"]
    except (ValueError, KeyError, TypeError):
        message = answer.decode(errors="replace")[:_LONGEST_TEXT]
    return f"{message} (status {status})"


def _cause(error: BaseException) -> str:
    """The inmost words of an error of urllib3, which wraps what happened several times over."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        return _cause(reason)
    return str(error).rpartition("object at ")[2].partition(": ")[2] or str(error)


def _namespace_of_pod() -> str:
    with open(_ACCOUNT, encoding="utf-8") as file:
        return file.read().strip()
