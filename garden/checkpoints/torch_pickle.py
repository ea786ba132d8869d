"""The part of a PyTorch file that is a pickle: which tensors there are, and where in which storage each one lies.

A pickle is a program for a stack machine, and Python's own machine calls whatever function the program names. This one
knows the opcodes that containers, strings and numbers need, and the few names that tensors are rebuilt with. It imports
nothing and calls nothing of PyTorch; any other opcode or name is refused.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

# More than the descriptions of a hundred thousand tensors take; a corrupt file shall not fill the memory.
MAX_PICKLE_BYTES = 100_000_000
_MAX_RANK = 32
# Tensors that repeat their storage (expanded ones) may be this large, so that a small file cannot become a huge array.
_MAX_REPEATED_BYTES = 2**20
_MAX_INTEGER_BITS = 80  # those of the magic number with which files before PyTorch 1.6 begin

_DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "int64": np.dtype(np.int64),
    "int32": np.dtype(np.int32),
    "int16": np.dtype(np.int16),
    "int8": np.dtype(np.int8),
    "uint64": np.dtype(np.uint64),
    "uint32": np.dtype(np.uint32),
    "uint16": np.dtype(np.uint16),
    "uint8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
    "complex64": np.dtype(np.complex64),
    "complex128": np.dtype(np.complex128),
}
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}


@dataclass(frozen=True)
class Storage:
    """A run of numbers that tensors are views of."""

    key: str
    dtype: np.dtype
    count: int
    first: int = 0  # of the numbers that the file has under the key: old files have views of storages


@dataclass(frozen=True)
class TensorView:
    """A tensor as the pickle describes it; its numbers are elsewhere in the file."""

    storage: Storage
    dtype: np.dtype
    offset: int  # in elements, as the strides
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """How many elements lie between the first and the last, both included."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))


@dataclass(frozen=True)
class _Global:
    """A name that a pickle may use."""

    name: str
    call: Callable[..., Any] | None = None
    dtype: np.dtype | None = None


class _Mark:
    """What separates the arguments of an opcode from what is below them."""


def read_pickle(stream: BinaryIO, where: str) -> tuple[Any, list[Storage]]:
    """The object that the pickle at the stream's position describes, and all storages that it names.

    Tensors are `TensorView`s, ordered dictionaries are dictionaries. The stream is then just behind the pickle. Raises
    ValueError, naming the file (`where`) and the opcode or the name, for anything that is not tensors, containers,
    strings and numbers.
    """
    machine = _Machine(where)
    opcodes = pickletools.genops(_Bounded(stream))
    while True:
        try:
            opcode, argument, position = next(opcodes)
        except StopIteration:
            raise ValueError(f"{where}: a pickle without an end; copy or download it again") from None
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{where}: not a valid pickle ({error}); copy or download it again") from None
        if opcode.name == "STOP":
            return machine.result(), machine.storages
        operation = _OPERATIONS.get(opcode.name)
        if operation is None:
            raise ValueError(
                f"{where}: pickle opcode {opcode.name} (byte {position}) is not one that tensors need, and could run code; "
                "save the tensors alone (model.state_dict()), or as safetensors"
            )
        operation(machine, argument)


