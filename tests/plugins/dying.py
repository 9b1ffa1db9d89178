"""Hook that ends its own training at a moment that the test chooses.

A test that waited from outside for the moment might be too late. It sets environment
variables instead: ``DIE_AT=PLACE:ITERATION``; ``DIE_RANK``, the rank of the process, by
default 0; ``DIE_BY``, the signal, by default SIGKILL. The process dies once and creates
the file ``DIE_NOTE`` when it does. The places:

- ``train``: the iteration begins.
- ``val``: the validation after the iteration begins.
- ``empty``, ``half``, ``whole``: this much of the iteration's checkpoint is written under
  its temporary name.
- ``placed``: the checkpoint has its final name, and nothing else has happened.
"""

import os
import subprocess
from pathlib import Path

from mmengine.hooks import Hook
from mmseg.registry import HOOKS

WRITTEN = dict(empty=0.0, half=0.5, whole=1.0)


@HOOKS.register_module()
class DyingHook(Hook):
    """Hook that does nothing unless the environment says so.

    Args:
        group: Whether the signal goes to the whole process group with the workers of the
            dataloaders, as when a machine is lost or Slurm ends a job.
    """

    def __init__(self, group=False):
        self.group = group
        self.place, _, self.iteration = os.environ.get('DIE_AT', '').partition(':')
        if os.environ.get('RANK', '0') != os.environ.get('DIE_RANK', '0'):
            self.place = None

    def before_train(self, runner):
        if self.place in (*WRITTEN, 'placed'):
            os.replace = self.replacing(os.replace)

    def replacing(self, replace):
        """Return a stand-in for ``os.replace``, which gives a checkpoint its name."""

        def stand_in(source, target):
            due = Path(target).name == f'iter_{self.iteration}.pth'
            if due and self.place in WRITTEN:
                size = os.path.getsize(source)
                os.truncate(source, int(WRITTEN[self.place] * size))
                self.die()
            replace(source, target)
            if due:
                self.die()

        return stand_in

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.reach('train', runner.iter + 1)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self.reach('val', runner.iter)

    def reach(self, place, iteration):
        note = Path(os.environ.get('DIE_NOTE', ''))
        if (self.place, self.iteration) == (place, str(iteration)) and not note.exists():
            self.die()

    def die(self):
        Path(os.environ['DIE_NOTE']).touch(exist_ok=False)
        whom = -os.getpgrp() if self.group else os.getpid()
        command = f'kill -s {os.environ.get("DIE_BY", "SIGKILL")} -- {whom}'
        # Workers obey a SIGTERM of their own trainer, so another process sends it.
        subprocess.run(['bash', '-c', command], check=True, start_new_session=True)
