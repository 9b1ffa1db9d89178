"""The tool that prunes prints what is lost and gained."""

import pytest

from mmseg_repvgg.analysis.counting import count_network
from mmseg_repvgg.engine.config import network_config

pytest.importorskip('torch_pruning', reason="needs pip install -e '.[prune]'")


def test_tool_compares_before_and_after(trained, tmp_path, run_tool):
    config, checkpoint = trained
    result = run_tool(
        *('prune.py', config, checkpoint, '--share', 0.4, '--images', 4),
        *('--out', 'pruned', '--work-dir', 'work', '--size', 64, 96),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    rows = {
        line[2:24].strip(): line[24:].split()
        for line in result.stdout[result.stdout.index('\n  config') :].splitlines()
    }
    pruned = tmp_path / 'pruned' / 'small_pruned.py'
    assert rows['config'] == ['pruned/small_pruned.py']
    assert 40 <= float(rows['channels removed'][0].rstrip('%')) < 45
    for column, name in enumerate([config, str(pruned)]):
        counts = count_network(name, network_config(name), (64, 96))[-1].counts
        assert rows['MACs (G)'][column] == f'{counts.macs / 1e9:.2f}'
        assert rows['parameters (M)'][column] == f'{counts.params / 1e6:.2f}'
        assert 0 <= float(rows['mIoU (%)'][column]) <= 100
        assert float(rows['time (ms, median)'][column]) > 0
    assert rows['times as fast'][0] == '1.00'
    assert '1x3x64x96' in ' '.join(rows['time (ms, median)'])
    assert (tmp_path / 'pruned' / 'small_pruned.pth').is_file()


def test_a_wrong_size_is_an_error_before_anything_is_pruned(trained, tmp_path, run_tool):
    config, checkpoint = trained
    options = ['--out', 'pruned', '--work-dir', 'work', '--size', 0, 96]
    result = run_tool('prune.py', config, checkpoint, *options, cwd=tmp_path)
    assert result.returncode == 2
    assert '1x1 pixels' in result.stderr
    assert not (tmp_path / 'pruned').exists()
