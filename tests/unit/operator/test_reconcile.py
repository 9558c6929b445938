"""What becomes of an action that the API server does not carry out."""

from __future__ import annotations

from typing import Any, cast

import pytest

from dsort_operator.actions import CreateSecret, PlanSettings
from dsort_operator.gather import Gatherer, NotOursError, check_owner
from dsort_operator.jobcontrol import JobControl
from dsort_operator.kube import ApiError, Kube
from dsort_operator.metrics import Metrics
from dsort_operator.reconcile import Reconciler
from dsort_operator.settings import Settings
from dsort_operator.sight import Sight
from dsort_operator.world import World

WORLD = World(job=None, name="a-job", namespace="ns", uid="u1")


class Refusing:
    """An API server that refuses to create anything."""

    def __init__(self, status: int, *causes: str) -> None:
        self.error = ApiError("POST /x", status=status, reason="Refused", message="why", causes=causes)

    async def create(self, _: str, __: Any) -> None:
        raise self.error


def reconciler(kube: Any) -> Reconciler:
    sight = Sight()
    gatherer = Gatherer(kube=cast("Kube", kube), sight=sight.of("u1"), control=cast("JobControl", None))
    return Reconciler(
        kube=cast("Kube", kube),
        sight=sight.of("u1"),
        control=cast("JobControl", None),
        gatherer=gatherer,
        settings=Settings(image="x"),
        bounds=PlanSettings(),
        metrics=Metrics(dict),
    )


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [403, 422])
async def test_what_is_refused_for_good_is_known_to_the_next_plan(status: int) -> None:
    made = reconciler(Refusing(status))
    assert not await made._carry_out(CreateSecret(), WORLD)
    assert made.gatherer.denied == {"CreateSecret": "why"}
    assert not made.sight.namespace_ending


@pytest.mark.asyncio
async def test_a_namespace_that_is_ending_is_known_as_such() -> None:
    made = reconciler(Refusing(403, "NamespaceTerminating"))
    assert not await made._carry_out(CreateSecret(), WORLD)
    assert made.sight.namespace_ending
    assert made.gatherer.denied == {}


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [0, 401, 409, 500])
async def test_what_may_pass_is_for_the_whole_reconcile_to_try_again(status: int) -> None:
    with pytest.raises(ApiError):
        await reconciler(Refusing(status))._carry_out(CreateSecret(), WORLD)


def test_a_child_that_belongs_to_something_else_is_not_taken_for_ours() -> None:
    child = {"kind": "Job", "metadata": {"name": "a", "ownerReferences": [{"uid": "u2"}]}}
    check_owner(child, "u2")
    with pytest.raises(NotOursError, match="Job a is there and belongs to something else"):
        check_owner(child, "u1")
