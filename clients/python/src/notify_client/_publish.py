"""Publishing, as a plan: what to ask the server and when, whoever does the asking. Knows no sockets and no clock.

A plan is a generator. It yields a `Request` and is sent the `Answer`, or an exception where there was none; or it yields
seconds to wait and is sent nothing. What it returns is the result.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any, Dict, Generator, Iterable, List, Mapping, Optional, Sequence, Union

from ._errors import Refused, Unavailable, problem
from ._retry import PASSING, Retry, retry_after

#: The most messages of one request; longer batches are sent in several.
MAX_BATCH = 1_000


@dataclass(frozen=True)
class Request:
    """What to post. `fresh_token` says that the last token was refused."""

    path: str
    headers: Mapping[str, str]
    content: bytes
    fresh_token: bool = False


@dataclass(frozen=True)
class Answer:
    """What the server has answered; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Delivered:
    """Whom a message has reached within the time that was given."""

    sessions: int
    absent: Sequence[Union[int, str]]


@dataclass(frozen=True)
class Accepted:
    """A message that the log has: its own id, its place in the log, and its id on streams."""

    id: str
    position: int
    event_id: str
    delivered: Optional[Delivered] = None


@dataclass(frozen=True)
class Rejected:
    """A message of a batch that the server has not taken, and why."""

    status: int
    detail: str
    field: Optional[str] = None


Item = Union[Accepted, Rejected]
Step = Union[Request, float]
Reply = Union[Answer, Exception, None]


def one(
    path: str, message: Mapping[str, Any], key: Optional[str], wait: Optional[float], retry: Retry
) -> Generator[Step, Reply, Accepted]:
    """Publishes one message. `wait` is in seconds."""
    if wait is not None:
        path = f"{path}?wait={round(wait * 1000)}"
    answer = yield from _post(path, message, key or str(uuid.uuid4()), retry)
    return _accepted(_object(answer))


def many(messages: Iterable[Mapping[str, Any]], key: Optional[str], retry: Retry) -> Generator[Step, Reply, List[Item]]:
    """Publishes any number of messages, in order; the result has an item for each."""
    key = key or str(uuid.uuid4())
    every = list(messages)
    items: List[Item] = []
    for start in range(0, len(every), MAX_BATCH):
        part = every[start : start + MAX_BATCH]
        # The key of a part depends on nothing but its place, so that the whole can be repeated.
        part_key = key if not start else f"{key}-{start}"
        items += yield from _part(part, part_key, retry)
    return items


def _part(messages: List[Mapping[str, Any]], key: str, retry: Retry) -> Generator[Step, Reply, List[Item]]:
    failures = 0
    while True:
        answer = yield from _post("/api/v1/messages/batch", {"messages": messages}, key, retry)
        items = [_item(result) for result in _object(answer).get("results", [])]
        passing = any(isinstance(item, Rejected) and item.status in PASSING for item in items)
        failures += 1
        if not passing or failures >= retry.attempts:
            return items
        # All of it again: what was taken is recognised by the key and answered as it was.
        yield retry.delay(failures)


def _post(path: str, body: Mapping[str, Any], key: str, retry: Retry) -> Generator[Step, Reply, Answer]:
    headers = {"content-type": "application/json", "idempotency-key": key}
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    failures = 0
    waited = 0.0
    renewed = False
    fresh = False
    while True:
        reply = yield Request(path, headers, content, fresh_token=fresh)
        fresh = False
        if isinstance(reply, Answer) and reply.status < 300:
            return reply
        if isinstance(reply, Answer) and reply.status == 401 and not renewed:
            renewed = fresh = True
            continue
        failures += 1
        pause = _pause(reply, failures, retry)
        waited += pause
        if failures >= retry.attempts or waited > retry.total:
            raise Unavailable(_why(reply), reply.status if isinstance(reply, Answer) else None)
        yield pause


def _pause(reply: Reply, failures: int, retry: Retry) -> float:
    if not isinstance(reply, Answer):
        return retry.delay(failures)
    if reply.status not in PASSING:
        raise refused(reply)
    return retry.delay(failures, retry_after(reply.headers))


def refused(answer: Answer) -> Refused:
    """What an answer says that is no success."""
    said = problem(answer.body)
    field = said.get("field")
    return Refused(answer.status, _why(answer), str(field) if field is not None else None)


def _why(reply: Reply) -> str:
    if isinstance(reply, Answer):
        said = problem(reply.body)
        return str(said.get("detail") or said.get("title") or f"the server has answered {reply.status}")
    return f"the server can't be reached: {reply}"


def _object(answer: Answer) -> Dict[str, Any]:
    try:
        said = json.loads(answer.body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise Refused(answer.status, "the answer is no JSON object; is this a notify-server?")
    return said


def _item(result: Mapping[str, Any]) -> Item:
    if result.get("status") == 202:
        return _accepted(result)
    return Rejected(int(result["status"]), str(result.get("detail", "")), result.get("field"))


def _accepted(said: Mapping[str, Any]) -> Accepted:
    delivered = said.get("delivered")
    return Accepted(
        id=str(said["id"]),
        position=int(said["position"]),
        event_id=str(said["event_id"]),
        delivered=Delivered(int(delivered["sessions"]), list(delivered["absent"])) if delivered else None,
    )
