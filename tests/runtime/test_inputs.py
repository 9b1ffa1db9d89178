"""Files that a command line names are found once each and in a fixed order."""

import pytest

from repvgg_runtime.errors import ConfigError, DataError
from repvgg_runtime.inputs import find_inputs, shard


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('b.png', 'a.JPG', 'notes.txt', 'sub/c.tif', 'sub/film.mp4'):
        path = tmp_path / 'in' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / 'in'


def names(*arguments, lines=()):
    return [(each.path, each.name) for each in find_inputs(arguments, lines)]


def test_a_folder_stands_for_its_images_and_keeps_its_subfolders(folder):
    assert names('in') == [
        ('in/a.JPG', 'a'),
        ('in/b.png', 'b'),
        ('in/sub/c.tif', 'sub/c'),
        ('in/sub/film.mp4', 'sub/film'),
    ]
    assert [each.is_video for each in find_inputs(['in'])] == [False, False, False, True]


def test_files_globs_and_lines_are_taken_once_each(folder):
    expected = [('in/a.JPG', 'a'), ('in/b.png', 'b')]
    assert names('in/a.JPG', 'in/*.[pJ]*', 'in/b.png') == expected
    assert names('-', lines=['in/a.JPG\n', '\n', 'in/b.png\r\n']) == expected
    assert names('in/**/*.tif') == [('in/sub/c.tif', 'c')]


def test_a_camera_is_named_by_its_number():
    (camera,) = find_inputs(['camera:0'])
    assert (camera.path, camera.name, camera.is_video) == ('camera:0', 'camera_0', True)
    with pytest.raises(ConfigError, match="camera:NUMBER, but got 'camera:front'"):
        find_inputs(['camera:front'])


def test_files_that_differ_in_their_suffix_keep_it(folder):
    (folder / 'a.png').touch()
    assert names('in/a.JPG', 'in/a.png') == [
        ('in/a.JPG', 'a.JPG'),
        ('in/a.png', 'a.png'),
    ]


def test_files_with_the_same_outputs_are_refused(folder):
    (folder / 'sub' / 'b.png').touch()
    with pytest.raises(ConfigError, match=r'in/b\.png and in/sub/b\.png would have the'):
        find_inputs(['in/b.png', 'in/sub/b.png'])


def test_what_does_not_exist_or_holds_no_image_is_refused(folder):
    with pytest.raises(DataError, match='none.png does not exist'):
        find_inputs(['none.png'])
    (folder / 'empty').mkdir()
    with pytest.raises(DataError, match='in/empty has no image or video'):
        find_inputs(['in/empty'])


def test_shards_hold_each_input_once(folder):
    inputs = find_inputs(['in'])
    parts = [shard(inputs, index, 3) for index in (1, 2, 3)]
    assert [len(part) for part in parts] == [2, 1, 1]
    assert sorted(each.path for part in parts for each in part) == [
        each.path for each in inputs
    ]


def test_each_spelling_of_a_path_is_the_same_file(folder):
    assert names('in/a.JPG', './in/sub/../a.JPG', str(folder / 'a.JPG')) == [
        ('in/a.JPG', 'a')
    ]


def test_lines_keep_their_folders_below_the_common_one(folder):
    (folder / 'sub' / 'b.png').touch()
    lines = ['in/b.png\n', str(folder / 'sub' / 'b.png'), 'in/sub/c.tif']
    assert names('-', lines=lines) == [
        ('in/b.png', 'b'),
        (str(folder / 'sub' / 'b.png'), 'sub/b'),
        ('in/sub/c.tif', 'sub/c'),
    ]
    assert names('-', lines=['s3://x/d1/a.png', 's3://x/d2/a.png']) == [
        ('s3://x/d1/a.png', 'd1/a'),
        ('s3://x/d2/a.png', 'd2/a'),
    ]


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('/', "a line of the list must name a file, but got '/'"),
        ('camera:x', "camera:NUMBER, but got 'camera:x'"),
    ],
)
def test_a_line_that_names_no_file_is_refused(line, message):
    with pytest.raises(ConfigError, match=message):
        find_inputs(['-'], [line])


def test_folders_may_be_left_out(folder):
    expected = [('in/a.JPG', 'a'), ('in/b.png', 'b')]
    for without in ('in/sub', str(folder / 'sub')):
        found = find_inputs(['in'], without=[without])
        assert [(each.path, each.name) for each in found] == expected
    (named,) = find_inputs(['in/sub/c.tif'], without=['in/sub'])
    assert named.path == 'in/sub/c.tif'
    (near,) = find_inputs(['in/sub/*.tif'], without=['in/su'])
    assert near.path == 'in/sub/c.tif'


def test_an_image_with_the_name_of_a_frame_is_refused(folder):
    (folder / 'sub' / 'film').mkdir()
    (folder / 'sub' / 'film' / 'other.png').touch()
    assert len(find_inputs(['in'])) == 5
    (folder / 'sub' / 'film' / '000000.png').touch()
    with pytest.raises(ConfigError, match=r'film\.mp4 and in/sub/film/000000\.png would'):
        find_inputs(['in'])
