"""The server of docs/serving.md answers as ExportedSegmenter does."""

import base64
import contextlib
import io
import json
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repvgg_runtime.segmenter import ExportedSegmenter

pytestmark = pytest.mark.slow
pytest.importorskip('litserve')

REPO = Path(__file__).parents[2]


def fetch(url, body=None):
    """Return status, type and content of an answer."""
    request = urllib.request.Request(
        url,
        None if body is None else json.dumps(body).encode(),
        {'Content-Type': 'application/json'},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.headers['Content-Type'], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers['Content-Type'], error.read()


@pytest.fixture
def file(exported):
    return exported('onnx', output='logits', normalize=True)


@pytest.fixture
def server(file, tmp_path, start, free_port):
    (code,) = re.findall(
        r'```python\n(.*?)```', (REPO / 'docs/serving.md').read_text(), flags=re.S
    )
    (tmp_path / 'serve.py').write_text(code)
    port = free_port()
    process = start(
        *(sys.executable, 'serve.py', file, '--port', port, '--threads', 1),
        cwd=tmp_path,
        PYTHONPATH=str(REPO),
    )
    address = f'http://127.0.0.1:{port}'

    def answers():
        with contextlib.suppress(OSError):
            return fetch(f'{address}/health')[0] == 200

    process.wait_until(answers, every=0.2)
    return address


def test_labels_equal_those_of_the_segmenter(
    server, file, street_images, assert_best_labels
):
    expected = ExportedSegmenter(file).probabilities(street_images)
    for path, probabilities in zip(street_images, expected):
        body = {'image': base64.b64encode(path.read_bytes()).decode()}
        status, kind, content = fetch(f'{server}/predict', body)
        assert (status, kind) == (200, 'image/png')
        found = np.asarray(Image.open(io.BytesIO(content)))
        assert found.dtype == np.uint8
        assert_best_labels(found, probabilities)

    torn = path.read_bytes()[:-500]
    for body, says in (
        ({'image': base64.b64encode(torn).decode()}, 'of the request is truncated'),
        ({'image': base64.b64encode(b'no image').decode()}, 'not an image'),
        ({'image': '%'}, 'must be base64'),
        ({'image': 3}, 'must be base64'),
        ({}, 'must be base64'),
        ([], 'must be base64'),
    ):
        status, _, content = fetch(f'{server}/predict', body)
        assert status == 400, content
        assert says in content.decode()
        assert 'Traceback' not in content.decode()
    # It still answers.
    good = {'image': base64.b64encode(path.read_bytes()).decode()}
    assert fetch(f'{server}/predict', good)[0] == 200
