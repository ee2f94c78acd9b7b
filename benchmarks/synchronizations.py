"""How often a training step of CoKe waits for the device: host synchronizations per step.

On a GPU torch counts them (`torch.cuda.set_sync_debug_mode('warn')`), in plain steps of the recipe,
stage 1 and 2. Without one, the step runs on torch's device `meta`, which has no values, so that
anything that looks at one ends with an error.

    python benchmarks/synchronizations.py
    python benchmarks/synchronizations.py --device cuda
"""

import argparse
import json
import warnings
from contextlib import nullcontext
from pathlib import Path

import _timing
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mmcoke.files import write_text
from mmcoke.registry import MODELS

CONFIG = Path(__file__).parent.parent / 'configs/selfsup/coke/coke_r18_1xb128-2view_cifar10.py'
NUM_SAMPLES, BATCH = 5000, 128


def model_on(device: str) -> nn.Module:
    init_default_scope('mmcoke')
    cfg = Config.fromfile(CONFIG).model
    cfg.clustering.update(average_from_epoch=1)
    model = MODELS.build(cfg)
    model.init_labelers(NUM_SAMPLES)
    return model.to(device).train()


def step(model: nn.Module, device: str) -> None:
    images = torch.zeros(BATCH, 3, 32, 32, dtype=torch.uint8, device=device)
    idx = torch.zeros(BATCH, dtype=torch.int64, device=device)
    batch = model.data_preprocessor(dict(inputs=images, sample_idx=idx), True)
    model(**batch, mode='loss')['loss'].backward()


def count(model: nn.Module, device: str, epoch: int) -> int:
    """Synchronizations of one step, after one that is not counted."""
    model.labelers.set_epoch(epoch)
    model.data_preprocessor.set_epoch(0, epoch)
    step(model, device)
    if device == 'meta':
        return 0  # else the step has raised an error
    torch.cuda.set_sync_debug_mode('warn')
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        step(model, device)
    torch.cuda.set_sync_debug_mode('default')
    return sum('synchroniz' in str(warning.message) for warning in caught)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _timing.options(parser)
    args = _timing.parse(parser)
    device = 'cuda' if args.device == 'cuda' else 'meta'
    if device == 'meta':
        torch.autocast = lambda *args, **kwargs: nullcontext()  # it does not know this device
    model = model_on(device)
    found = {f'epoch {epoch}': count(model, device, epoch) for epoch in range(4)}
    print(f'on {device}, synchronizations in a step: {found}')
    if args.json:
        write_text(args.json, json.dumps(dict(found, device=device), indent=2) + '\n')


if __name__ == '__main__':
    main()
