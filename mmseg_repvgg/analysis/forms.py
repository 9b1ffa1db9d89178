"""Compare the training form and the fused form of a segmentor on a data set."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmseg.evaluation import IoUMetric
from torch import Tensor, nn

from ..errors import ConfigError
from ..models.comparison import Comparison
from ..models.tf32 import tf32
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
    on_sample: Callable[[int, Any, Tensor], None] | None = None,
    engine: str = 'torch',
    precision: str = 'highest',
    ignore_index: int = 255,
) -> FormComparison:
    """Run both forms of a segmentor over a dataloader; leave it in eval mode.

    Each batch goes through both forms, in alternating order, so that a drift of the
    machine's speed affects both alike. Both forms run the first batch once before,
    untimed. ``on_sample`` is called with each image's index, data sample of the fused
    form, and input, (channels, h, w). Pixels of the label ``ignore_index`` do not count.

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
            for form in forms:
                predict(form, batch)
        outputs: dict[int, Sequence[Any]] = {}
        for which in (0, 1) if index % 2 == 0 else (1, 0):
            start = time.perf_counter()
            outputs[which] = predict(forms[which], batch)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            elapsed = time.perf_counter() - start
            seconds[which].append(elapsed / len(outputs[which]))
            metrics[which].process(outputs[which], batch)
        exact = outputs
        if next(model.parameters()).is_cuda:
            # TF32 alone makes differences of about 1e-3.
            with tf32(False):
                exact = {which: predict(form, batch) for which, form in enumerate(forms)}
        comparison.add(exact[0], exact[1])
        for sample, inputs in zip(outputs[1], batch['inputs']):
            if on_sample is not None:
                on_sample(images, sample, inputs)
            images += 1
    trained, fused = (metric.evaluate(images) for metric in metrics)
    before, after = (statistics.median(taken) for taken in seconds)
    return FormComparison(trained, fused, comparison, before, after)
