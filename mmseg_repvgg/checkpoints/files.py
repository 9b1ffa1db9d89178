"""Reading checkpoints without running anything, and writing them whole or not at all."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import io
import os
import pickle
import tempfile
import types
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version

from ..errors import CheckpointError
from ..special_files import refuse_special_file

try:
    from numpy._core import multiarray
except ImportError:
    from numpy.core import multiarray  # type: ignore[no-redef]

CHECKSUM_SUFFIX = '.sha256'
# Whether the list of weights_only can be extended, by names too.
_EXTENDABLE = digit_version(torch.__version__) >= digit_version('2.6')
# What a zip begins with, and a pickle.
_MAGIC = (b'PK', b'\x80')
_TRUST = 'If you trust where it comes from, pass --trust-checkpoint'


def read_checkpoint(
    path: str | os.PathLike[str], *, trust: bool = False, map_location: Any = 'cpu'
) -> Any:
    """Read a checkpoint; nothing that is in it can run.

    Args:
        path: A file as ``torch.save`` writes it, or ``*.safetensors``.
        trust: Unpickle whatever is in it: only for a file whose origin you trust.
        map_location: As for ``torch.load``.

    Returns:
        What was saved; of a safetensors file, a dict of tensors.

    Raises:
        CheckpointError: If the file is missing, corrupt, or needs a class beyond tensors
            and what mmengine itself stores.
    """
    path = os.fspath(path)
    data = _read_bytes(path)
    _verify_checksum(path, data)
    try:
        if path.endswith('.safetensors'):
            return _safetensors(path).load(data)
        if not trust:
            _verify_zip(data)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return _unpickled(io.BytesIO(data), trust, map_location)
    except CheckpointError:
        raise
    except Exception as error:
        raise _explained(path, data, error) from error


def _read_bytes(path: str) -> bytes:
    try:
        refuse_special_file(path)
        with open(path, 'rb') as file:
            return file.read()
    except FileNotFoundError as error:
        raise CheckpointError(
            f'the checkpoint {path} does not exist. Train one with tools/train.py, or '
            'give the path of another'
        ) from error
    except IsADirectoryError as error:
        raise CheckpointError(
            f'the checkpoint {path} is a folder; give one of the files in it'
        ) from error
    except OSError as error:
        raise CheckpointError(f'the checkpoint {path} cannot be read: {error}') from error


def _verify_zip(data: bytes) -> None:
    """Check the sums that ``torch.save`` wrote, which ``torch.load`` does not look at.

    TorchScript, which ``torch.load`` before 2.6 runs whatever it is told, is refused.
    """
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(name.endswith('constants.pkl') for name in archive.namelist()):
                raise pickle.UnpicklingError('GLOBAL code of a TorchScript archive')
            spoilt = archive.testzip()
        if spoilt is not None:
            raise zipfile.BadZipFile(f'wrong checksum of {spoilt} in it')


def _unpickled(file: io.BytesIO, trust: bool, map_location: Any) -> Any:
    if trust:
        return torch.load(file, map_location=map_location, weights_only=False)
    if _EXTENDABLE:
        allowed = [
            item if f'{item.__module__}.{item.__name__}' == name else (item, name)
            for name, item in _ALLOWED.items()
        ]
        with torch.serialization.safe_globals(allowed):
            return torch.load(file, map_location=map_location, weights_only=True)
    # Else the same list goes into an unpickler of our own.
    return torch.load(
        file,
        map_location=map_location,
        weights_only=False,
        pickle_module=_restricted_pickle(),
    )


def _history_statistic(owner: Any, name: str) -> Any:
    """What a pickled HistoryBuffer needs of ``getattr``, and nothing beyond."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(f'GLOBAL getattr is refused for {name!r}')
    return getattr(owner, name)


# mmengine stores a HistoryBuffer a logged number, and numpy scalars and arrays in it.
# Building one of these runs nothing of the file's choosing.
# Named as numpy 1 and 2 do, so that either reads the other's files.
_ALLOWED: dict[str, Any] = {
    'builtins.getattr': _history_statistic,
    'mmengine.logging.history_buffer.HistoryBuffer': HistoryBuffer,
    'numpy.ndarray': np.ndarray,
    'numpy.dtype': np.dtype,
    **{
        f'numpy.{core}.multiarray.{function.__name__}': function
        for core in ('core', '_core')
        for function in (multiarray._reconstruct, multiarray.scalar)
    },
    **{
        f'numpy.dtypes.{kind.__name__}': kind
        for kind in {type(np.dtype(code)) for code in '?bBhHiIlLqQefdgSU'}
    },
}
# What torch's own list has beside tensors' parts, where ours stands in for it.
_TORCH_ALLOWED: dict[str, Any] = {
    'collections.OrderedDict': OrderedDict,
    '_codecs.encode': codecs.encode,
    'torch.Size': torch.Size,
    'torch._utils._rebuild_tensor_v2': torch._utils._rebuild_tensor_v2,
    'torch._utils._rebuild_parameter': torch._utils._rebuild_parameter,
}


