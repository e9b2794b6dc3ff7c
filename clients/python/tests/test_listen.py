"""Listening: what is told, and when it comes back."""

from __future__ import annotations

import asyncio
import json
from typing import Any, AsyncIterator, Dict, List

import httpx
import pytest
from conftest import Kind
from test_publish import Fake

from notify_client import AsyncClient, Closed, Refused, Retry, Unavailable

URL = "https://notify.test"
CONFIRMED = {"type": "connection_confirmed", "ping_interval_ms": 10_000}


class Streams(Fake):
    """Gives one stream after the other; a dictionary is an event, a text is sent as it is."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.answers and isinstance(self.answers[0], list):
            self.asked.append(request)
            text = "".join(part if isinstance(part, str) else event(*part) for part in self.answers.pop(0))
            return httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})
        return super().__call__(request)


def event(said: Dict[str, Any], last_id: str = "") -> str:
    return (f"id: {last_id}\n" if last_id else "") + f"data: {json.dumps(said)}\n\n"


def open_(kind: Kind, fake: Fake, token: Any = "secret") -> Any:
    return kind(URL, token, transport=httpx.MockTransport(fake))


OWN = {"content-type": "application/problem+json"}
STOP = (403, {"detail": "that is all"}, OWN)


def told(client: Any, *arguments: Any, **named: Any) -> List[Any]:
    events = []
    with pytest.raises(Refused, match="that is all"):
        for each in client.listen(*arguments, **named):
            events.append((each.type, each.id))
    return events


def test_events_are_told_and_notices_are_not_and_it_goes_on_from_the_last_id(kind: Kind, slept: List[float]) -> None:
    first = [(CONFIRMED, "1-0"), ({"type": "a"}, "1-1"), ({"type": "typing_started"},), ({"type": "ping"},), ({"type": "gap"}, "1-5")]
    second = [(CONFIRMED, "1-5"), ({"type": "b"}, "1-6"), "id: 1-7\n\n"]
    fake = Streams(first, httpx.ReadError("cut"), (503, {}), second, STOP)
    with open_(kind, fake) as client:
        assert told(client) == [("a", "1-1"), ("typing_started", None), ("gap", "1-5"), ("b", "1-6")]
    assert [request.url.params.get("last_event_id") for request in fake.asked] == [None, "1-5", "1-5", "1-5", "1-7"]
    assert {request.url.path for request in fake.asked} == {"/events"}
    assert all("secret" not in str(request.url) for request in fake.asked)
    assert len(slept) == 4


def test_notices_on_demand_and_channels_in_the_address(kind: Kind, slept: List[float]) -> None:
    fake = Streams([(CONFIRMED, "1-0")], STOP)
    with open_(kind, fake) as client:
        assert told(client, ["job:1", "job:项目"], notices=True, last_event_id="0-9") == [("connection_confirmed", "1-0")]
        with pytest.raises(TypeError, match="list of channels"):
            client.listen("job:1")
    assert fake.asked[0].url.raw_path == b"/sse/stream/job:1,job:%E9%A1%B9%E7%9B%AE?named=false&last_event_id=0-9"


def test_closing_is_honoured(kind: Kind, slept: List[float]) -> None:
    draining = {"type": "closing", "reason": "draining", "reconnect": True, "retry_ms": 1234}
    ended = {"type": "closing", "reason": "disconnected", "reconnect": False, "retry_ms": 0}
    fake = Streams([(CONFIRMED,), (draining,)], [(CONFIRMED,), (ended,)])
    with open_(kind, fake) as client, pytest.raises(Closed) as raised:
        next(client.listen())
    assert raised.value.reason == "disconnected"
    assert slept == [1.234]


@pytest.mark.parametrize("reason", ["token_expired", "token_revoked", "key_removed"])
def test_tokens_that_are_over_are_renewed_and_refused_ones_once(kind: Kind, slept: List[float], reason: str) -> None:
    over = {"type": "closing", "reason": reason, "reconnect": False, "retry_ms": 0}
    tokens = iter(["one", "two", "three"])
    fake = Streams([(CONFIRMED,), (over,)], (401, {}), (401, {"detail": "really not"}, OWN))
    with open_(kind, fake, lambda: next(tokens)) as client, pytest.raises(Refused, match="really not"):
        next(client.listen())
    assert [request.headers["authorization"][-5:].strip() for request in fake.asked] == ["r one", "r two", "three"]
    with open_(kind, Streams([(CONFIRMED,), (over,)])) as client, pytest.raises(Closed):
        next(client.listen())


def test_failures_in_a_row_are_counted_and_waits_grow(kind: Kind, slept: List[float], full_jitter: None) -> None:
    fake = Streams((503, {}), (503, {}), [(CONFIRMED,), ({"type": "ping"},)], (503, {}), (503, {}), (503, {}))
    with open_(kind, fake) as client, pytest.raises(Unavailable, match="4 attempts"):
        next(client.listen(retry=Retry(attempts=4, base=1, most=60)))
    # The stream that brought something begins the count anew, and its own end is the first failure.
    assert slept == [1, 2, 1, 2, 4]


def test_a_server_that_accepts_and_drops_is_not_hammered(kind: Kind, slept: List[float], full_jitter: None) -> None:
    fake = Streams(*[[(CONFIRMED,)]] * 4, STOP)
    with open_(kind, fake) as client:
        assert told(client) == []
    assert slept == [1, 2, 4, 8]


def test_silence_is_measured_in_pings(kind: Kind, slept: List[float]) -> None:
    fake = Streams([(CONFIRMED,)], [(CONFIRMED,)], STOP)
    with open_(kind, fake) as client:
        told(client)
    assert [request.extensions["timeout"]["read"] for request in fake.asked] == [75.0, 25.0, 25.0]


def test_what_is_no_event_is_left_out(kind: Kind, slept: List[float]) -> None:
    fake = Streams([(CONFIRMED,), "id: 1-1\ndata: {\n\n", "data: 7\n\n", ({"type": "a"}, "1-2")], STOP)
    with open_(kind, fake) as client:
        assert told(client) == [("a", "1-2")]


def test_a_stream_can_be_closed(kind: Kind) -> None:
    fake = Streams([(CONFIRMED,), ({"type": "a"}, "1-1"), ({"type": "b"}, "1-2")])
    with open_(kind, fake) as client:
        stream = client.listen()
        assert next(stream).type == "a"
        assert stream.last_event_id == "1-1"
        stream.close()
        assert list(stream) == []


def test_what_a_proxy_says_while_the_server_is_replaced_passes_but_not_at_first(kind: Kind, slept: List[float]) -> None:
    page = (404, {"detail": "nothing here"})
    fake = Streams([(CONFIRMED,), ({"type": "a"}, "1-1")], page, (403, {}), (200, {}), [(CONFIRMED,), ({"type": "b"}, "1-2")], STOP)
    with open_(kind, fake) as client:
        assert told(client) == [("a", "1-1"), ("b", "1-2")]
    assert len(slept) == 5
    with open_(kind, Streams(page)) as client, pytest.raises(Refused, match="nothing here"):
        next(client.listen())


def test_an_answer_that_is_no_stream_is_told(kind: Kind, slept: List[float]) -> None:
    with open_(kind, Streams((200, {"sign": "in"}))) as client, pytest.raises(Refused, match="is this a notify-server"):
        next(client.listen())
    assert slept == []


def test_the_servers_retry_is_the_first_step_of_the_backoff(kind: Kind, slept: List[float], full_jitter: None) -> None:
    fake = Streams(["retry: 3000\n\n", (CONFIRMED,)], (503, {}), ["retry: 1\n\n", (CONFIRMED,), ({"type": "a"}, "1-1")], STOP)
    with open_(kind, fake) as client:
        assert told(client) == [("a", "1-1")]
    assert slept == [3.0, 6.0, 0.1]


def test_waiting_for_an_event_can_be_given_up_and_taken_up_again() -> None:
    """`asyncio.wait_for` ends what it waits for; the next event comes over another connection, and none is lost."""
    asked: List[httpx.Request] = []

    class Slow(httpx.AsyncByteStream):
        def __init__(self, n: int) -> None:
            self._n = n

        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield (event(CONFIRMED) + event({"type": f"event-{self._n}"}, f"1-{self._n}")).encode()
            await asyncio.sleep(60)

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, stream=Slow(len(asked)), headers={"content-type": "text/event-stream"})

    async def main() -> None:
        async with AsyncClient(URL, "secret", transport=httpx.MockTransport(answer)) as client, client.listen() as stream:
            assert (await stream.__anext__()).id == "1-1"
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(stream.__anext__(), 0.05)
            assert (await stream.__anext__()).id == "1-2"

    asyncio.run(main())
    assert [request.url.params.get("last_event_id") for request in asked] == [None, "1-1"]
