"""Numbers survive the page that embeds them, and refuse what cannot be compared."""

import json

import pytest

from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.report.confusion import iou
from mmseg_repvgg.report.numbers import collect, read_numbers, require_comparable
from mmseg_repvgg.report.page import render
from mmseg_repvgg.report.statistics import Statistics

CLASSES = ['road', 'sky', 'car', '</script><script>alert(1)</script>']
RUN = dict(config='c', checkpoint='a.pth', split='val', version='1', date='2026-01-01')
PATHS = [f'/data/val/{city}.png' for city in ('a/1', 'b/1', 'b/2')]


@pytest.fixture(scope='module')
def statistics(make_segmented):
    statistics = Statistics(4)
    for seed, path in enumerate(PATHS):
        statistics.add(make_segmented(seed, path=path))
    return statistics


@pytest.fixture(scope='module')
def numbers(statistics):
    return collect(statistics, CLASSES, RUN)


def test_numbers_are_those_of_the_statistics(numbers, statistics):
    confusion = statistics.confusion.sum(0)
    assert numbers['confusion'] == confusion.tolist()
    assert numbers['metrics']['miou'] == pytest.approx(iou(confusion).mean(), rel=1e-5)
    assert numbers['bands']['miou'][-1] == numbers['metrics']['miou']
    assert sum(numbers['bands']['wrong']) == sum(i.wrong for i in statistics.images)
    assert numbers['forms']['differing'] == statistics.differing.sum()
    assert numbers['forms']['images'] == 3
    assert [image['path'] for image in numbers['images']] == [
        'a/1.png',
        'b/1.png',
        'b/2.png',
    ]
    # Noise has no region of 96x96 pixels.
    assert numbers['metrics']['large_recall'] is None
    assert 0.6 < numbers['metrics']['small_recall'] < 0.9


def test_numbers_are_read_from_the_page(numbers, tmp_path):
    path = tmp_path / 'report.html'
    path.write_bytes(render(numbers, [[0, 0, 0]] * 4))
    assert read_numbers(path) == numbers == json.loads(json.dumps(numbers))
    require_comparable(CLASSES, [f'/elsewhere{path}' for path in PATHS], numbers, 'x')


@pytest.mark.parametrize(
    ('classes', 'paths', 'says'),
    [
        (['a', 'b', 'c', 'd'], PATHS, r'x\.html has other classes .*: road, sky, car'),
        (CLASSES, PATHS[:2], r'x\.html is about 3 images, but this run about 2'),
        (CLASSES, [*PATHS[:2], '/data/val/c/9.png'], r'other images .* b/2\.png'),
    ],
)
def test_other_data_is_refused(numbers, classes, paths, says):
    with pytest.raises(ConfigError, match=says):
        require_comparable(classes, paths, numbers, 'x.html')


@pytest.mark.parametrize('content', ['', '<html>', None])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / 'page.html'
    if content is not None:
        path.write_text(content)
    says = 'not a report of this version' if content is not None else 'No such file'
    with pytest.raises(ConfigError, match=rf'page\.html.*{says}'):
        read_numbers(path)


def test_report_of_another_version_is_refused(numbers, tmp_path):
    path = tmp_path / 'report.html'
    path.write_bytes(render({**numbers, 'format': 0}, [[0, 0, 0]] * 4))
    with pytest.raises(ConfigError, match='not a report of this version'):
        read_numbers(path)
    path.write_bytes(b'\xff\xfe\x00')
    with pytest.raises(ConfigError, match='cannot be read'):
        read_numbers(path)
