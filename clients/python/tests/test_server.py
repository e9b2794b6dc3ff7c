"""Both clients against the real server."""

from __future__ import annotations

import itertools
import signal
import threading
from typing import Any, Iterator, List

import httpx
import pytest
from conftest import Kind, Server

from notify_client import Accepted, Client, Closed, Event, Refused, Rejected

MESSAGES = itertools.count(1)


def message(n: int, channel: str = "user:2") -> Any:
    return {"type": "test.count", "channel": channel, "data": {"n": n}}


def numbers(stream: Iterator[Event], count: int) -> List[int]:
    return [event.data["data"]["n"] for event in itertools.islice((e for e in stream if e.type == "test.count"), count)]


def opened(client: Any, *arguments: Any) -> Any:
    """A stream that the server has confirmed."""
    stream = client.listen(*arguments, notices=True)
    assert next(stream).type == "connection_confirmed"
    return stream


def test_what_is_published_is_heard(kind: Kind, server: Server) -> None:
    with kind(server.url, server.token) as client, kind(server.url, server.token()) as listener:
        stream = opened(listener)
        assert isinstance(client.send(message(1)), Accepted)
        delivered = client.send(message(2), wait=5.0).delivered
        assert delivered and delivered.sessions == 1
        assert [type(item) for item in client.batch([message(3), {"type": "x"}, message(4)])] == [Accepted, Rejected, Accepted]
        client.broadcast("test.count", {"n": 5})
        assert numbers(stream, 5) == [1, 2, 3, 4, 5]
        stream.close()


def test_the_same_key_is_the_same_message(kind: Kind, server: Server) -> None:
    key = f"key-{next(MESSAGES)}"
    with kind(server.url, server.token()) as client:
        one, two = (client.send(message(1), idempotency_key=key) for _ in range(2))
        assert one == two
        first = client.batch([message(1), message(2)], idempotency_key=f"{key}-batch")
        assert client.batch([message(1), message(2)], idempotency_key=f"{key}-batch") == first


def test_the_rate_is_kept_to(kind: Kind, server: Server) -> None:
    """1,500 messages at 200 a second after the first 1,000: the server refuses, and the client waits as it says."""
    with kind(server.url, server.token(user=77)) as client:
        items = client.batch(message(n, "job:rate") for n in range(1_500))
    assert len(items) == 1_500 and all(isinstance(item, Accepted) for item in items)


def test_what_is_wrong_is_told_in_the_servers_words(kind: Kind, server: Server) -> None:
    with kind(server.url, server.token()) as client:
        with pytest.raises(Refused) as raised:
            client.send({"type": "x", "target": {"user_id": []}})
        assert raised.value.status == 422 and raised.value.field == "target.user_id"
    with kind(server.url, server.token(publish=["job:*"])) as client:
        with pytest.raises(Refused) as raised:
            client.broadcast("x")
        assert raised.value.status == 403
        with pytest.raises(Refused) as raised:
            next(client.listen(["service:billing"]))
        assert raised.value.status == 403 and "service:billing" in raised.value.detail


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_lost_or_doubled_when_the_server_is_restarted(kind: Kind, server: Server, how: signal.Signals) -> None:
    with kind(server.url, server.token()) as client, Client(server.url, server.token()) as other:
        stream = opened(client)
        other.send(message(1))
        assert numbers(stream, 1) == [1]
        server.restart(how)
        other.batch([message(2), message(3)])
        assert numbers(stream, 2) == [2, 3]
        other.send(message(4))
        assert numbers(stream, 1) == [4]
        stream.close()


def test_a_publisher_waits_for_a_server_that_restarts(kind: Kind, server: Server) -> None:
    with kind(server.url, server.token()) as client:
        restart = threading.Thread(target=server.restart)
        restart.start()
        accepted = [client.send(message(n, "job:restart")) for n in range(20)]
        restart.join()
    assert len({each.event_id for each in accepted}) == 20


def test_another_process_goes_on_from_an_id(kind: Kind, server: Server) -> None:
    with kind(server.url, server.token()) as client:
        stream = opened(client, ["job:9"])
        client.send(message(1, "job:9"))
        event = next(event for event in stream if event.type == "test.count")
        stream.close()
        client.batch([message(2, "job:9"), message(3, "job:9")])
        resumed = client.listen(["job:9"], last_event_id=event.id)
        assert numbers(resumed, 2) == [2, 3]
        resumed.close()


def test_who_is_sent_away_stays_away(kind: Kind, server: Server) -> None:
    with kind(server.url, server.token()) as client:
        stream = client.listen(notices=True)
        confirmed = next(stream)
        address = f"{server.url}/api/v1/connections/{confirmed.data['connection_id']}"
        httpx.delete(address, headers={"authorization": f"Bearer {server.token()}"}).raise_for_status()
        with pytest.raises(Closed, match="disconnected"):
            list(stream)


def test_a_token_that_expires_is_renewed(kind: Kind, server: Server) -> None:
    asked: List[int] = []

    def token() -> str:
        asked.append(1)
        return server.token(ttl="2s")

    with kind(server.url, token) as client, Client(server.url, server.token()) as other:
        stream = opened(client)
        expected = 0
        while len(asked) < 3:
            expected += 1
            other.send(message(expected))
            assert numbers(stream, 1) == [expected]
        stream.close()


def test_messages_of_a_session_are_heard_as_its_history_has_them(kind: Kind, server: Server) -> None:
    session = f"s-{next(MESSAGES)}"
    headers = {"authorization": f"Bearer {server.token()}"}
    with kind(server.url, server.token()) as client, httpx.Client(base_url=server.url, headers=headers) as http:
        stream = opened(client, [f"session:{session}"])
        for n in range(3):
            http.post("/api/messages", json={"sessionId": session, "content": str(n)}).raise_for_status()
        heard = [event.data["data"] for event in itertools.islice((e for e in stream if e.type == "message"), 3)]
        history = http.get("/api/messages", params={"sessionId": session}).json()["data"]["messages"]
        assert heard == history[::-1] and [message["content"] for message in heard] == ["0", "1", "2"]
        stream.close()
