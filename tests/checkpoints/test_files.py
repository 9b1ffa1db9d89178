"""Checkpoints are read without running code and written atomically."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from mmseg_repvgg.checkpoints.files import read_checkpoint, write_with_checksum
from mmseg_repvgg.errors import CheckpointError


def checkpoint_of_mmengine():
    buffer = HistoryBuffer()
    buffer.update(1.5)
    shared = torch.arange(12.0)
    return {
        'state_dict': {
            'bfloat16': torch.ones(2, dtype=torch.bfloat16),
            'empty': torch.empty(0, 3),
            'strided': shared.view(3, 4).t()[1:],
            'shared': shared[:5],
            'parameter': nn.Parameter(torch.ones(2)),
        },
        'message_hub': {'log_scalars': {'loss': buffer}, 'best': np.float64(3.5)},
        'meta': {
            'shape': torch.Size([1, 2]),
            'counts': np.arange(6).reshape(2, 3),
            'transposed': np.ones((2, 3), np.float32).T,
            'flag': np.bool_(True),
            'dtype': torch.float16,
            'bytes': b'\x00\xff',
            'names': {'a', 2},
            'large': -(2**100),
            'value': None,
        },
    }


@pytest.mark.parametrize('legacy', [False, True])
def test_everything_that_mmengine_stores_is_read(tmp_path, legacy):
    stored = checkpoint_of_mmengine()
    torch.save(stored, tmp_path / 'a.pth', _use_new_zipfile_serialization=not legacy)
    read = read_checkpoint(tmp_path / 'a.pth')
    for key, value in stored['state_dict'].items():
        assert torch.equal(read['state_dict'][key], value), key
        assert read['state_dict'][key].dtype == value.dtype
        assert type(read['state_dict'][key]) is type(value)
    for key, value in stored['meta'].items():
        assert type(read['meta'][key]) is type(value)
        assert np.array_equal(read['meta'][key], value), key
    loss = read['message_hub']['log_scalars']['loss']
    assert loss.mean() == 1.5
    loss.update(2.5)
    assert loss.mean() == 2
    assert read['message_hub']['best'] == 3.5
    # Tensors still share their memory.
    read['state_dict']['shared'].zero_()
    assert read['state_dict']['strided'][0].tolist() == [0, 5, 9]


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
        lambda path: Bomb(np.ndarray, (1,), 'O', b'A' * 8),
        lambda path: Bomb(np.ndarray, (4,), 'u1'),
        lambda path: Bomb(np.dtype, 'O'),
        lambda path: Bomb(torch.Tensor, 4),
        lambda path: torch.eye(2).to_sparse(),
        lambda path: torch.empty(2, device='meta'),
        lambda path: torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8),
        lambda path: torch.ones(2, dtype=torch.complex64),
    ],
)
def test_nothing_runs_without_trust(tmp_path, bomb, legacy):
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


def test_expanded_tensor_is_refused(tmp_path):
    torch.save({'w': torch.ones(1).expand(10**9)}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match=r'a\.pth cannot be read'):
        read_checkpoint(tmp_path / 'a.pth')


def test_compressed_members_are_refused(tmp_path):
    torch.save({'w': torch.zeros(10**6)}, tmp_path / 'a.pth')
    with zipfile.ZipFile(tmp_path / 'a.pth') as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(tmp_path / 'b.pth', 'w', zipfile.ZIP_DEFLATED) as target:
        for name, data in members.items():
            target.writestr(name, data)
    with pytest.raises(CheckpointError, match=r'b\.pth .*compressed'):
        read_checkpoint(tmp_path / 'b.pth')


def test_environment_variable_allows_code(tmp_path, monkeypatch):
    torch.save({'x': Bomb(open, str(tmp_path / 'fuse'), 'w')}, tmp_path / 'a.pth')
    monkeypatch.setenv('MMSEG_REPVGG_TRUST_CHECKPOINT', '1')
    read_checkpoint(tmp_path / 'a.pth')
    assert (tmp_path / 'fuse').exists()


def test_statistics_in_a_file_do_not_replace_those_of_the_class(tmp_path):
    """HistoryBuffer of mmengine would update a dict of its class from the pickle."""
    buffer = HistoryBuffer()
    buffer.statistics_methods = {'mean': 'from the file'}
    buffer._statistics_methods = buffer.statistics_methods
    torch.save({'loss': buffer}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / 'a.pth')
    assert HistoryBuffer._statistics_methods['mean'] is HistoryBuffer.mean


def test_newer_pickle_protocol_is_refused_but_may_be_trusted(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save({'iter': 3}, path, pickle_protocol=4)
    with pytest.raises(CheckpointError, match='protocol 4 or newer.*--trust-checkpoint'):
        read_checkpoint(path)
    assert read_checkpoint(path, trust=True) == {'iter': 3}


def test_torchscript_is_refused(tmp_path):
    torch.jit.script(torch.nn.ReLU()).save(tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='TorchScript'):
        read_checkpoint(tmp_path / 'a.pth')


def test_a_url_is_refused():
    with pytest.raises(CheckpointError, match='is a URL: download'):
        read_checkpoint('https://example.invalid/a.pth', trust=True)


@pytest.mark.parametrize(
    ('name', 'says'),
    [('gone.pth', 'does not exist'), ('', 'is a folder: name a file in it')],
)
def test_missing_file_or_folder_is_refused(tmp_path, name, says):
    with pytest.raises(CheckpointError, match=says):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    'data', [b'# A page\n', pickle.dumps({'a': 1}), b'', b'PK\x03\x04' + bytes(200)]
)
def test_other_files_are_refused_without_advice_to_trust_them(tmp_path, data):
    (tmp_path / 'a.pth').write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match='truncated or not a checkpoint') as caught:
        read_checkpoint(tmp_path / 'a.pth')
    assert 'trust' not in str(caught.value)


def test_checksum_detects_corruption_that_the_format_does_not(tmp_path):
    path = tmp_path / 'a.bin.pth'
    write_with_checksum(b'first', path)
    path.write_bytes(b'other')
    with pytest.raises(CheckpointError, match='is damaged: its SHA-256'):
        read_checkpoint(path)


@pytest.mark.parametrize('step', [1, 2, 3])
def test_file_is_valid_after_a_crash_while_replacing_it(tmp_path, monkeypatch, step):
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': {'w': torch.zeros(1)}}, path)
    write_with_checksum(path.read_bytes(), path)
    torch.save({'state_dict': {'w': torch.ones(1)}}, tmp_path / 'new')
    replace, calls = os.replace, []

    def dies(*args):
        calls.append(args)
        if len(calls) == step:
            raise KeyboardInterrupt
        replace(*args)

    monkeypatch.setattr(os, 'replace', dies)
    with pytest.raises(KeyboardInterrupt):
        write_with_checksum((tmp_path / 'new').read_bytes(), path)
    assert read_checkpoint(path)['state_dict']['w'] == (step == 3)