class _Bounded:
    """What genops reads from, so that no length in the file makes it read more than a pickle can have."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self._left = MAX_PICKLE_BYTES

    def read(self, count: int) -> bytes:
        return self._taken(self._stream.read(count) if count <= self._left else None)

    def readline(self) -> bytes:
        return self._taken(self._stream.readline(self._left + 1))

    def tell(self) -> int:
        return MAX_PICKLE_BYTES - self._left

    def _taken(self, data: bytes | None) -> bytes:
        if data is None or len(data) > self._left:
            raise ValueError(f"more than {MAX_PICKLE_BYTES} bytes")
        self._left -= len(data)
        return data


class _Machine:
    """The stack, the marks in it, and what the pickle keeps by number."""

    def __init__(self, where: str):
        self.where = where
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: list[Storage] = []

    def corrupt(self, what: str) -> ValueError:
        return ValueError(f"{self.where}: {what}; the file is corrupt, copy or download it again")

    def result(self) -> Any:
        value = self.pop()
        if self.stack:
            raise self.corrupt("the pickle ends with values left over")
        return value

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _Mark:
            raise self.corrupt("the pickle takes a value that is not there")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def pop_to_mark(self) -> list[Any]:
        taken = []
        while self.stack and self.stack[-1] is not _Mark:
            taken.append(self.stack.pop())
        if not self.stack:
            raise self.corrupt("the pickle takes values up to a mark that is not there")
        self.stack.pop()
        return taken[::-1]

    # ---- Opcodes that do more than to push a value ---------------------------------------------------------------

    def put(self, number: int) -> None:
        self.memo[number] = self.top()

    def get(self, number: int) -> None:
        if number not in self.memo:
            raise self.corrupt(f"the pickle takes value {number}, which it has not kept")
        self.push(self.memo[number])

    def integer(self, value: int) -> None:
        if value.bit_length() > _MAX_INTEGER_BITS:
            raise self.corrupt(f"a number of {value.bit_length()} bits")
        self.push(value)

    def take_tuple(self, count: int) -> None:
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    def append(self, values: list[Any]) -> None:
        if type(self.top()) is not list:
            raise self.corrupt(f"the pickle appends to a {_kind(self.top())}")
        self.top().extend(values)

    def set_items(self, flat: list[Any]) -> None:
        target = self.top()
        if type(target) is not dict or len(flat) % 2:
            raise self.corrupt(f"the pickle sets items of a {_kind(target)}")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            # Other keys could be containers so deep that hashing them never ends.
            if not isinstance(key, (str, int)):
                raise self.corrupt(f"a dictionary with a {_kind(key)} as key")
            target[key] = value

    def take_global(self, module: Any, name: Any) -> None:
        found = _GLOBALS.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if found is None:
            raise ValueError(
                f'{self.where}: the pickle asks for "{module}.{name}", which is not a part of tensors and could run code; '
                "save the tensors alone (model.state_dict()), or as safetensors"
            )
        self.push(found)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Global) or function.call is None or type(arguments) is not tuple:
            raise self.corrupt(f"the pickle calls a {_kind(function)} with a {_kind(arguments)}")
        try:
            self.push(function.call(*arguments))
        except (TypeError, ValueError) as error:
            raise self.corrupt(f"{function.name}: {error}") from None

    def build(self) -> None:
        """Ordered dictionaries of weights carry the versions of their modules as an attribute: not needed."""
        state, target = self.pop(), self.top()
        if type(target) is not dict or type(state) is not dict:
            raise self.corrupt(f"the pickle gives a {_kind(target)} a state of its own")

    def persistent(self) -> None:
        """A storage: ("storage", type, key, device, count), in old files with (key, offset, count) of a view, or None."""
        value = self.pop()
        if type(value) is not tuple or len(value) not in (5, 6) or value[0] != "storage":
            named = value[0] if type(value) is tuple and value and isinstance(value[0], str) else _kind(value)
            raise ValueError(f"{self.where}: the pickle refers to a {named!r}, only storages of tensors are read")
        _, kind, key, _, count, *view = value
        if not isinstance(kind, _Global) or kind.dtype is None or not isinstance(key, str) or not _natural(count):
            raise self.corrupt("a storage without a known type, a name and a length")
        storage = Storage(key, kind.dtype, count)
        if view and view[0] is not None:
            if type(view[0]) is not tuple or len(view[0]) != 3 or not all(map(_natural, view[0][1:])):
                raise self.corrupt(f'a view of storage "{key}" without offset and length')
            _, first, size = view[0]
            if first + size > count:
                raise self.corrupt(f'a view of storage "{key}" that ends after it')
            storage = Storage(key, kind.dtype, size, first)
        self.storages.append(storage)
        self.push(storage)


def _kind(value: Any) -> str:
    return value.name if isinstance(value, _Global) else type(value).__name__


def _natural(value: Any) -> bool:
    # bool is an int to Python.
    return type(value) is int and 0 <= value < 2**63


# ---- What the names mean ---------------------------------------------------------------------------------------------


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_ignored: Any, metadata: Any = None) -> TensorView:
    """`torch._utils._rebuild_tensor_v2`; further arguments are about gradients."""
    if len(_ignored) > 2:
        metadata = _ignored[2]
    return _view(storage, getattr(storage, "dtype", None), offset, shape, strides, metadata)


def _tensor_of_dtype(
    storage: Any, offset: Any, shape: Any, strides: Any, _gradient: Any, _hooks: Any, dtype: Any, metadata: Any = None
) -> TensorView:
    """`torch._utils._rebuild_tensor_v3`: types without a storage of their own."""
    if not isinstance(dtype, _Global) or dtype.dtype is None:
        raise ValueError(f"a {_kind(dtype)} where a type is expected")
    return _view(storage, dtype.dtype, offset, shape, strides, metadata)


def _view(storage: Any, dtype: Any, offset: Any, shape: Any, strides: Any, metadata: Any) -> TensorView:
    if not isinstance(storage, Storage):
        raise ValueError(f"a {_kind(storage)} where a storage is expected")
    if metadata:
        raise ValueError(f"tensors with {metadata!r:.80} are not read")
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides) or len(shape) > _MAX_RANK:
        raise ValueError(f"shape {shape!r:.80} with strides {strides!r:.80}")
    if not all(map(_natural, (offset, *shape, *strides))):
        raise ValueError(f"offset {offset!r:.80}, shape {shape!r:.80}, strides {strides!r:.80}")
    view = TensorView(storage, dtype, offset, shape, strides)
    held = storage.count * storage.dtype.itemsize
    if (offset + view.span) * dtype.itemsize > held:
        raise ValueError(
            f'offset {offset}, shape {shape}, strides {strides} reach beyond storage "{storage.key}" of {held} bytes'
        )
    size = math.prod(shape) * dtype.itemsize
    if size > max(held, _MAX_REPEATED_BYTES):
        raise ValueError(f'shape {shape} repeats the {held} bytes of storage "{storage.key}" up to {size}')
    return view


def _parameter(data: Any, *_ignored: Any) -> TensorView:
    """`torch._utils._rebuild_parameter`: a tensor that is trained."""
    if not isinstance(data, TensorView):
        raise ValueError(f"a {_kind(data)} where a tensor is expected")
    return data


def _ordered_dictionary(items: Any = ()) -> dict[Any, Any]:
    """`collections.OrderedDict`, empty or of a list of pairs."""
    if not isinstance(items, (list, tuple)) or not all(
        isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[0], (str, int)) for item in items
    ):
        raise ValueError(f"a {_kind(items)} where pairs are expected")
    return dict(items)


def _size(sizes: Any = ()) -> tuple[Any, ...]:
    """`torch.Size`."""
    if not isinstance(sizes, (list, tuple)):
        raise ValueError(f"a {_kind(sizes)} where sizes are expected")
    return tuple(sizes)


def _known_globals() -> Mapping[tuple[str, str], _Global]:
    calls = {
        ("torch._utils", "_rebuild_tensor"): _tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_dtype,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("collections", "OrderedDict"): _ordered_dictionary,
        ("torch", "Size"): _size,
    }
    known = {key: _Global(".".join(key), call=call) for key, call in calls.items()}
    types = {("torch", storage): _DTYPES[name] for storage, name in _STORAGES.items()}
    types |= {("torch", name): dtype for name, dtype in _DTYPES.items()}
    for key in (("torch", "UntypedStorage"), ("torch.storage", "UntypedStorage"), ("torch.storage", "_UntypedStorage")):
        types[key] = _DTYPES["uint8"]
    return known | {key: _Global(".".join(key), dtype=dtype) for key, dtype in types.items()}


_GLOBALS = _known_globals()
_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": lambda machine, _: machine.push(_Mark),
    "POP": lambda machine, _: machine.pop(),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "BINFLOAT": lambda machine, value: machine.push(value),
    **dict.fromkeys(
        ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), lambda machine, value: machine.integer(value)
    ),
    **dict.fromkeys(
        ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES"),
        lambda machine, value: machine.push(value),
    ),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.take_tuple(1),
    "TUPLE2": lambda machine, _: machine.take_tuple(2),
    "TUPLE3": lambda machine, _: machine.take_tuple(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda machine, number: machine.put(number)),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, number: machine.get(number)),
    "GLOBAL": lambda machine, names: machine.take_global(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.take_global(*[machine.pop(), machine.pop()][::-1]),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.persistent(),
}
