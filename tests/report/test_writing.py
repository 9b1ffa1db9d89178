"""Reports of real checkpoints have the metrics of a test."""

import errno
import os
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from mmseg_repvgg import deploy
from mmseg_repvgg.engine.config import load_config
from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.engine.testing import ignored_label, prepare_testing
from mmseg_repvgg.errors import ConfigError, DataError, WriteError
from mmseg_repvgg.report.numbers import read_numbers
from mmseg_repvgg.report.writing import choose_split, write_report

RUN = dict(config='c', checkpoint='a.pth', split='val', version='1', date='today')


def make_runner(trained, folder, **options):
    config, checkpoint = trained
    cfg = load_config(config, options, work_dir=str(folder / 'work'))
    prepare_testing(cfg, checkpoint)
    runner = build_runner(cfg)
    runner.load_or_resume()
    return runner


@pytest.fixture(scope='module')
def runner(trained, tmp_path_factory):
    """Return a Runner whose checkpoint has learned some of the images."""
    folder = tmp_path_factory.mktemp('runner')
    runner = make_runner(trained, folder)
    model = runner.model.train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    (batch,) = DataLoader(runner.test_dataloader.dataset, 3, collate_fn=pseudo_collate)
    data = model.data_preprocessor(batch, training=True)
    for _ in range(12):
        loss, _ = model.parse_losses(model.loss(**data))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    path = str(folder / 'learned.pth')
    torch.save({'state_dict': model.state_dict()}, path)
    return make_runner((trained[0], path), folder)


@pytest.fixture(scope='module')
def report(runner, tmp_path_factory):
    path = tmp_path_factory.mktemp('report') / 'new' / 'report.html'
    numbers = write_report(runner.model, runner.test_dataloader, path, RUN, pictures=2)
    return path, numbers


def assert_metrics_of_a_test(numbers, runner):
    tested = runner.test()
    metrics = numbers['metrics']
    names = dict(aAcc='accuracy', mIoU='miou', mAcc='mean_accuracy')
    for theirs, ours in names.items():
        assert f'{100 * metrics[ours]:.2f}' == f'{tested[theirs]:.2f}'


def test_metrics_are_those_of_a_test(report, runner):
    path, numbers = report
    assert_metrics_of_a_test(numbers, runner)
    assert numbers['metrics']['miou'] > 0.1
    assert read_numbers(path) == numbers
    assert len(numbers['images']) == 3
    assert path.read_text().count('<article id="image-') == 2
    assert 0 < numbers['forms']['logit_difference'] < 1e-4


def test_label_zero_is_ignored_where_the_data_set_says_so(trained, tmp_path):
    runner = make_runner(
        trained, tmp_path, **{'test_dataloader.dataset.reduce_zero_label': True}
    )
    path = tmp_path / 'report.html'
    numbers = write_report(runner.model, runner.test_dataloader, path, RUN)
    assert_metrics_of_a_test(numbers, runner)
    counted = sum(image['labelled'] for image in numbers['images'])
    assert counted < 0.9 * numbers['pixels']


def test_fused_checkpoint(runner, tmp_path, report):
    path = tmp_path / 'report.html'
    numbers = write_report(deploy(runner.model), runner.test_dataloader, path, RUN)
    assert numbers['forms'] is None
    assert numbers['confusion'] == report[1]['confusion']


def test_another_report_is_compared(runner, tmp_path, report):
    path = tmp_path / 'again.html'
    loader = runner.test_dataloader
    write_report(runner.model, loader, path, RUN, pictures=0, against=[report[0]])
    assert '<span class="same">+0.00</span>' in path.read_text()


def test_wrong_arguments_are_refused_before_a_model_runs(runner, tmp_path, report):
    loader, path = runner.test_dataloader, tmp_path / 'report.html'
    with pytest.raises(ConfigError, match='--images must be at least 0, but got -1'):
        write_report(None, loader, path, RUN, pictures=-1)
    other = tmp_path / 'other.html'
    other.write_text(report[0].read_text().replace('"road"', '"river"'))
    with pytest.raises(ConfigError, match=r'other\.html has other classes'):
        write_report(None, loader, path, RUN, against=[report[0], other])
    with pytest.raises(ConfigError, match='is given by --against and would be overwri'):
        write_report(None, loader, other, RUN, against=[other])
    assert not path.exists()


def test_data_without_labels_is_an_error(trained, street_root, tmp_path):
    shutil.copytree(street_root, tmp_path / 'street')
    for file in (tmp_path / 'street/gtFine').rglob('*_labelTrainIds.png'):
        cv2.imwrite(str(file), np.full((64, 128), 255, np.uint8))
    root = {'test_dataloader.dataset.data_root': str(tmp_path / 'street')}
    runner = make_runner(trained, tmp_path, **root)
    with pytest.raises(DataError, match='no image has a labelled pixel, as in the test'):
        write_report(runner.model, runner.test_dataloader, tmp_path / 'a.html', RUN)
    assert not (tmp_path / 'a.html').exists()


@pytest.mark.parametrize('path', ['file/report.html', 'folder'])
def test_file_that_cannot_be_written_is_refused_first(runner, tmp_path, path):
    (tmp_path / 'file').touch()
    (tmp_path / 'folder').mkdir()
    with pytest.raises(WriteError, match=rf'the report .*{path} cannot be written'):
        write_report(None, runner.test_dataloader, tmp_path / path, RUN)


def test_failure_keeps_the_report_that_was_there(runner, tmp_path, monkeypatch):
    path = tmp_path / 'report.html'
    path.write_text('earlier')

    def fail(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(WriteError, match='No space left'):
        write_report(runner.model, runner.test_dataloader, path, RUN)
    assert [file.name for file in tmp_path.iterdir()] == ['report.html']
    assert path.read_text() == 'earlier'


def test_split_is_chosen(street_config):
    street_config.val_evaluator = [dict(type='IoUMetric', ignore_index=7)]
    choose_split(street_config, 'test')
    assert ignored_label(street_config) == 255
    choose_split(street_config, 'val')
    assert ignored_label(street_config) == 7
    street_config.val_dataloader = None
    with pytest.raises(ConfigError, match='no val_dataloader, which --split val needs'):
        choose_split(street_config, 'val')


def test_tool_writes_a_report(trained, tmp_path, run_tool):
    config, checkpoint = trained
    result = run_tool(
        *('report.py', config, checkpoint, '--split', 'val', '-o', 'new.html'),
        *('--images', 1, '--work-dir', tmp_path / 'work'),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    numbers = read_numbers(tmp_path / 'new.html')
    assert numbers['run']['checkpoint'] == 'small.pth'
    assert f'{100 * numbers["metrics"]["miou"]:.2f}' in result.stdout
    assert 'new.html' in result.stdout
    assert 'worst class' in result.stdout
