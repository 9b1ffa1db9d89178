"""Building a Runner."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.errors import WriteError
from mmseg_repvgg.hooks import SampleHook
from mmseg_repvgg.hooks.progress_hook import screen_handlers


@pytest.mark.parametrize('folder', ['file', 'file/in', '/proc/none'])
def test_a_work_dir_that_cannot_be_written_is_named(street_config, tmp_path, folder):
    (tmp_path / 'file').touch()
    street_config.work_dir = str(tmp_path / folder)
    with pytest.raises(WriteError) as caught:
        build_runner(street_config)
    assert f'{street_config.work_dir} cannot be written: ' in str(caught.value)
    assert '--work-dir' in str(caught.value)


def test_the_screen_has_its_level_back_after_building(street_config):
    (handler,) = screen_handlers(build_runner(street_config).logger)
    assert handler.level == 20


def test_the_number_of_samples_is_an_option_of_every_config(street_config):
    street_config.default_hooks.samples = dict(count=0)
    hooks = build_runner(street_config).hooks
    assert [hook.count for hook in hooks if isinstance(hook, SampleHook)] == [0]


def test_an_evaluation_keeps_the_config_of_the_work_dir(street_config, tmp_path):
    """Which may be the config that the evaluation was given."""
    path = tmp_path / 'work' / 'net.py'
    path.parent.mkdir()
    street_config.dump(path)
    kept = path.read_bytes()
    cfg = Config.fromfile(path)
    cfg.model = dict(type='SegTTAModel', module=cfg.model)
    runner = build_runner(cfg, evaluating=True)
    assert path.read_bytes() == kept
    beside = Config.fromfile(Path(runner.log_dir) / 'net.py')
    assert beside.model.type == 'SegTTAModel'
    build_runner(cfg)
    assert Config.fromfile(path).model.type == 'SegTTAModel'
