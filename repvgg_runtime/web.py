"""Show a model on a web page: drop a picture, see its labels."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import storage
from .errors import ConfigError, ImageError, UserError
from .extras import require
from .images import decode_image
from .inputs import find_inputs
from .open_model import open_model
from .web_page import Page
from .web_picture import Picture, check_picture

EXAMPLES = 12
"""Largest number of examples on the page."""

_OVERHEAD = 100_000
"""Bytes of a request beside the picture."""


class BodyLimit:
    """ASGI app that refuses what a page would never send.

    These are requests larger than a picture, and files for Gradio's folder of uploads.

    Args:
        app: The app that gets all other requests.
        max_bytes: Largest size of a picture's file.
    """

    def __init__(self, app: Any, max_bytes: int) -> None:
        self.app = app
        # The file is sent in base64.
        self.max_length = max_bytes * 4 // 3 + _OVERHEAD

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        from starlette.responses import PlainTextResponse

        app = self.app
        if scope['type'] == 'http' and scope['method'] in ('POST', 'PUT', 'PATCH'):
            headers = dict(scope['headers'])
            length = headers.get(b'content-length', b'')
            if scope['path'].endswith('/upload'):
                app = PlainTextResponse('this page takes no files here', 404)
            # h11 reads chunks to their end, whatever length is stated beside them.
            elif not length.isdigit() or b'transfer-encoding' in headers:
                app = PlainTextResponse('the request must state its length', 411)
            elif int(length) > self.max_length:
                app = PlainTextResponse('the request is too large', 413)
        await app(scope, receive, send)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status.

    It is 0 once Ctrl-C or SIGTERM ends it, and 2 for an error in the arguments or the
    environment.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _run(_parser().parse_args(arguments))
    except UserError as error:
        sys.stderr.write(f'error: {error}\n')
        return 2
    except KeyboardInterrupt:
        pass
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='mmseg-repvgg web', description=__doc__)
    add = parser.add_argument
    add(
        'model',
        help='exported file (.onnx, .xml, .pt), folder of save_pretrained or its id on '
        'the Hugging Face hub, or checkpoint with --config',
    )
    add('-c', '--config', help='config of a checkpoint: a file, or a name')
    add('--host', default='127.0.0.1', help='address to listen on; default %(default)s')
    add('--port', type=int, default=7860, help='0 for any free one; default %(default)s')
    add('--examples', metavar='FOLDER', help='pictures to choose from; the first 12')
    add('--max-megabytes', type=float, default=20, help='of a file; default 20')
    add('--max-megapixels', type=float, default=16, help='of a picture; default 16')
    add('--device', help='default: a GPU for a checkpoint if there is one, else cpu')
    add('--threads', type=int, help='threads on a CPU; default all cores')
    add(
        '--trust-checkpoint',
        action='store_true',
        help='unpickle whatever a checkpoint holds; only for checkpoints you trust',
    )
    return parser


def _run(args: argparse.Namespace) -> None:
    for name in ('max_megabytes', 'max_megapixels', 'threads'):
        value = getattr(args, name)
        if value is not None and value <= 0:
            option = name.replace('_', '-')
            raise ConfigError(f'--{option} must be more than 0, but got {value}')
    max_bytes, max_pixels = int(args.max_megabytes * 1e6), int(args.max_megapixels * 1e6)
    with (
        _listen(args.host, args.port) as listener,
        tempfile.TemporaryDirectory(prefix='mmseg_repvgg_web_') as folder,
    ):
        # Gradio reads these when it is imported.
        os.environ.update(
            GRADIO_TEMP_DIR=folder,
            GRADIO_ANALYTICS_ENABLED='False',
            GRADIO_RUN_HISTORY='False',
            HF_HUB_DISABLE_TELEMETRY='1',
        )
        require('gradio', 'web')
        segmenter = open_model(
            args.model,
            args.config,
            device=args.device,
            threads=args.threads,
            keep_trained=True,
            trust=args.trust_checkpoint,
        )
        if segmenter.bands != 3:
            raise ConfigError(
                f'{args.model} takes images of {segmenter.bands} bands, but the page '
                'shows images of three. Use mmseg-repvgg predict'
            )
        page = Page(
            segmenter,
            Path(args.config or args.model).stem,
            Path(args.model).name,
            _examples(args.examples, max_pixels) if args.examples else [],
            max_bytes=max_bytes,
            max_pixels=max_pixels,
        )
        _serve(page, listener, max_bytes)


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that a port that is taken is an error at once."""
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise ConfigError(
            f'port {port} of {host} cannot be opened: {reason}. Give another --port, 0 '
            'for any free one, or another --host'
        ) from error


def _examples(folder: str, max_pixels: int) -> list[Picture]:
    files = [each.path for each in find_inputs([folder]) if not each.is_video]
    pictures = [
        Picture(Path(file).name, storage.read_image_file(file))
        for file in files[:EXAMPLES]
    ]
    fit, errors = [], []
    for picture in pictures:
        try:
            check_picture(picture, max_pixels)
            decode_image(picture.data, picture.name)  # It may be truncated.
            fit.append(picture)
        except ImageError as error:
            errors.append(error)
    if not fit and errors:
        raise errors[0]
    for left_out in errors:
        sys.stderr.write(f'left out of the examples: {left_out}\n')
    return fit


def _serve(page: Page, listener: socket.socket, max_bytes: int) -> None:
    """Serve a page until the process is interrupted."""
    import uvicorn
    from fastapi import FastAPI

    app = FastAPI(openapi_url=None)
    page.mount(app)
    # Open pages hold a connection, which would keep the server from ending.
    config = uvicorn.Config(
        BodyLimit(app, max_bytes), log_level='error', timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    # Connections that are cut at the end are errors to uvicorn.
    logging.getLogger('uvicorn.error').addFilter(lambda record: not server.should_exit)
    host, port = listener.getsockname()[:2]
    host = f'[{host}]' if ':' in host else host
    # A browser that connects before the server runs waits for it.
    sys.stdout.write(f'{page.name} is shown at http://{host}:{port} until Ctrl-C\n')
    sys.stdout.flush()
    server.run(sockets=[listener])


if __name__ == '__main__':
    sys.exit(main())
