"""Take the screenshot of docs/web.md.

After ``make demo``, with the extra ``dev`` and a Chromium of the system:

    python docs/web_screenshot.py OUT MODEL --examples FOLDER

MODEL and what follows are arguments of ``mmseg-repvgg web``, as in ``make web``.
"""

import io
import re
import shutil
import subprocess
import sys

from PIL import Image
from playwright.sync_api import sync_playwright

SIZE = {'width': 1280, 'height': 800}


def main() -> None:
    """Serve the page, segment its first example and save a picture of it."""
    out, *arguments = sys.argv[1:]
    command = [sys.executable, '-m', 'repvgg_runtime.command', 'web', '--port', '0']
    server = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        found = re.search(r'http://\S+', server.stdout.readline())
        assert found, 'the server has not started'
        picture = screenshot(found[0])
    finally:
        server.terminate()
        server.wait()
    # A fifth of the bytes, with little difference.
    small = Image.open(io.BytesIO(picture)).convert('RGB').quantize(112, kmeans=2)
    small.save(out, optimize=True)


def screenshot(address: str) -> bytes:
    """Return a PNG file of the page at an address."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which('chromium') or shutil.which('google-chrome'),
            args=['--no-sandbox', '--disable-gpu'],
        )
        page = browser.new_page(viewport=SIZE, color_scheme='light')
        page.goto(address)
        page.click('#examples button.thumbnail-item >> nth=0')
        page.wait_for_selector('img.picture')
        page.get_by_role('button', name='Compare the forms').click()
        page.wait_for_selector('#forms table')
        page.mouse.move(0, 0)
        return page.screenshot(full_page=True, animations='disabled')


if __name__ == '__main__':
    main()
