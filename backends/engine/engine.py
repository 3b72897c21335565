"""The engine: answers of many requests, computed together one step at a time.

    schedule   which rows of which answers this step computes
    run        one forward pass over all of them
    verify     draw each answer's next tokens, as far as its draft had them
    finish     walk the new tokens one at a time: text, stop strings, grammar, length

Runs on one thread and knows nothing of threads, event loops or wire formats.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as List
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ...protocol.errors import Internal, TrimtabError
from .attention import Sight
from .attention_quest import Bounds
from .draft import NOTHING, Draft
from .draft_model_run import Glances, draws_as
from .finish import Finish
from .forward import Forward, Pass
from .grammar import Grammar
from .guess import Guesses, close
from .holdings import Holdings
from .memory import Memory
from .model import Model
from .request import Choice
from .sample import draw, draw_within, logprob, logprobs
from .schedule import Limits, guess_room, next_in, reads
from .sequence import Ended, Job, Piece, Reading, Scored, Sequence, Surprises, Task
from .tokenizer import Detokenizer, Tokenizer
from .turn import Turn
from .verify import walk

log = logging.getLogger("trimtab.engine")

_MOST_UNREAD = 1024  # events of a request that its client has yet to take: then the request waits
_MEAN = 0.95  # how much of the mean time of an answer stays when one more is known


@dataclass(frozen=True, slots=True)
class Options:
    """How one engine runs. `draft` tokens are guessed at most (0: no speculation); `prefixes`: pages are reused. With a
    `glance` the model guesses too, seeing only that much of a long context."""

    limits: Limits = field(default_factory=Limits)
    draft: int = 31
    tree: bool = False
    prefixes: bool = True
    sight: Sight = field(default_factory=Sight)
    glance: Sight | None = None


class Engine:
    """`add` jobs, `step` while `busy`. Whatever fails fails one job, which is told by its `emit`."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        memory: Memory,
        context: int,
        clock: Callable[[], float],
        options: Options | None = None,
    ) -> None:
        """`context` tokens at most, prompt and answer, and never more than the memory has room for."""
        self.options = options or Options()
        # Rows that read a part of their pages may serve nobody else: as a prompt they would be read whole.
        whole = self.options.sight.best is None
        self._holdings = Holdings(memory, reuse=self.options.prefixes, answers=whole)
        self.pool, self.prefixes = self._holdings.pool, self._holdings.prefixes
        self.context = min(context, memory.pages * memory.page)
        self.pages = self.pool.counts  # free, cached, used: as of the last step, for whoever asks on another thread
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        # Pages are chosen by what is in them, which a tree's branches would share.
        self.guesses = Guesses(self.options.draft, self.options.tree and whole, clock)
        if not whole:
            memory.bounds = Bounds(memory)
        self.steps = self.preempted = 0
        self.model, self._tokenizer, self._memory, self._clock = model, tokenizer, memory, clock
        self.forward = Forward(Pass(model, memory, self.options.sight), self._broken)
        look = self.options.glance
        self.glance = None if look is None else Pass(model, memory, look)
        if self.glance is not None:
            self.guesses.look_through(Glances(self.glance, self._spare))
        self._mean = 1.0  # seconds that an answer takes
        self._said: dict[Job, list[Any]] = {}

    @property
    def busy(self) -> bool:
        return bool(self.running or self.waiting)

    def add(self, job: Job) -> None:
        """Queue a job's answers."""
        now = self._clock()
        job.open = sum(task.ask.n if isinstance(task, Task) else 1 for task in job.tasks)
        if not job.tasks:
            job.emit(None)
        for task in job.tasks:
            self.waiting.append(Sequence(job, task, list(task.prompt), now))

    def step(self) -> bool:
        """One step; whether there was anything to do. Afterwards whoever was cancelled holds no page."""
        started = self._clock()
        self._leave()
        self._admit()
        turns = self._schedule()
        if turns:
            logits = self.forward.run(turns)
            self._verify(turns, logits)
            rows = sum(turn.rows for turn in turns)
            self.guesses.timed(rows, sum(turn.sequence.computed for turn in turns), self._clock() - started)
            self.steps += 1
        self.pages = self.pool.counts
        self._tell()
        return bool(turns)

    def dismiss(self, error: TrimtabError) -> None:
        """End everything with this error."""
        for job in {sequence.job: None for sequence in [*self.running, *self.waiting]}:
            self._fail(job, error)
        self.pages = self.pool.counts

    def check(self) -> None:
        """Raises AssertionError when pages are lost; without work, when any is used."""
        self.pool.check()
        assert self.busy or self.pool.used == 0

    # ---- schedule

    def _leave(self) -> None:
        """Let go of what was cancelled."""
        for sequence in [s for s in (*self.running, *self.waiting) if s.job.cancelled]:
            self._release(sequence, whole=False)

    def _admit(self) -> None:
        """Take in who waits, while there is a place and room for the prompt."""
        while self.waiting and len(self.running) < self.options.limits.running:
            running = Counter(s.tenant for s in self.running)
            sequence = self.waiting[next_in(self.waiting, running, self._clock(), self._mean)]
            if not self._begin(sequence):
                return
            self.waiting.remove(sequence)
            self.running.append(sequence)

    def _begin(self, sequence: Sequence) -> bool:
        """Give it what is computed already. False, and nothing is changed, when the rest has no room."""
        if not self._holdings.begin(sequence, self.running):
            return False
        sequence.admitted = self._clock()
        if not sequence.waited:
            sequence.job.cached += min(sequence.computed, sequence.prompt)
            sequence.forks = sequence.task.ask.n - 1 if isinstance(sequence.task, Task) else 0
            self._prepare(sequence, 0)
        return True

    def _prepare(self, sequence: Sequence, i: int) -> None:
        """Make it the i-th answer of its task."""
        task = sequence.task
        sequence.choice = task.first + i
        if isinstance(task, Reading):
            return
        room = self.context - len(task.prompt)
        sequence.most = room if task.ask.most is None else min(room, task.ask.most)
        sequence.sampling = replace(task.ask.sampling, seed=task.ask.seed_of(sequence.choice, task.entropy))
        sequence.finish = Finish(Detokenizer(self._tokenizer), task.ask.stops)
        sequence.grammar = None if task.form is None else Grammar(task.form, max(1, sequence.most))
        look = None if self.glance is None else sequence
        sequence.guess = self.guesses.open(sequence.tenant, len(task.prompt), task.given, draws_as(sequence), look)

    def _spare(self, sequence: Sequence, rows: int) -> bool:
        """Pages for rows that are only guessed at, its own and nobody else's; none where they are scarce."""
        return self.pool.available > len(self.running) and self._holdings.reserve(sequence, rows)

    def _schedule(self) -> list[Turn]:
        """Rows for everyone who is not held up, with their pages; who came last makes room when there are none."""
        ready = [s for s in self.running if s.job.told - s.job.taken <= _MOST_UNREAD]
        answers = [s for s in ready if s.pending == 1]
        prompts = [s for s in ready if s.pending > 1]
        turns = [Turn(s, 1, draft) for s, draft in zip(answers, self._draft(answers, prompts), strict=True)]
        given = reads(self.options.limits, sum(turn.rows for turn in turns), [s.pending for s in prompts])
        turns += [Turn(s, count) for s, count in zip(prompts, given, strict=True) if count]
        for s in prompts:
            if s.guess is not None:
                s.guess.suffix.prepare(s.tokens)  # a slice: a long prompt's words are known when its answer begins
        return self._placed(turns)

    def _draft(self, answers: List[Sequence], prompts: List[Sequence]) -> list[Draft]:
        """What is worth verifying of what each answer's drafters say."""
        out = [NOTHING] * len(answers)
        if not self.options.draft:
            return out
        room = guess_room(self.options.limits, len(answers), sum(s.pending for s in prompts))
        self.guesses.answers = len(answers)
        wanted = []
        for i, s in enumerate(answers):
            # The first row of several answers, or of a scored prompt, is nobody's to guess behind.
            first = s.answered == 0 and (s.forks or s.scored)
            most = 0 if first else min(room, s.most - s.answered - 1)
            if s.guess is not None and most > 0:
                wanted.append((i, s.guess, most))
        drafts = self.guesses.propose([(guess, answers[i].tokens, most) for i, guess, most in wanted])
        asked = []
        for (i, guess, most), draft in zip(wanted, drafts, strict=True):
            if (draft := _allowed(answers[i], draft, most)).tokens:
                asked.append((i, guess, draft))
        rows = len(answers) + sum(reads(self.options.limits, len(answers), [s.pending for s in prompts]))
        others, computed = len(answers) - len(asked), sum(s.computed for s in answers)
        chosen = self.guesses.choose([(g, d) for _, g, d in asked], rows, computed, room, others)
        for (i, _, _), draft in zip(asked, chosen, strict=True):
            out[i] = draft
        return out

    def _placed(self, turns: list[Turn]) -> list[Turn]:
        """The turns for which there are pages."""
        placed: list[Turn] = []
        for turn in turns:
            sequence = turn.sequence
            while sequence in self.running and not self._holdings.reserve(sequence, turn.rows):
                newest = max(self.running, key=lambda s: s.admitted)
                if turn.draft.tokens:
                    turn.draft = NOTHING
                elif newest is sequence and len(self.running) == 1:
                    self._fail(sequence.job, Internal("the engine's memory has no room for this answer"))
                else:
                    self._preempt(newest)
                    placed = [t for t in placed if t.sequence is not newest]
            if sequence in self.running:
                placed.append(turn)
        return placed

    def _preempt(self, sequence: Sequence) -> None:
        """Back to those who wait. What it has computed stays in the prefix tree, so that it resumes as a hit."""
        log.info("an answer of %d tokens makes room and will resume", len(sequence.tokens))
        self._holdings.let_go(sequence)
        self.preempted += 1
        sequence.waited = True
        self.running.remove(sequence)
        self.waiting.insert(0, sequence)

    def _broken(self, turn: Turn) -> None:
        log.exception("a request failed in the engine")
        self._fail(turn.sequence.job, Internal("the engine failed on this request"))

    # ---- verify

    def _verify(self, turns: list[Turn], logits: torch.Tensor) -> None:
        """Draw what each row says, all rows at once, and walk each answer along its draft."""
        for turn in turns:
            if turn.sequence.scored or isinstance(turn.sequence.task, Reading):
                self._score(turn, logits)
        saying = [turn for turn in turns if turn.whole and isinstance(turn.sequence.task, Task)]
        for turn in turns:
            if turn not in saying:
                self._holdings.advance(turn.sequence, turn.count)
        saying += [fork for turn in saying for fork in self._forked(turn)]
        picked = [(turn, i) for turn in saying if turn.sequence.grammar is None for i in range(turn.ends)]
        drawn = self._drawn(picked, logits)
        for turn in saying:
            try:
                self._extend(turn, logits, drawn)
            except TrimtabError as e:  # a form that proves too complex
                self._fail(turn.sequence.job, e)
            except Exception:
                self._broken(turn)

    def _drawn(self, picked: List[tuple[Turn, int]], logits: torch.Tensor) -> dict[tuple[int, int], int]:
        if not picked:
            return {}
        rows = [turn.first_end + i for turn, i in picked]
        chosen = logits if rows == list(range(len(logits))) else logits[torch.tensor(rows, device=logits.device)]
        tokens = draw(chosen, [turn.law(i) for turn, i in picked])
        return {(id(turn), i): token for (turn, i), token in zip(picked, tokens, strict=True)}

    def _forked(self, turn: Turn) -> list[Turn]:
        """The other answers of a task whose prompt is read: they share its pages."""
        first, out = turn.sequence, []
        for i in range(first.forks):
            fork = Sequence(first.job, first.task, list(first.tokens), first.arrived, admitted=first.admitted)
            self._holdings.share(first, fork)
            self._prepare(fork, i + 1)
            fork.scores = first.scores
            self.running.append(fork)
            out.append(Turn(fork, turn.count, NOTHING, turn.row, turn.wanted))
        first.forks = 0
        return out

    def _extend(self, turn: Turn, logits: torch.Tensor, drawn: dict[tuple[int, int], int]) -> None:
        """Take over what the model says, as far as the draft had it and the answer goes on."""
        s, first = turn.sequence, turn.first_end

        def token(row: int) -> int | None:
            if s.grammar is None:
                return drawn[id(turn), row]
            if s.grammar.complete:
                return None
            drawn_ = draw_within(logits[first + row], turn.law(row), s.grammar)
            s.grammar.take(drawn_)
            return drawn_

        way = walk(turn.draft, token)
        before, said = len(s.tokens), 0
        reason = self._before_answer(s)
        for token_, row in zip(way.tokens, way.rows, strict=True):
            if reason is not None:
                break
            whole = s.grammar is not None and row == way.rows[-1] and s.grammar.complete
            if s.job.judged:
                s.job.logprob += logprob(logits[first + row], token_)
            reason = self._say(s, logprobs(logits[first + row], token_, s.sampling.logprobs), whole)
            said += 1
        accepted = max(0, said - 1)
        if accepted and not turn.draft.chain:
            self._holdings.compact(s, before, way.rows[1:said])
        self._holdings.advance(s, turn.count + accepted)
        self._learn(turn, s.tokens[before:], accepted)
        if reason is not None:
            self._end(s, reason)

    def _learn(self, turn: Turn, said: List[int], accepted: int) -> None:
        s = turn.sequence
        if s.guess is None:
            return
        given = s.guess.predicted(turn.draft)
        self.guesses.learn(s.guess, said)
        s.job.accepted += min(accepted, given)
        s.job.rejected += max(0, given - accepted)

    # ---- finish

    def _before_answer(self, s: Sequence) -> str | None:
        """Show the prompt's own log-probabilities, if they were asked for; an answer of no tokens ends here."""
        if s.scores and s.answered == 0:
            self._tells(s).append(Scored(s.choice, (Choice(s.tokens[0]), *s.scores)))
        return "length" if s.most <= 0 else None

    def _say(self, s: Sequence, choice: Choice, whole: bool) -> str | None:
        """Take over one token of the answer, with which its form may be `whole`; why the answer ends, if it does."""
        assert s.finish is not None
        s.tokens.append(choice.token)
        s.job.generated += 1
        if choice.token in self._tokenizer.ends:
            self._show(s, s.finish.flush())
            return "stop"
        if s.sampling.frequency_penalty or s.sampling.presence_penalty:
            s.said[choice.token] += 1
        self._show(s, s.finish.feed(choice))
        if s.finish.stopped:
            return "stop"
        over = "stop" if whole else "length" if s.answered >= s.most else None
        if over is not None:
            self._show(s, s.finish.flush())
        return over

    def _show(self, s: Sequence, shown: tuple[str, tuple[Choice, ...]]) -> None:
        text, tokens = shown
        if text or tokens:
            self._tells(s).append(Piece(s.choice, text, tokens))

    def _score(self, turn: Turn, logits: torch.Tensor) -> None:
        """How probable the model finds the text it reads."""
        s, rows = turn.sequence, logits[turn.row : turn.row + turn.wanted]
        if isinstance(s.task, Reading):
            first = len(s.task.following) - (len(s.tokens) - s.computed) + turn.count - turn.wanted
            following = torch.tensor(s.task.following[first : first + turn.wanted], device=rows.device)
            logs = torch.log_softmax(rows, dim=-1).gather(-1, following[:, None])[:, 0]
            s.scores.append(logs.cpu().numpy())
            if turn.whole:
                self._tells(s).append(Surprises(s.choice, s.scores))
                self._holdings.advance(s, turn.count)
                self._release(s, whole=True)
        elif s.computed < s.prompt:
            following_ = s.tokens[s.computed + 1 : s.computed + turn.count + 1]
            most = s.task.ask.sampling.logprobs
            s.scores += [logprobs(row, token, most) for row, token in zip(rows, following_, strict=False)]

    def _end(self, s: Sequence, reason: str) -> None:
        self._tells(s).append(Ended(s.choice, reason))
        self._mean = _MEAN * self._mean + (1 - _MEAN) * (self._clock() - s.admitted)
        self._release(s, whole=reason == "stop")

    def _release(self, s: Sequence, *, whole: bool) -> None:
        """The sequence is over, however it ended: its pages are free, or cached, from now on."""
        for queue in (self.running, self.waiting):
            if s in queue:
                queue.remove(s)
        close(s.guess, s.tokens, whole)
        self._holdings.let_go(s)
        s.job.open -= 1
        self._said.setdefault(s.job, [])

    def _tells(self, s: Sequence) -> list[Any]:
        return self._said.setdefault(s.job, [])

    def _tell(self) -> None:
        """Hand each job what came of the step."""
        said, self._said = self._said, {}
        for job, events in said.items():
            if job.over or job.cancelled:
                continue
            if events:
                job.told += len(events)
                job.emit(events)
            if job.open == 0:
                job.over = True
                job.emit(None)

    def _fail(self, job: Job, error: TrimtabError) -> None:
        """This job alone ends with an error."""
        for s in [s for s in (*self.running, *self.waiting) if s.job is job]:
            self._release(s, whole=False)
        if not (job.over or job.cancelled):
            job.over = True
            job.emit(error)


def _allowed(s: Sequence, draft: Draft, most: int) -> Draft:
    """At most so many tokens; none that the answer's grammar forbids, and all that it forces."""
    return draft if s.grammar is None else s.grammar.filter(draft, most)
