"""A model goes to a hub and comes back, over HTTP to a server of the test's own."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from mmseg_repvgg import Segmenter

pytest.importorskip('huggingface_hub')

REPO = Path(__file__).parents[2]
COMMIT = '1' * 40


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's interface that uploading and downloading a folder uses."""

    def log_message(self, *args):
        pass

    def answer(self, value=None, status=200, data=None, **headers):
        data = json.dumps(value).encode() if data is None else data
        self.send_response(status)
        for name, text in {'Content-Length': str(len(data)), **headers}.items():
            self.send_header(name.replace('_', '-'), text)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data)

    def do_POST(self):
        files = self.server.files
        body = self.rfile.read(int(self.headers['Content-Length']))
        if self.path == '/api/repos/create':
            repo = json.loads(body)
            # Older versions send `private`.
            assert repo.get('visibility') == 'private' or repo.get('private')
            self.server.created = True
            self.answer({'url': f'{self.server.address}/someone/{repo["name"]}'})
        elif self.path == '/api/validate-yaml':
            self.answer({'errors': [], 'warnings': []})
        elif '/preupload/' in self.path:
            names = [each['path'] for each in json.loads(body)['files']]
            modes = [
                dict(path=name, uploadMode='regular', shouldIgnore=False, oid=None)
                for name in names
            ]
            self.answer({'files': modes})
        elif '/commit/' in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry['key'] == 'file':
                    value = entry['value']
                    files[value['path']] = base64.b64decode(value['content'])
            url = f'{self.server.address}/someone/street/commit/{COMMIT}'
            self.answer({'commitUrl': url, 'commitOid': COMMIT})
        else:
            self.answer({'error': self.path}, 404)

    def do_GET(self):
        files = self.server.files
        if found := re.fullmatch(rf'/someone/street/resolve/{COMMIT}/(.+)', self.path):
            data = files[found[1]]
            etag = f'"{hashlib.sha256(data).hexdigest()}"'
            self.answer(data=data, ETag=etag, X_Repo_Commit=COMMIT)
        elif self.path.startswith('/api/models/someone/street/tree/'):
            entries = [
                dict(type='file', path=name, size=len(data), oid='0' * 40)
                for name, data in files.items()
            ]
            self.answer(entries)
        elif self.path.startswith('/api/models/someone/street/'):
            listed = [dict(rfilename=name) for name in files]
            model = dict(id='someone/street', sha=COMMIT, siblings=listed)
            created = self.server.created
            self.answer(model if created else {}, 200 if created else 404)
        else:
            self.answer({'error': self.path}, 404, X_Error_Code='RepoNotFound')

    def do_HEAD(self):
        self.do_GET()


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    server.files = {}
    server.created = False
    server.address = f'http://127.0.0.1:{server.server_port}'
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run(hub, tmp_path):
    """Run code in a process whose hub is the server."""

    def run(code, *arguments):
        return subprocess.run(
            [sys.executable, '-c', code, *map(str, arguments)],
            cwd=tmp_path,
            env={
                **os.environ,
                'HF_ENDPOINT': hub.address,
                'HF_HOME': str(tmp_path / 'cache'),
                'HF_TOKEN': 'hf_of_the_test',
                'HF_HUB_DISABLE_TELEMETRY': '1',
                'PYTHONPATH': str(REPO),
            },
            capture_output=True,
            text=True,
        )

    return run


PUSH = """
import sys
from mmseg_repvgg import Segmenter
segmenter = Segmenter(*sys.argv[1:], device='cpu')
print(segmenter.push_to_hub('someone/street', private=True, licence='mit'))
"""

READ = """
import sys
import numpy as np
from mmseg_repvgg import Segmenter
segmenter = Segmenter.from_pretrained(sys.argv[1], device='cpu')
np.save('labels.npy', segmenter(sys.argv[2]))
"""


def test_a_model_goes_to_the_hub_and_comes_back(
    hub, run, trained, street_images, tmp_path
):
    done = run(PUSH, *trained)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f'{hub.address}/someone/street/commit/{COMMIT}\n')
    assert set(hub.files) == {'README.md', 'config.json', 'model.safetensors'}
    assert b'license: mit' in hub.files['README.md']
    done = run(READ, 'someone/street', street_images[0])
    assert done.returncode == 0, done.stderr
    expected = Segmenter(*trained, device='cpu')(street_images[0])
    assert (np.load(tmp_path / 'labels.npy') != expected).mean() < 1e-3


def test_an_unknown_id_says_so(run, street_images):
    done = run(READ, 'someone/none', street_images[0])
    assert 'someone/none is no folder, and cannot be fetched from the' in done.stderr
