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

import msgspec

PROVIDERS_KEEP = 300.0  # seconds: OpenAI's and Anthropic's default, counted from the last use
_ENTRY_BYTES = 200  # a digest, a float and their place in an ordered dict, measured on 64-bit CPython
_PATHS = 4  # ways through a conversation that are followed at once
_WINDOW = 256  # requests after which older ones count half
_MOST_RATES = 10_000  # tenants times targets
_PRIOR = 4  # requests of which one is taken to go on, before it was seen how many do


class _Sent(msgspec.Struct, gc=False):
    """Out of the garbage collector's sight: there are so many that a walk through them would hold up every request."""

    at: float
    whole: bool  # a request ended here, and did not only begin so


_NOTHING: OrderedDict[bytes, _Sent] = OrderedDict()


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
    where the changed version is taken. `remembered` counts the pieces of it that were sent before, `instead` their
    tokens unchanged: what would be cached now if nothing had ever been changed.
    """

    original: int
    changed: int
    mixed: int
    choice: tuple[bool, ...]
    remembered: int
    instead: int


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
    """One way as far as it was followed; the last choice, and the way to it."""

    digest: bytes
    tokens: int = 0
    instead: int = 0
    pieces: int = 0
    take: bool = True
    before: _Path | None = None

    def choice(self) -> list[bool]:
        taken: list[bool] = []
        path: _Path | None = self
        while path is not None and path.before is not None:
            taken.append(path.take)
            path = path.before
        return taken[::-1]


class PrefixMemory:
    """Safe to use from several threads. `seconds` is how long a beginning is remembered after it was last sent; the
    memory holds `size` bytes at most, and forgets what was used longest ago of whichever tenant holds the most."""

    def __init__(self, seconds: float = PROVIDERS_KEEP, size: int = 16 << 20) -> None:
        self._seconds = seconds
        self._most = max(1, size // _ENTRY_BYTES)
        self._tenants: dict[str, OrderedDict[bytes, _Sent]] = {}
        self._continued: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._held

    def remember(self, tenant: str, target: str, pieces: Iterable[bytes], now: float) -> None:
        """These pieces were sent to this target. `now` is monotonic seconds."""
        self.store(tenant, target, chain(pieces, seed(target)), now)

    def store(self, tenant: str, target: str, digests: Sequence[bytes], now: float) -> None:
        """The same with the chain made beforehand (`chain(pieces, seed(target))`): no text is hashed here."""
        self._store(tenant, target, digests, now, counts=True)

    def respelt(self, tenant: str, target: str, digests: Sequence[bytes], now: float) -> None:
        """What was stored last as a later stage spelt it: also known from now on, and still one request."""
        self._store(tenant, target, digests, now, counts=False)

    def _store(self, tenant: str, target: str, digests: Sequence[bytes], now: float, *, counts: bool) -> None:
        if not digests:
            return
        with self._lock:
            held = self._tenants.setdefault(tenant, OrderedDict())
            self._expire(held, now)
            before = len(held)
            if counts:
                self._count(tenant, target, any(d in held and held[d].whole for d in digests[:-1]))
            for digest in digests:
                known = held.get(digest)
                held[digest] = _Sent(now, known is not None and known.whole)
                held.move_to_end(digest)
            held[digests[-1]].whole = True
            self._held += len(held) - before
            while self._held > self._most:
                self._evict()

    def again(self, tenant: str, target: str) -> float:
        """The share of this tenant's requests that went on from one it had sent before, below 1; 0.25 at first."""
        seen, went_on = self._continued.get((tenant, target), (0, 0))
        return (went_on + 1) / (seen + _PRIOR)

    def walk(self, tenant: str, target: str, options: Sequence[Option], now: float) -> Walk:
        """What is probably cached of the original, of the changed request, and of the mixture that keeps to what was
        sent last time. Cost: two hashes of every piece."""
        held = self._tenants.get(tenant, _NOTHING)

        def known(digest: bytes) -> bool:
            sent = held.get(digest)
            return sent is not None and now - sent.at <= self._seconds

        start = seed(target)
        every = (True,) * len(options)
        best = _longest(options, start, known)
        followed = best.choice()
        choice = _whole_turns(options, (*followed, *every[len(followed) :]))
        return Walk(
            _cached(options, (False,) * len(options), start, known),
            _cached(options, every, start, known),
            _cached(options, choice, start, known),
            choice,
            best.pieces,
            best.instead,
        )

    def _count(self, tenant: str, target: str, went_on: bool) -> None:
        seen, continued = self._continued.pop((tenant, target), (0, 0))
        if seen >= _WINDOW:
            seen, continued = seen // 2, continued // 2
        self._continued[tenant, target] = (seen + 1, continued + went_on)
        if len(self._continued) > _MOST_RATES:
            self._continued.popitem(last=False)

    def _expire(self, held: OrderedDict[bytes, _Sent], now: float) -> None:
        while held:
            digest, sent = next(iter(held.items()))
            if now - sent.at <= self._seconds:
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


def seed(target: str) -> bytes:
    """Where the chains of a target begin."""
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
    paths = [_Path(seed)]
    best = paths[0]
    for option in options:
        ahead: list[_Path] = []
        for path in paths:
            ahead += _steps(path, option, known)
        if not ahead:
            break
        # Those that found most; and the one that left out most, as it does not die of what was never sent.
        ahead.sort(key=lambda path: -path.tokens)
        paths = ahead if len(ahead) <= _PATHS else [*ahead[: _PATHS - 1], ahead[-1]]
        best = max(best, paths[0], key=lambda path: path.tokens)
    return best


def _steps(path: _Path, option: Option, known: Callable[[bytes], bool]) -> list[_Path]:
    steps: list[_Path] = []
    instead = path.instead + option.tokens
    versions = ((True, option.changed, option.tokens_changed), (False, option.original, option.tokens))
    for take, piece, tokens in versions[: 1 if option.changed == option.original else 2]:
        if piece is None:
            steps.append(_Path(path.digest, path.tokens, instead, path.pieces, take, path))
            continue
        digest = extend(path.digest, piece)
        if known(digest):
            steps.append(_Path(digest, path.tokens + tokens, instead, path.pieces + 1, take, path))
    return steps


def _whole_turns(options: Sequence[Option], choice: Sequence[bool]) -> tuple[bool, ...]:
    """The same choice, but no turn is left out by half: where a part of it was sent before, all of it is sent."""
    kept = {o.turn for o, take in zip(options, choice, strict=True) if o.changed is None and not take}
    return tuple(take and not (o.changed is None and o.turn in kept) for o, take in zip(options, choice, strict=True))
