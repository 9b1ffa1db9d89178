"""The page computes a picture once, and forgets it when it is closed."""

import gc
import time
import weakref

import pytest

from repvgg_runtime import web_page
from repvgg_runtime.segmenter import ExportedSegmenter
from repvgg_runtime.web_page import Page
from repvgg_runtime.web_picture import Segmented

pytestmark = pytest.mark.slow
pytest.importorskip('gradio')


class CountingSegmenter(ExportedSegmenter):
    """Counts the pictures that the network computes."""

    runs = 0

    def predict(self, images, **options):
        self.runs += len(images)
        return super().predict(images, **options)


@pytest.fixture(scope='module')
def segmenter(exported):
    return CountingSegmenter(exported('onnx', output='logits', normalize=True), threads=1)


@pytest.fixture
def address(segmenter, serve, tmp_path, monkeypatch):
    """Serve the page in this process."""
    from fastapi import FastAPI

    monkeypatch.setenv('GRADIO_TEMP_DIR', str(tmp_path))
    app = FastAPI()
    Page(segmenter, 'name', 'file', [], max_bytes=10**6, max_pixels=10**6).mount(app)
    with serve(app) as port:
        yield f'http://127.0.0.1:{port}'


def wait_until(holds):
    """Wait as long as it takes; pytest's own limit ends what hangs."""
    end = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < end
        gc.collect()
        time.sleep(0.1)


def test_slider_and_legend_do_not_run_the_network(
    browser, visit, address, segmenter, street_images
):
    tab = visit(browser, address)
    before = segmenter.runs
    tab.segment(street_images[0])
    assert segmenter.runs == before + 1
    first = tab.page.get_attribute('#legend .wrap input >> nth=0', 'name')
    tab.set_opacity(80)
    tab.toggle(int(first))
    tab.download('Download overlay')
    tab.download('Download label map')
    assert segmenter.runs == before + 1
    tab.end()


def test_picture_is_forgotten_when_its_page_is_closed(
    browser, visit, address, street_images, monkeypatch
):
    kept = []

    def segment(*args):
        found = web_page_segment(*args)
        kept.append(weakref.ref(found))
        return found

    web_page_segment = web_page.segment
    monkeypatch.setattr(web_page, 'segment', segment)
    first, second = visit(browser, address), visit(browser, address)
    first.segment(street_images[0])
    second.segment(street_images[1])
    gc.collect()
    assert [type(each()) for each in kept] == [Segmented, Segmented]
    first.end()
    wait_until(lambda: kept[0]() is None)
    assert kept[1]() is not None
    second.set_opacity(70)
    second.end()


def pictures_in_sessions():
    """Return the values that Gradio keeps for its sessions and that hold a picture."""
    from gradio.state_holder import SessionState

    sessions = [each for each in gc.get_objects() if type(each) is SessionState]
    values = [
        repr(config.get('props')) for each in sessions for config in each.components
    ]
    return [value for value in values if 'data:image/' in value]


def test_overlay_and_downloads_are_forgotten_as_well(
    browser, visit, address, street_images
):
    tab = visit(browser, address)
    tab.segment(street_images[0])
    tab.download('Download overlay')
    # The file is dropped as soon as it is saved, the overlay with the page.
    wait_until(
        lambda: ['image/png' in value for value in pictures_in_sessions()] == [False]
    )
    tab.end()
    wait_until(lambda: not pictures_in_sessions())


@pytest.fixture
def one_session(monkeypatch):
    """Allow the server to keep the picture of a single session."""
    monkeypatch.setattr(web_page, 'SESSIONS', 1)


def test_picture_that_is_no_longer_kept_is_a_message(
    one_session, browser, visit, address, street_images
):
    first, second = visit(browser, address), visit(browser, address)
    first.segment(street_images[0])
    second.segment(street_images[1])
    first.page.get_by_role('button', name='Download overlay').click()
    first.page.get_by_text('This picture is no longer kept: choose it again.').wait_for()
    first.segment(street_images[1])
    first.end()
    second.end()
