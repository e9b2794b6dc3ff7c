"""The format of streams."""

from __future__ import annotations

from typing import List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify_client._events import MAX_EVENT, Parser

LINES = st.sampled_from(["data: a", "data:b c", "data", "id: 1", "id: 22", ": x", "event: y", "retry: 5", "", "data: \U0001f600:"])


def parse(pieces: List[str]) -> List[Tuple[str, object]]:
    parser = Parser()
    return [event for piece in pieces for event in parser.feed(piece)]


def test_fields_comments_and_unknown_lines() -> None:
    parser = Parser()
    text = 'retry: 2750\n: hello\nevent: x\nid: 7\ndata: {"a": 1}\nfoo\n\ndata\n\nretry: ²\n\nid: 9\n\n'
    assert list(parser.feed(text)) == [('{"a": 1}', "7"), ("", "7")]
    assert (parser.retry_ms, parser.last_id) == (2750, "9")


def test_what_has_no_end_is_given_up() -> None:
    parser = Parser()
    with pytest.raises(ValueError, match="too long"):
        for _ in range(9):
            list(parser.feed("x" * (MAX_EVENT // 8)))


@given(st.lists(LINES, max_size=30), st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 20)))
def test_pieces_and_line_breaks_make_no_difference(lines: List[str], end: str, cuts: List[int]) -> None:
    plain = parse(["".join(f"{line}\n" for line in lines) + "\n\n"])
    text = "".join(line + end for line in lines) + end + end
    pieces = []
    for cut in cuts:
        pieces.append(text[:cut])
        text = text[cut:]
    # A carriage return alone waits for what may belong to it.
    assert parse([*pieces, text, ":"]) == plain
