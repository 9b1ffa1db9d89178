"""Read the files of ``torch.save`` without running any code of theirs.

A pickle is a program that may call anything. This interpreter knows only the instructions
that ``torch.save`` writes. It looks up a name in the tables of this module and never
imports it. The functions in the tables check their arguments. Every tensor and array lies
within the bytes that the file holds for it.

``torch.load(weights_only=True)`` is no substitute: once ``numpy.ndarray`` and
``numpy.dtype`` are on its list, it calls them with any arguments, and torch before 2.6
does not refuse a TorchScript archive.
"""

import io
import math
import pickle
import pickletools
import struct
import sys
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

# The first two pickles of a file of torch before 1.6: magic number and version.
_LEGACY = (0x1950A86A20F9469CFC6C, 1001)


class ForbiddenError(pickle.UnpicklingError):
    """A pickle that names or calls something that is not in the tables."""


def load(data: bytes) -> Any:
    """Read a file of ``torch.save``, also of torch before 1.6, onto the CPU.

    Raises:
        ForbiddenError: If the file holds anything but tensors, numeric arrays, plain
            containers and values, and what mmengine stores with them.
        Exception: Many types, if the file is damaged.
    """
    return _load_zip(data) if data.startswith(b'PK') else _load_legacy(data)


def _load_zip(data: bytes) -> Any:
    # zipfile verifies the checksum of every member that it reads.
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if any(name.endswith('/constants.pkl') for name in members):
            raise ValueError('a TorchScript archive, such as an exported file')
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise ForbiddenError('compressed members, which torch.save does not write')
        pickles = [name for name in members if name.endswith('/data.pkl')]
        _require(len(pickles) == 1)
        folder = pickles[0].removesuffix('data.pkl')
        if f'{folder}byteorder' in members:
            _require(archive.read(f'{folder}byteorder').decode() == sys.byteorder)
        storages: dict[str, Tensor] = {}

        def storage(dtype: torch.dtype, key: str, _location: str, numel: int) -> Tensor:
            if _key(key) not in storages:
                storages[key] = _flat(archive.read(f'{folder}data/{key}'), dtype)
            _require(storages[key].dtype == dtype and len(storages[key]) == numel)
            return storages[key]

        return _run(io.BytesIO(archive.read(pickles[0])), storage)


def _load_legacy(data: bytes) -> Any:
    file = io.BytesIO(data)
    _require((_run(file), _run(file)) == _LEGACY)
    _require(_run(file)['little_endian'] == (sys.byteorder == 'little'))
    storages: dict[str, Tensor] = {}

    def storage(
        dtype: torch.dtype, key: str, _location: str, numel: int, view: None
    ) -> Tensor:
        if _key(key) not in storages:
            held = sum(tensor.nbytes for tensor in storages.values())
            _require(_are_counts(numel) and numel * dtype.itemsize <= len(data) - held)
            storages[key] = torch.empty(numel, dtype=dtype)
        _require(view is None)
        _require(storages[key].dtype == dtype and len(storages[key]) == numel)
        return storages[key]

    result = _run(file, storage)
    keys = _run(file)
    _require(sorted(keys) == sorted(storages))
    for key in keys:
        _require(struct.unpack('<q', file.read(8)) == (len(storages[key]),))
        storages[key].copy_(_flat(file.read(storages[key].nbytes), storages[key].dtype))
    return result


def _flat(data: bytes, dtype: torch.dtype) -> Tensor:
    if not data:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype)


