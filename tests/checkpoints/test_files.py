"""Reading runs nothing; writing is whole or not at all."""

import os
import pickle

import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmseg_repvgg.checkpoints import files
from mmseg_repvgg.checkpoints.files import read_checkpoint, write_bytes, write_checkpoint
from mmseg_repvgg.errors import CheckpointError


def what_mmengine_stores():
    import numpy as np

    buffer = HistoryBuffer()
    buffer.update(1.5)
    return {
        'state_dict': {'weight': torch.ones(2, dtype=torch.bfloat16)},
        'message_hub': {'log_scalars': {'loss': buffer}, 'best': np.float64(3.5)},
        'meta': {'shape': torch.Size([1, 2]), 'counts': np.arange(3)},
    }


@pytest.fixture(params=['weights_only', 'before torch 2.6'])
def any_torch(request, monkeypatch):
    if request.param != 'weights_only':
        monkeypatch.setattr(files, '_EXTENDABLE', False)


def test_reads_what_mmengine_stores(tmp_path, any_torch):
    torch.save(what_mmengine_stores(), tmp_path / 'a.pth')
    read = read_checkpoint(tmp_path / 'a.pth')
    assert torch.equal(read['state_dict']['weight'], torch.ones(2).bfloat16())
    assert read['message_hub']['log_scalars']['loss'].mean() == 1.5
    assert read['message_hub']['best'] == 3.5


class Bomb:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize(
    'bomb',
    [
        lambda path: Bomb(open, path, 'w'),
        lambda path: Bomb(os.system, f'touch {path}'),
        lambda path: Bomb(exec, f'open({path!r}, "w")'),
        lambda path: Bomb(getattr, str, 'join'),
        lambda path: Bomb(getattr, HistoryBuffer, '__init__'),
    ],
)
def test_nothing_runs_without_trust(tmp_path, any_torch, bomb, legacy):
    fuse = str(tmp_path / 'fuse')
    torch.save(
        {'state_dict': {}, 'x': bomb(fuse)},
        tmp_path / 'a.pth',
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(CheckpointError, match=r'(?s)a\.pth .*--trust-checkpoint'):
        read_checkpoint(tmp_path / 'a.pth')
    assert not os.path.exists(fuse)
    read_checkpoint(tmp_path / 'a.pth', trust=True)


def test_torchscript_is_refused(tmp_path, any_torch):
    torch.jit.script(torch.nn.ReLU()).save(tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='TorchScript'):
        read_checkpoint(tmp_path / 'a.pth')


@pytest.mark.parametrize(
    ('name', 'says'),
    [('gone.pth', 'does not exist'), ('', 'is a folder')],
)
def test_no_file(tmp_path, name, says):
    with pytest.raises(CheckpointError, match=says):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ('data', 'says'),
    [
        (b'# A page\n', r"a.pth is no PyTorch checkpoint, .*begins with b'# A page'"),
        (pickle.dumps({'a': 1}), 'truncated or no checkpoint'),
    ],
)
def test_no_checkpoint(tmp_path, any_torch, data, says):
    """What torch would say to that, ends with the advice to trust it."""
    (tmp_path / 'a.pth').write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match=says) as caught:
        read_checkpoint(tmp_path / 'a.pth')
    assert 'weights_only' not in str(caught.value)


def test_checksum_tells_corruption_that_the_format_does_not(tmp_path):
    path = tmp_path / 'a.bin.pth'
    write_bytes(b'first', path, checksum=True)
    path.write_bytes(b'other')
    with pytest.raises(CheckpointError, match='not what was saved.*SHA-256'):
        read_checkpoint(path)


@pytest.mark.parametrize('step', [1, 2, 3])
def test_crash_while_replacing_condemns_neither_version(tmp_path, monkeypatch, step):
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': {'w': torch.zeros(1)}}, path)
    write_bytes(path.read_bytes(), path, checksum=True)
    torch.save({'state_dict': {'w': torch.ones(1)}}, tmp_path / 'new')
    replace, calls = os.replace, []

    def dies(*args):
        calls.append(args)
        if len(calls) == step:
            raise KeyboardInterrupt
        replace(*args)

    monkeypatch.setattr(os, 'replace', dies)
    with pytest.raises(KeyboardInterrupt):
        write_bytes((tmp_path / 'new').read_bytes(), path, checksum=True)
    assert read_checkpoint(path)['state_dict']['w'] == (step == 3)


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / 'a.pth'
    write_checkpoint({'w': torch.zeros(1)}, path)
    before = path.read_bytes()

    def full(fd):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(files.os, 'fsync', full)
    with pytest.raises(CheckpointError, match='a.pth cannot be written.*No space left'):
        write_checkpoint({'w': torch.ones(1)}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ['a.pth']


def test_missing_folder_is_named(tmp_path):
    path = tmp_path / 'gone' / 'a.pth'
    says = rf'^{path} cannot be written: No such file or directory\. '
    with pytest.raises(CheckpointError, match=says):
        write_checkpoint({}, path)
