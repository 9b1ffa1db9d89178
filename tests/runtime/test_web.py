"""The web page of a real server in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmseg_repvgg import Segmenter
from repvgg_runtime.painting import paint
from repvgg_runtime.segmenter import ExportedSegmenter
from repvgg_runtime.web import BodyLimit, main

pytestmark = pytest.mark.slow
pytest.importorskip('gradio')

REPO = Path(__file__).parents[2]
SESSIONS = 20


class Server:
    """A process of ``mmseg-repvgg web``, and the folders that it may write to."""

    def __init__(self, start, folder: Path, *arguments) -> None:
        self.cwd, self.home, self.temporary = (
            folder / name for name in ('cwd', 'home', 'temporary')
        )
        for each in (self.cwd, self.home, self.temporary):
            each.mkdir(parents=True)
        self.process = start(
            *(sys.executable, '-m', 'repvgg_runtime.command', 'web', *arguments),
            *('--port', 0),
            cwd=self.cwd,
            PYTHONPATH=str(REPO),
            HOME=str(self.home),
            TMPDIR=str(self.temporary),
        )
        self.address = self.process.wait_until(self.announced)

    def announced(self) -> str | None:
        """Return the address that the process has printed, if it has."""
        found = re.search(r'at (http://\S+) until', self.process.said())
        return found and found[1]

    def files(self) -> set[Path]:
        """Return all files that it may have written, but for compiled code."""
        folders = (self.cwd, self.home, self.temporary)
        files = {file for each in folders for file in each.rglob('*') if file.is_file()}
        return {file for file in files if '.cache/mmseg_repvgg' not in str(file)}

    def end(self, number: signal.Signals) -> None:
        """End it by a signal; it leaves no temporary file."""
        self.process.send_signal(number)
        said = self.process.finish()
        assert self.process.returncode == 0, said
        assert 'Traceback' not in said
        assert 'ERROR' not in said
        assert list(self.temporary.iterdir()) == []


@pytest.fixture(scope='module')
def start_server(starter, tmp_path_factory):
    with starter() as start:
        yield lambda *arguments: Server(start, tmp_path_factory.mktemp('web'), *arguments)


@pytest.fixture(scope='module')
def examples(street_images, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('examples')
    for path in street_images[:2]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope='module')
def file(exported) -> Path:
    return exported('onnx', output='logits', normalize=True)


@pytest.fixture(scope='module')
def server(start_server, file, examples):
    return start_server(
        *(file, '--examples', examples, '--max-megabytes', 0.3, '--max-megapixels', 0.1),
        *('--threads', 1),
    )


@pytest.fixture(scope='module')
def segmenter(file) -> ExportedSegmenter:
    return ExportedSegmenter(file, threads=1)


@pytest.fixture
def tab(browser, server, visit):
    tab = visit(browser, server.address)
    yield tab
    tab.end()


def assert_alike(shown, expected):
    """Compare with a picture that JPEG has changed a little."""
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).mean() < 6


def test_upload_shows_and_saves_what_the_segmenter_computes(
    tab, segmenter, street_images
):
    path = street_images[0]
    tab.segment(path)
    assert '128 x 64 pixels' in tab.note('segmented in')
    assert_alike(tab.shown(), segmenter.overlay(path))

    labels = segmenter(path)
    counts = np.bincount(labels.ravel(), minlength=19)
    legend = tab.page.locator('#legend .wrap label').all_inner_texts()
    assert len(legend) == np.count_nonzero(counts)
    largest = segmenter.classes[counts.argmax()]
    assert legend[0].strip() == f'{largest} {counts.max() / labels.size:.1%}'

    with Image.open(tab.download('Download label map')) as saved:
        names = json.loads(saved.text['classes'])
        assert names == {str(i): name for i, name in enumerate(segmenter.classes)}
        found = np.asarray(saved)
    assert found.dtype == np.uint8
    assert np.array_equal(found, labels)
    overlay = cv2.imread(str(tab.download('Download overlay')))
    assert np.array_equal(overlay, segmenter.overlay(path))


def test_page_requests_nothing_of_other_hosts(tab, server, street_images):
    tab.segment(street_images[0])
    tab.download('Download overlay')
    own = ('data:', 'blob:', f'{server.address}/')
    assert any(url.startswith(server.address) for url in tab.requested)
    assert [url for url in tab.requested if not url.startswith(own)] == []


def test_slider_and_legend_change_the_picture_and_its_download(
    tab, segmenter, street_images
):
    path = street_images[1]
    tab.segment(path)
    image, labels = cv2.imread(str(path)), segmenter(path)
    assert_alike(tab.set_opacity(100), paint(labels, segmenter.palette))
    largest = int(np.bincount(labels.ravel()).argmax())
    off = np.where(
        (labels == largest)[:, :, None], image, paint(labels, segmenter.palette)
    )
    assert_alike(tab.toggle(largest), off)
    assert np.array_equal(cv2.imread(str(tab.download('Download overlay'))), off)
    assert_alike(tab.set_opacity(0), image)
    tab.set_opacity(60)
    # A field is empty while another number is typed.
    assert_alike(tab.set_opacity(''), image)
    assert np.array_equal(cv2.imread(str(tab.download('Download overlay'))), image)


def test_colours_of_the_legend_are_those_of_the_classes(tab, segmenter, street_images):
    tab.segment(street_images[0])
    for index in np.unique(segmenter(street_images[0])):
        colour = tab.page.eval_on_selector(
            f'#legend input[name="{index}"] + span',
            'span => getComputedStyle(span, "::before").backgroundColor',
        )
        assert colour == 'rgb({}, {}, {})'.format(*segmenter.palette[index])


def test_example_is_segmented_also_twice(tab, segmenter, examples, street_images):
    files = sorted(examples.iterdir())
    for index in (1, 0, 0):
        tab.page.locator('#examples button.thumbnail-item').nth(index).click()
        tab.note(f'{files[index].name}: ')
        assert_alike(tab.shown(), segmenter.overlay(files[index]))
        tab.segment(street_images[2])


def test_what_cannot_be_segmented_is_a_message(tab, segmenter, street_images, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (350, 300, 3), np.uint8)
    bad = dict(text=b'no image at all', torn=street_images[0].read_bytes()[:-500])
    bad.update(empty=b'', vector=b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n')
    for name, content in bad.items():
        (tmp_path / f'{name}.png').write_bytes(content)
    Image.fromarray(noise).save(tmp_path / 'large.png')
    Image.new('RGB', (400, 300)).save(tmp_path / 'wide.png')
    Image.new('1', (20000, 20000)).save(tmp_path / 'huge.png')
    for name, says in (
        ('text', 'text.png is not an image'),
        ('torn', 'torn.png is truncated'),
        ('empty', 'empty.png is not an image'),
        ('vector', 'vector.png is not an image'),
        ('large', 'large.png has 0.3 MB, but at most 0.3 MB'),
        ('wide', 'wide.png has 400x300 pixels, but at most 0.1 million'),
        ('huge', 'huge.png has more pixels than are allowed'),
    ):
        tab.send(tmp_path / f'{name}.png')
        assert 'Traceback' not in tab.note(says)
    assert tab.page.locator('#note [role=alert]').count() == 1
    # It still works.
    tab.segment(street_images[0])
    assert_alike(tab.shown(), segmenter.overlay(street_images[0]))
    assert tab.page.locator('#note [role=alert]').count() == 0


def test_file_that_is_dropped_is_segmented(tab, segmenter, street_images):
    content = list(street_images[0].read_bytes())
    transfer = tab.page.evaluate_handle(
        """content => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(content)], 'dropped.png'));
            return transfer;
        }""",
        content,
    )
    tab.page.dispatch_event('.drop', 'drop', {'dataTransfer': transfer})
    tab.note('dropped.png: 128 x 64 pixels')
    assert_alike(tab.shown(), segmenter.overlay(street_images[0]))


def answer(port, *headers):
    """Return the status with which a server answers the head of a request."""
    head = ['POST /gradio_api/queue/join HTTP/1.1', 'Host: a', *headers, '', '']
    with socket.create_connection(('127.0.0.1', port), timeout=600) as client:
        client.sendall('\r\n'.join(head).encode())
        return int(client.recv(12).split()[1])


def test_requests_that_no_page_sends_are_refused(server, street_images):
    body = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    )
    body += street_images[0].read_bytes() + b'\r\n--x--\r\n'
    kind = {'Content-Type': 'multipart/form-data; boundary=x'}
    url = f'{server.address}/gradio_api/upload'
    before = server.files()
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(url, body, kind), timeout=600)
    assert caught.value.code == 404
    assert server.files() == before
    port = int(server.address.rpartition(':')[2])
    assert answer(port, 'Content-Length: 600000') == 413
    assert answer(port, 'Transfer-Encoding: chunked') == 411


@pytest.mark.parametrize('http', ['h11', 'httptools'])
def test_chunks_beside_a_length_are_refused(serve, http):
    """A server that reads them to their end would read more than the limit."""
    from starlette.responses import PlainTextResponse

    pytest.importorskip(http)
    with serve(BodyLimit(PlainTextResponse('taken'), 100), http=http) as port:
        assert answer(port, 'Content-Length: 5') == 200
        both = answer(port, 'Content-Length: 5', 'Transfer-Encoding: chunked')
        assert both in (400, 411)


def test_twenty_visitors_at_once_see_their_own_pictures(
    browser, server, visit, segmenter, street_images, tmp_path
):
    before = server.files()
    tabs = [visit(browser, server.address) for _ in range(SESSIONS)]
    images = [Image.open(path) for path in street_images]
    files = []
    for index in range(SESSIONS):
        image = images[index % 3].rotate(37 * index).resize((96 + index, 64))
        files.append(tmp_path / f'{index}.png')
        image.save(files[-1])
    for tab, path in zip(tabs, files):
        tab.send(path)
    for tab, path in zip(tabs, files):
        tab.note(f'{path.name}: ')
        tab.page.wait_for_selector('img.picture')
        assert_alike(tab.shown(), segmenter.overlay(path))
    # Nothing that was uploaded is on disk.
    assert server.files() == before
    for tab in tabs:
        tab.end()


def test_an_exported_file_has_a_single_form(tab, file, street_images):
    tab.segment(street_images[0])
    tab.page.get_by_role('button', name='Compare the forms').click()
    tab.page.wait_for_selector('#forms .single')
    text = tab.page.inner_text('#forms')
    assert re.search(rf'^{file.name} has a single form, which takes [\d.]+\sms', text)


def test_a_folder_of_a_segmenter_has_two_forms(
    start_server, browser, visit, trained, street_images, tmp_path
):
    segmenter = Segmenter(*trained, device='cpu')
    folder = segmenter.save_pretrained(tmp_path / 'model')
    server = start_server(folder)
    tab = visit(browser, server.address)
    assert tab.page.locator('#examples').count() == 0
    tab.segment(street_images[0])
    assert_alike(tab.shown(), segmenter.overlay(street_images[0]))
    tab.page.get_by_role('button', name='Compare the forms').click()
    tab.page.wait_for_selector('#forms table')
    rows = [row.split('\t') for row in tab.page.inner_text('#forms tbody').split('\n')]
    assert [row[0] for row in rows] == list(segmenter.forms())
    assert all(float(row[3].rstrip('%')) > 99 for row in rows)
    # A page that is open does not keep the server from ending.
    server.end(signal.SIGINT)
    tab.end()


def test_sigterm_leaves_nothing(server):
    """It comes last in this file, since the other tests use the server."""
    server.end(signal.SIGTERM)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command in this process: its error, which its status has to tell."""

    def run(*arguments) -> str:
        monkeypatch.setattr(signal, 'signal', lambda *args: None)
        assert main([*map(str, arguments)]) == 2
        return capsys.readouterr().err

    return run


