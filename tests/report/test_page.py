"""The page is whole, safe and of bounded size, also in a browser."""

import re

import numpy as np
import pytest

from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.report import page
from mmseg_repvgg.report.gallery import Gallery, Pane, draw_errors, draw_forms
from mmseg_repvgg.report.numbers import collect, read_numbers
from mmseg_repvgg.report.page import LIMIT, picture_bytes, render
from mmseg_repvgg.report.statistics import Statistics

HOSTILE = '<script>document.title = "hacked"</script>'
CLASSES = ['road', HOSTILE, 'car', 'never & "nowhere"', 'sky']
PALETTE = [[128, 64, 128], [70, 130, 180], [0, 0, 142], [1, 2, 3], [9, 8, 7]]
RUN = dict(config=HOSTILE, checkpoint='a.pth', split='val', version='1', date='today')


def make_page(make_segmented, error=0.2, others=(), count=12):
    """Return numbers and page of a few images, one without a labelled pixel."""
    statistics = Statistics(len(CLASSES))
    worst, apart = Gallery(4, 10**6, draw_errors(PALETTE)), Gallery(1, 10**5, draw_forms)
    for index in range(count):
        path = f'/data/val/{HOSTILE if index == 3 else index}.png'
        image = make_segmented(index, error=error * (1 + index % 5), path=path)
        if index == 5:
            image.truth[:] = 255
        errors = statistics.add(image)
        worst.offer(index, errors.error, image)
        apart.offer(index, errors.differing, image)
    numbers = collect(statistics, CLASSES, RUN)
    pictures = worst.pictures(), apart.pictures()
    return numbers, render(numbers, PALETTE, *pictures, others)


@pytest.fixture(scope='module')
def made(make_segmented):
    earlier, _ = make_page(make_segmented, error=0.1)
    return make_page(make_segmented, others=[('before', earlier)])


def text(found):
    """Return the text of HTML without tags, in single spaces."""
    return ' '.join(re.sub(r'<[^>]+>', ' ', found).split())


def test_names_are_escaped(made):
    content = made[1].decode()
    assert HOSTILE not in content
    # The numbers, the script, and nothing that a name has added.
    assert content.count('<script') == content.count('</script>') == 2
    assert '&lt;script&gt;document.title' in content
    assert "default-src 'none'" in content


def test_changes_against_another_run_are_shown(made, make_segmented):
    earlier, _ = make_page(make_segmented, error=0.1)
    numbers, content = made
    rows = re.findall(r'<tr>(.*?)</tr>', content.decode(), re.S)
    (road,) = [
        text(row) for row in rows if text(row).startswith('road') and 'meter' in row
    ]
    change = 100 * (numbers['iou'][0] - earlier['iou'][0])
    assert f'{100 * numbers["iou"][0]:.2f} {change:+.2f}' in road
    assert change < -1


def test_numbers_are_summarised(made):
    content, metrics = text(made[1].decode()), made[0]['metrics']
    assert f'mIoU {100 * metrics["miou"]:.2f} %' in content
    assert f'{100 * metrics["near_error"]:.1f} %' in content
    assert '1 images without a labelled pixel are left out' in content
    assert 'nan' not in content.split()


def test_one_form_and_no_picture(make_segmented):
    statistics = Statistics(len(CLASSES))
    image = make_segmented(0)
    object.__setattr__(image, 'forms', None)
    statistics.add(image)
    content = render(collect(statistics, CLASSES, RUN), PALETTE).decode()
    assert 'The model has a single form' in content
    assert 'id="worst"' not in content


def test_page_of_many_pictures_stays_within_its_limit(made, tmp_path):
    rng = np.random.default_rng(0)
    pictures = [(index, [Pane('Image', rng.bytes(900_000), 9, 9)]) for index in range(12)]
    content = render(made[0], PALETTE, pictures)
    assert LIMIT - 1_300_000 < len(content) <= LIMIT
    # The worst images are kept.
    kept = re.findall(rb'<article id="image-(\d+)"', content)
    assert list(map(int, kept)) == list(range(len(kept)))
    (tmp_path / 'report.html').write_bytes(content)
    assert read_numbers(tmp_path / 'report.html') == made[0]


