"""A step of ResNet-50 at 224 px: CoKe's recipe with one view against supervised classification.

Both in bfloat16 and channels-last order (`--plain`: float32, as they come), with LARS, on images
that lie on the device; augmentation on the device is part of ours, because it is part of its
training, and apart in the row `without augmentation`.

    python benchmarks/resnet50_step.py --device cuda
    python benchmarks/resnet50_step.py --batch 4 --size 64 --repeats 3
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import _timing
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mmcoke.engine.optimizers import LARS
from mmcoke.registry import MODELS

CONFIG = Path(__file__).parent.parent / 'configs/selfsup/coke/coke_r50_8xb64_in1k.py'
NUM_SAMPLES = 1_281_167


def network(cfg: dict, args: argparse.Namespace) -> nn.Module:
    model = MODELS.build(cfg)
    model.init_weights()
    model.to(args.device).train()
    return model if args.plain else model.to(memory_format=torch.channels_last)


def stepper(model: nn.Module, loss: Callable, args: argparse.Namespace) -> Callable[[], None]:
    """One step of training."""
    optimizer = LARS([p for p in model.parameters() if p.requires_grad], lr=0.1)
    half = torch.autocast(args.device, torch.bfloat16, cache_enabled=False)

    def step() -> None:
        with nullcontext() if args.plain else half:
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--batch', type=int, default=256, help='images (%(default)s)')
    parser.add_argument('--size', type=int, default=224, help='pixels (%(default)s)')
    parser.add_argument('--plain', action='store_true', help='float32, order as it comes')
    _timing.options(parser, repeats=11)
    args = _timing.parse(parser)
    init_default_scope('mmcoke')
    torch.backends.cudnn.benchmark = True
    cfg = Config.fromfile(CONFIG).model
    cfg.backbone.norm_cfg = dict(type='BN')  # of one process
    cfg.neck.norm_cfg = cfg.head.norm_cfg = dict(type='BN1d')
    cfg.data_preprocessor.channels_last = not args.plain
    coke = network(cfg, args)
    coke.init_labelers(NUM_SAMPLES)
    coke.labelers.set_epoch(0)
    classifier = network(
        dict(
            type='ImageClassifier',
            backbone=cfg.backbone,
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=1000, in_channels=2048),
        ),
        args,
    )
    shape, device = (args.batch, 3, args.size, args.size), args.device
    pixels = torch.randint(256, shape, dtype=torch.uint8, device=device)
    order = torch.contiguous_format if args.plain else torch.channels_last
    images = (pixels.float() / 128 - 1).contiguous(memory_format=order)
    idx = torch.randperm(NUM_SAMPLES)[: args.batch].to(device)
    label = (idx % 1000).long()

    def augmented() -> torch.Tensor:
        batch = coke.data_preprocessor(dict(inputs=[pixels], sample_idx=idx), True)
        return coke.loss(batch['inputs'], batch['sample_idx'])['loss']

    steps = dict(
        supervised=stepper(
            classifier,
            lambda: nn.functional.cross_entropy(
                classifier.head.fc(classifier.extract_feat(images)[0]), label
            ),
            args,
        ),
        coke=stepper(coke, augmented, args),
        without_augmentation=stepper(coke, lambda: coke.loss([images], idx)['loss'], args),
    )
    steps = {name.replace('_', ' '): step for name, step in steps.items()}
    times = _timing.alternating(steps, args.repeats, device=device, number=3, warmup=3)
    _timing.finish(args, times, 'supervised')


if __name__ == '__main__':
    main()
