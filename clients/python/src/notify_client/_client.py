"""The synchronous client."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Callable, Generator, Iterable, Iterator, List, Mapping, Optional, Sequence, Type, TypeVar, Union

import httpx

from . import _publish
from ._events import Event
from ._listen import Follow, is_stream, not_a_stream
from ._publish import Accepted, Answer, Item, Reply, Request, Step
from ._retry import Retry

T = TypeVar("T")

#: Seconds that a request may take.
TIMEOUT = 15.0
#: A listener comes back again and again, with up to half a minute in between.
LISTEN = Retry(attempts=1_000_000, base=1.0, most=30.0)


class Client:
    """A notify-server, for one user or backend. Threads may share it.

    :param url: where the server is; a path is kept
    :param token: the token, or a function that gives one; it is called again when the last one was refused or is over
    :param retry: bounds on trying again when publishing
    :param timeout: seconds that a request may take; a stream may last
    :param transport: what httpx sends by, for proxies and tests
    """

    def __init__(
        self,
        url: str,
        token: Union[str, Callable[[], str]],
        *,
        retry: Optional[Retry] = None,
        timeout: float = TIMEOUT,
        transport: Optional[httpx.BaseTransport] = None,
    ) -> None:
        self._http = httpx.Client(base_url=url, timeout=timeout, transport=transport)
        self._token = token
        self._kept: Optional[str] = None
        self._retry = retry or Retry()
        self._timeout = timeout

    def send(
        self, message: Mapping[str, Any], *, idempotency_key: Optional[str] = None, wait: Optional[float] = None
    ) -> Accepted:
        """Publishes a push message or a channel event; returns when the log has it.

        :param idempotency_key: the same message under the same key is published once; made where none is given, so that
            trying again does no harm
        :param wait: seconds to wait, at most 10, to hear whom it has reached
        :raises Refused: the message or the token is not good
        :raises Unavailable: the server could not take it as often as it was tried
        """
        return self._run(_publish.one("/api/v1/messages/send", message, idempotency_key, wait, self._retry))

    def broadcast(self, type: str, data: Any = None, *, idempotency_key: Optional[str] = None) -> Accepted:
        """Publishes an event for everybody. Raises as `send` does."""
        message = {"type": type, "data": data}
        return self._run(_publish.one("/api/v1/messages/broadcast", message, idempotency_key, None, self._retry))

    def batch(self, messages: Iterable[Mapping[str, Any]], *, idempotency_key: Optional[str] = None) -> List[Item]:
        """Publishes many messages in order, a thousand with each request; the result says of each what became of it.

        Raises as `send` does where a whole request fails. What went before it is published; the same call with the same
        key publishes only the rest.
        """
        return self._run(_publish.many(messages, idempotency_key, self._retry))

    def listen(
        self,
        channels: Sequence[str] = (),
        *,
        last_event_id: Optional[str] = None,
        notices: bool = False,
        retry: Optional[Retry] = None,
    ) -> Stream:
        """Listens to the user's own stream, or to channels, for as long as it is iterated; comes back by itself and goes
        on from the last id.

        :param last_event_id: where to go on from
        :param notices: whether to give what the server says of the stream itself, too
        :param retry: bounds on coming back; by default it is never given up
        """
        follow = Follow(channels, last_event_id, notices, retry or LISTEN, callable(self._token))
        return Stream(self._events(follow), follow)

    def close(self) -> None:
        """Closes all connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def _run(self, plan: Generator[Step, Reply, T]) -> T:
        reply: Reply = None
        while True:
            try:
                step = plan.send(reply)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Request):
                reply = self._post(step)
            else:
                sleep(step)
                reply = None

    def _post(self, request: Request) -> Reply:
        headers = {**request.headers, **self._authorization(request.fresh_token)}
        try:
            answer = self._http.post(request.path, content=request.content, headers=headers)
        except httpx.TransportError as error:
            return error
        return Answer(answer.status_code, answer.headers, answer.content)

    def _authorization(self, fresh: bool) -> Mapping[str, str]:
        if self._kept is None or fresh:
            self._kept = self._token() if callable(self._token) else self._token
        return {"authorization": f"Bearer {self._kept}"}

    def _events(self, follow: Follow) -> Generator[Event, None, None]:
        while True:
            fresh = follow.fresh_token
            parameters = follow.parameters()
            why: Union[Answer, Exception, None] = None
            headers = {"accept": "text/event-stream", **self._authorization(fresh)}
            timeout = httpx.Timeout(self._timeout, read=follow.silence)
            try:
                with self._http.stream("GET", follow.path, params=parameters, headers=headers, timeout=timeout) as answer:
                    if is_stream(answer.status_code, answer.headers):
                        for text in answer.iter_text():
                            yield from follow.feed(text)
                    else:
                        body = answer.read() if answer.is_error else b""
                        why = not_a_stream(answer.status_code, answer.headers, body)
            except (httpx.TransportError, ValueError) as error:
                why = error
            sleep(follow.ended(why))


class Stream(Iterator[Event]):
    """What `Client.listen` gives. Closing it ends the connection."""

    def __init__(self, events: Generator[Event, None, None], follow: Follow) -> None:
        self._events = events
        self._follow = follow

    @property
    def last_event_id(self) -> Optional[str]:
        """Where to go on from."""
        return self._follow.last_event_id

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        """Ends the connection."""
        self._events.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()


def sleep(seconds: float) -> None:
    """Waits."""
    time.sleep(seconds)
