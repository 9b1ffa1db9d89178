"""Hook that logs the processes, the device and the norms of a training."""

from mmengine.dist import get_backend, get_world_size
from mmengine.hooks import Hook
from mmseg.registry import HOOKS
from torch.nn.modules.batchnorm import _BatchNorm


@HOOKS.register_module()
class TellingHook(Hook):
    def before_train(self, runner):
        norms = {
            type(module).__name__
            for module in runner.model.modules()
            if isinstance(module, _BatchNorm)
        }
        device = next(runner.model.parameters()).device.type
        runner.logger.info(
            f'{get_world_size()} processes by {get_backend()} on {device}, '
            f'norms: {", ".join(sorted(norms))}'
        )
