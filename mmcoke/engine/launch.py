"""From a config and command-line choices to a runner, on GPUs and without."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from mmcoke.datasets import UnreadableImageError

from .batch_size import AccumulationAwareRunner
from .checkpoint import (
    WorkDirError,
    concerns,
    require_writable,
    saved_checkpoints,
    work_dir_error,
)
from .model_wrappers import CPUDistributedDataParallel, unwrap
from .work_dir import choose_start, is_finished, refuse_used, taken, without_workers


def train(cfg: Config, launcher: str = 'none', *, compile_network: bool = False) -> nn.Module:
    """Train what a config describes; for entry points.

    An unreadable image or Ctrl-C ends the program with a message that says how to go on, not with a
    traceback.

    Args:
        cfg, launcher: see :func:`build_runner`.
        compile_network: compile backbone and neck with torch.compile; clustering and loss stay
            as they are.

    Returns:
        The trained model, without a wrapper for distributed training. Of a run that is finished
        and resumed, the saved one.

    Raises:
        ValueError: if another run is in the work dir, or one that would be overwritten.
    """
    try:
        require_writable(cfg.work_dir)
        with taken(cfg.work_dir, launcher):
            refuse_used(cfg)
            runner = build_runner(cfg, launcher)
            if compile_network:
                model = unwrap(runner.model)
                for part in (model.backbone, model.neck):
                    if part is not None:
                        part.compile()
            model = unwrap(finished(runner) if is_finished(cfg) else runner.train())
    except UnreadableImageError as error:
        skip = 'With --skip-unreadable training goes on without such images.'
        raise SystemExit(f'{error}\n{way_on(cfg.work_dir)} {skip}') from None
    except WorkDirError as error:
        raise SystemExit(str(error)) from None
    except OSError as error:
        if not concerns(error, cfg.work_dir):
            raise
        what = f'{error.filename or cfg.work_dir}'
        raise SystemExit(str(work_dir_error(error, cfg.work_dir, what))) from None
    except KeyboardInterrupt:
        print(f'\nInterrupted. {way_on(cfg.work_dir)}', file=sys.stderr)
        raise SystemExit(130) from None
    if dist.is_initialized():
        # Together: a process that ends while others still talk to it can make them abort.
        dist.barrier()
        dist.destroy_process_group()
    return model


def finished(runner: Runner) -> nn.Module:
    """The model of a run whose epochs are all done, as it was saved; nothing is trained."""
    assert runner.train_loop  # built on first use; the labelers need its data set
    runner.call_hook('before_run')
    runner.load_checkpoint(runner._load_from)
    return runner.model


def way_on(work_dir: str) -> str:
    """How to go on after an interruption."""
    if saved_checkpoints(work_dir):
        return f'Checkpoints are in {work_dir}; go on with --resume.'
    return f'There is no checkpoint in {work_dir} yet; start again.'


def build_runner(cfg: Config, launcher: str = 'none') -> Runner:
    """Runner for a config, in one process or as one of many.

    mmengine's launcher calls ``torch.cuda.set_device`` whatever the machine. Without a GPU, the
    process group is therefore made here, with gloo, before the runner would make its own.

    Args:
        cfg: a complete training config; ``work_dir`` is set.
        launcher: 'none', 'pytorch' (torchrun), 'slurm' or 'mpi'.

    Raises:
        ValueError: if there are more processes than GPUs on this machine, or the checkpoint to
            resume from is damaged or of another optimizer.
    """
    cfg.launcher = launcher
    choose_start(cfg)
    without_workers(cfg)
    if launcher != 'none':
        if torch.cuda.is_available():
            check_num_gpus()
        else:
            prepare_cpu_processes(cfg, launcher)
    return AccumulationAwareRunner.from_cfg(cfg)


def check_num_gpus() -> None:
    """Refuse more processes on this machine than it has GPUs, before CUDA does so obscurely."""
    num_processes = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    if num_processes > torch.cuda.device_count():
        raise ValueError(
            f'{num_processes} processes on this machine, but it has {torch.cuda.device_count()} '
            'GPUs. Start one process per GPU (the second argument of tools/dist_train.sh).'
        )


def prepare_cpu_processes(cfg: Config, launcher: str) -> None:
    """Join the gloo process group, and wrap the model the way CPU needs it."""
    if launcher != 'pytorch':
        raise ValueError(
            f'Without a GPU only --launcher pytorch (torchrun) is supported, not {launcher}.'
        )
    if not dist.is_initialized():
        dist.init_process_group('gloo')
    cfg.model_wrapper_cfg = dict(
        # With its scope: Runner.wrap_model looks the name up in mmengine's registry.
        type=f'mmcoke.{CPUDistributedDataParallel.__name__}',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )


@contextmanager
def joined_processes(launcher: str) -> Iterator[torch.device]:
    """Work with the other processes, if there are any; for entry points that do not train.

    The group uses gloo on GPUs, too: an evaluation exchanges little, and gloo lets a process wait
    for long.

    Args:
        launcher: 'none' or 'pytorch' (torchrun).

    Yields:
        The device of this process.

    Raises:
        ValueError: if there are more processes than GPUs on this machine.
    """
    if launcher == 'pytorch':
        dist.init_process_group('gloo', timeout=timedelta(hours=12))
    device = torch.device('cpu')
    if torch.cuda.is_available():
        check_num_gpus()
        device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', 0)))
        torch.cuda.set_device(device)
    yield device
    if launcher == 'pytorch':
        dist.barrier()  # as at the end of train
        dist.destroy_process_group()


def default_work_dir(config: str) -> str:
    """``work_dirs/<name of the config file>``, where OpenMMLab users look."""
    return str(Path('work_dirs') / Path(config).stem)
