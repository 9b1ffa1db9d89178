"""Reading checkpoints without running anything, and writing them whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..special_files import refuse_special_file
from . import unpickler

CHECKSUM_SUFFIX = '.sha256'
# What a zip begins with, and a pickle.
_MAGIC = (b'PK', b'\x80')
TRUST = 'MMSEG_REPVGG_TRUST_CHECKPOINT'


def is_trusted(trust: bool = False) -> bool:
    """Return whether checkpoints may run code: by an argument or by the environment."""
    return trust or os.environ.get(TRUST) == '1'


def read_checkpoint(path: str | os.PathLike[str], *, trust: bool = False) -> Any:
    """Read a checkpoint onto the CPU; nothing that is in it can run.

    Args:
        path: A file as ``torch.save`` writes it, or ``*.safetensors``.
        trust: Unpickle whatever is in it: only for a file whose origin you trust. The
            environment variable ``MMSEG_REPVGG_TRUST_CHECKPOINT=1`` means the same.

    Returns:
        What was saved; of a safetensors file, a dict of tensors.

    Raises:
        CheckpointError: If the file is missing, corrupt, or holds more than plain tensors
            and what mmengine and PyTorch store with them.
    """
    path = os.fspath(path)
    data = _read_bytes(path)
    _verify_checksum(path, data)
    try:
        if path.endswith('.safetensors'):
            return _safetensors(path).load(data)
        if is_trusted(trust):
            return torch.load(io.BytesIO(data), map_location='cpu', weights_only=False)
        return unpickler.load(data)
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


def _explained(path: str, data: bytes, error: Exception) -> CheckpointError:
    if data and not path.endswith('.safetensors') and not data.startswith(_MAGIC):
        return CheckpointError(
            f'{path} is no PyTorch checkpoint, which is a zip or a pickle: it begins '
            f'with {data[:16]!r}. Give another file'
        )
    if isinstance(error, unpickler.ForbiddenError):
        return CheckpointError(
            f'the checkpoint {path} holds more than plain weights and is refused, since '
            f'reading it could run code: {error}. If you trust where it comes from, pass '
            f'--trust-checkpoint or set {TRUST}=1'
        )
    said = str(error).strip().partition('\n')[0] or repr(error)
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
