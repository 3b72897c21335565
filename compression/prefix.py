"""Which beginnings of conversations were sent lately, so that a change is not made where a provider holds the original.

A request is a sequence of pieces (the tools, then each message); every beginning of it has one chained fingerprint.
Only fingerprints are kept, per tenant and per target, and never a text. Prices and providers' rules are unknown here.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

PROVIDERS_KEEP = 300.0  # seconds: OpenAI's and Anthropic's default, counted from the last use
_ENTRY_BYTES = 200  # a digest, a float and their place in an ordered dict, measured on 64-bit CPython
_PATHS = 4  # ways through a conversation that are followed at once
_NOTHING: OrderedDict[bytes, float] = OrderedDict()


@dataclass(frozen=True, slots=True)
class Option:
    """One piece in two versions. `changed` None: it would be left out; the same bytes: nothing would change.

    `turn` groups pieces that only make sense together (a question, its tool calls, their results).
    """

    original: bytes
    changed: bytes | None
    tokens: int
    tokens_changed: int
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Walk:
    """What three ways of sending a request probably find cached, in tokens of their beginnings.

    `choice` is the third way: what was sent last time as far as that is remembered, and changed from there on; True
    where the changed version is taken. `remembered` counts the pieces of it that were sent before.
    """

    original: int
    changed: int
    mixed: int
    choice: tuple[bool, ...]
    remembered: int


def extend(digest: bytes, piece: bytes) -> bytes:
    """The fingerprint of a beginning with one more piece."""
    return hashlib.blake2b(piece, digest_size=16, key=digest).digest()


def chain(pieces: Iterable[bytes], seed: bytes = b"") -> tuple[bytes, ...]:
    """The fingerprints of every beginning, shortest first."""
    made: list[bytes] = []
    for piece in pieces:
        seed = extend(seed, piece)
        made.append(seed)
    return tuple(made)


@dataclass(slots=True)
class _Path:
    digest: bytes
    tokens: int
    pieces: int
    choice: tuple[bool, ...]


class PrefixMemory:
    """Safe to use from several threads. `seconds` is how long a beginning is remembered after it was last sent; the
    memory holds `size` bytes at most, and forgets what was used longest ago of whichever tenant holds the most."""

    def __init__(self, seconds: float = PROVIDERS_KEEP, size: int = 16 << 20) -> None:
        self._seconds = seconds
        self._most = max(1, size // _ENTRY_BYTES)
        self._tenants: dict[str, OrderedDict[bytes, float]] = {}
        self._held = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._held

    def remember(self, tenant: str, target: str, pieces: Iterable[bytes], now: float) -> None:
        """These pieces were sent to this target. `now` is monotonic seconds."""
        digests = chain(pieces, _seed(target))
        with self._lock:
            held = self._tenants.setdefault(tenant, OrderedDict())
            before = len(held)
            for digest in digests:
                held[digest] = now
                held.move_to_end(digest)
            self._held += len(held) - before
            self._expire(held, now)
            while self._held > self._most:
                self._evict()

    def walk(self, tenant: str, target: str, options: Sequence[Option], now: float) -> Walk:
        """What is probably cached of the original, of the changed request, and of the mixture that keeps to what was
        sent last time. Cost: two hashes of every piece."""
        held = self._tenants.get(tenant, _NOTHING)

        def known(digest: bytes) -> bool:
            at = held.get(digest)
            return at is not None and now - at <= self._seconds

        seed = _seed(target)
        every = (True,) * len(options)
        best = _longest(options, seed, known)
        choice = _whole_turns(options, (*best.choice, *every[len(best.choice) :]))
        return Walk(
            _cached(options, (False,) * len(options), seed, known),
            _cached(options, every, seed, known),
            _cached(options, choice, seed, known),
            choice,
            best.pieces,
        )

    def _expire(self, held: OrderedDict[bytes, float], now: float) -> None:
        while held:
            digest, at = next(iter(held.items()))
            if now - at <= self._seconds:
                return
            del held[digest]
            self._held -= 1

    def _evict(self) -> None:
        name = max(self._tenants, key=lambda tenant: len(self._tenants[tenant]))
        held = self._tenants[name]
        # An eighth at a time, so that a full memory does not look for the largest tenant on every request.
        for _ in range(len(held) // 8 + 1):
            held.popitem(last=False)
            self._held -= 1
        if not held:
            del self._tenants[name]


def _seed(target: str) -> bytes:
    return hashlib.blake2b(target.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _cached(options: Sequence[Option], choice: Sequence[bool], digest: bytes, known: Callable[[bytes], bool]) -> int:
    """Tokens of the longest known beginning of one way of sending the request."""
    tokens = 0
    for option, take in zip(options, choice, strict=True):
        piece = option.changed if take else option.original
        if piece is None:
            continue
        digest = extend(digest, piece)
        if not known(digest):
            break
        tokens += option.tokens_changed if take else option.tokens
    return tokens


def _longest(options: Sequence[Option], seed: bytes, known: Callable[[bytes], bool]) -> _Path:
    """The way through both versions of every piece that stays known longest; the changed one where two are equal."""
    paths = [_Path(seed, 0, 0, ())]
    best = paths[0]
    for option in options:
        ahead: list[_Path] = []
        for path in paths:
            ahead += _steps(path, option, known)
        paths = ahead[:_PATHS]
        if not paths:
            break
        best = max([best, *paths], key=lambda path: path.tokens)
    return best


def _steps(path: _Path, option: Option, known: Callable[[bytes], bool]) -> list[_Path]:
    steps: list[_Path] = []
    if option.changed is None:
        steps.append(_Path(path.digest, path.tokens, path.pieces, (*path.choice, True)))
    versions = ((True, option.changed, option.tokens_changed), (False, option.original, option.tokens))
    for take, piece, tokens in versions[: 1 if option.changed == option.original else 2]:
        digest = path.digest if piece is None else extend(path.digest, piece)
        if piece is not None and known(digest):
            steps.append(_Path(digest, path.tokens + tokens, path.pieces + 1, (*path.choice, take)))
    return steps


def _whole_turns(options: Sequence[Option], choice: Sequence[bool]) -> tuple[bool, ...]:
    """The same choice, but no turn is left out by half: where a part of it was sent before, all of it is sent."""
    kept = {o.turn for o, take in zip(options, choice, strict=True) if o.changed is None and not take}
    return tuple(take and not (o.changed is None and o.turn in kept) for o, take in zip(options, choice, strict=True))
