"""Building a Runner."""

import pytest

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
