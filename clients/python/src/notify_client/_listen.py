"""What a listener does next: where to listen, what of a stream is an event, when to come back. Knows no sockets."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Dict, Iterator, Mapping, Optional, Sequence, Union
from urllib.parse import quote

from ._errors import Closed, NotifyError, Unavailable
from ._events import Event, Parser
from ._publish import Answer, refused
from ._retry import PASSING, Retry, retry_after

#: Another token may be good where this one no longer is. One that is refused, too, is the end.
RENEWABLE = frozenset({"token_expired", "token_revoked", "key_removed"})
#: What the server says of the stream itself; `gap` is told to everybody.
NOTICES = frozenset({"connection_confirmed", "ping", "caught_up", "token_expiring", "closing"})
#: In intervals between pings: the silence after which a stream is taken for dead.
SILENT_PINGS = 2.5
#: Seconds; the least first step of the backoff that a server may wish for.
LEAST = 0.1
#: Seconds between pings, until the server says.
PING = 30.0


class Follow:
    """One listener, over all its connections."""

    def __init__(
        self, channels: Sequence[str], last_event_id: Optional[str], notices: bool, retry: Retry, renewable: bool
    ) -> None:
        if isinstance(channels, str):
            raise TypeError("channels is a list of channels, not one text")
        names = ",".join(quote(channel, safe=":") for channel in channels)
        self.path = f"/sse/stream/{names}" if channels else "/events"
        self.last_event_id = last_event_id
        #: Seconds without any byte after which the stream is dead.
        self.silence = PING * SILENT_PINGS
        self._notices = notices
        self._retry = retry
        self._renewable = renewable
        self._parser = Parser()
        self._failures = 0
        self._wait: Optional[float] = None
        self._renewed = False
        #: Whether a stream has ever stood: then an answer that this server never gives is a proxy's, and passes.
        self._stood = False
        #: Whether the next connection needs another token.
        self.fresh_token = False

    def parameters(self) -> Dict[str, str]:
        """Of the next connection, which begins with this."""
        self._parser = Parser()
        self._wait = None
        self.fresh_token = False
        parameters = {"named": "false"}
        if self.last_event_id:
            parameters["last_event_id"] = self.last_event_id
        return parameters

    def feed(self, text: str) -> Iterator[Event]:
        """The events in a piece of the stream.

        :raises Closed: the server asks not to come back
        """
        for data, last_id in self._parser.feed(text):
            own = last_id if last_id != self.last_event_id else None
            self.last_event_id = last_id or self.last_event_id
            said = _object(data)
            if said is None:
                continue
            kind = str(said.get("type", ""))
            if kind == "connection_confirmed":
                self._confirmed(said)
            elif kind != "closing":
                # Only a stream that has brought something was a good one.
                self._failures = 0
            if self._notices or kind not in NOTICES:
                yield Event(kind, said, own)
            if kind == "closing":
                self._closing(said)
        if self._parser.last_id:
            self.last_event_id = self._parser.last_id
        if self._parser.retry_ms is not None:
            # The first step of the backoff is the server's, but one that wishes for less is not taken at its word.
            self._retry = replace(self._retry, base=max(self._parser.retry_ms / 1000, LEAST))

    def _confirmed(self, said: Mapping[str, Any]) -> None:
        self._renewed = False
        self._stood = True
        interval = said.get("ping_interval_ms")
        if isinstance(interval, (int, float)) and interval > 0:
            self.silence = interval / 1000 * SILENT_PINGS

    def _closing(self, said: Mapping[str, Any]) -> None:
        reason = str(said.get("reason"))
        if said.get("reconnect"):
            # The server has spread these over its clients.
            self._wait = float(said.get("retry_ms") or 0) / 1000
        elif reason in RENEWABLE and self._renewable:
            self.fresh_token = True
        else:
            raise Closed(reason)

    def ended(self, why: Union[Answer, Exception, None]) -> float:
        """Seconds to wait before the next connection.

        :raises NotifyError: there is to be none
        """
        if isinstance(why, NotifyError):
            raise why
        if isinstance(why, Answer) and why.status == 401 and self._renewable and not self._renewed:
            self._renewed = self.fresh_token = True
            return 0.0
        if isinstance(why, Answer) and why.status not in PASSING and (not self._stood or _is_own(why)):
            raise refused(why)
        self._failures += 1
        if self._failures >= self._retry.attempts:
            raise Unavailable(f"the stream could not be opened in {self._failures} attempts: {_words(why)}")
        if self._wait is not None:
            return self._wait
        return self._retry.delay(self._failures, retry_after(why.headers) if isinstance(why, Answer) else 0.0)


def is_stream(status: int, headers: Mapping[str, str]) -> bool:
    """Whether an answer is a stream, and not, say, somebody's page for signing in."""
    return status == 200 and headers.get("content-type", "").startswith("text/event-stream")


def not_a_stream(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """What to tell of an answer that is none. What is no error is of no interest, however long it is."""
    if status >= 300:
        return Answer(status, headers, body)
    return Answer(status, headers, b'{"detail": "the answer is no event stream; is this a notify-server?"}')


def _is_own(answer: Answer) -> bool:
    """Proxies say 404 and the like of their own while a server is replaced; what it says itself is a problem document."""
    return "problem+json" in answer.headers.get("content-type", "")


def _object(data: str) -> Optional[Dict[str, Any]]:
    """What is no object is no event of this server, and left out."""
    try:
        said = json.loads(data)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


def _words(why: Union[Answer, Exception, None]) -> str:
    if isinstance(why, Answer):
        return f"the server has answered {why.status}"
    return str(why or "it has ended")