def _run(file: IO[bytes], storage: Callable[..., Tensor] | None = None) -> Any:
    """Interpret one pickle, up to whose end the file is read.

    ``storage`` returns a storage, given the fields of its persistent id.
    """
    stack: list[Any] = []
    marked: list[list[Any]] = []
    memo: dict[int, Any] = {}
    opcode: Any
    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in ('BINPUT', 'LONG_BINPUT'):
            memo[argument] = stack[-1]
        elif name in ('BINGET', 'LONG_BINGET'):
            stack.append(memo[argument])
        elif name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            start = len(stack) - _TUPLES[name]
            _require(start >= 0)
            stack[start:] = [tuple(stack[start:])]
        elif name == 'MARK':
            marked.append(stack)
            stack = []
        elif name == 'TUPLE':
            stack, items = marked.pop(), tuple(stack)
            stack.append(items)
        elif name in ('SETITEM', 'SETITEMS', 'APPEND', 'APPENDS'):
            if name.endswith('S'):
                stack, new = marked.pop(), stack
            else:
                start = len(stack) - (2 if name == 'SETITEM' else 1)
                new = stack[start:]
                del stack[start:]
            if name.startswith('APPEND'):
                _require(type(stack[-1]) is list)
                stack[-1].extend(new)
            else:
                _require(type(stack[-1]) in (dict, OrderedDict))
                stack[-1].update(zip(map(_key, new[::2]), new[1::2]))
        elif name == 'GLOBAL':
            stack.append(_named(argument.replace(' ', '.')))
        elif name in ('REDUCE', 'NEWOBJ'):
            arguments, function = stack.pop(), stack.pop()
            _require(type(function) is _Name and type(arguments) is tuple)
            if function not in _CALLS:
                raise ForbiddenError(f'a call of {function}')
            stack.append(_CALLS[function](*arguments))
        elif name == 'BUILD':
            state = stack.pop()
            fill = [fill for kind, fill in _STATES.items() if isinstance(stack[-1], kind)]
            _require(len(fill) == 1)
            fill[0](stack[-1], state)
        elif name == 'BINPERSID' and storage is not None:
            what, *details = stack.pop()
            _require(what == 'storage')
            stack.append(storage(*details))
        elif name == 'FRAME' and storage is not None:
            raise ForbiddenError('pickle protocol 4 or newer, which is not read here')
        elif name == 'STOP':
            _require(len(stack) == 1 and not marked)
        elif name != 'PROTO':
            raise pickle.UnpicklingError(f'torch.save writes no {name}')
    return stack.pop()


_LITERALS = {'BINUNICODE', 'BININT', 'BININT1', 'BININT2', 'BINFLOAT', 'LONG1', 'LONG4'}
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'EMPTY_TUPLE': ()}
_EMPTY: dict[str, type] = {'EMPTY_LIST': list, 'EMPTY_DICT': dict}
_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}


class _Name(str):
    """A name in a pickle, instead of the Python object that it refers to."""


def _named(name: str) -> Any:
    # These are the names of Python 2 and NumPy 1.
    name = name.replace('__builtin__.', 'builtins.')
    name = name.replace('numpy.core.', 'numpy._core.')
    if name in _VALUES:
        return _VALUES[name]
    if name in _CALLS or name in _OWNERS:
        return _Name(name)
    raise ForbiddenError(name)


def _require(holds: bool) -> None:
    if not holds:
        raise pickle.UnpicklingError('its pickle is not as torch.save writes it')


def _are_counts(*numbers: int) -> bool:
    return all(type(number) is int and number >= 0 for number in numbers)


def _key(key: Any) -> Any:
    """Refuse tuples as keys: hashing deeply nested ones overflows the stack."""
    _require(key is None or isinstance(key, (str, bytes, int, float, np.number)))
    return key


def _attribute(owner: str, name: str) -> Any:
    _require(type(owner) is _Name and type(name) is str)
    if f'{owner}.{name}' not in _ATTRIBUTES:
        raise ForbiddenError(f'attribute {name!r} of {owner}')
    return _ATTRIBUTES[f'{owner}.{name}']


def _encode(text: str, encoding: str) -> bytes:
    _require(encoding == 'latin1')
    return text.encode('latin1')


def _counter(counts: dict[Any, int]) -> Counter[Any]:
    _require(type(counts) is dict)
    return Counter(counts)


def _set(items: list[Any]) -> set[Any]:
    return {_key(item) for item in items}


def _size(sizes: tuple[int, ...]) -> torch.Size:
    _require(type(sizes) is tuple)
    return torch.Size(sizes)


def _tensor(
    storage: Tensor,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    _hooks: Any,
    _metadata: Any = None,
) -> Tensor:
    """Rebuild a tensor that lies within its storage and has no more elements."""
    _require(len(size) == len(stride) and _are_counts(offset, *size, *stride))
    numel = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    _require(numel <= len(storage) and (numel == 0 or last < len(storage)))
    tensor = torch.empty(0, dtype=storage.dtype)
    tensor.set_(storage.untyped_storage(), offset, size, stride)
    return tensor.requires_grad_(requires_grad)


