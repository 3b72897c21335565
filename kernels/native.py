"""A small language for loops over vectors on a CPU, compiled by LLVM when a model is loaded: no compiler is needed.

    program = Program()
    code = program.function("twice", "x", "count")
    for i in code.loop(0, code.count, 16):
        at = code.x + i * 4
        code.store(code.load(F32X16, at) * 2.0, at)
    twice = program.compile()["twice"]

Every function takes (arguments, part, parts): a pointer to 64-bit words, one for each of its names, and which share of
the work is meant. `for` writes the loop's body once; a plain Python loop unrolls it. Operations on floats are computed
in the order they are written and never fused or reordered but by `fma`, so that a row has the same bits whatever rows
there are. Knows nothing of models.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Union

from llvmlite import binding, ir

log = logging.getLogger("trimtab.engine")

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
POINTER, VOID = ir.PointerType(), ir.VoidType()
LANES = 16


def vector(kind: Any, count: int = LANES) -> Any:
    return ir.VectorType(kind, count)


F16X16, F32X16, I32X16 = vector(F16), vector(F32), vector(I32)

Like = Union["Value", int, float]


def _kind(name: str) -> Any:
    return I64 if name.isupper() else POINTER


class Value:
    """Something that is computed when the function runs; operators write the instruction."""

    __slots__ = ("code", "of", "type")

    def __init__(self, code: Code, of: Any) -> None:
        self.code, self.of, self.type = code, of, of.type

    @property
    def element(self) -> Any:
        return self.type.element if isinstance(self.type, ir.VectorType) else self.type

    @property
    def floating(self) -> bool:
        return isinstance(self.element, (ir.FloatType, ir.HalfType))

    def _two(self, other: Like, whole: str, floating: str) -> Value:
        name = floating if self.floating else whole
        return Value(self.code, getattr(self.code.builder, name)(self.of, self.code.like(other, self).of))

    def __add__(self, other: Like) -> Value:
        if isinstance(self.type, ir.PointerType):
            step = self.code.whole(other).of
            return Value(self.code, self.code.builder.gep(self.of, [step], source_etype=I8))
        return self._two(other, "add", "fadd")

    def __sub__(self, other: Like) -> Value:
        return self._two(other, "sub", "fsub")

    def __mul__(self, other: Like) -> Value:
        return self._two(other, "mul", "fmul")

    def __truediv__(self, other: Like) -> Value:
        assert self.floating, "whole numbers are divided by //"
        return self._two(other, "", "fdiv")

    def __floordiv__(self, other: Like) -> Value:
        """Of whole numbers that are not negative."""
        return self._two(other, "sdiv", "")

    def __mod__(self, other: Like) -> Value:
        return self._two(other, "srem", "frem")

    def __and__(self, other: Like) -> Value:
        return self._two(other, "and_", "and_")

    def __xor__(self, other: Like) -> Value:
        return self._two(other, "xor", "")

    def __rshift__(self, other: Like) -> Value:
        return self._two(other, "lshr", "lshr")

    def __lshift__(self, other: Like) -> Value:
        return self._two(other, "shl", "shl")

    def halved(self, times: int) -> Value:
        """A signed whole number divided by 2 so many times, rounded down."""
        return Value(self.code, self.code.builder.ashr(self.of, self.code.like(times, self).of))

    def compared(self, sign: str, other: Like) -> Value:
        """`sign` one of < <= > >= == !=; whole numbers are signed. An `i1`, or a vector of them."""
        builder, right = self.code.builder, self.code.like(other, self).of
        compare = builder.fcmp_ordered if self.floating else builder.icmp_signed
        return Value(self.code, compare(sign, self.of, right))

    def __lt__(self, other: Like) -> Value:
        return self.compared("<", other)

    def __gt__(self, other: Like) -> Value:
        return self.compared(">", other)


class Variable:
    """A value that changes: LLVM keeps it in a register."""

    __slots__ = ("_at", "_code", "_type")

    def __init__(self, code: Code, first: Value) -> None:
        with code.builder.goto_entry_block():
            self._at = code.builder.alloca(first.type)
        self._code, self._type = code, first.type
        self.set(first)

    def get(self) -> Value:
        return Value(self._code, self._code.builder.load(self._at, typ=self._type))

    def set(self, value: Value) -> None:
        self._code.builder.store(value.of, self._at)


class Code:
    """One function while it is written. Its arguments are attributes: those named in capitals are whole numbers, the
    others pointers; `part` and `parts` say which share of the work this call does."""

    def __init__(self, module: Any, name: str, names: tuple[str, ...], inner: bool) -> None:
        self.module = module
        kinds = [_kind(name) for name in names]
        takes = kinds if inner else [POINTER, I64, I64]
        self.function = ir.Function(module, ir.FunctionType(VOID, takes), name)
        self.builder = ir.IRBuilder(self.function.append_basic_block())
        given = [Value(self, argument) for argument in self.function.args]
        if inner:
            self.function.linkage = "internal"
            self._named = dict(zip(names, given, strict=True))
            return
        words, part, parts = given
        self._named = {"part": part, "parts": parts}
        for i, (name, kind) in enumerate(zip(names, kinds, strict=True)):
            self._named[name] = self.load(kind, words + 8 * i)

    def __getattr__(self, name: str) -> Value:
        try:
            return self._named[name]
        except KeyError:
            raise AttributeError(name) from None

    # ---- numbers

    def number(self, kind: Any, value: float) -> Value:
        """A constant, in every lane if `kind` is a vector."""
        if isinstance(kind, ir.VectorType):
            return Value(self, ir.Constant(kind, [value] * kind.count))
        return Value(self, ir.Constant(kind, value))

    def whole(self, value: Like) -> Value:
        return value if isinstance(value, Value) else self.number(I64, value)

    def like(self, value: Like, other: Value) -> Value:
        return value if isinstance(value, Value) else self.number(other.type, value)

    def lanes(self, *values: float, kind: Any = I32) -> Value:
        return Value(self, ir.Constant(vector(kind, len(values)), list(values)))

    # ---- memory

    def load(self, kind: Any, at: Value) -> Value:
        loaded = self.builder.load(at.of, typ=kind)
        loaded.align = 1
        return Value(self, loaded)

    def store(self, value: Value, at: Value) -> None:
        stored = self.builder.store(value.of, at.of)
        stored.align = 1

    def prefetch(self, at: Value) -> None:
        """Begin to bring a line of 64 bytes near, which may lie anywhere."""
        read, near, data = (self.number(I32, n) for n in (0, 3, 1))
        self.call("llvm.prefetch.p0", VOID, at, read, near, data)

    def spread(self, value: Value, count: int = LANES) -> Value:
        """The same number in every lane."""
        kind = vector(value.type, count)
        empty = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(empty, value.of, ir.Constant(I32, 0))
        return Value(self, self.builder.shuffle_vector(first, empty, ir.Constant(vector(I32, count), [0] * count)))

    def spread_from(self, kind: Any, at: Value, count: int = LANES) -> Value:
        return self.spread(self.load(kind, at), count)

    # ---- order

    def loop(self, start: Like, stop: Like, step: Like = 1) -> Iterator[Value]:
        """The loop's number, once: what is written until the next round of `for` is the body."""
        builder, function = self.builder, self.function
        number = Variable(self, self.whole(start))
        head, body, end = (function.append_basic_block(name) for name in ("head", "body", "end"))
        builder.branch(head)
        builder.position_at_end(head)
        at = number.get()
        builder.cbranch(at.compared("<", self.whole(stop)).of, body, end)
        builder.position_at_end(body)
        yield at
        number.set(at + step)
        builder.branch(head)
        builder.position_at_end(end)

    @contextmanager
    def when(self, true: Value) -> Iterator[None]:
        with self.builder.if_then(true.of):
            yield

    def variable(self, first: Value) -> Variable:
        return Variable(self, first)

    def done(self) -> None:
        self.builder.ret_void()

    def call(self, name: str, returns: Any, *values: Value) -> Value:
        """An intrinsic, a function of the C library or an inner one of this program."""
        known = self.module.globals.get(name)
        if known is None:
            known = ir.Function(self.module, ir.FunctionType(returns, [v.type for v in values]), name)
        return Value(self, self.builder.call(known, [v.of for v in values]))

    # ---- lanes

    def fma(self, a: Value, b: Value, added: Value) -> Value:
        """a * b + added, rounded once."""
        return self._of_floats("fma", a, b, added)

    def root(self, x: Value) -> Value:
        return self._of_floats("sqrt", x)

    def bytes_multiplied(self, added: Value, unsigned: Value, signed: Value) -> Value:
        """To each lane the four products of its bytes: VNNI's vpdpbusd."""
        return self.call("llvm.x86.avx512.vpdpbusd.512", I32X16, added, unsigned, signed)

    def larger(self, a: Value, b: Value) -> Value:
        return self.select(a > b, a, b)

    def select(self, which: Value, a: Value, b: Value) -> Value:
        return Value(self, self.builder.select(which.of, a.of, b.of))

    def to(self, kind: Any, x: Value) -> Value:
        """Converted: halves to floats, floats to halves and to the nearest whole numbers, these to floats and to other
        widths."""
        builder = self.builder
        element = kind.element if isinstance(kind, ir.VectorType) else kind
        if not x.floating:
            return Value(self, builder.sitofp(x.of, kind) if element is F32 else self._resized(x, kind))
        if x.element is element:
            return x
        if element is F32:
            return Value(self, builder.fpext(x.of, kind))
        if element is F16:
            return Value(self, builder.fptrunc(x.of, kind))
        nearest = self._of_floats("rint", x)
        return Value(self, builder.fptosi(nearest.of, kind))

    def _resized(self, x: Value, kind: Any) -> Any:
        element = kind.element if isinstance(kind, ir.VectorType) else kind
        return (self.builder.trunc if element.width < x.element.width else self.builder.sext)(x.of, kind)

    def bits(self, kind: Any, x: Value) -> Value:
        """The same bits as another type."""
        return Value(self, self.builder.bitcast(x.of, kind))

    def shuffled(self, a: Value, b: Value, places: list[int]) -> Value:
        mask = ir.Constant(vector(I32, len(places)), places)
        return Value(self, self.builder.shuffle_vector(a.of, b.of, mask))

    def total(self, x: Value) -> Value:
        """The sum of all lanes, halves added to halves."""
        return self._folded(x, lambda a, b: a + b)

    def most(self, x: Value) -> Value:
        return self._folded(x, self.larger)

    def least(self, x: Value) -> Value:
        return self._folded(x, lambda a, b: self.select(a < b, a, b))

    def _folded(self, x: Value, join: Any) -> Value:
        count = x.type.count
        while count > 1:
            count //= 2
            low, high = (self.shuffled(x, x, list(range(a, a + count))) for a in (0, count))
            x = join(low, high)
        return Value(self, self.builder.extract_element(x.of, ir.Constant(I32, 0)))

    def _of_floats(self, name: str, *values: Value) -> Value:
        kind = values[0].type
        suffix = f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32"
        return self.call(f"llvm.{name}.{suffix}", kind, *values)


