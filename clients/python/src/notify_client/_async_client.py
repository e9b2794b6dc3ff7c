"""The asynchronous client: the synchronous one with `await`."""

from __future__ import annotations

import asyncio
import inspect
from types import TracebackType
from typing import (
    Any,
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    List,
    Mapping,
    Optional,
    Sequence,
    Type,
    TypeVar,
    Union,
)

import httpx

from . import _publish
from ._client import LISTEN, TIMEOUT
from ._events import Event
from ._listen import Follow, is_stream, not_a_stream
from ._publish import Accepted, Answer, Item, Reply, Request, Step
from ._retry import Retry

T = TypeVar("T")


class AsyncClient:
    """A notify-server, for one user or backend. Tasks of one event loop may share it.

    :param url: where the server is; a path is kept
    :param token: the token, or a function, also an asynchronous one, that gives one; it is called again when the last one
        was refused or is over
    :param retry: bounds on trying again when publishing
    :param timeout: seconds that a request may take; a stream may last
    :param transport: what httpx sends by, for proxies and tests
    """

    def __init__(
        self,
        url: str,
        token: Union[str, Callable[[], Union[str, Awaitable[str]]]],
        *,
        retry: Optional[Retry] = None,
        timeout: float = TIMEOUT,
        transport: Optional[httpx.AsyncBaseTransport] = None,
    ) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout, transport=transport)
        self._token = token
        self._kept: Optional[str] = None
        self._retry = retry or Retry()
        self._timeout = timeout

    async def send(
        self, message: Mapping[str, Any], *, idempotency_key: Optional[str] = None, wait: Optional[float] = None
    ) -> Accepted:
        """Publishes a push message or a channel event; returns when the log has it.

        :param idempotency_key: the same message under the same key is published once; made where none is given, so that
            trying again does no harm
        :param wait: seconds to wait, at most 10, to hear whom it has reached
        :raises Refused: the message or the token is not good
        :raises Unavailable: the server could not take it as often as it was tried
        """
        return await self._run(_publish.one("/api/v1/messages/send", message, idempotency_key, wait, self._retry))

    async def broadcast(self, type: str, data: Any = None, *, idempotency_key: Optional[str] = None) -> Accepted:
        """Publishes an event for everybody. Raises as `send` does."""
        message = {"type": type, "data": data}
        return await self._run(_publish.one("/api/v1/messages/broadcast", message, idempotency_key, None, self._retry))

    async def batch(self, messages: Iterable[Mapping[str, Any]], *, idempotency_key: Optional[str] = None) -> List[Item]:
        """Publishes many messages in order, a thousand with each request; the result says of each what became of it.

        Raises as `send` does where a whole request fails. What went before it is published; the same call with the same
        key publishes only the rest.
        """
        return await self._run(_publish.many(messages, idempotency_key, self._retry))

    def listen(
        self,
        channels: Sequence[str] = (),
        *,
        last_event_id: Optional[str] = None,
        notices: bool = False,
        retry: Optional[Retry] = None,
    ) -> AsyncStream:
        """Listens to the user's own stream, or to channels, for as long as it is iterated; comes back by itself and goes
        on from the last id.

        :param last_event_id: where to go on from
        :param notices: whether to give what the server says of the stream itself, too
        :param retry: bounds on coming back; by default it is never given up
        """
        follow = Follow(channels, last_event_id, notices, retry or LISTEN, callable(self._token))
        return AsyncStream(self._events, follow)

    async def close(self) -> None:
        """Closes all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        await self.close()

    async def _run(self, plan: Generator[Step, Reply, T]) -> T:
        reply: Reply = None
        while True:
            try:
                step = plan.send(reply)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Request):
                reply = await self._post(step)
            else:
                await sleep(step)
                reply = None

    async def _post(self, request: Request) -> Reply:
        headers = {**request.headers, **await self._authorization(request.fresh_token)}
        try:
            answer = await self._http.post(request.path, content=request.content, headers=headers)
        except httpx.TransportError as error:
            return error
        return Answer(answer.status_code, answer.headers, answer.content)

    async def _authorization(self, fresh: bool) -> Mapping[str, str]:
        if self._kept is None or fresh:
            token = self._token() if callable(self._token) else self._token
            self._kept = await token if inspect.isawaitable(token) else token
        return {"authorization": f"Bearer {self._kept}"}

    async def _events(self, follow: Follow) -> AsyncGenerator[Event, None]:
        while True:
            fresh = follow.fresh_token
            parameters = follow.parameters()
            why: Union[Answer, Exception, None] = None
            headers = {"accept": "text/event-stream", **await self._authorization(fresh)}
            timeout = httpx.Timeout(self._timeout, read=follow.silence)
            try:
                async with self._http.stream(
                    "GET", follow.path, params=parameters, headers=headers, timeout=timeout
                ) as answer:
                    if is_stream(answer.status_code, answer.headers):
                        async for text in answer.aiter_text():
                            for event in follow.feed(text):
                                yield event
                    else:
                        body = await answer.aread() if answer.is_error else b""
                        why = not_a_stream(answer.status_code, answer.headers, body)
            except (httpx.TransportError, ValueError) as error:
                why = error
            await sleep(follow.ended(why))


class AsyncStream(AsyncIterator[Event]):
    """What `AsyncClient.listen` gives. Closing it ends the connection; so does waiting for an event being cancelled, as by
    `asyncio.wait_for`, and the next event is had over another connection, from where this one was."""

    def __init__(self, events: Callable[[Follow], AsyncGenerator[Event, None]], follow: Follow) -> None:
        self._open = events
        self._events = events(follow)
        self._follow = follow

    @property
    def last_event_id(self) -> Optional[str]:
        """Where to go on from."""
        return self._follow.last_event_id

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> Event:
        try:
            return await self._events.__anext__()
        except asyncio.CancelledError:
            self._events = self._open(self._follow)
            raise

    async def close(self) -> None:
        """Ends the connection."""
        await self._events.aclose()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        await self.close()


async def sleep(seconds: float) -> None:
    """Waits."""
    await asyncio.sleep(seconds)
