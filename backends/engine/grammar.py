"""Keeping an answer to a form: which tokens may come next, which must, and how to come to an end in time.

One `Grammar` walks along one answer. What a draft guesses is filtered before it is verified, and what the grammar
forces is guessed for nothing. Knows nothing of models or requests; `grammar_compile.py` makes what it starts from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

from ...protocol.errors import InvalidRequest
from .draft import Draft
from .grammar_compile import Compiled

_LONGEST_WAY = 512  # tokens; a longer way to the end is not looked for
_NEAR = 64  # tokens before the last at which ends begin to be looked for, and one more for two characters of schema
_FARTHEST = 768
_AGAIN = 16  # tokens until a way is looked for again where none was found
_SURE = 1.0
_PRINTED = bytes(range(0x21, 0x7F))
_REST = bytes(byte for byte in range(256) if byte not in _PRINTED)
# Outside a string, what ends a value comes before what begins one; inside, its end.
_ORDER = (b'}],:"0123456789-tfn{[' + _PRINTED + _REST, b'"0aA' + _PRINTED + _REST)
_OUTSIDE, _INSIDE, _ESCAPED = 0, 1, 2  # where a text stands in JSON's strings


class _Taken(NamedTuple):
    """A token, whether it was the end, and what was known before it."""

    token: int
    over: bool
    string: int
    way: list[int] | None
    look_from: int


class Grammar:
    """The form of one answer of at most `most` tokens. Raises InvalidRequest where the form proves too complex."""

    def __init__(self, compiled: Compiled, most: int) -> None:
        self._matcher = compiled.start.deep_copy()
        self._vocabulary, self._letters, self._where = compiled.vocabulary, compiled.letters, compiled.where
        self._left = most
        self._guard = min(_FARTHEST, _NEAR + compiled.size // 2)
        self._string = _OUTSIDE
        self._taken: list[_Taken] = []
        self._required = compiled.required
        self._way: list[int] | None = None  # a short way to the end from here; None: not looked for, or none found
        self._look_from = 0  # tokens taken before which no way is looked for
        self._over = False

    @property
    def complete(self) -> bool:
        """The form is whole and nothing may follow."""
        return self._over or self._matcher.is_stopped()

    def mask(self) -> npt.NDArray[np.bool_]:
        """Which tokens may come next, [vocabulary]; the end token where the answer may end."""
        bits = self._matcher.compute_bitmask()
        self._check()
        return np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")[: len(self._vocabulary.bytes)] > 0

    def accepts(self, token: int) -> bool:
        """Whether it may come next, and the answer can still come to its end in time if any could."""
        return self._matcher.validate_tokens([token]) == 1 and self.settle(token) == token

    def settle(self, token: int) -> int:
        """`token`, which `mask` allows; or, if the answer could then not be ended in time any more, the first token of
        the shortest way to its end."""
        if self._left > self._guard or token in self._vocabulary.ends:
            return token
        if len(self._taken) < self._look_from:
            return token
        way = self._way_from_here()
        if way is None or len(way) > self._left:
            self._look_from = len(self._taken) + _AGAIN
        if not way or way[0] == token or len(way) > self._left:
            return token
        after = self._matcher.deep_copy()
        after.consume_token(token)
        then = self._ways(after, self._string_after([token]))
        return token if then is not None and len(then) < self._left else way[0]

    def way_out(self) -> int:
        """The first token of the shortest way to the end; where none is known, any that may come next."""
        way = self._way_from_here()
        return way[0] if way else int(self.mask().argmax())

    def take(self, token: int) -> None:
        """Go on to the state after `token`, which `mask` allowed."""
        over = self._matcher.is_stopped() or token in self._vocabulary.ends
        if not over and not self._matcher.consume_token(token):
            self._check()
            raise ValueError(f"token {token} does not follow")
        self._taken.append(_Taken(token, over, self._string, self._way, self._look_from))
        self._over = self._over or over
        self._string = self._after(token, self._string)
        self._way = self._way[1:] if self._way and self._way[0] == token else None
        self._left -= 1

    def rollback(self, count: int) -> None:
        """Take back the last `count` tokens."""
        for _ in range(count):
            # Which way is known depends on the tokens before: it comes back with them, or a guess that was taken back
            # would leave another way to the end than no guess.
            taken = self._taken.pop()
            self._string, self._way, self._look_from = taken.string, taken.way, taken.look_from
            if not taken.over:
                self._matcher.rollback(1)
            self._left += 1
        self._over = bool(self._taken) and self._taken[-1].over

    def filter(self, draft: Draft, most: int) -> Draft:
        """The draft without what is forbidden; behind a chain, what is forced follows, at most `most` tokens in all."""
        if self.complete:
            return Draft()
        if not draft.chain:
            return draft.only(self._allowed(draft)).cut(most)
        tokens = list(draft.tokens[:most])
        kept = draft.cut(self._matcher.validate_tokens(tokens) if tokens else 0)
        forced = self._forced_after(kept.tokens)[: most - len(kept.tokens)]
        if not forced:
            return kept
        return Draft(
            (*kept.tokens, *forced),
            (),
            (*kept.confidence, *[_SURE] * len(forced)),
            kept.source or "grammar",
            (*(kept.source_of(i) for i in range(len(kept.tokens))), *["grammar"] * len(forced)),
        )

    def _allowed(self, tree: Draft) -> list[int]:
        """The nodes of a tree whose paths are allowed."""
        paths: list[list[int] | None] = []
        for i, token in enumerate(tree.tokens):
            above = [] if tree.parent(i) < 0 else paths[tree.parent(i)]
            path = None if above is None else [*above, token]
            paths.append(path if path and self._matcher.validate_tokens(path) == len(path) else None)
        return [i for i, path in enumerate(paths) if path]

    def _forced_after(self, tokens: Sequence[int]) -> list[int]:
        if tokens and tokens[-1] in self._vocabulary.ends:
            return []
        after = self._matcher.deep_copy()
        if tokens and not after.consume_tokens(list(tokens)):
            return []
        return [] if after.is_stopped() else after.compute_ff_tokens()

    def _way_from_here(self) -> list[int] | None:
        if self._way is None:
            self._way = self._ways(self._matcher.deep_copy(), self._string_after([]))
        return self._way

    def _ways(self, matcher: LLMatcher, text: bytes | None) -> list[int] | None:
        """A short way from the state of `matcher`, which it uses up, to where the answer may end; None if none is
        found. `text` is the open string so far; None outside of strings."""
        way: list[int] = []
        used: dict[int, int] = {}
        while not matcher.is_accepting():
            steps = matcher.compute_ff_tokens() or self._step(matcher, text, used)
            if not steps or len(way) > min(_LONGEST_WAY, self._left) or not matcher.consume_tokens(steps):
                return None
            text = _strung(text, b"".join(self._vocabulary.bytes[token] for token in steps))
            way += steps
        return way

    def _step(self, matcher: LLMatcher, text: bytes | None, used: dict[int, int]) -> list[int]:
        bits, letters = matcher.compute_bitmask(), self._letters
        order = _ORDER[text is not None]
        allowed = [byte for byte in order if (t := letters[byte]) >= 0 and bits[t >> 3] >> (t & 7) & 1]
        if not allowed:
            return []
        byte = allowed[0]
        if text is not None and byte != order[0]:
            # The string cannot end yet. If it is a name, then rather one that is required; if it may be anything, what
            # may repeat must not repeat for ever.
            names = [name[len(text)] for name in self._required if len(name) > len(text) and name.startswith(text)]
            byte = next((b for b in names if b in allowed), min(allowed, key=lambda b: used.get(b, 0)))
        used[byte] = used.get(byte, 0) + 1
        return [letters[byte]]

    def _string_after(self, tokens: list[int]) -> bytes | None:
        """The text of the string that is open behind what was taken and `tokens`; None where none is."""
        if self._string == _OUTSIDE and not tokens:
            return None
        # Back to the last token that began outside of any string.
        back = next((i for i in range(len(self._taken), 0, -1) if self._taken[i - 1].string == _OUTSIDE), 1) - 1
        first = len(self._taken) if self._string == _OUTSIDE else back
        ids = [taken.token for taken in self._taken[first:] if not taken.over] + tokens
        return _strung(None, b"".join(self._vocabulary.bytes[token] for token in ids))

    def _after(self, token: int, string: int) -> int:
        data = self._vocabulary.bytes[token]
        if string != _ESCAPED and b'"' not in data and b"\\" not in data:
            return string
        for byte in data:
            if string == _ESCAPED:
                string = _INSIDE
            elif byte == 0x22:
                string = _INSIDE - string
            elif byte == 0x5C and string == _INSIDE:
                string = _ESCAPED
        return string

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InvalidRequest(f"the form in '{self._where}' is too complex to be kept", param=self._where)


def _strung(text: bytes | None, data: bytes) -> bytes | None:
    """The open string behind `data`, where `text` was open before it."""
    escaped = text is not None and (len(text) - len(text.rstrip(b"\\"))) % 2 == 1
    for i, byte in enumerate(data):
        if text is None:
            text = b"" if byte == 0x22 else None
        elif byte == 0x22 and not escaped:
            text = None
        else:
            text += data[i : i + 1]
            escaped = byte == 0x5C and not escaped
    return text