class Program:
    """Functions that are compiled together."""

    def __init__(self) -> None:
        self.module = ir.Module()
        self.module.triple = binding.get_default_triple()
        self._names: list[str] = []

    def function(self, name: str, *names: str) -> Code:
        """One that is called from outside, with words."""
        self._names.append(name)
        return Code(self.module, name, names, inner=False)

    def inner(self, name: str, *names: str) -> Code:
        """One that others of this program call, with values."""
        return Code(self.module, name, names, inner=True)

    def compile(self) -> Compiled:
        return Compiled(str(self.module), self._names)


class Compiled(Mapping[str, int]):
    """Addresses of functions by name. They live as long as this does."""

    def __init__(self, text: str, names: list[str]) -> None:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        machine = binding.Target.from_default_triple().create_target_machine(
            cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3
        )
        module = binding.parse_assembly(text)
        module.verify()
        options = binding.create_pipeline_tuning_options(speed_level=2)
        options.loop_unrolling = False
        passes = binding.create_pass_builder(machine, options)
        passes.getModulePassManager().run(module, passes)
        self._engine = binding.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        self._at: dict[str, int] = {name: self._engine.get_function_address(name) for name in names}

    def __getitem__(self, name: str) -> int:
        return self._at[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)

    def callable(self, name: str) -> Any:
        """The function for Python: `f(words, part, parts)`, with the lock let go while it runs."""
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(self._at[name])
        function.of = self  # type: ignore[attr-defined]  # it lives as long as its code
        return function


def works() -> bool:
    """Whether this machine and this LLVM compile what the others are made of, and rightly; a warning says why not."""
    try:
        binding.check_jit_execution()  # where memory may not become code, LLVM would end the process
        program = Program()
        code = program.function("f", "a", "b", "out")
        a, b = (code.load(I32X16, at) for at in (code.a, code.b))
        code.store(code.bytes_multiplied(code.number(I32X16, 7), a, b), code.out)
        code.done()
        unsigned, signed = bytes(range(100, 164)), bytes(256 - i if i else 0 for i in range(64))
        out = (ctypes.c_int32 * LANES)()
        arrays = ctypes.create_string_buffer(unsigned, 64), ctypes.create_string_buffer(signed, 64), out
        words = (ctypes.c_int64 * 3)(*[ctypes.addressof(array) for array in arrays])
        program.compile().callable("f")(words, 0, 1)
    except Exception as why:
        log.warning("the engine computes without its own functions for this CPU: %s", why)
        return False
    exact = [7 - sum((100 + i) * i for i in range(4 * lane, 4 * lane + 4)) for lane in range(LANES)]
    return list(out) == exact
