"""From a config and command-line choices to a runner, on GPUs and without."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.runner import Runner
from torch import nn

from mmcoke.datasets import UnreadableImageError

from .batch_size import AccumulationAwareRunner
from .checkpoint import (
    WorkDirError,
    concerns,
    forget_described,
    require_writable,
    work_dir_error,
)
from .config_text import FormattedOnce
from .hooks import InterruptionHook
from .interruption import Interrupted, StopSignals, say, way_on
from .loops import EpochLoop, compile_parts
from .model_wrappers import CPUDistributedDataParallel, unwrap
from .processes import PATIENCE, RANK_TIMEOUT, RankWatch, watched
from .work_dir import choose_start, is_finished, refuse_used, taken, without_workers

SAVE_MINUTES = 10
"""How old the last checkpoint of a run may get; ``save_minutes`` in the config."""


def train(cfg: Config, launcher: str = 'none', *, compile_network: bool = False) -> nn.Module:
    """Train what a config describes; for entry points.

    A signal, an unreadable image or a process that is lost ends the program with a message that
    says what was saved and how to go on, not with a traceback.

    Args:
        cfg, launcher: see :func:`build_runner`.
        compile_network: compile backbone and neck with torch.compile; clustering and loss stay
            as they are.

    Returns:
        The trained model, without a wrapper for distributed training. Of a run that is finished
        and resumed, the saved one.

    Raises:
        ValueError: if another run is in the work dir, or one that would be overwritten.
        SystemExit: with the status 128 + n after signal n.
    """
    remedy = partial(way_on, cfg.work_dir)
    try:
        require_writable(cfg.work_dir)
        with StopSignals(cfg.work_dir) as signals, taken(cfg.work_dir, launcher):
            refuse_used(cfg)
            join_processes(cfg, launcher)
            with watched(cfg.get('rank_timeout', RANK_TIMEOUT), remedy) as watch:
                model, stop = run(cfg, launcher, signals, watch, compile_network)
    except UnreadableImageError as error:
        raise SystemExit(f'{error}\n{remedy()}') from None
    except WorkDirError as error:
        raise SystemExit(str(error)) from None
    except OSError as error:
        if not concerns(error, cfg.work_dir):
            raise
        what = f'{error.filename or cfg.work_dir}'
        raise SystemExit(str(work_dir_error(error, cfg.work_dir, what))) from None
    except Interrupted as early:
        tell_interrupted(early, cfg.work_dir)
        stop = early
    leave_processes()
    if stop is not None:
        raise SystemExit(128 + stop.signum)
    return model


def run(
    cfg: Config, launcher: str, signals: StopSignals, watch: RankWatch, compile_network: bool
) -> tuple[nn.Module | None, Interrupted | None]:
    """Train; the model, or what interrupted all processes together."""
    runner = build_runner(cfg, launcher, signals=signals)
    if isinstance(runner.train_loop, EpochLoop):
        runner.train_loop.loading = watch.loading
    if compile_network:
        compile_parts(unwrap(runner.model))
    is_done = is_finished(cfg)
    forget_described()
    try:
        model = finished(runner) if is_done else runner.train()
        return unwrap(model), None
    except Interrupted as stop:
        if stop.checkpoint is None:
            raise
        tell_interrupted(stop, cfg.work_dir)
        return None, stop


def finished(runner: Runner) -> nn.Module:
    """The model of a run whose epochs are all done, as it was saved; nothing is trained."""
    assert runner.train_loop  # built on first use; the labelers need its data set
    runner.call_hook('before_run')
    runner.load_checkpoint(runner._load_from)
    return runner.model


def tell_interrupted(stop: Interrupted, work_dir: str) -> None:
    """Say what was saved and how to go on."""
    name = signal.Signals(stop.signum).name
    what = f'{stop.checkpoint} is saved' if stop.checkpoint else 'before training had begun'
    say(f'Stopped by {name}: {what}. {way_on(work_dir)}')


def build_runner(
    cfg: Config, launcher: str = 'none', *, signals: StopSignals | None = None
) -> Runner:
    """Runner for a config, in one process or as one of many.

    Args:
        cfg: a complete training config; ``work_dir`` is set.
        launcher: 'none', 'pytorch' (torchrun), 'slurm' or 'mpi'.
        signals: what stops the run; None for nothing.

    Raises:
        ValueError: if there are more processes than GPUs on this machine, or the checkpoint to
            resume from is damaged or of another optimizer.
    """
    cfg.launcher = launcher
    choose_start(cfg)
    without_workers(cfg)
    join_processes(cfg, launcher)
    if torch.cuda.is_available():
        use_bfloat16(cfg)
    runner = AccumulationAwareRunner.from_cfg(FormattedOnce.of(cfg))
    if isinstance(runner._train_loop, dict):
        runner._train_loop = with_epoch_loop(runner._train_loop)
        runner.register_hook(InterruptionHook(signals, cfg.get('save_minutes', SAVE_MINUTES)))
    return runner


def use_bfloat16(cfg: Config) -> None:
    """Train in bfloat16, if ``gpu.bfloat16`` is set and no other precision was chosen."""
    wrapper = cfg.get('optim_wrapper') or {}
    if cfg.get('gpu', {}).get('bfloat16') and wrapper.get('type') == 'OptimWrapper':
        wrapper.type = 'BFloat16OptimWrapper'


def with_epoch_loop(train_cfg: dict) -> dict:
    """The config of a loop over epochs, with ours in place of mmengine's."""
    options = {key: value for key, value in train_cfg.items() if key not in ('type', 'by_epoch')}
    kind = train_cfg.get('type', 'EpochBasedTrainLoop' if train_cfg.get('by_epoch') else None)
    # The class: mmselfsup's registry of loops cannot look up a name.
    return dict(type=EpochLoop, **options) if kind == 'EpochBasedTrainLoop' else train_cfg


def join_processes(cfg: Config, launcher: str) -> None:
    """Join the group of processes, if there are several and it is not there yet.

    mmengine's launcher calls ``torch.cuda.set_device`` whatever the machine. Without a GPU, the
    group is therefore made here, with gloo.
    """
    if launcher == 'none' or dist.is_initialized():
        return
    if torch.cuda.is_available():
        check_num_gpus()
        options = dict(timeout=PATIENCE.total_seconds()) | cfg.env_cfg.get('dist_cfg', {})
        init_dist(launcher, **options)
    else:
        prepare_cpu_processes(cfg, launcher)


def leave_processes() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


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
    dist.init_process_group('gloo', timeout=PATIENCE)
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
        dist.init_process_group('gloo', timeout=PATIENCE)
    device = torch.device('cpu')
    if torch.cuda.is_available():
        check_num_gpus()
        device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', 0)))
        torch.cuda.set_device(device)
    with watched(RANK_TIMEOUT, lambda: 'Start it again.'):
        yield device
    leave_processes()


def default_work_dir(config: str | Path) -> str:
    """Of a run's own config the folder of the run, where ``mmcoke report`` finds what is written;
    else ``work_dirs/<name of the config file>``, where OpenMMLab users look.
    """
    folder = Path(config).parent
    if (folder / 'last_checkpoint').is_file():
        return str(folder)
    return str(Path('work_dirs') / Path(config).stem)
