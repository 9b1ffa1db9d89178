"""Compare the training form and the fused form of a segmentor on a data set."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmseg.evaluation import IoUMetric
from torch import nn

from ..errors import ConfigError
from ..models.comparison import Comparison
from ..models.wrappers import predict
from ..reparam import deploy, is_deployed


@dataclass(frozen=True)
class FormComparison:
    """Metrics of both forms in percent, their difference, and median times per image."""

    trained: dict[str, float]
    fused: dict[str, float]
    difference: Comparison
    trained_seconds: float
    fused_seconds: float


def compare_forms(
    model: nn.Module,
    dataloader: Any,
    on_sample: Callable[[int, Any], None] | None = None,
    engine: str = 'torch',
    precision: str = 'highest',
    ignore_index: int = 255,
) -> FormComparison:
    """Run both forms of a segmentor over a dataloader; leave it in eval mode.

    Each batch goes through both forms, in alternating order, so that a drift of the
    machine's speed affects both alike. The first batch is run once before, untimed.
    ``on_sample`` is called with each image's index and data sample of the fused form.
    Pixels of the label ``ignore_index`` do not count.

    Raises:
        ConfigError: If the model is fused already, or predicts no logits.
    """
    if is_deployed(model):
        raise ConfigError('the model is fused already. Give one in its training form')
    model.eval()
    forms = (model, deploy(model, engine, precision))
    metrics = [Evaluator(IoUMetric(ignore_index=ignore_index)) for _ in forms]
    for metric in metrics:
        metric.dataset_meta = dataloader.dataset.metainfo
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
            metrics[which].process(outputs[which], batch)
        comparison.add(outputs[0], outputs[1])
        for sample in outputs[1]:
            if on_sample is not None:
                on_sample(images, sample)
            images += 1
    trained, fused = (metric.evaluate(images) for metric in metrics)
    before, after = (statistics.median(taken) for taken in seconds)
    return FormComparison(trained, fused, comparison, before, after)
