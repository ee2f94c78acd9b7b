"""Compare a step of LARS with mmpretrain's and with torch's SGD, on ResNet-50's parameters.

The same weights and gradients for all, float32, as in training; on a GPU also in a CUDA graph:

    python benchmarks/lars.py --device cuda
"""

import argparse
import copy
import warnings
from collections.abc import Callable

import torch
from _timing import alternating, finish, options, parse
from torchvision.models import resnet50

from mmcoke.engine import LARS

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    from mmpretrain.engine.optimizers import LARS as PretrainLARS

SETTINGS = dict(lr=0.1, momentum=0.9, weight_decay=1e-6)
KINDS = {
    'ours': LARS,
    'mmpretrain LARS': PretrainLARS,
    'SGD, fused': lambda params, **settings: torch.optim.SGD(params, fused=True, **settings),
    'SGD, foreach': lambda params, **settings: torch.optim.SGD(params, foreach=True, **settings),
}


def make_step(kind: Callable, model: torch.nn.Module) -> Callable[[], None]:
    """A step on an own copy of the weights, with gradients of about the weights' size."""
    params = list(copy.deepcopy(model).parameters())
    optimizer = kind(params, **SETTINGS)
    for p in params:
        p.grad = torch.randn_like(p) * p.detach().std(correction=0).clamp(min=0.01)
    return optimizer.step


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """The same step, replayed in a CUDA graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay(keeps_alive: Callable = step) -> None:
        """A graph reads the optimizer's memory, and does not own it."""
        graph.replay()

    return replay


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options(parser)
    args = parse(parser)
    torch.manual_seed(0)
    model = resnet50().to(args.device)
    steps = {name: make_step(kind, model) for name, kind in KINDS.items()}
    if torch.device(args.device).type == 'cuda':
        names = ('ours', 'SGD, fused')
        steps |= {f'{name}, captured': captured(make_step(KINDS[name], model)) for name in names}
    number = 20 if torch.device(args.device).type == 'cuda' else 1
    times = alternating(steps, args.repeats, device=args.device, number=number)
    finish(args, times, 'SGD, fused', num_parameters=sum(p.numel() for p in model.parameters()))


if __name__ == '__main__':
    main()