def _restricted_pickle() -> types.ModuleType:
    """Build a stand-in for ``pickle`` that knows only what is on the list."""
    allowed = {**_ALLOWED, **_TORCH_ALLOWED}

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            full = f'{"builtins" if module == "__builtin__" else module}.{name}'
            if full in allowed:
                return allowed[full]
            if module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype):
                return getattr(torch, name)
            raise pickle.UnpicklingError(f'GLOBAL {full} is not allowed')

    stand_in = types.ModuleType('restricted_pickle')
    stand_in.__dict__.update(vars(pickle))
    stand_in.__dict__.update(
        Unpickler=Unpickler, load=lambda file, **kwargs: Unpickler(file, **kwargs).load()
    )
    return stand_in


def _explained(path: str, data: bytes, error: Exception) -> CheckpointError:
    if data and not path.endswith('.safetensors') and not data.startswith(_MAGIC):
        return CheckpointError(
            f'{path} is no PyTorch checkpoint, which is a zip or a pickle: it begins '
            f'with {data[:16]!r}. Give another file'
        )
    lines = str(error).strip().splitlines() or [repr(error)]
    if isinstance(error, pickle.UnpicklingError):
        needed = [line.strip() for line in lines if 'GLOBAL' in line or 'class ' in line]
        if needed:
            # Without torch's advice to allow it.
            said = needed[0].partition('. Please use')[0].rstrip('.')
            return CheckpointError(
                f'the checkpoint {path} holds more than weights and is refused, since '
                f'reading it could run code: {said}. {_TRUST}'
            )
    # Of what is damaged torch too says that to trust it would help.
    said = 'no pickle of tensors' if 'weights_only' in lines[0] else lines[0]
    return CheckpointError(
        f'the checkpoint {path} cannot be read ({said}): it is truncated or no '
        'checkpoint. Copy it again, or take an older one'
    )


def _safetensors(path: str) -> Any:
    try:
        from safetensors import torch as safetensors_torch
    except ImportError as error:
        raise CheckpointError(
            f"{path} needs the extra 'safetensors': pip install safetensors"
        ) from error
    return safetensors_torch


def write_checkpoint(checkpoint: Any, path: str | os.PathLike[str]) -> None:
    """Write a checkpoint so that the file is there whole or not at all.

    Args:
        checkpoint: What ``torch.save`` takes; for ``*.safetensors``, a dict of tensors.
        path: The file; its folder must exist. What was there is replaced at the end.

    Raises:
        CheckpointError: If it cannot be written, such as on a full disk.
    """
    path = os.fspath(path)
    if path.endswith('.safetensors'):
        data = _safetensors(path).save({k: v.contiguous() for k, v in checkpoint.items()})
    else:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        data = buffer.getvalue()
    write_bytes(data, path)


def write_bytes(
    data: bytes, path: str | os.PathLike[str], checksum: bool = False
) -> None:
    """Write a file atomically: temporary name, flush to disk, rename.

    Args:
        data: What to write.
        path: The file.
        checksum: Also write its SHA-256 beside it, by which reading tells corruption.

    Raises:
        CheckpointError: If it cannot be written; the file is then as it was before.
    """
    path = Path(path)
    try:
        if not checksum:
            _replace(path, data)
            return
        # While a file is replaced under its own name, both sums are on record: a crash
        # in between condemns neither the old nor the new one.
        sums = path.with_name(path.name + CHECKSUM_SUFFIX)
        line = f'{hashlib.sha256(data).hexdigest()}  {path.name}\n'
        _replace(sums, (line + read_note(sums)).encode())
        _replace(path, data)
        _replace(sums, line.encode())
    except OSError as error:
        raise CheckpointError(
            f'{path} cannot be written: {error.strerror or error}. What was saved before '
            'is as it was. Make room, or choose another folder'
        ) from error


def _replace(path: Path, data: bytes) -> None:
    refuse_special_file(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    # The rename itself must reach the disk too; some file systems cannot say so.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _verify_checksum(path: str, data: bytes) -> None:
    """Compare with the SHA-256 beside the file, if there is one."""
    lines = read_note(Path(path + CHECKSUM_SUFFIX)).splitlines()
    stored = {line.split()[0] for line in lines if line.strip()}
    if stored and hashlib.sha256(data).hexdigest() not in stored:
        raise CheckpointError(
            f'the checkpoint {path} is not what was saved: its SHA-256 differs from that '
            f'in {path}{CHECKSUM_SUFFIX}. Copy it again, or take an older one'
        )


def read_note(path: Path) -> str:
    """Return the text of a small file beside checkpoints, empty if it has none."""
    try:
        refuse_special_file(path)
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ''
