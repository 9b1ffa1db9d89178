"""The command that segments images, videos and cameras."""

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmseg_repvgg import Segmenter
from repvgg_runtime import predict as module
from repvgg_runtime import video as video_module
from repvgg_runtime.predict import main
from repvgg_runtime.segmenter import ExportedSegmenter

REPO = Path(__file__).parents[2]

# The command runs without these packages if the model is an exported file.
WITHOUT_TORCH = """
import sys
for name in ('torch', 'mmseg', 'mmengine', 'mmcv', 'mmseg_repvgg'):
    sys.modules[name] = None  # importing it is now an ImportError
from repvgg_runtime.predict import main
status = main(sys.argv[1:])
known = {'numpy', 'cv2', 'PIL', 'onnxruntime', 'openvino'}
print(sorted(known & set(sys.modules)))
sys.exit(status)
"""


@pytest.fixture
def pictures(tmp_path, monkeypatch, street_images):
    """A folder of 5 images, two of them in a subfolder, which is left."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / 'pictures'
    (folder / 'sub').mkdir(parents=True)
    for index in range(5):
        name = f'{"sub/" if index > 2 else ""}{index}.png'
        image = np.roll(cv2.imread(str(street_images[0])), 16 * index, 1)
        cv2.imwrite(str(folder / name), image)
    return folder


def labels_in(folder):
    return {
        path.relative_to(folder / 'labels').as_posix(): cv2.imread(str(path), -1)
        for path in sorted((folder / 'labels').rglob('*.png'))
    }


def test_a_folder_is_segmented(exported, pictures, tmp_path, capsys, assert_best_labels):
    file = exported('onnx', output='logits')
    assert main(['pictures', '-o', 'out', '-m', str(file), '--batch-size', '2']) == 0
    found = labels_in(tmp_path / 'out')
    assert list(found) == ['0.png', '1.png', '2.png', 'sub/3.png', 'sub/4.png']
    segmenter = ExportedSegmenter(file)
    for name, labels in found.items():
        assert_best_labels(labels, segmenter.probabilities(pictures / name))
    assert len(list((tmp_path / 'out' / 'overlay').rglob('*.jpg'))) == 5
    assert capsys.readouterr().out.startswith('images: 5, ')


def test_checkpoints_folders_and_files_give_the_same(
    exported, trained, pictures, tmp_path, assert_best_labels
):
    segmenter = Segmenter(*trained, device='cpu')
    segmenter.save_pretrained(tmp_path / 'model')
    config, checkpoint = trained
    models = {
        'checkpoint': ['-m', checkpoint, '-c', config],
        'pretrained': ['-m', 'model', '--engine', 'torch'],
        'onnx': ['-m', str(exported('onnx', output='labels'))],
        'openvino': ['-m', str(exported('openvino', output='labels'))],
    }
    expected = segmenter.probabilities('pictures/0.png')
    for name, arguments in models.items():
        assert main(['pictures/0.png', '-o', name, *arguments, '--device', 'cpu']) == 0
        assert_best_labels(labels_in(tmp_path / name)['0.png'], expected)


def test_an_exported_file_needs_no_torch(exported, pictures, tmp_path):
    for to, runtime in (('onnx', 'onnxruntime'), ('openvino', 'openvino')):
        file = exported(to, output='logits', normalize=True)
        done = subprocess.run(
            [sys.executable, '-c', WITHOUT_TORCH, 'pictures', '-o', to, '-m', file],
            cwd=tmp_path,
            env={**os.environ, 'PYTHONPATH': str(REPO)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(f'{["PIL", "cv2", "numpy", runtime]}\n')
        assert len(labels_in(tmp_path / to)) == 5


def test_tiff_files_of_five_bands_are_segmented(five_bands, tmp_path, capsys):
    config, checkpoint, files = five_bands
    (tmp_path / 'torn.tif').write_bytes(files[0].read_bytes()[:9000])
    out, inputs = (
        tmp_path / 'out',
        [str(path) for path in (*files, tmp_path / 'torn.tif')],
    )
    options = ['-m', checkpoint, '-c', config, '--device', 'cpu', '--engine', 'torch']
    assert main([*inputs, '-o', str(out), *options]) == 1
    assert 'torn.tif is truncated or not a TIFF file' in capsys.readouterr().err
    found = labels_in(out)
    segmenter = Segmenter(config, checkpoint, device='cpu', engine='torch')
    for file in files:
        assert np.array_equal(found[f'{file.stem}.png'], segmenter(file))
        overlay = cv2.imread(str(out / 'overlay' / f'{file.stem}.jpg'))
        expected = segmenter.overlay(file)
        # JPEG changes pixels a little.
        assert np.abs(overlay.astype(int) - expected).mean() < 16


def test_a_broken_image_is_named_and_the_others_done(exported, pictures, capsys):
    whole = (pictures / '0.png').read_bytes()
    (pictures / '1.png').write_bytes(whole[: len(whole) // 2])
    (pictures / 'sub' / '3.png').write_text('no image')
    file = str(exported('onnx', output='labels'))
    assert main(['pictures', '-o', 'out', '-m', file, '--batch-size', '2']) == 1
    assert list(labels_in(Path('out'))) == ['0.png', '2.png', 'sub/4.png']
    said = capsys.readouterr()
    assert said.out.startswith('images: 3, ')
    assert 'failed: 2' in said.err
    assert 'pictures/1.png is truncated' in said.err
    assert 'pictures/sub/3.png is truncated or not an image' in said.err


def test_what_is_done_is_not_done_again(exported, pictures, capsys):
    arguments = ['pictures', '-o', 'out', '-m', str(exported('onnx', output='labels'))]
    assert main(arguments) == 0
    (Path('out') / 'overlay' / '1.jpg').unlink()
    times = {name: (Path('out/labels') / name).stat().st_mtime_ns for name in ('0.png',)}
    capsys.readouterr()
    assert main(arguments) == 0
    assert 'done before: 4' in capsys.readouterr().out
    assert (Path('out') / 'overlay' / '1.jpg').exists()
    assert main([*arguments, '--overwrite']) == 0
    assert (Path('out/labels') / '0.png').stat().st_mtime_ns > times['0.png']


def test_a_killed_run_goes_on(exported, pictures, tmp_path, start):
    for index in range(60):
        Image.open(pictures / '0.png').save(pictures / f'more_{index}.png')
    file = exported('onnx', output='labels')
    command = [sys.executable, '-m', 'repvgg_runtime.predict', 'pictures']
    command += ['-o', 'out', '-m', file]
    process = start(*command, cwd=tmp_path, PYTHONPATH=str(REPO))
    written = (tmp_path / 'out' / 'labels').rglob
    process.wait_until(lambda: len(list(written('*.png'))) >= 3, every=0.005)
    process.kill()
    process.wait()
    # Nothing is half written: each file that has its name can be read.
    for path in (tmp_path / 'out').rglob('[!.]*.*'):
        assert cv2.imread(str(path)) is not None
    start(*command, cwd=tmp_path, PYTHONPATH=str(REPO)).succeed()
    assert len(labels_in(tmp_path / 'out')) == 65


def test_shards_do_each_image_once(exported, pictures, monkeypatch):
    common = ['pictures', '-m', str(exported('onnx', output='labels')), '-o']
    assert main([*common, 'first', '--shard', '1/2']) == 0
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert main([*common, 'second']) == 0
    first, second = (list(labels_in(Path(name))) for name in ('first', 'second'))
    assert first == ['0.png', '2.png', 'sub/4.png']
    assert second == ['1.png', 'sub/3.png']


def test_processes_of_torchrun_do_each_image_once(exported, pictures, tmp_path, start):
    said = start(
        *(sys.executable, '-m', 'torch.distributed.run', '--standalone'),
        *('--nproc_per_node', 2, '-m', 'repvgg_runtime.predict', 'pictures'),
        *('-o', 'out', '-m', exported('onnx', output='labels')),
        cwd=tmp_path,
        PYTHONPATH=str(REPO),
    ).succeed()
    assert len(labels_in(tmp_path / 'out')) == 5
    counts = [line for line in said.splitlines() if line.startswith('images: ')]
    assert sorted(line.split(',')[0] for line in counts) == ['images: 2', 'images: 3']


def test_a_process_of_torchrun_names_broken_images_without_failing(
    exported, pictures, monkeypatch, capsys
):
    # torchrun ends all processes when one fails.
    (pictures / '0.png').write_text('no image')
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('WORLD_SIZE', '2')
    command = ['pictures', '-o', 'out', '-m', str(exported('onnx', output='labels'))]
    assert main(command) == 0
    assert 'pictures/0.png is truncated' in capsys.readouterr().err
    assert main([*command, '--shard', '1/2']) == 1


def test_a_rank_is_read_with_a_world_size_only(exported, pictures, monkeypatch, capsys):
    command = ['pictures', '-o', 'out', '-m', str(exported('onnx', output='labels'))]
    monkeypatch.setenv('RANK', 'x')
    assert main(command) == 0
    assert len(labels_in(Path('out'))) == 5
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert main(command) == 2
    assert "RANK 'x' and WORLD_SIZE '2'" in capsys.readouterr().err


def test_a_list_on_stdin_is_refused_under_torchrun(monkeypatch, capsys):
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert main(['-', '-o', 'out', '-m', 'x.onnx']) == 2
    assert 'which torchrun gives to one process only' in capsys.readouterr().err


def test_a_closed_stdin_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'stdin', None)
    assert main(['-', '-o', 'out', '-m', 'x.onnx']) == 2
    assert 'stdin is closed' in capsys.readouterr().err


def test_a_list_on_stdin_is_segmented(exported, pictures, monkeypatch):
    monkeypatch.setattr(sys, 'stdin', ['pictures/2.png\n', 'pictures/sub/3.png\n'])
    file = str(exported('onnx', output='labels'))
    assert main(['-', '-o', 'out', '-m', file, '--save', 'labels']) == 0
    assert list(labels_in(Path('out'))) == ['2.png', 'sub/3.png']
    assert not Path('out/overlay').exists()


@pytest.fixture
def video(pictures):
    frame = cv2.imread(str(pictures / '0.png'))
    code = cv2.VideoWriter.fourcc(*'mp4v')
    writer = cv2.VideoWriter('film.mp4', code, 5, frame.shape[1::-1])
    for index in range(6):
        writer.write(np.roll(frame, 4 * index, 1))
    writer.release()
    return 'film.mp4'


def test_a_video_has_too_few_bands_for_a_model_of_five(five_bands, video, capsys):
    config, checkpoint, _ = five_bands
    options = ['-m', checkpoint, '-c', config, '--device', 'cpu', '--engine', 'torch']
    assert main([video, '-o', 'out', *options]) == 1
    assert 'has 3 bands, but the model takes 5' in capsys.readouterr().err


def test_a_video_becomes_a_film_and_label_maps(exported, video, capsys):
    arguments = [video, '-o', 'out', '-m', str(exported('onnx', output='labels'))]
    assert main([*arguments, '--frames', '4']) == 0
    assert 'frames of film.mp4: 4, ' in capsys.readouterr().out
    assert list(labels_in(Path('out'))) == [f'film/00000{i}.png' for i in range(4)]
    capture = cv2.VideoCapture('out/overlay/film_first_4.mp4')
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert capture.get(cv2.CAP_PROP_FPS) == 5
    assert main([*arguments, '--frames', '4']) == 0
    assert 'done before: 1' in capsys.readouterr().out
    # A part of a video does not stand for the whole.
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert said.startswith('frames of film.mp4: 6, ')
    assert 'done before' not in said
    capture = cv2.VideoCapture('out/overlay/film.mp4')
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 6
    assert main(arguments) == 0
    assert 'done before: 1' in capsys.readouterr().out


@pytest.fixture
def camera(video, monkeypatch):
    """Give two frames of the video or ``camera:3``; then the user presses Ctrl-C."""

    class Camera:
        def __init__(self):
            capture = VideoCapture(video)
            self.get, self.release = capture.get, capture.release
            self.frames = [capture.read() for _ in range(2)]

        def read(self):
            if not self.frames:
                raise KeyboardInterrupt
            return self.frames.pop()

    VideoCapture = cv2.VideoCapture  # noqa: N806
    monkeypatch.setattr(
        video_module.cv2,
        'VideoCapture',
        lambda source: Camera() if source in (3, video) else VideoCapture(source),
    )
    return 'camera:3'


@pytest.fixture
def interrupted(monkeypatch):
    """Press Ctrl-C while the network computes the second image."""
    predict, count = ExportedSegmenter.predict, iter(range(9))

    def predict_or_stop(self, images, **options):
        if next(count):
            raise KeyboardInterrupt
        return predict(self, images, **options)

    monkeypatch.setattr(ExportedSegmenter, 'predict', predict_or_stop)


def test_ctrl_c_ends_a_camera_and_keeps_its_film(exported, camera):
    file = str(exported('onnx', output='labels'))
    assert main([camera, '-o', 'out', '-m', file]) == 0
    assert len(labels_in(Path('out'))) == 2
    assert Path('out/overlay/camera_3.mp4').stat().st_size > 0


@pytest.mark.usefixtures('interrupted')
def test_ctrl_c_ends_a_camera_while_the_network_computes(exported, camera):
    file = str(exported('onnx', output='labels'))
    assert main([camera, '-o', 'out', '-m', file]) == 0
    assert len(labels_in(Path('out'))) == 1
    capture = cv2.VideoCapture('out/overlay/camera_3.mp4')
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 1


@pytest.mark.usefixtures('interrupted')
def test_ctrl_c_in_a_video_while_the_network_computes_leaves_no_film(
    exported, video, capsys
):
    file = str(exported('onnx', output='labels'))
    assert main([video, '-o', 'out', '-m', file]) == 130
    assert 'interrupted' in capsys.readouterr().err
    assert not list(Path('out/overlay').iterdir())


@pytest.mark.usefixtures('camera')
def test_ctrl_c_while_a_video_is_read_leaves_no_film(exported, video):
    file = str(exported('onnx', output='labels'))
    assert main([video, '-o', 'out', '-m', file]) == 130
    assert len(labels_in(Path('out'))) == 2
    assert not list(Path('out/overlay').iterdir())


def test_a_video_says_nothing_of_images(exported, video, capsys):
    file = str(exported('onnx', output='labels'))
    assert main([video, '-o', 'out', '-m', file, '--save', 'labels']) == 0
    assert 'images' not in capsys.readouterr().out


def test_a_video_at_an_address_is_named(exported, capsys):
    file = str(exported('onnx', output='labels'))
    assert main(['memory://a/film.mp4', '-o', 'out', '-m', file]) == 1
    said = capsys.readouterr().err
    assert 'memory://a/film.mp4 cannot be opened' in said
    assert 'Copy it to this machine first' in said


def test_a_film_is_not_written_to_an_address(video, capsys):
    assert main([video, '-o', 'memory://out', '-m', 'x.onnx']) == 2
    assert 'the MP4 file of film.mp4 needs a folder' in capsys.readouterr().err


def test_an_image_too_wide_for_jpeg_is_named_and_the_others_done(
    exported, pictures, capsys, monkeypatch
):
    encode = module.Outputs.picture

    def wide(self, kind, image, found):
        picture = encode(self, kind, image, found)
        if kind == 'overlay' and not made:
            made.append(picture)
            return np.zeros((1, 65_501, 3), np.uint8)
        return picture

    made = []
    monkeypatch.setattr(module.Outputs, 'picture', wide)
    file = str(exported('onnx', output='labels'))
    assert main(['pictures', '-o', 'out', '-m', file, '--batch-size', '2']) == 1
    said = capsys.readouterr()
    assert said.out.startswith('images: 4, ')
    assert '0 of 65501x1 pixels cannot be written as .jpg' in said.err
    assert len(list(Path('out/overlay').rglob('*.jpg'))) == 4


def test_results_are_no_inputs_of_the_next_run(exported, pictures, capsys):
    file = str(exported('onnx', output='labels'))
    for _ in range(2):
        assert main(['.', '-o', 'out', '-m', file]) == 0
    assert 'done before: 5' in capsys.readouterr().out
    assert len(labels_in(Path('out'))) == 5


def test_the_rate_excludes_the_loading_of_the_model(exported, pictures, monkeypatch):
    opened = []

    def progress(*args):
        assert opened
        return Progress(*args)

    def open_model(**options):
        opened.append(options)
        return ExportedSegmenter(options['model'])

    Progress = module.Progress  # noqa: N806
    monkeypatch.setattr(module, 'Progress', progress)
    monkeypatch.setattr(module, 'open_model', open_model)
    file = str(exported('onnx', output='labels'))
    assert main(['pictures', '-o', 'out', '-m', file]) == 0


def test_a_file_that_is_no_video_is_named(exported, pictures, capsys):
    Path('film.mp4').write_bytes(b'no video')
    file = str(exported('onnx', output='labels'))
    assert main(['film.mp4', 'pictures/0.png', '-o', 'out', '-m', file]) == 1
    assert 'film.mp4 cannot be opened as a video' in capsys.readouterr().err
    assert list(labels_in(Path('out'))) == ['0.png']


def test_a_video_that_is_cut_short_is_named_and_not_done(exported, video, capsys):
    frame = cv2.imread('pictures/0.png')
    code = cv2.VideoWriter.fourcc(*'MJPG')
    writer = cv2.VideoWriter('cut.avi', code, 5, frame.shape[1::-1])
    for _ in range(6):
        writer.write(frame)
    writer.release()
    data = Path('cut.avi').read_bytes()
    Path('cut.avi').write_bytes(data[: len(data) // 2])
    arguments = ['cut.avi', '-o', 'out', '-m', str(exported('onnx', output='labels'))]
    for _ in range(2):
        assert main(arguments) == 1
        said = capsys.readouterr()
        assert re.search(r'cut.avi ends after [1-4] of 6 frames', said.err)
        assert 'done before' not in said.out
    assert not list(Path('out/overlay').glob('*'))
    assert main([*arguments, '--frames', '1']) == 0


def test_an_image_that_cannot_be_resized_is_named_and_the_others_done(
    trained, pictures, tmp_path, capsys
):
    cfg = Config.fromfile(trained[0])
    resize = dict(type='Resize', scale=(96, 48), keep_ratio=True)
    cfg.test_dataloader.dataset.pipeline.insert(1, resize)
    cfg.dump(tmp_path / 'resizing.py')
    cv2.imwrite('pictures/1.png', np.zeros((1, 500, 3), np.uint8))
    model = ['-m', trained[1], '-c', 'resizing.py', '--engine', 'torch']
    assert main(['pictures', '-o', 'out', *model, '--batch-size', '3']) == 1
    assert 'an image of 1x500 pixels cannot be resized' in capsys.readouterr().err
    assert len(labels_in(Path('out'))) == 4


def test_ids_of_the_data_set(exported, pictures):
    file = str(exported('onnx', output='labels'))
    common = ['pictures/0.png', '-m', file, '--save', 'labels', '-o']
    assert main([*common, 'train']) == 0
    assert main([*common, 'ids', '--ids', 'dataset']) == 0
    ids = np.array(ExportedSegmenter(file).label_ids, np.uint8)
    train, found = (labels_in(Path(name))['0.png'] for name in ('train', 'ids'))
    assert np.array_equal(found, ids[train])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--save', 'probabilities'], 'gives labels only: export it with'),
        (['--tta'], 'is an exported file, which takes no tta'),
        (['--engine', 'winograd'], 'is an exported file, which takes no engine'),
        (['--precision', 'high'], 'is an exported file, which takes no precision'),
        (['--batch-size', '0'], '--batch-size must be at least 1, but got 0'),
        (['--threads', '0'], '--threads must be at least 1, but got 0'),
        (['--frames', '0'], '--frames must be at least 1, but got 0'),
        (['--workers', '-1'], '--workers must be at least 1, but got -1'),
        (['--workers', '2'], '--workers needs --ray'),
        (['-o', ''], "--out must name a folder, but got ''"),
        (['--device', 'cuda'], 'ONNX Runtime has no CUDAExecutionProvider'),
    ],
)
def test_what_does_not_fit_is_an_error_in_one_line(
    exported, pictures, capsys, arguments, message
):
    file = str(exported('onnx', output='labels'))
    assert main(['pictures', '-o', 'out', '-m', file, *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith('error: ')
    assert message in said
    assert said.count('\n') == 1
    assert not Path('out').exists()


def test_models_that_do_not_fit_are_errors(exported, trained, pictures, capsys):
    config, checkpoint = trained
    file = str(exported('onnx', output='labels'))
    Path('FILE.ONNX').write_bytes(b'')
    for arguments, message in {
        ('-m', checkpoint): 'is a checkpoint: give its config by --config',
        ('-m', 'none.pth'): 'is a checkpoint, and does not exist: give its config',
        ('-m', file, '-c', config): 'holds its config: leave out --config',
        ('-m', '.', '-c', config): 'holds its config: leave out --config',
        ('-m', 'pictures/0.png'): '0.png is neither an exported file (.onnx, .xml, .pt)',
        ('-m', 'FILE.ONNX'): 'FILE.ONNX must end in one of .onnx, .xml, .pt',
        ('-m', checkpoint, '-c', config, '--device', 'foo'): 'torch has no device foo',
    }.items():
        assert main(['pictures', '-o', 'out', *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize('shard', ['0/2', '3/2', '1', 'a/b'])
def test_a_shard_that_does_not_exist_is_an_error(pictures, shard, capsys):
    with pytest.raises(SystemExit):
        main(['pictures', '-o', 'out', '-m', 'x.onnx', '--shard', shard])
    assert '--shard' in capsys.readouterr().err
