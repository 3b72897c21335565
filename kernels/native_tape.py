"""Runs a list of native functions one after another, on one thread or on several that wait for one another.

Each thread calls the same runner with its share; after each function all meet. Waiting threads spin for some
microseconds, since a layer's functions follow one another fast, and then give their core away. Knows no function.
"""

from __future__ import annotations

from llvmlite import ir

from .native import I32, I64, POINTER, VOID, Code, Program, Value

_SPINS = 2000  # pauses before a waiting thread lets others run


def write_runner(program: Program) -> None:
    """`run`. Arguments: `tape`, COUNT pairs of the addresses of a function and of its words; `meeting`, two words, zero
    at first: how many have come, and how often all have met."""
    code = program.function("run", "tape", "meeting", "COUNT")
    function = ir.FunctionType(VOID, [POINTER, I64, I64]).as_pointer()
    for i in code.loop(0, code.COUNT):
        at = code.tape + i * 16
        called, words = code.load(function, at), code.load(POINTER, at + 8)
        code.builder.call(called.of, [words.of, code.part.of, code.parts.of])
        with code.when(code.parts > 1):
            _meet(code)
    code.done()


def _meet(code: Code) -> None:
    """Wait until every part has come here."""
    builder, come, met = code.builder, code.meeting, code.meeting + 8

    def times() -> Value:
        return Value(code, builder.load_atomic(met.of, "acquire", 8, typ=I64))

    before = times()
    others = Value(code, builder.atomic_rmw("add", come.of, code.number(I64, 1).of, "acq_rel"))
    with builder.if_else((others + 1).compared("==", code.parts).of) as (last, waiting):
        with last:
            builder.atomic_rmw("xchg", come.of, code.number(I64, 0).of, "acq_rel")
            builder.atomic_rmw("add", met.of, code.number(I64, 1).of, "acq_rel")
        with waiting:
            spins = code.variable(code.number(I64, 0))
            again, end = (code.function.append_basic_block(name) for name in ("again", "end"))
            builder.branch(again)
            builder.position_at_end(again)
            code.call("llvm.x86.sse2.pause", VOID)
            spins.set(spins.get() + 1)
            with code.when(spins.get() > _SPINS):
                code.call("sched_yield", I32)
            builder.cbranch(times().compared("==", before).of, again, end)
            builder.position_at_end(end)
