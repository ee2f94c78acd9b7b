"""Compare six augmentations of a batch, as SimCLR has them: ours, kornia's, torchvision's on PIL.

Random resized crop, flip, color jitter, gray, blur and solarize of 128 images of 32 pixels, from
uint8 to float32 in [0, 1]; one view each. On CPU in one thread, all in one run, alternating:

    python benchmarks/augmentation.py
    python benchmarks/augmentation.py --device cuda        (ours also in a CUDA graph)
    python benchmarks/augmentation.py --parts              (each of our six operations alone)

torchvision augments image by image, in the workers of a loader; here it has the same one thread.
"""

import argparse
import warnings
from collections.abc import Callable

import torch
import torchvision.transforms as tv
from _timing import alternating, finish, options, parse
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from mmcoke.augmentation import View, build_operation, view_keys

SCALE, JITTER, SIGMA = (0.2, 1.0), (0.4, 0.4, 0.2, 0.1), (0.1, 2.0)
P_JITTER, P_GRAY, P_BLUR, P_SOLARIZE = 0.8, 0.2, 0.5, 0.2


def our_configs(size: int) -> list[dict]:
    names = ('brightness', 'contrast', 'saturation', 'hue')
    return [
        dict(type='RandomResizedCrop', size=size, scale=SCALE),
        dict(type='RandomHorizontalFlip'),
        dict(type='ColorJitter', **dict(zip(names, JITTER, strict=True)), p=P_JITTER),
        dict(type='RandomGrayscale', p=P_GRAY),
        dict(type='GaussianBlur', sigma=SIGMA, p=P_BLUR),
        dict(type='RandomSolarize', p=P_SOLARIZE),
    ]


def ours(images: Tensor, size: int) -> Callable[[], Tensor]:
    """The hash of the keys included."""
    view = View(map(build_operation, our_configs(size))).to(images.device)
    seed, epoch = (torch.tensor(0, device=images.device) for _ in range(2))
    samples = torch.arange(len(images), device=images.device)
    return lambda: view(images / 255, view_keys(seed, epoch, samples, 1)[0])


def kornias(images: Tensor, size: int) -> Callable[[], Tensor]:
    """Its blur has a window: of 7 pixels, which is short for a sigma of 2."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        from kornia import augmentation as k
    view = torch.nn.Sequential(
        k.RandomResizedCrop((size, size), SCALE),
        k.RandomHorizontalFlip(),
        k.ColorJitter(*JITTER, p=P_JITTER),
        k.RandomGrayscale(p=P_GRAY),
        k.RandomGaussianBlur((7, 7), SIGMA, p=P_BLUR),
        k.RandomSolarize(0.0, 0.0, p=P_SOLARIZE),
    ).to(images.device)
    return lambda: view(images / 255)


def torchvisions(images: Tensor, size: int) -> Callable[[], Tensor]:
    """From PIL images to a batch on the CPU."""
    view = tv.Compose(
        [
            tv.RandomResizedCrop(size, SCALE),
            tv.RandomHorizontalFlip(),
            tv.RandomApply([tv.ColorJitter(*JITTER)], P_JITTER),
            tv.RandomGrayscale(P_GRAY),
            tv.RandomApply([tv.GaussianBlur(7, SIGMA)], P_BLUR),
            tv.RandomSolarize(128, P_SOLARIZE),
            tv.ToTensor(),
        ]
    )
    images = [to_pil_image(image) for image in images.cpu()]
    return lambda: torch.stack([view(image) for image in images])


def captured(function: Callable[[], Tensor]) -> Callable[[], None]:
    """The same in a CUDA graph."""
    for _ in range(3):
        function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def parts(images: Tensor, size: int) -> dict[str, Callable[[], Tensor]]:
    """Each of our operations alone, on images in [0, 1]."""
    images = images / 255
    made = {}
    for operation in map(build_operation, our_configs(size)):
        operation.to(images.device)
        u = torch.rand(len(images), operation.num_draws, device=images.device)
        made[type(operation).__name__] = lambda f=operation, u=u: f(images, u)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options(parser, repeats=21)
    parser.add_argument('--images', type=int, default=128, help='in a batch (%(default)s)')
    parser.add_argument('--size', type=int, default=32, help='pixels of a side (%(default)s)')
    parser.add_argument('--parts', action='store_true', help='our operations, each alone, too')
    args = parse(parser)
    # As in a training: the allocator keeps memory once a block of this size has been freed, instead
    # of asking the system for the pages of each result.
    torch.empty(30 * 2**18).fill_(0)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (args.images, 3, args.size, args.size), dtype=torch.uint8)
    images = images.to(args.device)
    functions = dict(ours=ours(images, args.size))
    if args.device != 'cpu':
        functions['ours, in a CUDA graph'] = captured(functions['ours'])
    functions['kornia'] = kornias(images, args.size)
    functions['torchvision on PIL'] = torchvisions(images, args.size)
    if args.parts:
        functions |= parts(images, args.size)
    with torch.no_grad():
        times = alternating(functions, args.repeats, device=args.device, warmup=3)
    finish(args, times, 'kornia')


if __name__ == '__main__':
    main()
