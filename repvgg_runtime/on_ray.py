"""Segment images on a Ray cluster."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .backends import last_line
from .errors import ConfigError, ImageError
from .extras import require
from .inputs import Input
from .open_model import is_exported, open_model
from .outputs import Outputs, Places, segment_batch
from .storage import is_url


class SegmentBatch:
    """Callable class for ``ray.data.Dataset.map_batches``.

    It takes batches of ``bytes``, the content of image files, and ``path``, writes the
    results, and gives ``path`` and ``error``, which is empty where an image was done. A
    worker that is killed is started again by Ray with the same images, of which those are
    left out whose results exist.

    Args:
        model: Arguments of :func:`~repvgg_runtime.open_model.open_model`.
        places: Where and what to write, on a file system or in a store that every node
            sees.
        names: Path of the results of each image below a folder, without a suffix, by the
            path of the image: a dict, or Ray's reference to one.
        style: ``ids`` and ``opacity`` of :class:`~repvgg_runtime.outputs.Outputs`.
        overwrite: Segment images again whose results exist.
    """

    def __init__(
        self,
        model: dict[str, Any],
        places: Places,
        names: Any,
        style: dict[str, Any],
        overwrite: bool = False,
    ) -> None:
        self._segmenter = open_model(**model)
        self._outputs = Outputs(places, self._segmenter, **style)
        by_path = names if isinstance(names, dict) else require('ray', 'ray').get(names)
        self._names: dict[str, str] = by_path
        self._overwrite = overwrite

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Segment and write a batch."""
        errors: dict[str, str] = {}
        images = []
        for path, data in zip(map(str, batch['path']), batch['bytes']):
            source = Input(path, self._names[path])
            if self._overwrite or not self._outputs.places.exist(source.name):
                try:
                    images.append((source, self._segmenter.decode(data, path)))
                except ImageError as error:
                    errors[path] = str(error)
        errors |= segment_batch(self._segmenter, images, self._outputs)
        each_error = [errors.get(str(path), '') for path in batch['path']]
        return {'path': batch['path'], 'error': np.array(each_error, object)}


def predict_on_ray(
    address: str,
    images: Sequence[Input],
    places: Places,
    model: dict[str, Any],
    style: dict[str, Any],
    *,
    batch_size: int = 1,
    workers: int | None = None,
    overwrite: bool = False,
    on_done: Callable[[int], None] = lambda count: None,
) -> dict[str, str]:
    """Segment image files on a Ray cluster; Ray reads them.

    Args:
        address: Address of the cluster, ``'auto'``, or ``'local'`` to start one.
        images: The files, on a file system or in a store that every node sees.
        places: As for :class:`SegmentBatch`.
        model: As for :class:`SegmentBatch`; a worker computes with one thread unless it
            says otherwise.
        style: ``ids`` and ``opacity``.
        batch_size: Number of images that are computed at once.
        workers: Number of workers; by default one for each GPU, or else for each CPU.
        overwrite: Segment images again whose results exist.
        on_done: Called with 1 for each image.

    Returns:
        Error message of each file that cannot be read or written, by its path.

    Raises:
        ConfigError: If there is no cluster at the address, or the workers fail.
        ExtraError: If Ray is not installed.
    """
    # Ray would end with an error at a missing file.
    gone = {each.path for each in images if _is_missing(each.path)}
    broken = {path: f'the image {path} does not exist' for path in gone}
    images = [each for each in images if each.path not in gone]
    on_done(len(broken))
    if not images:
        return broken
    # Ray warns that its workers do not outlive this process, which is intended.
    os.environ.setdefault('RAY_BACKEND_LOG_LEVEL', 'fatal')
    ray = require('ray', 'ray')
    data = require('ray.data', 'ray')
    _check_address(address)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            ignore_reinit_error=True,
            logging_level='ERROR',
        )
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f'there is no Ray cluster at {address}: {error}') from error
    data.DataContext.get_current().enable_progress_bars = False
    # An error of a worker is raised here.
    logging.getLogger('ray.data').setLevel(logging.CRITICAL)
    resources = ray.cluster_resources()
    gpus, cpus = (int(resources.get(name, 0)) for name in ('GPU', 'CPU'))
    default = 'cpu' if is_exported(model['model'], model.get('config')) else 'cuda'
    on_gpu = gpus > 0 and (model.get('device') or default).startswith('cuda')
    threads = model.get('threads') or 1
    count = workers or (gpus if on_gpu else max(cpus // threads, 1))
    wholes = [_whole(each.path) for each in images]
    # Ray gives addresses back without their scheme.
    given_back = [whole.partition('://')[2] or whole for whole in wholes]
    paths = dict(zip(given_back, images))
    named = {key: str(model[key]) for key in ('model', 'config') if model.get(key)}
    files = {key: _whole(path) for key, path in named.items() if os.path.exists(path)}
    # The driver keeps the names: a worker that starts again must find them.
    names = ray.put({path: each.name for path, each in paths.items()})
    # If workers took all CPUs, none would be left to read images.
    read = data.read_binary_files(wholes, include_paths=True, num_cpus=0.1)
    results = read.map_batches(
        SegmentBatch,
        fn_constructor_kwargs=dict(
            model={**model, **files, 'threads': threads},
            places=Places(_whole(places.folder), places.kinds),
            names=names,
            style=style,
            overwrite=overwrite,
        ),
        batch_size=batch_size,
        compute=data.ActorPoolStrategy(size=count),
        num_cpus=0.9 * threads,
        num_gpus=1 if on_gpu else 0,
    )
    try:
        for row in results.iter_rows():
            if row['error']:
                broken[paths[row['path']].path] = row['error']
            on_done(1)
    except ray.exceptions.RayError as error:
        raise ConfigError(f'a Ray worker failed: {last_line(error)}') from error
    return broken


def _check_address(address: str) -> None:
    """Raise a ConfigError if nothing listens at HOST:PORT, where Ray waits forever."""
    host, colon, port = address.removeprefix('ray://').rpartition(':')
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip('[]'), int(port)), timeout=5).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(f'there is no Ray cluster at {address}: {error}') from error


def _is_missing(path: str) -> bool:
    return not is_url(path) and not os.path.exists(path)


def _whole(path: str) -> str:
    """Return a path for workers, which have a working folder of their own."""
    return path if is_url(path) else os.path.abspath(path)