def test_a_port_that_is_taken_is_named(run, file):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        says = run(file, '--port', port)
    assert says.startswith(f'error: port {port} of 127.0.0.1 cannot be opened: ')
    assert 'already in use' in says
    assert 'port 99999 of' in run(file, '--port', 99999)
    assert 'of no.such.host.invalid' in run(file, '--host', 'no.such.host.invalid')


def test_wrong_arguments_are_errors(run, file, five_bands, street_images, tmp_path):
    config, checkpoint, _ = five_bands
    (tmp_path / 'gone.png').symlink_to(tmp_path / 'nothing')
    assert 'gone.png' in run(file, '--examples', tmp_path, '--port', 0)
    (tmp_path / 'gone.png').unlink()
    assert 'takes images of 5 bands' in run(checkpoint, '-c', config, '--port', 0)
    assert 'must be more than 0' in run(file, '--max-megapixels', 0)
    assert 'has no image or video' in run(file, '--port', 0, '--examples', tmp_path)
    (tmp_path / 'torn.png').write_bytes(b'torn')
    assert 'torn.png is not' in run(file, '--port', 0, '--examples', tmp_path)
    # Its header is whole.
    (tmp_path / 'torn.png').write_bytes(street_images[0].read_bytes()[:-500])
    assert 'torn.png is truncated' in run(file, '--port', 0, '--examples', tmp_path)
    assert 'give its config' in run(checkpoint, '--port', 0)


def test_make_web_says_to_run_the_demo_first(tmp_path):
    command = ['make', 'web', f'WORK_DIR={tmp_path}', f'VENV={tmp_path}/venv']
    env = {name: value for name, value in os.environ.items() if 'MAKE' not in name}
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert 'make demo' in done.stderr
    assert list(tmp_path.iterdir()) == []
