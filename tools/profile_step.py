"""Where an iteration of training spends its time, and the setting that would help most.

    python tools/profile_step.py configs/selfsup/coke/coke_tiny_1xb64_digits.py
    python tools/profile_step.py CONFIG --iters 50 --cfg-options train_dataloader.num_workers=4

Trains for some iterations, in a folder that is removed. Steps run plainly (a CUDA graph has no
parts), and the device is waited for between the parts; the last but one line has the time without
that.
"""

import argparse
import json
from pathlib import Path

from mmcoke.cli.main import run
from mmcoke.cli.options import add_options
from mmcoke.cli.parser import Parser


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--iters', type=int, default=20, help='iterations (%(default)s)')
    parser.add_argument('--warmup', type=int, default=5, help='not counted (%(default)s)')
    parser.add_argument('--json', metavar='FILE', type=Path, help='write the numbers here, too')
    add_options(parser, 'train_dataloader.num_workers=4')
    args = parser.parse_args()
    if not Path(args.config).is_file():
        parser.error(f'there is no config {args.config!r}')
    if args.iters < 1 or args.warmup < 0:
        parser.error('--iters must be 1 or more, --warmup 0 or more')
    return args


def main(args: argparse.Namespace) -> None:
    from mmengine.config import Config

    from mmcoke.cli.options import merge_options
    from mmcoke.engine.profiling import ADVICE, PARTS, profile
    from mmcoke.files import write_text

    def make_config() -> Config:
        cfg = Config.fromfile(args.config)
        merge_options(cfg, args.cfg_options)
        return cfg

    found = profile(make_config, args.warmup, args.iters)
    total = sum(found['parts'].values())
    print(f'{"part":16}{"ms":>10}{"share":>8}')
    for name in PARTS:
        if ms := found['parts'].get(name):
            print(f'{name:16}{ms:10.2f}{ms / total:8.1%}')
    print(f'{"sum":16}{total:10.2f}')
    print(f'without waiting between parts, {found["loop"]}: {found["iteration"]:.2f} ms')
    largest = max(found['parts'], key=found['parts'].get)
    print(f'Most of it is {largest}. What would help: {ADVICE[largest]}.')
    if args.json:
        write_text(args.json, json.dumps(found, indent=2) + '\n')


if __name__ == '__main__':
    run(main, parse_args())
