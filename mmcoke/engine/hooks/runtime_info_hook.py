"""mmengine's record of losses, without waiting for the device in every iteration."""

from mmengine.hooks import RuntimeInfoHook
from mmengine.runner import Runner

from mmcoke.engine.pending import Pending, is_due
from mmcoke.registry import HOOKS


@HOOKS.register_module()
class PendingInfoHook(RuntimeInfoHook):
    """As ``RuntimeInfoHook``; on a GPU the losses are read where they are logged.

    All of them are, those of the iterations between included, so means and curves are the same.
    In the config: ``default_hooks = dict(runtime_info=dict(type='PendingInfoHook'))``.
    """

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self._pending = Pending()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        self._pending.add(outputs)
        if is_due(runner, batch_idx, outputs):
            self._write(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self._write(runner)

    def _write(self, runner: Runner) -> None:
        for scalars in self._pending.take():
            for name, value in scalars.items():
                runner.message_hub.update_scalar(f'train/{name}', value)
