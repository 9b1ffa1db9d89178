"""Segment images, videos and cameras."""

from __future__ import annotations

import argparse
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import cv2

from .bands import Bands
from .errors import ConfigError, DataError, ImageError, UserError
from .images import Pixels
from .inputs import CAMERA, Input, find_inputs, shard
from .on_ray import predict_on_ray
from .open_model import open_model
from .outputs import IDS, KINDS, PICTURES, Film, Outputs, Places
from .progress import Progress
from .segmenter import BaseSegmenter

READERS = 2
"""Threads that read images while the network computes."""


def predict_images(
    segmenter: BaseSegmenter,
    images: Sequence[Input],
    outputs: Outputs,
    *,
    batch_size: int = 1,
    on_done: Callable[[int], None] = lambda count: None,
) -> dict[str, str]:
    """Segment image files and write what is asked for.

    Args:
        segmenter: What predicts.
        images: The files.
        outputs: Where and what to write.
        batch_size: Number of images that are computed at once.
        on_done: Called with the number of images after each batch.

    Returns:
        What is wrong with each file that cannot be read, by its path.

    Raises:
        WriteError: If a file cannot be written.
    """
    broken: dict[str, str] = {}
    batch: list[tuple[Input, Bands]] = []

    def flush() -> None:
        found = segmenter.predict(
            [pixels for _, pixels in batch], probabilities=outputs.needs_probabilities
        )
        for (source, pixels), each in zip(batch, found):
            outputs.write(source.name, pixels, each)
        on_done(len(batch))
        batch.clear()

    for source, read in _read_ahead(segmenter, images, 2 * batch_size):
        try:
            batch.append((source, read.result()))
        except (ImageError, DataError) as error:
            broken[source.path] = str(error)
            on_done(1)
        if len(batch) == batch_size:
            flush()
    if batch:
        flush()
    return broken


def _read_ahead(
    segmenter: BaseSegmenter, images: Sequence[Input], count: int
) -> Iterator[tuple[Input, Future[Bands]]]:
    """Yield the images in order, with some more being read in other threads."""
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[tuple[Input, Future[Bands]]] = deque()
        try:
            for source in images:
                waiting.append((source, pool.submit(segmenter.read, source.path)))
                if len(waiting) > count:
                    yield waiting.popleft()
            yield from waiting
        finally:
            pool.shutdown(cancel_futures=True)


def predict_video(
    segmenter: BaseSegmenter,
    source: Input,
    outputs: Outputs,
    *,
    frames: int | None = None,
    on_done: Callable[[int], None] = lambda count: None,
) -> int:
    """Segment the frames of a video or a camera.

    Pictures become an MP4 video, label maps and probabilities a file for each frame.

    Args:
        segmenter: What predicts.
        source: The video or camera.
        outputs: Where and what to write.
        frames: Largest number of frames.
        on_done: Called with 1 after each frame.

    Returns:
        The number of frames.

    Raises:
        DataError: If it cannot be opened or has no frame.
        WriteError: If a file cannot be written.
    """
    capture = _capture(source)
    rate = capture.get(cv2.CAP_PROP_FPS) or 25
    files = [kind for kind in outputs.places.kinds if kind not in PICTURES]
    count = 0
    with ExitStack() as stack:
        stack.callback(capture.release)
        films: dict[str, Film] = {}
        for frame in _frames(capture, frames):
            if not count:
                films = {
                    kind: stack.enter_context(
                        Film(outputs.places.film(source.name, kind), rate)
                    )
                    for kind in outputs.places.kinds
                    if kind in PICTURES
                }
            (found,) = segmenter.predict(
                [segmenter.read(frame)], probabilities=outputs.needs_probabilities
            )
            for kind, film in films.items():
                film.write(outputs.picture(kind, frame, found))
            outputs.write(f'{source.name}/{count:06d}', frame, found, files)
            count += 1
            on_done(1)
        if not count:
            raise DataError(f'{source.path} cannot be opened as a video, or has no frame')
    return count


def _capture(source: Input) -> Any:
    if source.path.startswith(CAMERA):
        return cv2.VideoCapture(int(source.path[len(CAMERA) :]))
    return cv2.VideoCapture(source.path)


