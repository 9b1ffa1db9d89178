"""Pipelines of configs: found, changed, and described for exported files."""

import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmseg.datasets.transforms import LoadAnnotations

from mmseg_repvgg.datasets import pipelines
from mmseg_repvgg.datasets.pipelines import (
    find_test_pipeline,
    resizing,
    without_steps,
)


def test_the_pipeline_of_the_data_set_comes_first():
    own, other = [dict(type='A')], [dict(type='B')]
    dataset = dict(type='ConcatDataset', datasets=[dict(pipeline=own)])
    cfg = Config(dict(test_pipeline=other, test_dataloader=dict(dataset=dataset)))
    assert find_test_pipeline(cfg) == own
    assert find_test_pipeline(Config(dict(test_pipeline=other))) == other
    assert find_test_pipeline(Config(dict())) == []


@pytest.mark.parametrize(
    ('step', 'expected'),
    [
        (dict(type='Resize', scale=(8, 4), keep_ratio=True), ([8, 4], True)),
        (dict(type='mmseg.Resize', scale=(8, 4)), ([8, 4], False)),
        (dict(type='Resize', scale=8), ([8, 8], False)),
        (dict(type='RandomFlip'), (None, True)),
    ],
)
def test_resizing_is_described(step, expected):
    found = resizing([dict(type='LoadImageFromFile'), step])
    assert (found['scale'], found['keep_ratio']) == expected


@pytest.mark.parametrize(
    'step', [dict(type='Resize', scale_factor=0.5), dict(type='ResizeShortestEdge')]
)
def test_other_resizing_is_a_warning(step, monkeypatch):
    said = []
    monkeypatch.setattr(pipelines, 'print_log', lambda *args: said.append(args[0]))
    assert resizing([step])['scale'] is None
    assert f'resizes by {step["type"]} without a scale' in said[0]


def test_steps_are_left_out_at_any_depth():
    steps = [
        dict(type='LoadCheckedImage'),
        dict(
            type='TestTimeAug',
            transforms=[[dict(type='Resize', scale=2)], [dict(type='LoadAnnotations')]],
        ),
        dict(type='PackSegInputs'),
    ]
    assert without_steps(steps, LoadImageFromFile, LoadAnnotations) == [
        dict(type='TestTimeAug', transforms=[[dict(type='Resize', scale=2)]]),
        dict(type='PackSegInputs'),
    ]
