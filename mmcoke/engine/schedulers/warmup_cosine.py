"""The learning-rate curve of CoKe."""

import math
from typing import Any

from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import INF, _ParamScheduler

from mmcoke.clustering.settings import check_number
from mmcoke.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(LRSchedulerMixin, _ParamScheduler):
    """Zero, then linear warm-up, then half a cosine down to zero, or to a share of the rate.

    The curve of the published CoKe code, which mmengine's schedulers cannot be combined to: they
    multiply the last value, and nothing leads away from 0. The first iteration of a warm-up from 0
    already has the value of the second. Lengths count iterations, or epochs with
    ``convert_to_iter_based=True``::

        param_scheduler = dict(type='WarmupCosineLR', zero=1, warmup=10, convert_to_iter_based=True)

    Args:
        optimizer: the optimizer or its wrapper.
        zero: length of the part with learning rate 0 (CoKe's epoch 0, in which the centers form).
        warmup: length of the warm-up.
        start_factor: share of the learning rate that the warm-up starts from.
        end_factor: share of the learning rate that the cosine ends with.
        begin: first step, where the zero part begins.
        end: last step, where the cosine ends; ``Runner`` sets it to the end of training. If
            that is within the warm-up, as in a short trial, the curve stops there.

    Raises:
        ValueError: if ``end`` is not known or not after ``begin``, or a length is not a whole
            number of at least 0.
    """

    def __init__(
        self,
        optimizer: Any,
        *args: Any,
        zero: int = 1,
        warmup: int = 10,
        start_factor: float = 0.0,
        end_factor: float = 0.0,
        **kwargs: Any,
    ) -> None:
        end = kwargs.get('end', INF)
        if end == INF:
            raise ValueError('WarmupCosineLR needs an end: where the cosine ends.')
        lengths = dict(zero=zero, warmup=warmup, begin=kwargs.get('begin', 0))
        for name, length in lengths.items():
            check_number(name, length, '[0, inf)', whole=True)
        check_number('end', end, f'({kwargs.get("begin", 0)}, inf)', whole=True)
        check_number('start_factor', start_factor, '[0, 1]')
        check_number('end_factor', end_factor, '[0, 1]')
        self.zero, self.warmup = zero, warmup
        self.start_factor, self.end_factor = start_factor, end_factor
        self.epoch_length = 1
        super().__init__(optimizer, *args, **kwargs)

    @classmethod
    def build_iter_from_epoch(
        cls,
        *args: Any,
        zero: int = 1,
        warmup: int = 10,
        begin: int = 0,
        end: int = INF,
        by_epoch: bool = True,
        epoch_length: int | None = None,
        **kwargs: Any,
    ) -> 'WarmupCosineLR':
        """The same curve with a value per iteration, from lengths in epochs.

        Raises:
            ValueError: if an epoch has no iteration.
        """
        assert by_epoch, 'lengths are in epochs'
        if not epoch_length:
            raise ValueError(
                'An epoch has no iteration: with drop_last=True the data set does not fill one '
                'batch per process. Set a smaller train_dataloader.batch_size, or give more '
                'images.'
            )
        lengths = dict(zero=zero, warmup=warmup, begin=begin, end=end)
        for name, length in lengths.items():
            check_number(name, length, '[0, inf)', whole=True)
        lengths = {name: length * epoch_length for name, length in lengths.items()}
        scheduler = cls(*args, **lengths, by_epoch=False, **kwargs)
        scheduler.epoch_length = epoch_length
        return scheduler

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on at the epoch that was reached, on the curve of the present settings.

        mmengine's schedulers go on with the settings of the checkpoint: after a change of the
        number of processes, of the batch size or of ``max_epochs`` their curve ends at the wrong
        place.
        """
        scale = self.epoch_length / state_dict.get('epoch_length', self.epoch_length)
        self.last_step = round(state_dict['last_step'] * scale)
        self._global_step = round(state_dict['_global_step'] * scale)
        for group, value in zip(self.optimizer.param_groups, self._get_value(), strict=True):
            group[self.param_name] = value
        self._last_value = self._get_value()

    def _factor(self, step: int) -> float:
        if step < self.zero:
            return 0.0
        step -= self.zero
        if step < self.warmup:
            done = (step if self.start_factor else max(step, 1)) / self.warmup
            return self.start_factor + (1 - self.start_factor) * done
        total = self.end - self.begin - self.zero - self.warmup
        # A run that is resumed behind the end of a shorter curve stays there.
        done = min(1.0, (step - self.warmup) / total) if total > 0 else 1.0
        return self.end_factor + (1 - self.end_factor) * 0.5 * (1 + math.cos(math.pi * done))

    def _get_value(self) -> list[float]:
        return [value * self._factor(self.last_step) for value in self.base_values]
