"""Which run a work dir holds: one at a time, none overwritten, the right one resumed."""

import ast
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from shlex import quote

from mmengine.config import Config
from mmengine.logging import print_log

from mmcoke.files import locked

from .checkpoint import checkpoint_to_resume, described, saved_checkpoints

LOCK = '.running'
RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')


@contextmanager
def taken(work_dir: str | Path, launcher: str = 'none') -> Iterator[None]:
    """Keep other runs out of a work dir as long as this one lives; its first process does.

    Raises:
        ValueError: if another run is in it; says which.
    """
    ranks = [os.environ[name] for name in RANKS if launcher != 'none' and name in os.environ]
    owner = f'process {os.getpid()} on {socket.gethostname()}'
    lock = locked(Path(work_dir) / LOCK, owner) if int([*ranks, 0][0]) == 0 else nullcontext()
    with ExitStack() as stack:
        try:
            stack.enter_context(lock)
        except BlockingIOError as error:
            raise ValueError(
                f'Another run, {error.strerror}, is in {work_dir}. Wait for its end or stop it, or '
                'give another folder with --work-dir.'
            ) from None
        yield


def refuse_used(cfg: Config) -> None:
    """Raises ValueError if a run in the work dir would be overwritten: with the ways out."""
    saved = saved_checkpoints(cfg.work_dir)
    start = cfg.get('load_from')
    goes_on = cfg.get('resume') and (start is None or is_in(start, cfg.work_dir))
    if saved and not goes_on:
        raise ValueError(
            f'{cfg.work_dir} holds a run already ({saved[0].name}), which would be overwritten. '
            'Go on with it (--resume), give another folder (--work-dir), or remove it.'
        )


def resume_last(cfg: Config) -> None:
    """Resume from the last checkpoint in the work dir; without one, begin, and say so."""
    last = checkpoint_to_resume(cfg.work_dir)
    cfg.resume = last is not None
    if cfg.resume:
        cfg.load_from = last
    else:
        say(f'There is no checkpoint in {cfg.work_dir} to resume from: training begins.')


def choose_start(cfg: Config) -> None:
    """Settle what a run is resumed from, if it is: ``load_from``, or the last of the work dir.

    Raises:
        ValueError: if the checkpoint cannot be gone on from.
    """
    if not cfg.get('resume'):
        return
    if cfg.get('load_from') is None:
        resume_last(cfg)
    else:
        cfg.load_from = checkpoint_to_resume(cfg.work_dir, cfg.load_from)
    if cfg.resume and '://' not in cfg.load_from:
        check_resumable(cfg, described(cfg.load_from))


def is_in(checkpoint: str, folder: str | Path) -> bool:
    """Whether a checkpoint lies in a folder, under whatever name of it."""
    return Path(checkpoint).resolve().parent == Path(folder).resolve()


def check_resumable(cfg: Config, checkpoint: dict) -> None:
    """Refuse to resume with another optimizer, or with fewer epochs than are done.

    Args:
        cfg: of the run.
        checkpoint: to resume from.
    """
    meta, path = checkpoint.get('meta', {}), cfg.load_from
    if 'optimizer' not in checkpoint or 'epoch' not in meta:
        raise ValueError(
            f'{path} holds weights only, which is not enough to resume. Start a new run from '
            f'them: --cfg-options load_from={quote(path)}'
        )
    before, now = saved_optimizer(meta.get('cfg', '')), optimizer_of(cfg)
    if before and now and before != now:
        raise ValueError(
            f'{path} was trained with the optimizer {before}, the config has {now}, and the state '
            f'of one is of no use to the other. Set optim_wrapper.optimizer as it was, or start a '
            f'new run from its weights: --work-dir NEW --cfg-options load_from={quote(path)}'
        )
    if (epochs := num_epochs(cfg)) is not None and meta['epoch'] > epochs:
        raise ValueError(
            f'{path} has {meta["epoch"]} epochs, more than train_cfg.max_epochs={epochs}. Set '
            'max_epochs higher, or resume from an earlier checkpoint.'
        )


def num_epochs(cfg: Config) -> int | None:
    """Epochs that a run is to have; None if it does not go by epochs."""
    return (cfg.get('train_cfg') or {}).get('max_epochs')


def is_finished(cfg: Config) -> bool:
    """Whether all epochs of the run to resume are done; then a line says so."""
    if not cfg.get('resume') or '://' in cfg.load_from:
        return False
    done = described(cfg.load_from)['meta']
    finished = done['epoch'] == num_epochs(cfg)
    if finished:
        say(
            f'The run in {cfg.work_dir} is finished: {done["epoch"]} of {num_epochs(cfg)} epochs. '
            'Nothing is trained. For more epochs: --cfg-options train_cfg.max_epochs=...'
        )
    return finished


def optimizer_of(cfg: Config) -> str | None:
    """Class of a config's optimizer, without its scope."""
    kind = ((cfg.get('optim_wrapper') or {}).get('optimizer') or {}).get('type')
    return kind.rsplit('.', 1)[-1] if isinstance(kind, str) else getattr(kind, '__name__', None)


def saved_optimizer(text: str) -> str | None:
    """The same in the text of a config, which is parsed and not run."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):
        return None
    for node in nodes:
        if isinstance(node, ast.keyword) and node.arg == 'optimizer':
            for word in getattr(node.value, 'keywords', ()):
                if word.arg == 'type' and isinstance(word.value, ast.Constant):
                    return str(word.value.value).rsplit('.', 1)[-1]
    return None


def without_workers(cfg: Config) -> None:
    """Take away what torch refuses where the training process loads the images itself."""
    for name, loader in cfg.items():
        if (
            name.endswith('_dataloader')
            and isinstance(loader, dict)
            and not loader.get('num_workers')
        ):
            loader.pop('persistent_workers', None)
            loader.pop('prefetch_factor', None)


def say(message: str) -> None:
    """On the terminal, before there is a log."""
    print_log(message, logger='current', level=logging.WARNING)
