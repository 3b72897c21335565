"""The threads of native functions: there before they have work, as many as there can be, gone with who had them."""

import gc
import threading

import pytest

from trimtab.backends.engine import native_threads
from trimtab.backends.engine.native_threads import Crew, crew


def running():
    return {thread for thread in threading.enumerate() if thread.name == "trimtab-native"}


@pytest.fixture
def fewer(monkeypatch):
    """From now on the system gives this many threads."""

    def give(count):
        start, left = threading.Thread.start, [count]

        def started(self):
            if self.name == "trimtab-native":
                if not left[0]:
                    raise RuntimeError("can't start new thread")
                left[0] -= 1
            start(self)

        monkeypatch.setattr(threading.Thread, "start", started)

    return give


def test_every_share_is_done_once_by_threads_that_stay():
    team, done = Crew(3), []
    for parts in (4, 2, 1, 3):
        done.clear()
        team.run(lambda i: done.append((i, threading.current_thread())), parts)
        assert sorted(i for i, _ in done) == list(range(parts))
        assert len({thread for _, thread in done}) == parts
        assert (0, threading.current_thread()) in done


def test_all_shares_are_at_work_at_once():
    meeting = threading.Barrier(4, timeout=60)
    Crew(3).run(lambda i: meeting.wait(), 4)


def test_it_makes_do_with_what_the_system_gives(fewer, caplog):
    fewer(1)
    team = Crew(3)
    assert len(team) == 1
    assert "2 threads instead of 4" in caplog.text


def test_threads_end_with_their_crew():
    before = running()
    team = Crew(2)
    own = running() - before
    assert len(own) == 2
    del team
    gc.collect()
    for thread in own:
        thread.join(60)
    assert not any(thread.is_alive() for thread in own)


def test_each_thread_and_each_process_has_its_own(monkeypatch):
    first = crew(1)
    assert crew(1) is first
    others = []
    thread = threading.Thread(target=lambda: others.append(crew(1)))
    thread.start()
    thread.join()
    assert others[0] is not first
    bigger = crew(2)
    assert bigger.wanted == 2
    assert crew(1) is bigger
    # As after a fork, which leaves threads behind.
    monkeypatch.setattr(native_threads.os, "getpid", lambda: bigger.process + 1)
    assert crew(1) is not bigger
    monkeypatch.undo()
    del native_threads._own.crew
