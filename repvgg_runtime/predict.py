"""Segment images, videos and cameras."""

from __future__ import annotations

import argparse
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from .bands import Bands
from .errors import ConfigError, DataError, ImageError, UserError
from .inputs import Input, find_inputs, shard
from .on_ray import predict_on_ray
from .open_model import open_model
from .outputs import IDS, KINDS, PICTURES, Outputs, Places, segment_batch
from .progress import Progress
from .segmenter import BaseSegmenter
from .storage import is_url
from .video import film_name, predict_video

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
        segmenter: Segmenter.
        images: The files.
        outputs: Where and what to write.
        batch_size: Number of images that are computed at once.
        on_done: Called with the number of images after each batch.

    Returns:
        Error message of each file that cannot be read or written, by its path.

    Raises:
        WriteError: If a file cannot be written.
    """
    broken: dict[str, str] = {}
    batch: list[tuple[Input, Bands]] = []

    def flush() -> None:
        broken.update(segment_batch(segmenter, batch, outputs))
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status.

    It is 0, 1 if some images or videos failed, 2 for an error in the arguments or the
    environment, and 130 for Ctrl-C. Under torchrun it is 0 even if some failed,
    since torchrun ends all processes when one fails.
    """
    try:
        return _run(_parser().parse_args(arguments))
    except UserError as error:
        sys.stderr.write(f'error: {error}\n')
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(
            '\ninterrupted: without --overwrite, the command goes on from here\n'
        )
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
        choices=['torch', 'phases', 'winograd', 'auto'],
        help='what computes a checkpoint on a CPU; default auto',
    )
    add(
        '--precision',
        choices=['highest', 'high', 'medium'],
        help='of --engine winograd and auto; default highest (float32)',
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


def _torchrun_part() -> tuple[int, int] | None:
    """Return the part of this process, counted from 1, and the number of processes."""
    rank, count = os.environ.get('RANK'), os.environ.get('WORLD_SIZE')
    if rank is None or count in (None, '1'):
        return None
    if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
        raise ConfigError(
            f'RANK {rank!r} and WORLD_SIZE {count!r} are not those of torchrun. Unset '
            'them, or give --shard'
        )
    return int(rank) + 1, int(count)


def _check(args: argparse.Namespace) -> None:
    for name in ('batch_size', 'threads', 'frames', 'workers'):
        value = getattr(args, name)
        if value is not None and value < 1:
            option = name.replace('_', '-')
            raise ConfigError(f'--{option} must be at least 1, but got {value}')
    if args.workers and not args.ray:
        raise ConfigError('--workers needs --ray')
    if not args.out:
        raise ConfigError("--out must name a folder, but got ''")
    if '-' in args.inputs and sys.stdin is None:
        raise ConfigError('- takes a list from stdin, but stdin is closed')


def _run(args: argparse.Namespace) -> int:
    _check(args)
    from_torchrun = None if args.shard else _torchrun_part()
    if from_torchrun and '-' in args.inputs:
        raise ConfigError(
            '- takes a list from stdin, which torchrun gives to one process only. Give '
            'files, folders or globs, or run each process with --shard'
        )
    # Results of an earlier run may lie in an input folder.
    results = [f'{args.out.rstrip("/")}/{kind}' for kind in KINDS]
    inputs = find_inputs(args.inputs, sys.stdin, without=results)
    inputs = shard(inputs, *(args.shard or from_torchrun or (1, 1)))
    places = Places(args.out, args.save)
    images = [each for each in inputs if not each.is_video]
    videos = [each for each in inputs if each.is_video]
    if not args.overwrite:
        images = [each for each in images if not places.exist(each.name)]
        videos = [
            each
            for each in videos
            if not places.films_exist(film_name(each, args.frames))
        ]
    if videos and is_url(args.out) and set(PICTURES) & set(args.save):
        raise ConfigError(
            f'--out {args.out} is an address, but the MP4 file of {videos[0].path} needs '
            'a folder of this machine. Give a folder, or --save labels'
        )
    done_before = len(inputs) - len(images) - len(videos)
    model = dict(
        model=args.model,
        config=args.config,
        device=args.device,
        threads=args.threads,
        engine=args.engine,
        precision=args.precision,
        tta=args.tta,
        trust=args.trust_checkpoint,
    )
    style = dict(ids=args.ids, opacity=args.opacity)
    lines = []
    if args.ray:
        if videos:
            raise ConfigError(f'--ray takes images only, but got {videos[0].path}')
        progress = Progress(len(images))
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
    else:
        segmenter = open_model(**model)
        outputs = Outputs(places, segmenter, **style)
        progress = Progress(len(images))
        broken = predict_images(
            segmenter,
            images,
            outputs,
            batch_size=args.batch_size,
            on_done=progress.add,
        )
    if images:
        lines.append(_line('images', len(images) - len(broken), progress))
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
        lines.append(f'done before: {done_before}; --overwrite segments them again')
    sys.stdout.write('\n'.join([*lines, f'results in {args.out}', '']))
    if broken:
        sys.stderr.write(f'failed: {len(broken)}\n')
        sys.stderr.writelines(f'  {message}\n' for message in broken.values())
    return 1 if broken and not from_torchrun else 0


def _line(what: str, count: int, progress: Progress) -> str:
    progress.close()
    return f'{what}: {count}, {progress.rate(count):.1f} per second'


if __name__ == '__main__':
    sys.exit(main())
