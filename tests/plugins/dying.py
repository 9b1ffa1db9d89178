"""A hook that ends the training it is in, at a moment that the test has chosen.

Who waits from outside for a moment, to strike then, may always be too late. The test
says it in the environment: ``DIE_AT=PLACE:ITERATION``, in the process of ``DIE_RANK``,
by default 0, by the signal ``DIE_BY``, by default SIGKILL. It happens once: when it
does, the file ``DIE_NOTE`` is made. The places:

- ``train``: the iteration begins.
- ``val``: the validation after the iteration begins.
- ``empty``, ``half``, ``whole``: so much of the iteration's checkpoint is written, under
  its temporary name.
- ``placed``: it has got its name, and nothing else has happened.
"""

import os
import subprocess
from pathlib import Path

from mmengine.hooks import Hook
from mmseg.registry import HOOKS

WRITTEN = dict(empty=0.0, half=0.5, whole=1.0)


@HOOKS.register_module()
class DyingHook(Hook):
    """Nothing, unless the environment says more.

    Args:
        group: Whether the signal goes to the whole process group, the dataloaders'
            workers too: as when a machine goes away, or Slurm ends a job.
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
        """Make a stand-in for ``os.replace``, which gives a checkpoint its name."""

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
        # From outside, as Slurm's: a worker obeys its own trainer's SIGTERM.
        subprocess.run(['bash', '-c', command], check=True, start_new_session=True)
