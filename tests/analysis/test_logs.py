"""Logs are read as mmengine writes them, torn, joined and in the making."""

import json

import pytest

from mmseg_repvgg.analysis.logs import TrainPoint, ValPoint, read_log
from mmseg_repvgg.errors import LogError

HEAD = '2026/11/22 03:36:{:02} - mmengine - INFO - '
TEXT = f"""{HEAD.format(0)}
------------------------------------------------------------
System environment:
    sys.platform: linux
{HEAD.format(5)}Iter(train) [ 25/100]  lr: 1.5000e-03  eta: 0:10:33  time: 0.7810  \
data_time: 0.0092  loss: 2.3183  decode.loss_ce: 1.5478  decode.acc_seg: 53.1325
{HEAD.format(10)}Iter(train) [ 50/100]  lr: 1.0000e-03  time: 0.7810  loss: 1.5
{HEAD.format(12)}Iter(val) [10/20]    eta: 0:00:05  time: 0.2523  data_time: 0.0052
{HEAD.format(20)}Iter(val) [20/20]    aAcc: 80.3100  mIoU: 34.3500  mAcc: 45.4600
{HEAD.format(30)}Iter(train) [ 75/100]  lr: 5.0000e-04  time: 0.7810  loss: 1.25
"""
POINTS = (
    TrainPoint(25, 2.3183, 1.5e-3, 5),
    TrainPoint(50, 1.5, 1e-3, 10),
    ValPoint(50, 34.35, 20),
    TrainPoint(75, 1.25, 5e-4, 30),
)


def trains(*iterations, loss=1.0):
    return [{'lr': 0.1, 'loss': loss, 'iter': i, 'step': i} for i in iterations]


def validates(step, miou):
    return {'aAcc': 80.0, 'mIoU': miou, 'time': 0.3, 'step': step}


