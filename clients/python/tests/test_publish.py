"""Publishing against answers of every kind."""

from __future__ import annotations

import json
from typing import Any, Callable, List, Optional

import httpx
import pytest
from conftest import Kind

from notify_client import Accepted, Refused, Rejected, Retry, Unavailable

URL = "https://notify.test/below"
ACCEPTED = {"id": "m1", "position": 7, "event_id": "1-7-abcd"}
MESSAGE = {"type": "invoice.paid", "channel": "user:2", "data": {"number": 17}}


class Fake:
    """Gives one answer after the other, and keeps what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: List[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, body, *headers = answer
        return httpx.Response(status, json=body, headers=headers[0] if headers else None)

    @property
    def keys(self) -> List[Optional[str]]:
        return [request.headers.get("idempotency-key") for request in self.asked]


def client(kind: Kind, fake: Fake, token: Any = "secret", **named: Any) -> Any:
    return kind(URL, token, transport=httpx.MockTransport(fake), **named)


def test_a_message_is_sent_with_token_and_key(kind: Kind) -> None:
    fake = Fake((202, {**ACCEPTED, "delivered": {"sessions": 2, "absent": [3], "instances": {}}}))
    with client(kind, fake) as notify:
        accepted = notify.send(MESSAGE, idempotency_key="invoice-17", wait=1.5)
    assert accepted.id == "m1" and accepted.position == 7 and accepted.event_id == "1-7-abcd"
    assert accepted.delivered.sessions == 2 and accepted.delivered.absent == [3]
    [request] = fake.asked
    assert str(request.url) == "https://notify.test/below/api/v1/messages/send?wait=1500"
    assert request.headers["authorization"] == "Bearer secret"
    assert json.loads(request.content) == MESSAGE
    assert fake.keys == ["invoice-17"]


@pytest.mark.parametrize("failure", [httpx.ConnectError("refused"), httpx.ReadTimeout("late"), (503, {}), (500, {}), (502, {})])
def test_what_may_pass_is_tried_again_under_the_same_key(kind: Kind, slept: List[float], failure: Any) -> None:
    fake = Fake(failure, failure, (202, ACCEPTED))
    with client(kind, fake) as notify:
        assert notify.send(MESSAGE).id == "m1"
    assert len(set(fake.keys)) == 1 and fake.keys[0]
    assert len(slept) == 2


def test_every_message_has_a_key_of_its_own(kind: Kind) -> None:
    fake = Fake((202, ACCEPTED), (202, ACCEPTED))
    with client(kind, fake) as notify:
        notify.send(MESSAGE)
        notify.broadcast("maintenance", {"at": 22})
    assert len(set(fake.keys)) == 2
    assert json.loads(fake.asked[1].content) == {"type": "maintenance", "data": {"at": 22}}


def test_retry_after_is_the_least_that_is_waited(kind: Kind, slept: List[float], full_jitter: None) -> None:
    fake = Fake((429, {"detail": "too many"}, {"retry-after": "3"}), (503, {}, {"retry-after": "soon"}), (202, ACCEPTED))
    with client(kind, fake) as notify:
        notify.send(MESSAGE)
    assert slept == [3.5, 1.0]


def test_attempts_are_bounded(kind: Kind, slept: List[float], full_jitter: None) -> None:
    fake = Fake(*[(503, {"detail": "the bus is away"})] * 9)
    with client(kind, fake, retry=Retry(attempts=4, base=1, most=3)) as notify, pytest.raises(Unavailable, match="the bus is away") as raised:
        notify.send(MESSAGE)
    assert raised.value.status == 503
    assert slept == [1, 2, 3]
    assert len(fake.asked) == 4


def test_the_time_is_bounded(kind: Kind, slept: List[float]) -> None:
    fake = Fake((429, {}, {"retry-after": "61"}))
    with client(kind, fake) as notify, pytest.raises(Unavailable):
        notify.send(MESSAGE)
    assert slept == []


def test_what_is_wrong_is_told_with_its_field_and_not_tried_again(kind: Kind) -> None:
    fake = Fake((422, {"title": "Unprocessable", "detail": "user_id: no id", "field": "target.user_id"}))
    with client(kind, fake) as notify, pytest.raises(Refused) as raised:
        notify.send(MESSAGE)
    error = raised.value
    assert (error.status, error.detail, error.field) == (422, "user_id: no id", "target.user_id")
    assert "secret" not in str(error)


def test_a_refused_token_is_renewed_once(kind: Kind) -> None:
    tokens = iter(["one", "two", "three"])
    get: Callable[[], str] = lambda: next(tokens)
    fake = Fake((401, {}), (202, ACCEPTED), (401, {}), (401, {"detail": "no"}))
    with client(kind, fake, get) as notify:
        notify.send(MESSAGE)
        with pytest.raises(Refused):
            notify.send(MESSAGE)
    assert [request.headers["authorization"] for request in fake.asked] == ["Bearer one", "Bearer two", "Bearer two", "Bearer three"]


def test_an_answer_of_something_else_is_no_success(kind: Kind) -> None:
    with client(kind, Fake((200, "hello"))) as notify, pytest.raises(Refused, match="is this a notify-server"):
        notify.send(MESSAGE)
    with client(kind, Fake((302, {}))) as notify, pytest.raises(Refused):
        notify.send(MESSAGE)


def test_what_is_no_json_never_leaves(kind: Kind) -> None:
    fake = Fake()
    with client(kind, fake) as notify, pytest.raises(ValueError):
        notify.send({"type": "x", "data": float("nan")})
    assert fake.asked == []


def results(*statuses: int) -> Any:
    items = [{**ACCEPTED, "status": 202} if status == 202 else {"status": status, "detail": "no", "field": "f"} for status in statuses]
    return 202, {"accepted": 0, "rejected": 0, "results": items}


def test_a_batch_says_of_each_message_what_became_of_it(kind: Kind) -> None:
    fake = Fake(results(202, 422))
    with client(kind, fake) as notify:
        accepted, rejected = notify.batch([MESSAGE, {}], idempotency_key="k")
    assert accepted == Accepted("m1", 7, "1-7-abcd")
    assert rejected == Rejected(422, "no", "f")
    assert json.loads(fake.asked[0].content) == {"messages": [MESSAGE, {}]}


def test_a_batch_of_which_some_may_pass_is_repeated_under_the_same_key(kind: Kind, slept: List[float]) -> None:
    fake = Fake(results(202, 503), results(202, 202))
    with client(kind, fake) as notify:
        assert all(isinstance(item, Accepted) for item in notify.batch([MESSAGE, MESSAGE]))
    assert fake.keys[0] == fake.keys[1]
    assert len(slept) == 1


def test_batches_that_never_pass_end(kind: Kind, slept: List[float]) -> None:
    fake = Fake(*[results(503)] * 3)
    with client(kind, fake, retry=Retry(attempts=3)) as notify:
        [item] = notify.batch([MESSAGE])
    assert item == Rejected(503, "no", "f")


def test_long_batches_go_in_parts_with_keys_that_can_be_repeated(kind: Kind) -> None:
    fake = Fake(results(*[202] * 1000), results(*[202] * 1000), results(*[202] * 500))
    with client(kind, fake) as notify:
        assert len(notify.batch((MESSAGE for _ in range(2500)), idempotency_key="k")) == 2500
        assert notify.batch([]) == []
    assert fake.keys == ["k", "k-1000", "k-2000"]


def test_no_attempts_are_no_bounds() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Retry(attempts=0)