def _dtype(code: str, *_flags: bool) -> np.dtype:
    _require(type(code) is str)
    if code not in ('b1', *(f'{kind}{n}' for kind in 'iuf' for n in (1, 2, 4, 8))):
        raise ForbiddenError(f'an array of dtype {code!r}')
    return np.dtype(code)


def _check_dtype_state(_dtype: np.dtype, state: tuple[Any, ...]) -> None:
    # It is (3, byte order, None, None, None, -1, -1, 0) for plain numeric types.
    little = '<' if sys.byteorder == 'little' else '>'
    _require(state[1:5] in [(order, None, None, None) for order in (little, '|', '=')])


def _scalar(dtype: np.dtype, data: bytes) -> np.generic:
    _require(isinstance(dtype, np.dtype) and len(data) == dtype.itemsize)
    return np.frombuffer(data, dtype)[0]


def _fill_array(array: np.ndarray, state: tuple[Any, ...]) -> None:
    _, shape, dtype, in_fortran_order, data = state
    _require(isinstance(dtype, np.dtype) and type(data) is bytes)
    _require(type(shape) is tuple and _are_counts(*shape))
    _require(math.prod(shape) * dtype.itemsize == len(data))
    array.__setstate__((1, shape, dtype, bool(in_fortran_order), data))  # type: ignore[arg-type]


def _fill_history(history: HistoryBuffer, state: dict[str, Any]) -> None:
    values, counts = state['_log_history'], state['_count_history']
    _require(all(type(a) is np.ndarray and a.ndim == 1 for a in (values, counts)))
    _require(len(values) == len(counts) and type(state['max_length']) is int)
    # statistics_methods is ignored: it would replace that of the class.
    history._log_history, history._count_history = values, counts
    history.max_length = state['max_length']


def _fill_ordered(ordered: OrderedDict[Any, Any], state: dict[str, Any]) -> None:
    _require(state.keys() <= {'_metadata'} and isinstance(state['_metadata'], dict))
    ordered._metadata = state['_metadata']  # type: ignore[attr-defined]


_DTYPES = {
    'Double': torch.float64,
    'Float': torch.float32,
    'Half': torch.float16,
    'BFloat16': torch.bfloat16,
    'Long': torch.int64,
    'Int': torch.int32,
    'Short': torch.int16,
    'Char': torch.int8,
    'Byte': torch.uint8,
    'Bool': torch.bool,
}
# Names that stand for a dtype.
_VALUES = {
    **{str(dtype): dtype for dtype in _DTYPES.values()},
    **{f'torch.{kind}Storage': dtype for kind, dtype in _DTYPES.items()},
    **{f'torch.cuda.{kind}Storage': dtype for kind, dtype in _DTYPES.items()},
}
# Names that may be called, with the functions that are called instead.
_CALLS: dict[str, Callable[..., Any]] = {
    'builtins.getattr': _attribute,
    'builtins.set': _set,
    'builtins.complex': complex,
    '_codecs.encode': _encode,
    'collections.Counter': _counter,
    'collections.OrderedDict': lambda: OrderedDict(),
    'torch.Size': _size,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_parameter': lambda tensor, grad, _: nn.Parameter(tensor, grad),
    'numpy.dtype': _dtype,
    'numpy._core.multiarray.scalar': _scalar,
    'numpy._core.multiarray._reconstruct': lambda _kind, _shape, _code: np.empty(0),
    'mmengine.logging.history_buffer.HistoryBuffer': lambda: HistoryBuffer(),
}
# HistoryBuffer stores its statistics by method, OneCycle schedulers how they anneal.
_ATTRIBUTES: dict[str, Any] = {
    f'{kind.__module__}.{kind.__name__}.{name}': getattr(kind, name)
    for kind, names in {
        HistoryBuffer: ('min', 'max', 'current', 'mean'),
        OneCycleParamScheduler: ('_annealing_cos', '_annealing_linear'),
        OneCycleLR: ('_annealing_cos', '_annealing_linear'),
    }.items()
    for name in names
}
# Names that may only be arguments of a call.
_OWNERS = {'numpy.ndarray', *(name.rpartition('.')[0] for name in _ATTRIBUTES)}
# Types whose state a pickle may set, with the functions that set it.
_STATES: dict[type, Callable[..., None]] = {
    OrderedDict: _fill_ordered,
    HistoryBuffer: _fill_history,
    np.dtype: _check_dtype_state,
    np.ndarray: _fill_array,
}
