"""Read checkpoints without running their code, and write them atomically."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from repvgg_runtime.atomic_write import write_atomically
from repvgg_runtime.extras import require
from repvgg_runtime.special_files import refuse_special_file

from ..errors import CheckpointError, ExtraError
from . import unpickler

CHECKSUM_SUFFIX = '.sha256'
TRUST = 'MMSEG_REPVGG_TRUST_CHECKPOINT'


def is_trusted(trust: bool = False) -> bool:
    """Return whether checkpoints may run code, for files whose origin the user trusts.

    ``MMSEG_REPVGG_TRUST_CHECKPOINT=1`` in the environment does the same as ``trust``.
    """
    return trust or os.environ.get(TRUST) == '1'


def read_checkpoint(path: str | os.PathLike[str], *, trust: bool = False) -> Any:
    """Read a checkpoint onto the CPU without running any code in it.

    The file is one of ``torch.save``, or ``*.safetensors``, a dict of tensors. With
    ``trust`` it may hold anything, and can run code; see :func:`is_trusted`.

    Raises:
        CheckpointError: If the file is missing or corrupt, or holds more than tensors and
            what mmengine and PyTorch store with them.
    """
    path = os.fspath(path)
    try:
        refuse_special_file(path)
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        if '://' in path:
            raise CheckpointError(
                f'{path} is a URL: download the checkpoint and give its path'
            ) from error
        raise CheckpointError(f'the checkpoint {path} does not exist') from error
    except IsADirectoryError as error:
        raise CheckpointError(
            f'the checkpoint {path} is a folder: name a file in it, such as '
            'model.safetensors'
        ) from error
    except OSError as error:
        raise CheckpointError(
            f'the checkpoint {path} cannot be read: {error.strerror}'
        ) from error
    _verify_checksum(path, data)
    try:
        if path.endswith('.safetensors'):
            return require('safetensors.torch', 'safetensors').load(data)
        if is_trusted(trust):
            return torch.load(io.BytesIO(data), map_location='cpu', weights_only=False)
        return unpickler.load(data)
    except ExtraError:
        raise
    except unpickler.ForbiddenError as error:
        raise CheckpointError(
            f'the checkpoint {path} is refused because reading it could run code: it '
            f'contains {error}. If you trust its origin, pass --trust-checkpoint or set '
            f'{TRUST}=1'
        ) from error
    except Exception as error:
        reason = str(error).strip().partition('\n')[0] or repr(error)
        raise CheckpointError(
            f'the checkpoint {path} cannot be read ({reason}): it is truncated or not a '
            'checkpoint. Copy it again, or use an older one'
        ) from error


def write_checkpoint(checkpoint: Any, path: str | os.PathLike[str]) -> None:
    """Write a checkpoint atomically; for ``*.safetensors``, it is a dict of tensors.

    Raises:
        WriteError: If the file cannot be written; it is left unchanged.
    """
    path = os.fspath(path)
    if path.endswith('.safetensors'):
        # The format refuses tensors that share memory or are not contiguous.
        tensors = {key: value.clone().contiguous() for key, value in checkpoint.items()}
        data = require('safetensors.torch', 'safetensors').save(tensors)
    else:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        data = buffer.getvalue()
    write_atomically(path, data)


def write_with_checksum(data: bytes, path: str | os.PathLike[str]) -> None:
    """Write a file atomically, and its SHA-256 beside it for :func:`read_checkpoint`.

    Raises:
        WriteError: If the file cannot be written; it is left unchanged.
    """
    path = Path(path)
    # The sums of both versions are stored until the file is replaced, so that either is
    # valid after a crash in between.
    sums = path.with_name(path.name + CHECKSUM_SUFFIX)
    line = f'{hashlib.sha256(data).hexdigest()}  {path.name}\n'
    write_atomically(sums, (line + read_note(sums)).encode())
    write_atomically(path, data)
    write_atomically(sums, line.encode())


def _verify_checksum(path: str, data: bytes) -> None:
    """Compare the data with the SHA-256 beside the file, if there is one."""
    lines = read_note(Path(path + CHECKSUM_SUFFIX)).splitlines()
    stored = {line.partition(' ')[0] for line in lines}
    if stored and hashlib.sha256(data).hexdigest() not in stored:
        raise CheckpointError(
            f'the checkpoint {path} is damaged: its SHA-256 differs from that in '
            f'{path}{CHECKSUM_SUFFIX}. Copy it again, or use an older one'
        )


def read_note(path: Path) -> str:
    """Return the text of a small file beside checkpoints, or an empty string."""
    try:
        refuse_special_file(path)
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ''