def test_too_many_images_are_an_error(made, monkeypatch):
    monkeypatch.setattr(page, 'LIMIT', 20_000)
    with pytest.raises(ConfigError, match=r'would have .* MB, .* without any picture'):
        render(made[0], PALETTE, [(0, [])])


def test_pictures_and_rows_of_500_images_fit(made):
    numbers = made[0]
    image = {**numbers['images'][0], 'path': 60 * 'x' + '.png'}
    numbers = {**numbers, 'images': [image] * 500}
    without = len(render(numbers, PALETTE))
    room = picture_bytes(500)
    assert room > 6_000_000
    assert without + room * 4 / 3 < LIMIT


def test_most_confused_of_many_classes_are_shown(make_segmented):
    classes = [f'class {number}' for number in range(60)]
    statistics = Statistics(60)
    rng = np.random.default_rng(0)
    confusion = rng.integers(0, 5, (60, 60)) + np.diag([1000] * 60)
    confusion[7] += 50
    statistics.add(make_segmented(0))
    statistics.confusion[0] = confusion
    content = render(collect(statistics, classes, RUN), [[0, 0, 0]] * 60).decode()
    matrix = content.partition('class="matrix"')[2].partition('</table>')[0]
    assert matrix.count('<tr>') == 31
    assert 'class 7</span></th>' in matrix
    assert 'Of 60 classes, the 30 with most wrong pixels are shown' in text(content)


@pytest.fixture
def opened(browser, made, tmp_path):
    """Open the page from its file; afterwards it has said and asked for nothing."""
    path = tmp_path / 'report.html'
    path.write_bytes(made[1])
    tab = browser.new_page(viewport=dict(width=390, height=800))
    said, asked = [], []
    tab.on('console', lambda message: said.append(message.text))
    tab.on('pageerror', lambda error: said.append(str(error)))
    tab.on('request', lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    yield tab
    tab.close()
    assert not said
    assert [url for url in asked if not url.startswith('data:')] == [path.as_uri()]


def test_browser_shows_every_picture_and_no_scroll_bar(opened):
    assert opened.title() == 'Error report: a.pth'
    widths = opened.evaluate(
        "Promise.all([...document.querySelectorAll('.pane img')].map(async (image) => {"
        'await image.decode(); return image.naturalWidth; }))'
    )
    assert widths == [64] * (4 * 4 + 1)
    wide, window = opened.evaluate('[document.documentElement.scrollWidth, innerWidth]')
    assert wide == window == 390


def column(tab, number):
    cells = tab.locator(f'#images tbody tr > :nth-child({number})')
    return cells.all_inner_texts()


def test_images_are_sorted_by_mouse_and_keyboard(opened, made):
    errors = [f'{100 * i["error"]:.2f}' for i in made[0]['images'] if i['error']]
    assert column(opened, 2) == sorted(errors, key=float, reverse=True)
    head = opened.locator('#images thead button', has_text='Error')
    head.click()
    head.press('Enter')
    assert column(opened, 2) == sorted(errors, key=float)
    assert (
        opened.locator('#images [aria-sort=ascending]').inner_text().startswith('Error')
    )
    opened.locator('#images thead button', has_text='Image').click()
    assert column(opened, 1)[-2:] == ['10.png', '11.png']
    # Undefined values come last in both directions.
    for _ in range(2):
        opened.locator('#classes thead button', has_text='Class').click()
    names = opened.locator('#classes tbody th')
    assert names.first.inner_text() == 'sky'
    for _ in range(2):
        opened.locator('#classes thead button', has_text='IoU').first.click()
        assert names.last.inner_text() == 'sky'


def test_pane_is_enlarged_and_switched_by_keys(opened):
    panes = opened.locator('#worst article').first.locator('.pane')
    panes.nth(1).focus()
    opened.keyboard.press('Enter')
    caption = opened.locator('dialog figcaption')
    assert caption.inner_text().startswith('Truth: 1. ')
    opened.keyboard.press('ArrowRight')
    assert caption.inner_text().startswith('Prediction: 1. ')
    for _ in range(3):
        opened.keyboard.press('ArrowLeft')
    assert caption.inner_text().startswith('Wrong pixels: 1. ')
    opened.keyboard.press('Escape')
    assert not opened.locator('dialog').is_visible()
