"""What is reserved for a request, and that a bound is a bound."""

from __future__ import annotations

import base64
import json

from hypothesis import given
from hypothesis import strategies as st

from trimtab.gateway.admit import EXPECTED_OUTPUT, prompt_size, worst_case
from trimtab.protocol.exchange import Price, Target
from trimtab.protocol.messages import Request, Usage

CHEAP = Target("small", "fake", "small", Price(1_000_000, 1_000_000, 2_000_000, known=True))
DEAR = Target("large", "fake", "large", Price(3_000_000, 300_000, 9_000_000, known=True))


def request(**fields: object) -> Request:
    return Request.build("chat", {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})


@given(st.integers(0, 100_000), st.integers(1, 20))
def test_the_reservation_covers_every_choice_at_the_dearest_price(most: int, n: int) -> None:
    asked = request(max_tokens=most, n=n)
    ask = worst_case(asked, (CHEAP, DEAR))
    spent = Usage(prompt=prompt_size(asked.body), completion=most * n)
    assert ask.tokens >= spent.total
    assert ask.microusd >= max(CHEAP.price.of(spent), DEAR.price.of(spent))


def test_without_a_cap_an_expected_length_is_reserved() -> None:
    assert worst_case(request(), (CHEAP,)).tokens == prompt_size(request().body) + EXPECTED_OUTPUT
    short = Target("m", "fake", "m", max_output=100)
    assert worst_case(request(), (short,)).tokens == prompt_size(request().body) + 100


def test_both_names_of_the_cap_are_read() -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        asked = request(**{name: 7})
        assert worst_case(asked, (CHEAP,)).tokens == prompt_size(asked.body) + 7


def test_an_embedding_reserves_no_answer() -> None:
    asked = Request.build("embeddings", {"model": "m", "input": "text"})
    assert worst_case(asked, (CHEAP,)).tokens == prompt_size(asked.body)


def test_an_image_is_not_counted_by_its_bytes() -> None:
    picture = base64.b64encode(bytes(3_000_000)).decode()
    body = json.dumps({"model": "m", "messages": [{"content": f"data:image/png;base64,{picture}"}]}).encode()
    assert prompt_size(body) < 1100
    assert prompt_size(b"x" * 4_000_000) > 900_000
