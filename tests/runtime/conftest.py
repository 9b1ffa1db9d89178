"""Exported files of the small trained network, and visits of the web page."""

from __future__ import annotations

import base64
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.export.exported import export


@pytest.fixture(scope='session')
def exported(trained, tmp_path_factory):
    """Export the small network: ``exported('onnx', output='logits')`` is the file."""
    folder, made = tmp_path_factory.mktemp('exported'), {}

    def make(to: str, **options) -> Path:
        key = (to, *sorted(options.items()))
        if key not in made:
            init_default_scope('mmseg')
            cfg = Config.fromfile(trained[0])
            suffix = dict(onnx='.onnx', openvino='.xml', torchscript='.pt')[to]
            path = folder / f'{len(made)}{suffix}'
            options = {'dynamic': 'size' not in options, **options}
            export(cfg, load_model(cfg, trained[1]), path, to, **options)
            made[key] = path
        return made[key]

    return make


class Visit:
    """A visit of the web page by a visitor with nothing in the browser's cache.

    Attributes:
        page: Playwright's page.
        requested: Addresses that the page has requested.
    """

    def __init__(self, browser: Any, address: str) -> None:
        # Tabs of one context share six connections, of which each tab keeps two.
        self.page = browser.new_context().new_page()
        # A page that hangs fails, but a busy machine has time enough.
        self.page.set_default_timeout(300_000)
        self.requested: set[str] = set()
        self.page.on('request', lambda request: self.requested.add(request.url))
        self.page.goto(address)
        self.page.wait_for_selector('.drop input', state='attached')

    def send(self, path: Path) -> None:
        """Choose a file in the dialog."""
        self.page.set_input_files('.drop input', path)

    def note(self, text: str) -> str:
        """Wait for a note that has a text, and return the whole note."""
        note = self.page.locator('#note .note', has_text=text)
        note.wait_for()
        return note.inner_text()

    def segment(self, path: Path) -> None:
        self.send(path)
        self.note(f'{path.name}: ')
        self.page.wait_for_selector('img.picture')

    def shown(self) -> np.ndarray:
        """Return the picture on the page, BGR."""
        url = self.page.get_attribute('img.picture', 'src')
        data = np.frombuffer(base64.b64decode(url.partition(',')[2]), np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_COLOR)

    def after(self, act: Callable[[], None]) -> np.ndarray:
        """Act, wait until the picture has changed, and return it."""
        before = self.page.get_attribute('img.picture', 'src')
        act()
        self.page.wait_for_function(
            'before => document.querySelector("img.picture").src !== before', arg=before
        )
        return self.shown()

    def set_opacity(self, percent: int | str) -> np.ndarray:
        """Move the slider by its field of numbers."""
        field = self.page.get_by_label('number input for Opacity')

        def act() -> None:
            field.fill(str(percent))
            field.blur()

        return self.after(act)

    def toggle(self, index: int) -> np.ndarray:
        """Switch a class on or off."""
        return self.after(lambda: self.page.click(f'#legend input[name="{index}"]'))

    def end(self) -> None:
        """Close the page."""
        self.page.context.close()

    def download(self, button: str) -> Path:
        with self.page.expect_download() as download:
            self.page.get_by_role('button', name=button).click()
        return download.value.path()


@pytest.fixture(scope='session')
def visit():
    """``visit(browser, address)`` opens the web page."""
    return Visit


@pytest.fixture(scope='session')
def serve():
    """``with serve(app) as port:`` serves an ASGI app in a thread of this process."""

    @contextlib.contextmanager
    def serve(app: Any, **options) -> Iterator[int]:
        uvicorn = pytest.importorskip('uvicorn')
        config = uvicorn.Config(
            app, port=0, log_level='error', timeout_graceful_shutdown=1, **options
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            end = time.monotonic() + 300
            while not server.started:
                assert thread.is_alive()
                assert time.monotonic() < end
                time.sleep(0.05)
            yield server.servers[0].sockets[0].getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(60)

    return serve
