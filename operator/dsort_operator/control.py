"""Drive one process of a rank through its control endpoint: tell it the desired state, hear the observed
state.

The exchange is level-triggered: the whole desired state goes with every request, a request may be repeated,
and a lost answer costs nothing. A rank that is one version of the protocol older is spoken to in its own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, Self

import aiohttp
from pydantic import ValidationError

from dsort_api.messages import PROTOCOL, Desired, Observed, PeerTable, Phase, Stop
from dsort_api.protocol import desired_text, other_version

if TYPE_CHECKING:
    from types import TracebackType

FINAL = frozenset({Phase.COMPLETE, Phase.FAILED, Phase.STOPPED})
"""A process in one of these has nothing more to say."""

_ANSWER_SECONDS = 10.0
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0


class RefusedError(Exception):
    """A rank does not take a request; the message goes on where its name ends. lasting: it speaks another protocol, and would
    say the same again.
    """

    def __init__(self, message: str, *, lasting: bool) -> None:
        super().__init__(message)
        self.message = message
        self.lasting = lasting


class Wishes(Protocol):
    """What the runner wants of every rank, now."""

    @property
    def peers(self) -> PeerTable | None:
        """The newest peer table; None until every rank is known."""

    @property
    def memory_budget(self) -> int:
        """Bytes a rank may use."""

    @property
    def throttle_level(self) -> int:
        """How far ranks are held back."""

    @property
    def stop(self) -> Stop | None:
        """The order to stop, once there is one."""

    @property
    def wait_seconds(self) -> float:
        """How long a rank may hold its answer when nothing changed."""


class ControlClient:
    """Sends control requests to ranks; owns the connections. An async context manager."""

    def __init__(self, *, token: str) -> None:
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def put(self, url: str, desired: Desired) -> Observed:
        """One exchange, in the version that `desired` names or in an older one that the rank speaks: its answer says in which.

        Raises OSError, TimeoutError or aiohttp.ClientError when there is no answer that can be read, and RefusedError
        when the rank, or whoever has its address now, refuses the request.
        """
        status, answer = await self._put(url, desired)
        if status == 426:
            other = other_version(answer.decode(errors="replace"), than=desired.protocol)
            if other is not None and other < desired.protocol:
                status, answer = await self._put(url, desired.model_copy(update={"protocol": other}))
        if status >= 500:  # the rank is not itself; whether it lives on is for others to see
            raise aiohttp.ClientPayloadError(f"the rank answered with status {status}")
        if status != 200:
            text = " ".join(answer.decode(errors="replace").split())
            raise RefusedError(f"refused control ({status}): {text}", lasting=status == 426)
        try:
            return Observed.model_validate_json(answer)
        except ValidationError as error:
            raise aiohttp.ClientPayloadError(f"the rank's answer cannot be read: {error}") from None

    async def _put(self, url: str, desired: Desired) -> tuple[int, bytes]:
        assert self._session is not None
        timeout = aiohttp.ClientTimeout(total=desired.wait_seconds + _ANSWER_SECONDS)
        async with self._session.put(
            f"{url}/v1/control", data=desired_text(desired), timeout=timeout
        ) as response:
            return response.status, await response.read()


class Link:
    """The exchange with one process of a rank, from its first answer to its last.

    `observed` is what it said last. `hear` is called after every answer, in the event loop.
    """

    def __init__(self, url: str, *, client: ControlClient, wishes: Wishes, hear: Hear) -> None:
        self.url = url
        self.observed: Observed | None = None
        self.over = False
        """Set by the owner when the process has ended: an answer that is on its way is heard, and nothing is asked any more:
        somebody else may have the address."""
        self.refused: RefusedError | None = None
        """Why the rank does not take this runner's requests; the exchange ended with it."""
        self._client = client
        self._wishes = wishes
        self._hear = hear
        self._news = asyncio.Event()

    def tell(self) -> None:
        """What is wanted changed: say so at once, beside the request that is being held."""
        self._news.set()

    async def run(self) -> None:
        """Exchange until the process has said its last word, has ended, or refuses."""
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(self._tell_news())
            await self._listen()
            telling.cancel()

    async def _listen(self) -> None:
        pause = _FIRST_PAUSE
        while not self._is_over():
            try:
                observed = await self._client.put(self.url, self._desired(self._wishes.wait_seconds))
            except (OSError, TimeoutError, aiohttp.ClientError):
                if self._is_over():
                    return
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            except RefusedError as error:
                self.refused = error
                return
            else:
                pause = _FIRST_PAUSE
                self._absorb(observed)

    async def _tell_news(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            if self.over:
                return
            try:
                self._absorb(await self._client.put(self.url, self._desired(0.0)))
            except (OSError, TimeoutError, aiohttp.ClientError, RefusedError):
                pass  # the next held request carries the same, and handles what is wrong

    def _desired(self, wait_seconds: float) -> Desired:
        observed, wishes = self.observed, self._wishes
        peers = wishes.peers
        if observed is not None and peers is not None and observed.peers_version >= peers.version:
            peers = None
        return Desired(
            protocol=min(PROTOCOL, observed.protocol) if observed else PROTOCOL,
            epoch=observed.epoch if observed else "",
            peers=peers,
            memory_budget=wishes.memory_budget,
            throttle_level=wishes.throttle_level,
            stop=wishes.stop,
            seen=observed.version if observed else 0,
            wait_seconds=wait_seconds if observed else 0.0,
        )

    def _absorb(self, observed: Observed) -> None:
        if self._is_final() or (self.observed is not None and observed.version < self.observed.version):
            return  # two requests were under way, and this answer is the older one
        self.observed = observed
        self._hear(self)

    def _is_over(self) -> bool:
        return self.over or self._is_final()

    def _is_final(self) -> bool:
        return self.observed is not None and self.observed.phase in FINAL


class Hear(Protocol):
    """Called with the link that has a new `observed`."""

    def __call__(self, link: Link, /) -> None:
        """Take it."""
