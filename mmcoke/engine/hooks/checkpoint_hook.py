"""Saves checkpoints such that a good one is always there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import BaseStorageBackend
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.runner import Runner

from mmcoke.engine.checkpoint import WorkDirError, work_dir_error
from mmcoke.engine.model_wrappers import unwrap
from mmcoke.files import remove_leftovers
from mmcoke.registry import HOOKS
from mmcoke.weights.pretrained import load_model, weights_of


class RemovesLater:
    """A file backend that removes nothing yet.

    Args:
        backend: does all the rest, and the removing at last.
    """

    def __init__(self, backend: BaseStorageBackend) -> None:
        self.backend = backend
        self.removals: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.removals.append(('remove', path))

    def rmtree(self, path: str) -> None:
        self.removals.append(('rmtree', path))


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """mmengine's, with three differences.

    An old checkpoint is removed once the new one is whole: mmengine removes it before, so with
    ``max_keep_ckpts=1`` a run that is killed while it saves has none. A checkpoint that cannot be
    written ends the run with the name of the last good one. And what is loaded into the model is
    counted: mmengine only logs weights that are missing.

    Raises:
        WorkDirError: if a checkpoint cannot be written.
        ValueError: if a checkpoint has less than 90 % of the weights of the model's backbone.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load the weights and count them, before the runner loads them again."""
        load_model(
            unwrap(runner.model), weights_of(checkpoint, runner._load_from), runner._load_from
        )

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if is_main_process():
            remove_leftovers(self.out_dir)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        name = Path(self.out_dir) / self.filename_tmpl.format(step)
        with self._removing_afterwards(), self._telling(name):
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with self._removing_afterwards(), self._telling('The best checkpoint'):
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removing_afterwards(self) -> Iterator[None]:
        """Put off what mmengine removes, until all is written."""
        backend, later = self.file_backend, RemovesLater(self.file_backend)
        self.file_backend = later
        try:
            yield
        finally:
            self.file_backend = backend
        best = [getattr(self, 'best_ckpt_path', None)]
        best += getattr(self, 'best_ckpt_path_dict', {}).values()
        for method, path in later.removals:
            if path not in best:
                getattr(backend, method)(path)

    @contextmanager
    def _telling(self, what: str | Path) -> Iterator[None]:
        """Name the last good checkpoint, if a file cannot be written."""
        try:
            yield
        except WorkDirError:
            raise
        except OSError as error:
            raise work_dir_error(error, self.out_dir, str(what)) from error
