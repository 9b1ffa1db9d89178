"""Preparing a config for testing a checkpoint."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmseg.registry import HOOKS

from ..checkpoints.loading import naming_checkpoint
from ..checkpoints.mmengine_patch import make_loading_safe, read_ahead
from ..datasets.checks import build_if_local, check_dataset, leaf_datasets
from ..errors import ConfigError
from ..hooks import DeployHook, LoadHook
from ..registry_types import builds, is_a
from .config import add_missing_hook, remove_hook
from .config_checks import TEST_KEYS, check_keys
from .leaderboard import use_label_ids
from .load_model import dataset_meta, image_bands, match_form
from .processes import check_launcher, count_processes


def prepare_testing(
    cfg: Config,
    checkpoint: str,
    *,
    out: str | None = None,
    format_only: bool = False,
    split: str | None = None,
    show_dir: str | None = None,
    tta: bool = False,
    fused: bool = True,
    engine: str | None = None,
    precision: str | None = None,
    trust: bool = False,
) -> None:
    """Set a config up for testing a checkpoint, and check both and the data.

    DeployHook and LoadHook are added to a config that lacks them: a test evaluates the
    fused model and refuses a checkpoint that does not fill the whole model.

    Args:
        cfg: From :func:`~mmseg_repvgg.engine.config.load_config`; changed in place.
        checkpoint: The file to test.
        out: Folder for the predicted label maps.
        format_only: Write label maps for the Cityscapes server and evaluate nothing.
        split: With ``format_only``, the split: ``val`` or ``test``, the default.
        show_dir: Folder for painted images.
        tta: Average over the views of the config's ``tta_pipeline``.
        fused: Whether to evaluate the fused model, or else the training form.
        engine: See :func:`~mmseg_repvgg.deploy`; default that of the ``DeployHook``.
        precision: As ``engine``.
        trust: Unpickle whatever the checkpoint holds.

    Raises:
        ConfigError: If the config lacks what an option needs.
        CheckpointError: If the checkpoint cannot be read.
        DataError: If data is missing.
    """
    check_launcher(cfg)
    check_keys(cfg, TEST_KEYS, 'a test loop')
    make_loading_safe(trust)
    with naming_checkpoint(checkpoint):
        stored = read_ahead(checkpoint, trust=trust)
        match_form(cfg, stored)
    _compare_classes(cfg, stored)
    if not fused and cfg.model.get('backbone', {}).get('deploy'):
        raise ConfigError(
            f'--no-deploy and comparing forms need the training form, but {checkpoint} '
            'is fused or the config says model.backbone.deploy=True'
        )
    cfg.load_from, cfg.resume = checkpoint, False
    # TensorBoard is for trainings.
    cfg.tensorboard = False
    add_missing_hook(cfg, LoadHook)
    if fused:
        add_missing_hook(cfg, DeployHook)
    else:
        remove_hook(cfg, DeployHook)
    for hook in cfg.custom_hooks:
        if builds(hook, HOOKS, DeployHook):
            given = dict(engine=engine, precision=precision)
            hook.update({k: v for k, v in given.items() if v is not None})
    if precision is not None and not fused:
        raise ConfigError(f'--precision {precision} is for the fused form')
    if show_dir is not None:
        if count_processes(cfg) > 1:
            raise ConfigError('--show-dir paints in one process: test without --launcher')
        if image_bands(cfg) != 3:
            raise ConfigError(
                f'--show-dir paints images of 3 bands, but the model takes '
                f'{image_bands(cfg)}: use mmseg-repvgg predict'
            )
        cfg.default_hooks.visualization = dict(
            type='SegVisualizationHook', draw=True, interval=1
        )
        # The visualizer of mmengine paints no label maps.
        visualizer = cfg.get('visualizer') or dict(type='SegLocalVisualizer')
        backends = [dict(type='LocalVisBackend')]
        cfg.visualizer = {**visualizer, 'vis_backends': backends, 'save_dir': show_dir}
    if tta:
        if 'tta_pipeline' not in cfg or 'tta_model' not in cfg:
            raise ConfigError('--tta needs tta_pipeline and tta_model in the config')
        for dataset in leaf_datasets(cfg.test_dataloader.dataset):
            dataset.pipeline = cfg.tta_pipeline
        cfg.model = {**cfg.tta_model, 'module': cfg.model}
    if format_only:
        if out is None:
            raise ConfigError('--format-only needs --out, the folder for the files')
        use_label_ids(cfg, out, split or 'test')
    elif split is not None:
        raise ConfigError('--split needs --format-only')
    elif out is not None:
        _write_labels_to(cfg, out)
    check_dataset(cfg.test_dataloader.dataset)
    if out is not None:
        _require_different_names(cfg.test_dataloader.dataset)


def _write_labels_to(cfg: Config, out: str) -> None:
    """Set the folder to which the test evaluators write label maps of 8 bits.

    Raises:
        ConfigError: If 8 bits cannot hold the labels, or an evaluator would remove the
            folder.
    """
    classes = len(dataset_meta(cfg).get('classes') or ())
    if classes > 256:
        raise ConfigError(
            f'--out writes labels of 8 bits, but the test set has {classes} classes: use '
            'mmseg-repvgg predict'
        )
    for evaluator in _evaluators(cfg):
        if is_a(evaluator, 'CityscapesMetric'):
            raise ConfigError(
                'CityscapesMetric empties its folder at the end, so it cannot write to '
                '--out: set test_evaluator.type=IoUMetric'
            )
        evaluator['output_dir'] = out


def _evaluators(cfg: Config) -> list[Any]:
    """List the configs of the test evaluators, of which there may be one or several."""
    given = cfg.test_evaluator
    return list(given) if isinstance(given, (list, tuple)) else [given]


def ignored_label(cfg: Config) -> int:
    """Return the label that the first test evaluator of a config ignores."""
    return _evaluators(cfg)[0].get('ignore_index', 255)


def find_miou(metrics: Mapping[str, float]) -> float:
    """Return the mIoU among metrics, whose names may have a prefix, in percent.

    Raises:
        ConfigError: If there is none.
    """
    for name, value in metrics.items():
        if name.split('/')[-1] == 'mIoU':
            return float(value)
    raise ConfigError(
        f'the evaluator must give mIoU, but gives {", ".join(metrics) or "nothing"}'
    )


def _compare_classes(cfg: Config, checkpoint: Mapping[str, Any]) -> None:
    """Compare the classes of the test set with those of the training."""
    meta = checkpoint.get('meta') or {}
    trained = list((meta.get('dataset_meta') or {}).get('classes') or [])
    tested = list(dataset_meta(cfg).get('classes') or [])
    if not trained or not tested or trained == tested:
        return
    message = (
        f'the checkpoint was trained with the classes {", ".join(trained)}, but the test '
        f'set has {", ".join(tested)}'
    )
    if len(trained) > len(tested) or sorted(trained) == sorted(tested):
        raise ConfigError(f'{message}: their numbers mean something else')
    print_log(message, 'current', logging.WARNING)


def _require_different_names(dataset: Any) -> None:
    """Refuse images whose label maps mmseg would write to one file."""
    paths: dict[str, str] = {}
    for part in leaf_datasets(dataset):
        built = build_if_local(part)
        samples = [] if built is None else built.load_data_list()
        for path in (sample['img_path'] for sample in samples):
            other = paths.setdefault(Path(path).stem, path)
            if other != path:
                raise ConfigError(
                    f'--out would write the label maps of {other} and {path} to one '
                    'file. mmseg-repvgg predict keeps subfolders'
                )
