"""The quickstart's training: seconds and scores, through tools/quickstart.py.

python benchmarks/digits_training.py                     (as the quickstart: all cores)
python benchmarks/digits_training.py --threads 1 --repeats 3
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import _timing

TOOL = Path(__file__).resolve().parent.parent / 'tools/quickstart.py'


def run(threads: int, seed: int) -> dict:
    """Seconds and scores of one training."""
    env = dict(os.environ, **(dict(OMP_NUM_THREADS=str(threads)) if threads else {}))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(TOOL), '--work-dir', folder, '--seed', str(seed)]
        subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
        return json.loads((Path(folder) / 'metrics.json').read_text())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _timing.options(parser, repeats=1)
    parser.set_defaults(threads=0)
    args = parser.parse_args()
    found = [run(args.threads, seed) for seed in range(args.repeats)]
    for metrics in found:
        print(json.dumps(metrics))
    times = dict(training=_timing.summary([1000 * metrics['train_seconds'] for metrics in found]))
    _timing.finish(args, times, 'training', metrics=found)


if __name__ == '__main__':
    main()
