"""The exchange between the operator and the workers: who may speak, pods that are replaced, an operator that is away."""

from __future__ import annotations

import base64
import json
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from dsort_api.labels import CONTROL_PORT
from dsort_api.messages import Desired, Observed, Stop
from dsort_api.reasons import Reason
from tests.support.gates import Gate
from tests.support.playground import Place, await_that


def token_of(place: Place, job: dict[str, Any]) -> str:
    """The token of a job, from its Secret."""
    secrets = {one["metadata"]["labels"]["dsort.dev/job-uid"]: one for one in place.items("/api/v1/secrets")}
    return base64.b64decode(secrets[job["metadata"]["uid"]]["data"]["token"]).decode()


def put(pod: dict[str, Any], desired: Desired, *, token: str | None) -> tuple[int, str]:
    """One control request to the first rank of a pod: status and answer."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(
        f"http://{pod['status']['podIP']}:{CONTROL_PORT}/v1/control",
        method="PUT",
        data=desired.model_dump_json().encode(),
        headers=headers,
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def ready_pods(place: Place, name: str) -> dict[int, dict[str, Any]]:
    """The pods of a job that are ready, by index."""
    index = "batch.kubernetes.io/job-completion-index"
    return {
        int(pod["metadata"]["labels"][index]): pod
        for pod in place.pods
        if pod["metadata"]["labels"]["dsort.dev/job-name"] == name
        and {"type": "Ready", "status": "True"}.items()
        <= next((one for one in pod["status"].get("conditions", ()) if one["type"] == "Ready"), {}).items()
    }


def test_requests_without_the_token_or_with_that_of_another_job_are_refused(
    place: Place, tmp_path: Path
) -> None:
    place.shards()
    stop = Desired(stop=Stop(reason=Reason.ABORTED))
    gates = {name: Gate(tmp_path / name, "Create") for name in ("mine", "theirs")}
    with place.operator(measured=False):
        for name, gate in gates.items():
            place.playground.kubelet.environment[name] = gate.environment
            place.apply(name)
        for name, gate in gates.items():
            gate.reached()
            await_that(lambda name=name: len(ready_pods(place, name)) == 2, "the pods are ready")  # type: ignore[misc]
        other = token_of(place, place.job("theirs"))
        for pod in ready_pods(place, "mine").values():
            assert put(pod, stop, token=None)[0] == 401
            assert put(pod, stop, token=other)[0] == 401
            assert put(pod, stop, token="")[0] == 401
            status, answer = put(pod, Desired(), token=token_of(place, place.job("mine")))
            assert status == 200
            assert Observed.model_validate_json(answer).failure is None
        for gate in gates.values():
            gate.open()
        for name in gates:
            place.await_job(name, Complete=True)


def test_a_replaced_pod_lives_in_another_epoch_and_the_job_goes_on(place: Place, tmp_path: Path) -> None:
    place.shards()
    expected = place.expect("a-job")
    gate = Gate(tmp_path / "gate", "Create", rank=1)
    place.playground.kubelet.environment["a-job"] = gate.environment
    with place.operator(measured=False) as operator:
        place.apply("a-job")
        victim = gate.reached()
        await_that(lambda: len(ready_pods(place, "a-job")) == 2, "the pods are ready")
        first = ready_pods(place, "a-job")[1]
        token = token_of(place, place.job("a-job"))
        before = json.loads(put(first, Desired(), token=token)[1])["epoch"]
        again = Gate(tmp_path / "again", "Create", rank=1)
        place.playground.kubelet.environment["a-job"] = again.environment
        os.kill(victim, signal.SIGKILL)
        again.reached()
        await_that(
            lambda: ready_pods(place, "a-job").get(1, first)["metadata"]["uid"] != first["metadata"]["uid"],
            "another pod has its index",
            shows=operator.log,
        )
        second = ready_pods(place, "a-job")[1]
        status, answer = put(second, Desired(), token=token)
        assert status == 200
        assert json.loads(answer)["epoch"] != before
        assert put(second, Desired(epoch=before), token=token)[0] == 409
        again.open()
        place.await_job("a-job", Complete=True)
        place.check_output("a-job", like=expected)
        gate.open()


def test_workers_go_on_while_the_operator_is_away(place: Place, tmp_path: Path) -> None:
    place.shards()
    expected = place.expect("a-job")
    gate = Gate(tmp_path / "gate", "Create")
    place.playground.kubelet.environment["a-job"] = gate.environment
    with place.operator(measured=False) as operator:
        place.apply("a-job")
        gate.reached()
        operator.kill()
        gate.open()
        await_that(
            lambda: [pod["status"]["phase"] for pod in place.pods] == ["Succeeded"] * 2,
            "the workers have ended by themselves",
            shows=lambda: json.dumps([pod["status"] for pod in place.pods]),
        )
        place.check_output("a-job", like=expected)
        operator.start()
        place.await_job("a-job", Complete=True)
