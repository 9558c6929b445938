"""Requests to the API server against a small server that refuses, breaks off and answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from dsort_operator import kube as module
from dsort_operator.kube import ApiError, Backoff, Kube, path_of


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.001)


class Server:
    """Answers with the statuses in `script`, -1 breaks the connection; then with 200 and what it was sent."""

    def __init__(self, *script: int, causes: tuple[str, ...] = ()) -> None:
        self.script = list(script)
        self.causes = causes
        self.seen: list[tuple[str, str, str]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        self.seen.append((request.method, request.path_qs, request.content_type))
        status = self.script.pop(0) if self.script else 200
        if status == -1:
            assert request.transport is not None
            request.transport.abort()
        if 0 < status < 300:
            return web.Response(text=body or "{}")
        reasons = {409: "AlreadyExists", 404: "NotFound"}
        details = {"causes": [{"reason": cause} for cause in self.causes]}
        refusal = {"reason": reasons.get(status, "Reason"), "message": "why", "details": details}
        return web.Response(status=max(status, 400), text=json.dumps(refusal))


@asynccontextmanager
async def talking(server: Server) -> AsyncIterator[Kube]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    configuration = Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        async with Kube(configuration) as kube:
            yield kube
    finally:
        await runner.cleanup()


@pytest.mark.asyncio
@pytest.mark.parametrize("script", [(429,), (500, 503), (-1,), (502, 429, -1)])
async def test_what_may_pass_is_tried_again(script: tuple[int, ...]) -> None:
    server = Server(*script)
    async with talking(server) as kube:
        assert await kube.apply("/x", {"a": 1}) == {"a": 1}
    assert len(server.seen) == len(script) + 1
    assert set(server.seen) == {
        ("PATCH", "/x?fieldManager=dsort-operator&force=true", "application/apply-patch+yaml")
    }


@pytest.mark.asyncio
@pytest.mark.parametrize(("status", "said"), [(500, 500), (-1, 0)])
async def test_after_a_few_tries_it_is_said(status: int, said: int) -> None:
    server = Server(*[status] * 20)
    async with talking(server) as kube:
        with pytest.raises(ApiError) as caught:
            await kube.create("/x", {})
    assert caught.value.status == said
    assert not caught.value.is_lasting
    assert len(server.seen) == 4


@pytest.mark.asyncio
async def test_a_refusal_is_not_tried_again_and_says_whether_it_lasts() -> None:
    for status, causes, lasting, ending in (
        (403, (), True, False),
        (422, (), True, False),
        (403, ("NamespaceTerminating",), False, True),
        (401, (), False, False),
    ):
        server = Server(status, causes=causes)
        async with talking(server) as kube:
            with pytest.raises(ApiError) as caught:
                await kube.create("/x", {})
        assert len(server.seen) == 1
        assert (caught.value.is_lasting, caught.value.is_namespace_ending) == (lasting, ending)
        assert "why" in str(caught.value)


@pytest.mark.asyncio
async def test_what_is_there_and_what_is_not() -> None:
    async with talking(Server(404)) as kube:
        assert await kube.get("/x") is None
    async with talking(Server(404)) as kube:
        assert await kube.merge("/x", {}) is None
    async with talking(Server(409)) as kube:
        assert await kube.create("/x", {}) is None
    for status in (404, 409):
        async with talking(Server(status)) as kube:
            await kube.delete("/x", uid="u", propagation="Background")


def test_pauses_grow_with_jitter_to_a_bound() -> None:
    backoff = Backoff(first=1.0, longest=10.0)
    for failures, most in ((1, 1.0), (2, 2.0), (4, 8.0), (5, 10.0), (1000, 10.0)):
        pauses = {backoff.seconds(failures) for _ in range(20)}
        assert len(pauses) > 10
        assert all(most / 2 <= pause <= most for pause in pauses)


def test_paths_are_quoted() -> None:
    assert path_of("/api/v1", "pods", namespace="a", name="b/c", subresource="status") == (
        "/api/v1/namespaces/a/pods/b%2Fc/status"
    )
