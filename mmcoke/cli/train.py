"""Train a model from a config: ``mmcoke train CONFIG``, tools/train.py."""

import argparse

import torch
from mmengine.config import Config
from torch.distributed.elastic.multiprocessing.errors import record

from mmcoke.engine.launch import default_work_dir, train
from mmcoke.engine.work_dir import resume_last

from .options import home, merge_options


@record
def main(args: argparse.Namespace) -> None:
    train(load_config(args), args.launcher, compile_network=args.compile)


def load_config(args: argparse.Namespace) -> Config:
    """The config file with the command line's choices merged in."""
    cfg = Config.fromfile(args.source)
    if args.amp:
        if not torch.cuda.is_available():
            raise SystemExit('--amp needs a GPU, and torch finds none. Train without it.')
        cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype=args.amp)
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        cfg.auto_scale_lr.enable = True
    merge_options(cfg, args.cfg_options)
    if args.skip_unreadable:
        cfg.custom_hooks = [dict(type='mmcoke.SkipUnreadableHook'), *cfg.get('custom_hooks', [])]
    cfg.work_dir = home(args.out or cfg.get('work_dir') or default_work_dir(args.source))
    if args.resume == 'auto':
        resume_last(cfg)
    elif args.resume:
        cfg.merge_from_dict(dict(resume=True, load_from=home(args.resume)))
    return cfg
