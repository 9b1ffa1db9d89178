"""Logs are read as mmengine writes them, also torn, resumed and in the making."""

import json

import pytest

from mmseg_repvgg.analysis.logs import TrainPoint, ValPoint, read_log
from mmseg_repvgg.errors import LogError


def trains(*iterations, loss=1.0):
    return [{'lr': 0.1, 'loss': loss, 'iter': i, 'step': i} for i in iterations]


def validates(step, miou):
    return {'aAcc': 80.0, 'mIoU': miou, 'time': 0.3, 'step': step}


def write_json(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return path


def write_run(folder, lines):
    write_json(folder / 'vis_data' / 'scalars.json', lines)
    return folder


@pytest.mark.parametrize('prefix', ['', 'hier/'])
def test_points_are_those_of_the_file(tmp_path, prefix):
    lines = [
        {
            prefix + key if key in ('loss', 'lr', 'mIoU') else key: v
            for key, v in x.items()
        }
        for x in [*trains(50), validates(60, 30.0), *trains(100, loss=0.5)]
    ]
    log = read_log(write_json(tmp_path / 'scalars.json', lines))
    assert log.points == (
        TrainPoint(50, 1.0, 0.1),
        ValPoint(60, 30.0),
        TrainPoint(100, 0.5, 0.1),
    )
    assert log.training == [log.points[0], log.points[2]]
    assert log.validations == [log.points[1]]
    assert log.name == 'scalars'


def test_validation_of_an_epoch_is_at_the_last_iteration(tmp_path):
    # LoggerHook gives the epoch as the step of a validation.
    path = write_json(tmp_path / 'a.json', [*trains(50), validates(1, 30.0)])
    assert read_log(path).validations == [ValPoint(50, 30.0)]


def test_run_and_work_dir_are_found(tmp_path):
    run = write_run(tmp_path / 'work' / '20261122_033616', trains(25, 50))
    log = read_log(run)
    assert log.name == 'work/20261122_033616'
    assert [point.iteration for point in log.points] == [25, 50]
    assert read_log(run / 'vis_data' / 'scalars.json').points == log.points
    assert read_log(run.parent).points == log.points
    assert read_log(run.parent).name == 'work'


def test_resumed_run_replaces_repeated_iterations(tmp_path):
    work = tmp_path / 'work'
    first = [*trains(25, 50, loss=1.0), validates(50, 34.0), *trains(75, loss=1.0)]
    write_run(work / '1', first)
    write_run(work / '2', trains(75, 100, loss=2.0))
    # A test, and a run that was killed before it logged.
    write_run(work / '3', [validates(0, 1.0)])
    write_run(work / '4', [])
    log = read_log(work)
    assert [(point.iteration, point.loss) for point in log.training] == [
        (25, 1.0),
        (50, 1.0),
        (75, 2.0),
        (100, 2.0),
    ]
    assert log.validations == [ValPoint(50, 34.0)]


@pytest.mark.parametrize('cut', [1, 10, 40])
def test_torn_last_line_is_ignored(tmp_path, cut):
    path = write_json(tmp_path / 'a.json', trains(25, 50))
    path.write_text(path.read_text()[: -cut - 1])
    assert [point.iteration for point in read_log(path).points] == [25]


def test_loss_that_is_not_finite_is_kept(tmp_path):
    path = write_json(tmp_path / 'a.json', trains(25, loss=float('nan')))
    assert str(read_log(path).training[0].loss) == 'nan'


def test_missing_logs_are_errors(tmp_path):
    with pytest.raises(LogError, match=r'gone\.json cannot be read: No such file'):
        read_log(tmp_path / 'gone.json')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(LogError, match=r'empty has no log of a training: expected'):
        read_log(tmp_path / 'empty')


@pytest.mark.parametrize(
    ('content', 'says'),
    [
        (b'', 'has no log of a training: expected'),
        (b'\x89PNG\r\n\x1a\n\0\0\0\xff\xfe', 'line 1 is not an object'),
        (b'2026/11/22 03:36:05 - mmengine - INFO - loss: 3\n', 'line 1 is not an object'),
        (b'{"loss": 1, "step": 1}\n[1]\n', 'line 2 is not an object'),
        (b'{"loss": null, "step": 1}\n', 'line 1 is not an object'),
        (b'{"loss": 1, "step": Infinity}\n', 'line 1 is not an object'),
        (b'{"loss": 1, "step": 1}\n{"lo\n{"loss": 1}\n', 'line 2 is not an object'),
        (b'{"mIoU": 60.0, "step": 0}\n', 'has no log of a training: expected'),
    ],
)
def test_other_files_are_errors(tmp_path, content, says):
    path = tmp_path / 'file'
    path.write_bytes(content)
    with pytest.raises(LogError) as caught:
        read_log(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)
