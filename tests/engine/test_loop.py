"""The engine's thread: what is submitted is stepped, and a thread that is stuck or gone is not ready."""

import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from trimtab.backends.engine.loop import Loop
from trimtab.backends.engine.sequence import Job
from trimtab.protocol.errors import Draining, Internal, Overloaded


class Engine:
    """Steps when it is let."""

    def __init__(self):
        self.waiting, self.jobs, self.go, self.inside = [], [], threading.Semaphore(0), threading.Event()
        self.fails = False

    @property
    def busy(self):
        return bool(self.jobs)

    def add(self, job):
        self.jobs.append(job)

    def step(self):
        self.inside.set()
        self.go.acquire()
        if self.fails:
            raise RuntimeError("a fault of the engine")
        self.jobs.pop().emit(None)
        return True

    def dismiss(self, error):
        for job in self.jobs:
            job.emit(error)
        self.jobs = []


@pytest.fixture
def run():
    """run(most_waiting) -> a loop over an engine that steps when it is let, and a list of what was told."""
    made = []

    def start(most_waiting=4, clock=lambda: 0.0):
        engine = Engine()
        loop = Loop(lambda: SimpleNamespace(engine=engine), most_waiting, stuck_s=60.0, clock=clock)
        loop.start()
        while loop.loaded is None:
            pass
        made.append((loop, engine))
        return loop, engine

    yield start
    for loop, engine in made:
        engine.go.release(100)
        loop.stop()


def told():
    said, done = [], threading.Event()

    def emit(what):
        said.append(what)
        done.set()

    return said, done, Job([], emit)


def test_what_is_submitted_is_answered(run):
    loop, engine = run()
    said, done, job = told()
    engine.go.release()
    loop.submit(job)
    assert done.wait(5)
    assert said == [None]
    assert loop.ready


def test_a_step_that_never_ends_is_not_ready(run):
    now = [0.0]
    loop, engine = run(clock=lambda: now[0])
    loop.submit(told()[2])
    assert engine.inside.wait(5)
    assert loop.ready
    now[0] = 61.0
    assert not loop.ready


def test_a_fault_of_the_engine_is_told_and_the_thread_goes_on(run):
    loop, engine = run()
    said, done, job = told()
    engine.fails = True
    engine.go.release()
    loop.submit(job)
    assert done.wait(5)
    assert isinstance(said[0], Internal)
    engine.fails = False
    engine.go.release()
    said, done, job = told()
    loop.submit(job)
    assert done.wait(5)
    assert said == [None]


def test_too_many_waiting_are_refused_and_a_stopped_thread_takes_none(run):
    loop, engine = run(most_waiting=1)
    loop.submit(told()[2])
    assert engine.inside.wait(5)
    loop.submit(told()[2])
    with pytest.raises(Overloaded):
        loop.submit(told()[2])
    engine.go.release(100)
    loop.stop()
    assert not loop.ready
    with pytest.raises(Draining):
        loop.submit(told()[2])


UNSTOPPED = """
import threading
from types import SimpleNamespace
from trimtab.backends.engine.loop import Loop

at_work = threading.Event()

class Engine:
    busy, waiting = True, ()

    def step(self):
        at_work.set()
        return True

    def dismiss(self, error):
        print("dismissed", flush=True)

Loop(lambda: SimpleNamespace(engine=Engine()), 1).start()
at_work.wait(60)
"""


def test_an_interpreter_that_ends_waits_for_the_step():
    """Threads that compute in torch while it ends abort the process."""
    done = subprocess.run([sys.executable, "-c", UNSTOPPED], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "dismissed\n"), done.stderr
