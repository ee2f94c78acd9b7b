"""Training goes on without images that cannot be read."""

from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner

from mmcoke.datasets.loading import skip_unreadable
from mmcoke.features.unreadable import UNREADABLE
from mmcoke.registry import HOOKS


@HOOKS.register_module()
class SkipUnreadableHook(Hook):
    """Leaves out images that cannot be read, and lists them in ``WORK_DIR/unreadable.txt``.

    Whatever loads them: a transform of one's own may fail in its own way. In place of such an image
    the data set draws another, which keeps its own ``sample_idx`` and so its own label. DeepCluster
    and ODC leave them out of their clusterings. ``tools/train.py --skip-unreadable`` adds this
    hook.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        self.listing = Path(runner.work_dir) / UNREADABLE
        if is_main_process():
            self.listing.unlink(missing_ok=True)
        if isinstance(runner._train_loop, BaseLoop):  # else a run that only tests
            skip_unreadable(runner.train_dataloader.dataset, self.listing)

    def after_train(self, runner: Runner) -> None:
        """Say how many there were; lines that two workers have added at once become one."""
        if is_main_process() and self.listing.is_file():
            lines = sorted(set(self.listing.read_bytes().splitlines(keepends=True)))
            self.listing.write_bytes(b''.join(lines))
            runner.logger.warning(
                f'{len(lines):,} images could not be read and were skipped: {self.listing}'
            )