def _frames(capture: Any, count: int | None) -> Iterator[Pixels]:
    """Yield frames until there are no more; Ctrl-C ends them too."""
    try:
        while count is None or count > 0:
            there, frame = capture.read()
            if not there:
                return
            yield frame
            count = None if count is None else count - 1
    except KeyboardInterrupt:
        return


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status.

    It is 0, 1 if some images cannot be read, 2 for an error in the arguments or the
    environment, and 130 for Ctrl-C.
    """
    try:
        return _run(_parser().parse_args(arguments))
    except UserError as error:
        sys.stderr.write(f'error: {error}\n')
        return 2
    except KeyboardInterrupt:
        sys.stderr.write('\ninterrupted: the same command goes on from here\n')
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='mmseg-repvgg predict', description=__doc__)
    add = parser.add_argument
    add(
        'inputs',
        nargs='+',
        metavar='INPUT',
        help='image, folder, glob, video, camera:NUMBER, or - for a list on stdin',
    )
    add('-o', '--out', required=True, help='folder for the results')
    add(
        '-m',
        '--model',
        required=True,
        help='exported file (.onnx, .xml, .pt), folder of save_pretrained or its id on '
        'the Hugging Face hub, or checkpoint with --config',
    )
    add('-c', '--config', help='config of a checkpoint: a file, or a name')
    add(
        '--save',
        nargs='+',
        choices=list(KINDS),
        default=['labels', 'overlay'],
        help='what to write, each into a folder of its name; default labels overlay',
    )
    add(
        '--ids',
        choices=IDS,
        default='train',
        help="numbers in the label maps: of training, or the data set's own",
    )
    add('--opacity', type=float, default=0.5, help='of overlays, 0 to 1; default 0.5')
    add('--batch-size', type=int, default=1, help='images at once; default 1')
    add('--device', help='default: a GPU for a checkpoint if there is one, else cpu')
    add('--threads', type=int, help='threads on a CPU; default all cores')
    add(
        '--engine',
        choices=['torch', 'winograd', 'auto'],
        help='what computes a checkpoint on a CPU; default auto',
    )
    add('--tta', action='store_true', help='average over scales and flips (checkpoint)')
    add('--frames', type=int, help='stop a video or camera after so many frames')
    add(
        '--shard',
        type=_shard,
        metavar='I/N',
        help='segment the I-th of N parts of the inputs only; torchrun sets it',
    )
    add(
        '--ray',
        metavar='ADDRESS',
        help="segment on a Ray cluster: its address, 'auto' for the one of this machine, "
        "or 'local' to start one",
    )
    add(
        '--workers',
        type=int,
        help='with --ray, number of workers; default one for each GPU, or else each CPU',
    )
    add('--overwrite', action='store_true', help='segment images again that are done')
    add(
        '--trust-checkpoint',
        action='store_true',
        help='unpickle whatever a checkpoint holds; only for checkpoints you trust',
    )
    return parser


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition('/')
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise argparse.ArgumentTypeError(f'it must be I/N, such as 1/4, but is {text!r}')
    if not 1 <= int(index) <= int(count):
        raise argparse.ArgumentTypeError(f'I must be from 1 to N, but it is {text!r}')
    return int(index), int(count)


def _run(args: argparse.Namespace) -> int:
    if args.batch_size < 1:
        raise ConfigError(f'--batch-size must be at least 1, but got {args.batch_size}')
    inputs = find_inputs(args.inputs, sys.stdin)
    part = args.shard or (
        int(os.environ.get('RANK', 0)) + 1,
        int(os.environ.get('WORLD_SIZE', 1)),
    )
    inputs = shard(inputs, *part)
    places = Places(args.out, args.save)
    images = [each for each in inputs if not each.is_video]
    videos = [each for each in inputs if each.is_video]
    if not args.overwrite:
        images = [each for each in images if not places.exist(each.name)]
        videos = [each for each in videos if not places.films_exist(each.name)]
    done_before = len(inputs) - len(images) - len(videos)
    model = dict(
        model=args.model,
        config=args.config,
        device=args.device,
        threads=args.threads,
        engine=args.engine,
        tta=args.tta,
        trust=args.trust_checkpoint,
    )
    style = dict(ids=args.ids, opacity=args.opacity)
    progress = Progress(len(images))
    if args.ray:
        if videos:
            raise ConfigError(f'--ray takes images only, but got {videos[0].path}')
        broken = predict_on_ray(
            args.ray,
            images,
            places,
            model,
            style,
            batch_size=args.batch_size,
            workers=args.workers,
            overwrite=args.overwrite,
            on_done=progress.add,
        )
        lines = [_line('images', len(images) - len(broken), progress)]
    else:
        segmenter = open_model(**model)
        outputs = Outputs(places, segmenter, **style)
        broken = predict_images(
            segmenter,
            images,
            outputs,
            batch_size=args.batch_size,
            on_done=progress.add,
        )
        lines = [_line('images', len(images) - len(broken), progress)]
        for source in videos:
            progress = Progress(args.frames, 'frames')
            try:
                count = predict_video(
                    segmenter,
                    source,
                    outputs,
                    frames=args.frames,
                    on_done=progress.add,
                )
                lines.append(_line(f'frames of {source.path}', count, progress))
            except (DataError, ImageError) as error:
                broken[source.path] = str(error)
    if done_before:
        lines.append(f'done before: {done_before}; --overwrite does them again')
    sys.stdout.write('\n'.join([*lines, f'results in {args.out}', '']))
    if broken:
        sys.stderr.write(f'could not be read: {len(broken)}\n')
        sys.stderr.writelines(f'  {message}\n' for message in broken.values())
    return 1 if broken else 0


def _line(what: str, count: int, progress: Progress) -> str:
    progress.close()
    return f'{what}: {count}, {progress.rate():.1f} per second'


if __name__ == '__main__':
    sys.exit(main())
