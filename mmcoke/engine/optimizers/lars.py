"""LARS as CoKe uses it."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from mmcoke.clustering.settings import check_number
from mmcoke.registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class LARS(Optimizer):
    r"""SGD with momentum and a learning rate per layer (You et al., 2017), as published with CoKe.

    For parameters with at least two dimensions the gradient :math:`g` becomes
    :math:`d = g + \lambda w`, scaled by the trust ratio :math:`\tau \|w\| / \|d\|` (1 where a norm
    is 0). Biases and norm parameters (one dimension) are neither decayed nor scaled. Then
    :math:`m \leftarrow \mu m + d` and :math:`w \leftarrow w - lr \cdot m`.

    This is not mmpretrain's LARS, where weight decay is outside the trust ratio, the learning rate
    inside the momentum buffer, and one-dimensional parameters are scaled too. All parameters are
    updated together (``torch._foreach``), without waiting for the device.

    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        momentum: :math:`\mu`.
        weight_decay: :math:`\lambda`.
        trust_coefficient: :math:`\tau`.

    Raises:
        ValueError: if a number, of all or of a group of parameters, is negative or not finite, or
            the momentum not below 1.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
    ) -> None:
        defaults = dict(
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            trust_coefficient=trust_coefficient,
        )
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict) -> None:
        """See torch's ``Optimizer``; checks the numbers of the group."""
        settings = self.defaults | param_group
        for name in ('lr', 'weight_decay', 'trust_coefficient'):
            check_number(name, settings[name], '[0, inf)')
        check_number('momentum', settings['momentum'], '[0, 1)')
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Tensor | None:
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group['params'] if p.grad is not None]
            matrices = [p for p in params if p.ndim > 1]
            vectors = [p for p in params if p.ndim <= 1]
            self._apply(matrices, self._scaled_gradients(matrices, group), group)
            self._apply(vectors, [p.grad for p in vectors], group)
        return loss

    @staticmethod
    def _scaled_gradients(params: list[Tensor], group: dict) -> list[Tensor]:
        if not params:
            return []
        directions = torch._foreach_add(
            [p.grad for p in params], params, alpha=group['weight_decay']
        )
        weight_norm = torch.stack(torch._foreach_norm(params))
        direction_norm = torch.stack(torch._foreach_norm(directions))
        ratio = group['trust_coefficient'] * weight_norm / direction_norm
        ratio = torch.where((weight_norm > 0) & (direction_norm > 0), ratio, 1.0)
        torch._foreach_mul_(directions, list(ratio.unbind()))
        return list(directions)

    def _apply(self, params: list[Tensor], directions: list[Tensor], group: dict) -> None:
        if not params:
            return
        for p in params:
            if 'momentum_buffer' not in self.state[p]:
                self.state[p]['momentum_buffer'] = torch.zeros_like(p)
        buffers = [self.state[p]['momentum_buffer'] for p in params]
        torch._foreach_mul_(buffers, group['momentum'])
        torch._foreach_add_(buffers, directions)
        torch._foreach_add_(params, buffers, alpha=-group['lr'])