def write_json(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return path


def write_run(folder, lines, text=None):
    write_json(folder / 'vis_data' / 'scalars.json', lines)
    if text is not None:
        (folder / f'{folder.name}.log').write_text(text)
    return folder


@pytest.fixture
def text_log(tmp_path):
    path = tmp_path / 'captured.log'
    path.write_text(TEXT)
    return path


def test_text(text_log):
    log = read_log(text_log)
    assert log.points == POINTS
    assert log.name == 'captured'
    assert log.training == [POINTS[0], POINTS[1], POINTS[3]]
    assert log.validations == [POINTS[2]]


def test_console_without_year_and_with_colours(text_log):
    text = TEXT.replace('2026/', '').replace('INFO', '\033[4m\033[37mINFO\033[0m')
    text_log.write_text('Could not import something\n' + text)
    assert read_log(text_log).points == POINTS


def test_clock_set_back_stands_still(text_log):
    text_log.write_text(
        TEXT.replace('03:36:10', '02:36:10').replace('03:36:1', '02:36:1')
    )
    seconds = [point.seconds for point in read_log(text_log).points]
    assert seconds[:2] == [5, 5]
    assert seconds == sorted(seconds)


def test_text_of_epochs(tmp_path):
    path = tmp_path / 'epochs.log'
    path.write_text(
        f'{HEAD.format(1)}Epoch(train)   [2][10/12]  '
        'base_lr: 1 lr: 2.0000e-03  loss: 3.0\n'
        f'{HEAD.format(2)}Epoch(val) [2][5/5]    mIoU: 10.0\n'
    )
    assert read_log(path).points == (
        TrainPoint(22, 3.0, 2e-3, 0),
        ValPoint(22, 10.0, 1),
    )


@pytest.mark.parametrize('prefix', ['', 'hier/'])
def test_json(tmp_path, prefix):
    lines = [
        {
            prefix + key if key in ('loss', 'lr', 'mIoU') else key: v
            for key, v in x.items()
        }
        for x in [*trains(50), validates(60, 30.0), *trains(100, loss=0.5)]
    ]
    path = write_json(tmp_path / 'scalars.json', lines)
    assert read_log(path).points == (
        TrainPoint(50, 1.0, 0.1),
        ValPoint(60, 30.0),
        TrainPoint(100, 0.5, 0.1),
    )


def test_json_of_epochs(tmp_path):
    # LoggerHook gives the epoch as the step of a validation.
    path = write_json(tmp_path / 'a.json', [*trains(50), validates(1, 30.0)])
    assert read_log(path).validations == [ValPoint(50, 30.0)]


def test_run_takes_values_from_json_and_times_from_text(tmp_path):
    lines = [*trains(25, 50, loss=9.0), validates(55, 34.354), *trains(75, 100, loss=8.0)]
    run = write_run(tmp_path / 'work' / '20261122_033616', lines, TEXT)
    log = read_log(run)
    assert log.name == 'work/20261122_033616'
    # The text is a line behind, as it may be while the run goes on.
    assert log.points == (
        TrainPoint(25, 9.0, 0.1, 5),
        TrainPoint(50, 9.0, 0.1, 10),
        ValPoint(55, 34.354, 20),
        TrainPoint(75, 8.0, 0.1, 30),
        TrainPoint(100, 8.0, 0.1, None),
    )
    for part in (run / 'vis_data', run / 'vis_data' / 'scalars.json', run.parent):
        assert read_log(part).points == log.points
    assert read_log(run.parent).name == 'work'
    assert read_log(run / '20261122_033616.log').points == POINTS


def test_resumed_run_replaces_what_it_did_again(tmp_path):
    work = tmp_path / 'work'
    first = [*trains(25, 50, loss=1.0), validates(50, 34.0), *trains(75, loss=1.0)]
    write_run(work / '1', first, TEXT)
    # From 50; the first line comes 5 seconds after its log began.
    write_run(work / '2', trains(75, 100, loss=2.0), TEXT)
    # Of a test, and of a run that was killed before it logged.
    write_run(work / '3', [validates(0, 1.0)])
    write_run(work / '4', [])
    log = read_log(work)
    assert [(p.iteration, p.loss, p.seconds) for p in log.training] == [
        (25, 1.0, 5),
        (50, 1.0, 10),
        (75, 2.0, 25),
        (100, 2.0, 30),
    ]
    assert log.validations == [ValPoint(50, 34.0, 20)]


@pytest.mark.parametrize('cut', [1, 10, 40])
def test_torn_last_line(tmp_path, text_log, cut):
    text_log.write_text(TEXT[:-cut])
    assert read_log(text_log).points == POINTS[:-1]
    path = write_json(tmp_path / 'a.json', trains(25, 50))
    path.write_text(path.read_text()[: -cut - 1])
    assert [point.iteration for point in read_log(path).points] == [25]


def test_not_finite(tmp_path):
    path = write_json(tmp_path / 'a.json', trains(25, loss=float('nan')))
    assert str(read_log(path).training[0].loss) == 'nan'


def test_nothing_there(tmp_path):
    with pytest.raises(LogError, match=r'gone\.log cannot be read: No such file'):
        read_log(tmp_path / 'gone.log')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(LogError, match=r'empty has no run in it: looked for vis_data/'):
        read_log(tmp_path / 'empty')


@pytest.mark.parametrize(
    ('content', 'says'),
    [
        (b'', 'has no training in it: looked for'),
        (b'\x89PNG\r\n\x1a\n\0\0\0\xff\xfe', 'no log of mmengine'),
        (b'loss: 3\n', 'no line begins with a date'),
        (b'{\n  "a": 1\n}\n', 'line 1 is not a JSON object'),
        (b'{"loss": 1, "step": 1}\n[1]\n', 'no log of mmengine'),
        (b'{"loss": null, "step": 1}\n', 'no log of mmengine'),
        (b'{"loss": 1, "step": Infinity}\n', 'no log of mmengine'),
        (b'{"loss": 1, "step": 1}\n{"lo\n{"loss": 1}\n', 'line 2 is not a JSON object'),
        (b'{"mIoU": 60.0, "step": 0}', 'has no training in it: looked for'),
        (TEXT.replace('loss', 'gain').encode(), "'Iter(train) [N/MAX]"),
    ],
)
def test_no_log(tmp_path, content, says):
    path = tmp_path / 'file'
    path.write_bytes(content)
    with pytest.raises(LogError) as caught:
        read_log(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)
