"""Hook that paints a few predictions of every validation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor

from repvgg_runtime.bands import shown
from repvgg_runtime.images import Pixels
from repvgg_runtime.painting import side_by_side

from ..errors import ConfigError

MAX_WIDTH = 640


@HOOKS.register_module()
class SampleHook(Hook):
    """Hook that paints the same validation images, evenly spread over the set, each time.

    A picture is input | ground truth | prediction of the model that is validated, which
    with DeployHook is the fused one. It goes to all backends of the visualizer under the
    image's name and the iteration; of other than three bands, the first are shown. The
    main process draws from its share of the set. If a picture fails, for example because
    only a loader of your own can read the image, the hook warns and paints no more.

    Args:
        count: How many images; each is the first of its batch. 0 draws none.
    """

    def __init__(self, count: int = 4) -> None:
        if count < 0:
            raise ConfigError(f'count must be at least 0, but got {count!r}')
        self.count = count

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Paint the batch's first image, if it is one of the chosen."""
        chosen = _spread(self.count, len(runner.val_dataloader))
        if not outputs or batch_idx not in chosen:
            return
        sample = outputs[0]
        try:
            palette = runner.val_dataloader.dataset.metainfo['palette']
            picture = paint_sample(sample, data_batch['inputs'][0], palette, MAX_WIDTH)
            # MLflow needs the suffix.
            name = f'sample_{Path(sample.img_path).stem}.png'
            runner.visualizer.add_image(name, mmcv.bgr2rgb(picture), runner.iter)
        except Exception as error:  # A picture must not end a training.
            self.count = 0
            runner.logger.warning(
                f'SampleHook paints no more pictures: {sample.get("img_path")} '
                f'gave {error!r}'
            )


def paint_sample(
    sample: Any,
    inputs: Tensor,
    palette: Sequence[Sequence[int]],
    max_width: int | None = None,
) -> Pixels:
    """Paint the input, the ground truth, if there is one, and the prediction.

    Args:
        sample: Data sample of a prediction.
        inputs: The image as the pipeline returns it, (bands, h, w). If it has other than
            three bands, it is shown in place of the file: the first three, or the first
            in grey.
        palette: An RGB colour for each class.
        max_width: Largest width of a pane in pixels.

    Returns:
        Shape (H, W, 3), BGR uint8.
    """
    maps = [sample.get(name) for name in ('gt_sem_seg', 'pred_sem_seg')]
    of_three = len(inputs) == 3
    bands = inputs.cpu().numpy().transpose(1, 2, 0)
    return side_by_side(
        mmcv.imread(sample.img_path) if of_three else shown(bands),
        [each.data[0].cpu().numpy() for each in maps if each is not None],
        palette,
        max_width,
    )


def _spread(count: int, length: int) -> set[int]:
    """Return the indices in the middle of ``count`` equal parts."""
    return {(2 * i + 1) * length // (2 * count) for i in range(count)}
