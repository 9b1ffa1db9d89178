"""Compare the training form and the fused form of a segmentor on a data set."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from mmseg.evaluation import IoUMetric
from torch import nn

from ..checkpoints.loading import naming_checkpoint
from ..engine.runner import build_runner
from ..engine.testing import prepare_testing
from ..errors import ConfigError
from ..models.comparison import Comparison
from ..models.wrappers import predict
from ..reparam import deploy, is_deployed


@dataclass(frozen=True)
class FormComparison:
    """Difference of the forms, and metrics and time of each.

    Attributes:
        trained: Metrics of the training form, in percent, such as ``mIoU``.
        fused: Metrics of the fused form.
        logit_difference: Largest absolute difference of a logit, relative to the
            largest absolute logit.
        label_disagreement: Share of the pixels whose label differs, from 0 to 1.
        trained_seconds: Median time per image of the training form.
        fused_seconds: Median time per image of the fused form.
    """

    trained: dict[str, float]
    fused: dict[str, float]
    logit_difference: float
    label_disagreement: float
    trained_seconds: float
    fused_seconds: float


def trained_form(cfg: Config, checkpoint: str, *, trust: bool = False) -> Runner:
    """Build a Runner whose model is a checkpoint in its training form.

    Args:
        cfg: From :func:`~mmseg_repvgg.engine.config.load_config`; changed in place.
        checkpoint: The file.
        trust: Unpickle whatever it holds.

    Returns:
        The Runner, which logs warnings only.

    Raises:
        CheckpointError: If the checkpoint cannot be read, or is not of this model.
        DataError: If data is missing.
    """
    prepare_testing(cfg, checkpoint, fused=False, trust=trust)
    cfg.log_level = logging.WARNING
    runner = build_runner(cfg)
    with naming_checkpoint(checkpoint):
        runner.load_or_resume()
    return runner


def compare_forms(
    model: nn.Module,
    dataloader: Any,
    on_sample: Callable[[int, Any], None] | None = None,
    engine: str = 'torch',
) -> FormComparison:
    """Run both forms over a data set.

    Each batch goes through both forms, in alternating order, so that a drift of the
    machine's speed affects both alike. The first batch is run once before, untimed.

    Args:
        model: A segmentor in its training form; left in eval mode.
        dataloader: A dataloader as a Runner builds it, whose dataset has ``metainfo``.
        on_sample: Called with the index and the fused form's data sample of each image.
        engine: Engine of the fused form, see :func:`~mmseg_repvgg.deploy`.

    Raises:
        ConfigError: If the model is fused already, or predicts no logits.
    """
    if is_deployed(model):
        raise ConfigError('the model is fused already. Give one in its training form')
    model.eval()
    forms = (model, deploy(model, engine))
    evaluators = tuple(_evaluator(dataloader.dataset.metainfo) for _ in forms)
    seconds: tuple[list[float], list[float]] = ([], [])
    comparison, images = Comparison(), 0
    for index, batch in enumerate(dataloader):
        if index == 0:
            predict(model, batch)
        outputs: dict[int, Sequence[Any]] = {}
        for which in (0, 1) if index % 2 == 0 else (1, 0):
            start = time.perf_counter()
            outputs[which] = predict(forms[which], batch)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            elapsed = time.perf_counter() - start
            seconds[which].append(elapsed / len(outputs[which]))
        comparison.add(outputs[0], outputs[1])
        for which in (0, 1):
            evaluators[which].process(outputs[which], batch)
        for sample in outputs[1]:
            if on_sample is not None:
                on_sample(images, sample)
            images += 1
    size = len(dataloader.dataset)
    trained, fused = (evaluator.evaluate(size) for evaluator in evaluators)
    return FormComparison(
        trained,
        fused,
        comparison.logit_difference,
        comparison.label_disagreement,
        statistics.median(seconds[0]),
        statistics.median(seconds[1]),
    )


def _evaluator(metainfo: dict[str, Any]) -> Evaluator:
    evaluator = Evaluator(IoUMetric(iou_metrics=['mIoU'], prefix=None))
    evaluator.dataset_meta = metainfo
    return evaluator
