"""Pickled numbers, texts, lists, dictionaries and numpy arrays, read without running anything.

A pickle is a program for a stack machine that may call any function by its name. This machine
knows no functions: a name is allowed only if it is one of the few that build an array, which are
imitated here, or an inert name that the caller admits. Everything else is refused when its name
is read, before the rest of the file is looked at. No module is imported and nothing is called
(Python documentation, `pickle`: "only unpickle data you trust"; opcodes: `pickletools`).
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from pcircuits.errors import FormatError, shown
from pcircuits.files import BoundedFile

_RECONSTRUCT = ("numpy._core.multiarray._reconstruct", "numpy.core.multiarray._reconstruct")
_FROM_BUFFER = ("numpy._core.numeric._frombuffer", "numpy.core.numeric._frombuffer")
_ARRAY, _DTYPE = "numpy.ndarray", "numpy.dtype"
_KNOWN = {*_RECONSTRUCT, *_FROM_BUFFER, _ARRAY, _DTYPE}
_DTYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
_MAX_DIMENSIONS = 32
_MARK = object()


@dataclass(frozen=True)
class Name:
    """A global that was named and admitted; it stands for nothing and cannot be called."""

    path: str


@dataclass
class Instance:
    """What a file says about an object of an admitted class.

    Attributes:
        name: The class.
        arguments: What its constructor is to be called with.
        state: Its attributes, as far as the file gives them.
    """

    name: Name
    arguments: tuple[Any, ...] = ()
    state: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Dtype:
    text: str
    order: str = "="

    def resolve(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.text)


@dataclass
class _Array:
    """An array while its file is read; it may be memoised before its content is known."""

    value: npt.NDArray[Any] | None = None


def read_plain_pickle(
    data: bytes | BoundedFile, where: str, admit: Callable[[str], bool] = lambda path: False
) -> Any:
    """Reads a pickle that holds plain data.

    Args:
        data: The pickle, of protocol 2 to 5.
        where: What is read, for messages: a path, or a path and a part of it.
        admit: Says of a global's dotted path whether it may stand in the file as an inert `Name`;
            objects of it become `Instance`s.

    Returns:
        The value; numpy arrays of numbers and booleans are read-only arrays.

    Raises:
        FormatError: If the pickle is damaged, or names or asks for anything else. Nothing has run.
    """
    machine = _Machine(where, admit)
    source: Any = data  # what `genops` asks of a file is its three methods
    try:
        result = machine.run(pickletools.genops(source))
    # A warning, of an escape sequence that is none, where the caller has made errors of warnings.
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError, Warning) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{where} is not a well-formed pickle: {error}") from error
    return _finished(result, where)


class _Machine:
    """The stack machine, with every opcode that plain data needs and no other."""

    def __init__(self, where: str, admit: Callable[[str], bool]) -> None:
        self._where = where
        self._admit = admit
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, operations: Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]) -> Any:
        for opcode, argument, _ in operations:
            if opcode.name == "STOP":
                if len(self._stack) != 1:
                    raise ValueError(f"{len(self._stack)} values are left at its end; expected 1")
                return self._stack.pop()
            self._step(opcode.name, argument)
        raise ValueError("it has no end")

    def _step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            if isinstance(argument, int) and argument.bit_length() > 64:
                raise ValueError(f"an integer of {argument.bit_length()} bits stands in it")
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _IGNORED:
            pass
        elif name in _MEMO_SET:
            self._memo[len(self._memo) if argument is None else argument] = self._stack[-1]
        elif name in _MEMO_GET:
            self._stack.append(self._memo[argument])
        elif name in _TUPLES:
            self._stack.append(tuple(self._pop_many(_TUPLES[name])))
        elif (handler := _HANDLERS.get(name)) is not None:
            handler(self, argument)
        else:
            raise FormatError(f"{self._where} asks for {name}, which plain data does not need")

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("a mark stands where a value is expected")
        return value

    def _pop_many(self, number: int) -> list[Any]:
        return [self._pop() for _ in range(number)][::-1]

    def _pop_to_mark(self) -> list[Any]:
        place = len(self._stack) - 1
        while self._stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("a mark is missing")
        values = self._stack[place + 1 :]
        del self._stack[place:]
        return values

    def _mark(self, _: None) -> None:
        self._stack.append(_MARK)

    def _tuple(self, _: None) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def _append(self, _: None) -> None:
        value = self._pop()
        self._top(list).append(value)

    def _appends(self, _: None) -> None:
        values = self._pop_to_mark()
        self._top(list).extend(values)

    def _set_item(self, _: None) -> None:
        key, value = self._pop_many(2)
        self._put(self._top(dict), [key, value])

    def _set_items(self, _: None) -> None:
        values = self._pop_to_mark()
        self._put(self._top(dict), values)

    def _top(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise ValueError(f"{type(self._stack[-1]).__name__} stands for a {kind.__name__}")
        return self._stack[-1]

    def _put(self, target: dict[str, Any], items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise ValueError(f"a dictionary's key is {shown(key)}; expected a string")
            target[key] = value

    def _global(self, argument: str) -> None:
        self._name(argument.replace(" ", ".", 1))

    def _stack_global(self, _: None) -> None:
        module, name = self._pop_many(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a global's name is not a string")
        self._name(f"{module}.{name}")

    def _name(self, path: str) -> None:
        if path not in _KNOWN and not self._admit(path):
            raise FormatError(
                f"{self._where} asks for {path!r}, which is refused; nothing of the file has run"
            )
        self._stack.append(Name(path))

    def _new_object(self, _: None) -> None:
        name, arguments = self._pop_many(2)
        if not isinstance(name, Name) or name.path in _KNOWN or arguments != ():
            self._refuse_call(name)
        self._stack.append(Instance(name))

    def _reduce(self, _: None) -> None:
        name, arguments = self._pop_many(2)
        path = name.path if isinstance(name, Name) else None
        if path == _DTYPE:
            self._stack.append(_dtype(arguments))
        elif path in _RECONSTRUCT:
            if arguments[0] != Name(_ARRAY):
                self._refuse_call(name)
            self._stack.append(_Array())
        elif path in _FROM_BUFFER:
            raw, dtype, shape, order = arguments
            self._stack.append(_Array(_array(raw, dtype, shape, fortran=order == "F")))
        elif isinstance(name, Name) and path != _ARRAY and isinstance(arguments, tuple):
            self._stack.append(Instance(name, arguments))
        else:
            self._refuse_call(name)

    def _refuse_call(self, name: object) -> NoReturn:
        what = repr(name.path) if isinstance(name, Name) else f"a {type(name).__name__}"
        raise FormatError(f"{self._where} calls {what}, which is refused; nothing of it has run")

    def _build(self, _: None) -> None:
        state = self._pop()
        target = self._stack[-1]
        if isinstance(target, _Array):
            _, shape, dtype, fortran, raw = state
            target.value = _array(raw, dtype, shape, fortran=bool(fortran))
        elif isinstance(target, _Dtype):
            target.order = _byte_order(state[1])
        elif isinstance(target, Instance) and isinstance(state, dict):
            target.state.update(state)
        else:
            raise ValueError(f"a {type(target).__name__} has no such state")


_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_IGNORED = {"PROTO", "FRAME"}
_MEMO_SET = {"MEMOIZE", "BINPUT", "LONG_BINPUT"}
_MEMO_GET = {"BINGET", "LONG_BINGET"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    "TUPLE": _Machine._tuple,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "NEWOBJ": _Machine._new_object,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
}


def _dtype(arguments: Any) -> _Dtype:
    text = arguments[0]
    if not isinstance(text, str) or text not in _DTYPES:
        raise ValueError(f"an array's type is {shown(text)}; expected one of {sorted(_DTYPES)}")
    return _Dtype(text)


def _byte_order(order: Any) -> str:
    if not isinstance(order, str) or order not in ("<", ">", "|", "="):
        raise ValueError(f"an array's byte order is {shown(order)}")
    return "=" if order == "|" else str(order)


def _array(raw: Any, dtype: Any, shape: Any, *, fortran: bool) -> npt.NDArray[Any]:
    """An array of exactly the bytes given: a shape alone allocates nothing."""
    if not isinstance(raw, (bytes, bytearray)) or not isinstance(dtype, _Dtype):
        raise ValueError("an array's content is not bytes of a simple type")
    if not isinstance(shape, tuple) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"an array's shape is not a tuple of at most {_MAX_DIMENSIONS} numbers")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("an array's shape holds what is no size")
    resolved = dtype.resolve()
    if math.prod(shape) * resolved.itemsize != len(raw):
        raise ValueError(f"an array of shape {shape} and type {dtype.text} has {len(raw)} bytes")
    flat = np.frombuffer(raw, dtype=resolved)
    array = flat.reshape(shape, order="F" if fortran else "C")
    return array.astype(resolved.newbyteorder("="), copy=False)


def _finished(result: Any, where: str) -> Any:
    """Puts arrays in place of what stood for them, down to lists of dictionaries of values.

    Deeper nesting is left as it is and then refused by whoever expects an array: a file may nest
    or share values so that visiting them all would not end.
    """
    if isinstance(result, _Array):
        if result.value is None:
            raise FormatError(f"{where} has an array without content")
        return result.value
    if isinstance(result, list):
        return [_finished_entry(entry, where) for entry in result]
    return _finished_entry(result, where)


def _finished_entry(entry: Any, where: str) -> Any:
    if not isinstance(entry, dict):
        return entry
    return {
        key: _finished(value, where) if isinstance(value, _Array) else value
        for key, value in entry.items()
    }
