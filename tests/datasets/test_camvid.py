"""CamVid, on the real frames where they are."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from mmseg.registry import DATASETS

ROOT = os.environ.get('CAMVID_ROOT', 'data/camvid')
needs_camvid = pytest.mark.skipif(
    not Path(ROOT).is_dir(), reason=f'the CamVid frames are not in CAMVID_ROOT ({ROOT})'
)


def build(split, root=None, pipeline=()):
    return DATASETS.build(
        dict(
            type='CamVidDataset',
            data_root=root,
            data_prefix=dict(
                img_path=f'leftImg8bit/{split}', seg_map_path=f'gtFine/{split}'
            ),
            pipeline=list(pipeline),
        )
    )


@needs_camvid
@pytest.mark.parametrize(('split', 'size'), [('train', 367), ('val', 101), ('test', 233)])
def test_splits_are_whole(split, size):
    dataset = build(split)
    assert len(dataset) == size
    assert all(os.path.isfile(dataset[i]['seg_map_path']) for i in range(size))


@needs_camvid
def test_classes_and_palette_are_those_of_the_data():
    said = json.loads((Path(ROOT) / 'classes.json').read_text())
    meta = build('val').metainfo
    assert meta['palette'] == said['palette']
    names = [name.replace(' ', '') for name in meta['classes']]
    assert names == [name.lower() for name in said['classes']]


@needs_camvid
def test_labels_are_train_ids():
    loading = [dict(type='LoadCheckedImage'), dict(type='LoadCheckedAnnotations')]
    labels = build('val', pipeline=loading)[0]['gt_seg_map']
    assert labels.shape == (360, 480)
    assert set(np.unique(labels)) <= {*range(11), 255}


def test_root_comes_from_the_environment(monkeypatch, tmp_path):
    (tmp_path / 'leftImg8bit' / 'val').mkdir(parents=True)
    (tmp_path / 'leftImg8bit' / 'val' / 'frame.jpg').touch()
    monkeypatch.setenv('CAMVID_ROOT', str(tmp_path))
    assert build('val').get_data_info(0)['img_path'].startswith(str(tmp_path))
