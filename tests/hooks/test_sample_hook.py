"""Sample predictions of a validation."""

from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmseg_repvgg.hooks import SampleHook
from mmseg_repvgg.hooks.sample_hook import _spread


@pytest.mark.parametrize(
    ('count', 'length', 'expected'),
    [
        (4, 500, {62, 187, 312, 437}),
        (4, 3, {0, 1, 2}),
        (1, 3, {1}),
        (0, 3, set()),
        (4, 0, {0}),
    ],
)
def test_samples_are_spread(count, length, expected):
    assert _spread(count, length) == expected


def test_a_negative_count_is_refused():
    with pytest.raises(ValueError, match='-1'):
        SampleHook(-1)


def test_a_picture_that_fails_is_a_warning_once(street_config, tmp_path):
    runner = Runner.from_cfg(street_config)
    (tmp_path / 'a.npy').write_bytes(b'of a loader of the user')
    labels = PixelData(data=torch.zeros(1, 4, 4, dtype=torch.int64))
    sample = SegDataSample(metainfo=dict(img_path=str(tmp_path / 'a.npy')))
    sample.pred_sem_seg = labels
    hook = SampleHook(3)
    for index in range(3):
        hook.after_val_iter(runner, index, outputs=[sample])
    assert Path(runner.logger.log_file).read_text().count('a.npy') == 1
