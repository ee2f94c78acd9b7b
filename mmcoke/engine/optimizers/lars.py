"""LARS as CoKe uses it."""

import functools
import importlib
from collections.abc import Callable, Iterable
from types import ModuleType

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
    updated together, without waiting for the device: on a GPU by two kernels where Triton is
    installed (for float32 parameters that lie in memory like their gradients), else by
    ``torch._foreach``. A step can be captured in a CUDA graph once one has been done.

    Args:
        params: parameters or parameter groups.
        lr: learning rate; also a tensor (), on the device of the parameters, which a graph reads
            at each replay.
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
            number = settings[name]
            check_number(name, number.item() if isinstance(number, Tensor) else number, '[0, inf)')
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
            for p in params:
                if 'momentum_buffer' not in self.state[p]:
                    self.state[p]['momentum_buffer'] = torch.zeros_like(p)
            for scaled in (True, False):
                fused, others = [], []
                for p in params:
                    if (p.ndim > 1) == scaled:
                        (fused if self._is_fusable(p) else others).append(p)
                self._fused_step(fused, group, scaled)
                self._foreach_step(others, group, scaled)
        return loss

    def _is_fusable(self, p: Tensor) -> bool:
        """Whether the kernels take a parameter."""
        fits = p.is_cuda and p.numel() > 0 and triton_kernels() is not None
        return fits and lies_alike(p, p.grad, self.state[p]['momentum_buffer'])

    def _fused_step(self, params: list[Tensor], group: dict, scaled: bool) -> None:
        devices = {p.device for p in params}
        for device in devices:
            here = params if len(devices) == 1 else [p for p in params if p.device == device]
            key = tuple(map(id, here))
            # Not in __init__: a copy of an optimizer has only what torch's classes pickle.
            known = self.__dict__.setdefault('_kernels', {})
            if key not in known:
                known[key] = triton_kernels().LARSKernels(here, scaled=scaled)
            names = ('weight_decay', 'momentum', 'trust_coefficient')
            known[key].step(
                here,
                [p.grad for p in here],
                [self.state[p]['momentum_buffer'] for p in here],
                lr=on_device(group['lr'], device),
                **{name: group[name] for name in names},
            )

    def _foreach_step(self, params: list[Tensor], group: dict, scaled: bool) -> None:
        if not params:
            return
        directions, lr = [p.grad for p in params], group['lr']
        if scaled:
            directions = scaled_gradients(params, directions, group)
        buffers = [self.state[p]['momentum_buffer'] for p in params]
        torch._foreach_mul_(buffers, group['momentum'])
        torch._foreach_add_(buffers, directions)
        if isinstance(lr, Tensor):
            torch._foreach_sub_(params, torch._foreach_mul(buffers, lr))
        else:
            torch._foreach_add_(params, buffers, alpha=-lr)


@functools.cache
def triton_kernels() -> ModuleType | None:
    """Kernels for GPUs; None without Triton, as in torch for CPUs or outside Linux."""
    try:
        return importlib.import_module('.lars_kernels', __package__)
    except ImportError:
        return None


def lies_alike(*tensors: Tensor) -> bool:
    """Whether weight, gradient and momentum are float32 and in the same order, without gaps."""
    for x in tensors:  # not a generator: this is asked for each parameter in each step
        if x.dtype != torch.float32 or x.data_ptr() % 16:
            return False
    first, *others = tensors
    strides = first.stride()
    if all([x.stride() == strides for x in others]):
        return first.is_contiguous() or first.is_contiguous(memory_format=torch.channels_last)
    return any(  # strides differ in dimensions of size 1
        all(x.is_contiguous(memory_format=layout) for x in tensors)
        for layout in (torch.contiguous_format, torch.channels_last)
    )


def scaled_gradients(params: list[Tensor], grads: list[Tensor], group: dict) -> list[Tensor]:
    """Gradients with weight decay, times the trust ratio."""
    directions = torch._foreach_add(grads, params, alpha=group['weight_decay'])
    weight_norm = torch.stack(torch._foreach_norm(params))
    direction_norm = torch.stack(torch._foreach_norm(directions))
    ratio = group['trust_coefficient'] * weight_norm / direction_norm
    ratio = torch.where((weight_norm > 0) & (direction_norm > 0), ratio, 1.0)
    torch._foreach_mul_(directions, list(ratio.unbind()))
    return list(directions)


def on_device(lr: float | Tensor, device: torch.device) -> Tensor:
    """A learning rate as a float32 tensor (); a tensor that is one already is not copied."""
    if isinstance(lr, Tensor):
        return lr.to(device, torch.float32)
    return torch.full((), lr, device=device)
