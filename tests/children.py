"""Programs of tools/ in processes forked from one that has all modules: to import them takes 7 s.

The process that forks (``multiprocessing``'s forkserver) has imported this file, and done nothing
else: no threads, no garbage, nothing compiled. A fork of a process that runs tests has all that,
and may hang or fail by it, now and then.
"""

import gc
import multiprocessing
import os
import runpy
import sys
from importlib import import_module
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch

import mmengine.config.config
import mmengine.device
import torch

ROOT = Path(__file__).resolve().parent.parent
NEEDED = (
    'mmcoke.models',
    'mmcoke.engine.launch',
    'mmcoke.datasets',
    'mmcoke.curation.sort',
    'pyarrow.parquet',
    'matplotlib.backends.backend_agg',
    'sklearn.datasets',
    'sklearn.metrics',
    'torch.utils.tensorboard',
)
"""What a training imports when it begins."""


def fork(function, *arguments, said, **environment):
    """Start a function of a module in a child process.

    Not for what is about a start: torchrun, or variables that are read when modules are imported.
    The child computes on the CPU, on one core.

    Args:
        said: file for what it prints.
        environment: further variables.
    """
    start_server()
    arguments = (function, arguments, said, dict(os.environ) | environment)
    process = multiprocessing.get_context('forkserver').Process(target=in_child, args=arguments)
    process.start()
    return process


def start_processes(function, arguments, num_processes):
    """Call a function of a module in several processes, with their rank ahead of the arguments.

    Raises:
        Exception: if it does in one of them.
    """
    start_server()
    options = dict(nprocs=num_processes, start_method='forkserver')
    torch.multiprocessing.start_processes(function, arguments, **options)


def start_server():
    forkserver.set_forkserver_preload(['children'])
    with patch.dict(os.environ, PYTHONPATH=f'{ROOT}:{ROOT / "tests"}'):
        forkserver.ensure_running()


def in_child(function, arguments, said, environment):
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)  # as torchrun does
    torch.set_num_threads = lambda number: None
    torch.cuda.is_available = lambda: False
    mmengine.device.utils.DEVICE = 'cpu'
    # A run formats its config, which takes 0.3 s.
    mmengine.config.config.FormatCode = lambda text, **_: (text, True)
    with open(said, 'w') as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    sys.stdout = open(1, 'w', buffering=1, closefd=False)  # noqa: SIM115 (until the end)
    sys.stderr = open(2, 'w', buffering=1, closefd=False)  # noqa: SIM115
    function(*arguments)


def run_tool(tool, *arguments):
    """A program of tools/, in this process: for :func:`fork`."""
    os.chdir(ROOT)
    sys.argv = [f'tools/{tool}', *map(str, arguments)]
    sys.orig_argv = [sys.executable, *sys.argv]
    runpy.run_path(sys.argv[0], run_name='__main__')


if 'pytest' not in sys.modules:  # in the process that forks
    for name in NEEDED:
        import_module(name)
    gc.collect()
    gc.freeze()
