"""Two replicas: one works, the other waits, and takes over."""

from __future__ import annotations

import contextlib
import urllib.error
import urllib.request
from collections.abc import Iterator

from dsort_operator.leader import LEASE_SECONDS
from tests.support.apiproxy import ApiProxy
from tests.support.playground import Operator, Place, await_that


def flags(place: Place, identity: str) -> list[str]:
    return [
        "--leader-election",
        f"--operator-namespace={place.namespace}",
        f"--identity={identity}",
    ]


def holder(place: Place) -> str:
    """Who holds the Lease."""
    leases = place.items("/apis/coordination.k8s.io/v1/leases")
    return str(leases[0]["spec"].get("holderIdentity", "")) if leases else ""


def is_ready(operator: Operator) -> bool:
    """Whether /readyz says so."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{operator.ports()[0]}/readyz", timeout=10) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False


@contextlib.contextmanager
def two(place: Place) -> Iterator[dict[str, Operator]]:
    """Two replicas, of which `first` leads."""
    with place.operator(flags=flags(place, "first")) as first:
        await_that(lambda: holder(place) == "first", "the first leads", shows=first.log)
        with place.operator(flags=flags(place, "second")) as second:
            await_that(lambda: is_ready(second), "the second is ready to wait", shows=second.log)
            yield {"first": first, "second": second}


def test_one_replica_works_and_when_it_is_killed_the_other_takes_over(place: Place) -> None:
    place.shards()
    with two(place) as replicas:
        place.apply("one")
        place.await_job("one", Complete=True)
        assert not [line for line in replicas["second"].lines() if "job" in line]
        place.apply("two")
        replicas["first"].kill()
        await_that(lambda: holder(place) == "second", "the second leads", seconds=LEASE_SECONDS + 15)
        place.await_job("two", Complete=True)
        assert {line["job"] for line in replicas["second"].lines() if "job" in line} >= {
            f"{place.namespace}/two"
        }


def test_a_replica_that_ends_gives_the_lease_back(place: Place) -> None:
    with two(place) as replicas:
        assert replicas["first"].stop() == 0
        await_that(lambda: holder(place) == "second", "the second leads", seconds=LEASE_SECONDS / 2)


def test_a_replica_that_waits_ends_well_when_told(place: Place) -> None:
    with two(place) as replicas:
        assert replicas["second"].stop() == 0
        assert holder(place) == "first"


def test_a_replica_that_cannot_renew_ends(place: Place) -> None:
    with (
        ApiProxy(place.plane) as proxy,
        place.operator(url=proxy.url, flags=flags(place, "first")) as operator,
    ):
        await_that(lambda: holder(place) == "first", "it leads", shows=operator.log)
        proxy.faults.refuse = lambda call: 500 if "leases" in call.path else None
        assert operator.wait(LEASE_SECONDS + 15) == 1
