"""Which witness is believed, and what is said of a pod's end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from dsort_api.messages import Failure
from dsort_api.reasons import EXIT_CODES, Reason
from dsort_operator.children import WorkerPod, WorkersJob
from dsort_operator.failure import end_of, lasting_failure, newest, one_line
from dsort_operator.world import Refusal, Report, World
from tests.support.worlds import (
    T0,
    definition_of,
    failed_pod,
    failure,
    job_body,
    report,
    worker_pod,
    workers_job,
)

WORDS = '{"reason": "OutputExists", "message": "s-0000.tar is there", "rank": 1}'


def world(
    *pods: WorkerPod,
    workers: WorkersJob | None = None,
    reports: dict[int, Report] | None = None,
    refused: dict[int, Refusal] | None = None,
) -> World:
    body = job_body()
    seen = World.of(body, definition=definition_of(body), reports=reports, refused=refused)
    return replace(seen, pods=pods, workers=workers)


def policy(code: int) -> WorkersJob:
    message = (
        f"Container worker for pod team/b-1-x failed with exit code {code} matching FailJob rule at index 2"
    )
    return workers_job(failed_reason="PodFailurePolicy", failed_message=message)


@pytest.mark.parametrize(
    ("seen", "reason", "says"),
    [
        pytest.param(world(worker_pod(0)), None, "", id="all is well"),
        pytest.param(
            world(reports={1: report(1, failure=failure()), 0: report(0, failure=failure(Reason.PEER_LOST))}),
            Reason.CORRUPT_SHARD,
            "shard a.tar: no header",
            id="a rank's own word, not that of the peer that missed it",
        ),
        pytest.param(
            world(reports={0: report(0, failure=failure(Reason.ABORTED))}),
            None,
            "",
            id="aborted because it was told to",
        ),
        pytest.param(
            world(failed_pod(1, exit_code=12, termination_message=WORDS)),
            Reason.OUTPUT_EXISTS,
            "s-0000.tar is there",
            id="last words",
        ),
        pytest.param(
            world(failed_pod(1, exit_code=12, termination_message=WORDS[:30])),
            Reason.OUTPUT_EXISTS,
            "pod shuffle-1-1-x ended with exit code 12 and left no message; see its log",
            id="last words cut off",
        ),
        pytest.param(
            world(failed_pod(1, exit_code=12, termination_message='{"reason": "Novel"}')),
            Reason.OUTPUT_EXISTS,
            "exit code 12",
            id="last words of another version",
        ),
        pytest.param(world(failed_pod(1, exit_code=1)), None, "", id="a crash"),
        pytest.param(world(failed_pod(1, exit_code=2)), None, "", id="no reason has this code"),
        pytest.param(world(failed_pod(1, exit_code=143)), None, "", id="an orderly end"),
        pytest.param(world(failed_pod(1, exit_code=None)), None, "", id="a pod that never ran"),
        pytest.param(
            world(refused={1: Refusal(message="refused it", lasting=True)}),
            Reason.PROTOCOL_MISMATCH,
            "rank 1 refused it",
            id="refused",
        ),
        pytest.param(
            world(refused={1: Refusal(message="refused it", lasting=False)}), None, "", id="refused for now"
        ),
        pytest.param(
            world(workers=policy(6)), Reason.CORRUPT_SHARD, "exit code 6", id="the verdict has the code"
        ),
        pytest.param(
            world(workers=policy(77)),
            Reason.BACKOFF_LIMIT_EXCEEDED,
            "exit code 77",
            id="the verdict has a code of nobody",
        ),
        pytest.param(
            world(workers=workers_job(failed_reason="DeadlineExceeded", failed_message="too  late")),
            Reason.DEADLINE_EXCEEDED,
            "too late",
            id="somebody gave the Job a deadline",
        ),
        pytest.param(
            world(
                failed_pod(0, oom_killed=True, exit_code=137),
                workers=workers_job(failed_reason="MaxFailedIndexesExceeded", failed_message="too many."),
            ),
            Reason.MEMORY_LIMIT_EXCEEDED,
            "pod shuffle-1-0-x was OOMKilled: it needed more than its memory limit; raise the limit, or lower "
            "spec.memory.budget; the restarts of spec.backoffLimit (6) are used up",
            id="tries are used up, the last for want of memory",
        ),
        pytest.param(
            world(
                failed_pod(0, oom_killed=True, exit_code=137, ended=T0),
                failed_pod(1, exit_code=1, ended=T0 + timedelta(seconds=1)),
                failed_pod(2, exit_code=143, ended=T0 + timedelta(seconds=2)),
                workers=workers_job(failed_reason="MaxFailedIndexesExceeded"),
            ),
            Reason.BACKOFF_LIMIT_EXCEEDED,
            "pod shuffle-1-1-x ended with exit code 1 and left no message; see its log; the restarts of "
            "spec.backoffLimit (6) are used up",
            id="tries are used up by a pod that failed after the one that was killed",
        ),
        pytest.param(
            replace(world(workers=workers_job(failed_reason="MaxFailedIndexesExceeded")), definition=None),
            Reason.BACKOFF_LIMIT_EXCEEDED,
            "MaxFailedIndexesExceeded; the restarts of spec.backoffLimit are used up",
            id="tries are used up, and nothing is known",
        ),
    ],
)
def test_best_witness_is_believed(seen: World, reason: Reason | None, says: str) -> None:
    found = lasting_failure(seen)
    assert (found.reason if found else None) is reason
    assert says in (found.message if found else "")


@pytest.mark.parametrize("reason", [one for one in EXIT_CODES if EXIT_CODES[one] > 2])
def test_exit_code_alone_tells_the_reason(reason: Reason) -> None:
    found = lasting_failure(world(failed_pod(0, exit_code=EXIT_CODES[reason])))
    again = {Reason.PEER_LOST, Reason.ABORTED}
    assert (found.reason if found else None) is (None if reason in again else reason)


@pytest.mark.parametrize(
    ("pod", "reason", "says"),
    [
        (failed_pod(0, oom_killed=True, termination_message=WORDS), "OOMKilled", "memory limit"),
        (failed_pod(0, termination_message=WORDS), "OutputExists", "pod shuffle-1-0-x: s-0000.tar is there"),
        (
            failed_pod(0, ended_reason="Evicted", ended_message="low on disk"),
            "Evicted",
            "pod shuffle-1-0-x was ended by Kubernetes (Evicted): low on disk",
        ),
        (failed_pod(0, ended_reason="Evicted"), "Evicted", "ended by Kubernetes (Evicted)"),
        (failed_pod(0, exit_code=None), "Failed", "left no message"),
        (failed_pod(0, exit_code=9), "Error", "exit code 9"),
    ],
)
def test_end_of_a_pod_is_told(pod: WorkerPod, reason: str, says: str) -> None:
    end = end_of(pod)
    assert end.reason == reason
    assert says in end.message


def test_last_words_without_a_message_are_words() -> None:
    pod = failed_pod(0, exit_code=12, termination_message='{"reason": "OutputExists"}')
    assert lasting_failure(world(pod)) == Failure(reason=Reason.OUTPUT_EXISTS, message="")


def test_newest_pod_of_an_index_speaks_for_it() -> None:
    old = failed_pod(0, name="old", created=T0)
    new = worker_pod(0, name="new", created=T0 + timedelta(seconds=1))
    odd = worker_pod(-1)
    assert newest([new, old, odd]) == {0: new}
    assert newest([replace(new, created=None), replace(old, created=None)])[0].name == "new"


def test_text_of_any_origin_becomes_one_line() -> None:
    assert one_line("a\n  b\x1b[0m") == "a b\\x1b[0m"
    assert len(one_line("x" * 9999)) == 1024
