"""What holds where Python lacks the modules and functions of Unix, as on Windows."""

import subprocess
import sys

# What other packages need on Linux is imported before.
WITHOUT_UNIX = """
import ctypes, os, signal, sys
import mmengine.runner, mmseg.datasets, mmseg.models

MODULES = 'fcntl grp pty pwd readline resource syslog termios tty'.split()
for name in MODULES:
    sys.modules[name] = None  # importing it is now an ImportError

for name in ('fork forkpty getloadavg getpgid getsid getuid geteuid getgid kill killpg '
             'mkfifo nice sched_getaffinity sched_setaffinity setsid statvfs sysconf '
             'wait3 wait4').split():
    delattr(os, name)
for name in ('SIGALRM SIGCHLD SIGHUP SIGKILL SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 alarm '
             'pthread_kill pthread_sigmask setitimer sigwait sigwaitinfo').split():
    delattr(signal, name)

Library = ctypes.CDLL

class NamedLibrary(Library):
    def __init__(self, name, *args, **kwargs):
        if name is None:
            raise TypeError('the process itself is no library')
        super().__init__(name, *args, **kwargs)

ctypes.CDLL = NamedLibrary
"""

USE = """
import importlib, pkgutil

import torch

import mmseg_repvgg
from mmseg_repvgg import RepVGG, deploy

for module in pkgutil.walk_packages(mmseg_repvgg.__path__, 'mmseg_repvgg.'):
    importlib.import_module(module.name)

from mmseg_repvgg.checkpoints.files import read_checkpoint, write_checkpoint
from mmseg_repvgg.datasets.preparation import in_parallel
from mmseg_repvgg.hooks.termination_hook import init_worker

net, x = RepVGG('A0'), torch.randn(2, 3, 64, 64)
net(x)[-1].mean().backward()
write_checkpoint({'state_dict': net.state_dict()}, 'trained.pth')
other = RepVGG('A0').eval()
other.load_state_dict(read_checkpoint('trained.pth')['state_dict'])
with torch.no_grad():
    expected = net.eval()(x)[-1]
    torch.testing.assert_close(deploy(other)(x)[-1], expected, rtol=1e-3, atol=1e-4)

init_worker(0)
assert in_parallel(abs, [-1, -2], 'numbers') == [1, 2]
"""


def test_everything_imports_and_a_backbone_trains_and_fuses_without_unix(tmp_path):
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_UNIX + USE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
