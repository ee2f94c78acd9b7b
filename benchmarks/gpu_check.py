"""What only a GPU shows, in one command of at most four minutes.

First whether it is right: tests marked `gpu`, labels and random numbers of CPU and GPU, the same
numbers again, captured against plain steps. Then the figures of benchmarks/README.md. Then, with
`--cifar10`, a minute of training through tools/train.py. Each failure is printed at once, with its
reason; what there was no time for is named.

    python benchmarks/gpu_check.py --prototype cifar10_one_graph.py --cifar10 cifar10_train.npz

Without a GPU it says so and runs what a CPU can, which shows that the program works.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import normalize

from mmcoke.augmentation import view_keys
from mmcoke.clustering import CoKeLabeler, kmeans
from mmcoke.files import write_text

HERE = Path(__file__).resolve().parent
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def stream(num_batches: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of clustered unit vectors, and their indices."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(40, 32, generator=generator)
    batches = []
    for _ in range(num_batches):
        idx = torch.randperm(5000, generator=generator)[:512]
        noise = torch.randn(512, 32, generator=generator)
        batches.append((normalize(means[idx % 40] + 0.5 * noise, dim=1), idx))
    return batches


def clustered(device: str, average_from_epoch: int | None) -> CoKeLabeler:
    """Three heads after four epochs."""
    settings = dict(dual_lr=5.0, average_from_epoch=average_from_epoch)
    labeler = CoKeLabeler(5000, [20, 40, 300], 32, **settings).to(device)
    for epoch in range(4):
        labeler.set_epoch(epoch)
        for x, idx in stream(8):
            labeler.step(x.to(device), idx.to(device))
        labeler.end_epoch()
    return labeler


def check_labels() -> str:
    """Labels of CPU and GPU are the same but where rounding decides; twice on a GPU, to the bit."""
    shares = []
    for average in (None, 2):
        cpu, gpu, again = (clustered(d, average) for d in ('cpu', DEVICE, DEVICE))
        for one, two, three in zip(cpu, gpu, again, strict=True):
            share = (one.newest.label == two.newest.label.cpu()).float().mean().item()
            shares.append(share)
            assert share > 0.99, f'only {share:.2%} of the labels are those of the CPU'
            for name, value in two.state_dict().items():
                assert torch.equal(value, three.state_dict()[name]), f'{name} differs when repeated'
    return f'{min(shares):.2%} of the labels are those of the CPU; repeated to the bit'


def check_random_numbers() -> str:
    """Keys of views are the same bits."""
    keys = []
    for device in ('cpu', DEVICE):
        seed, epoch = (torch.tensor(x, device=device) for x in (5, 7))
        keys.append(view_keys(seed, epoch, torch.arange(1000, device=device), 2))
    for one, two in zip(*keys, strict=True):
        assert torch.equal(one, two.cpu()), 'keys of CPU and GPU differ'
    return 'the same bits'


def check_kmeans() -> str:
    """k-means of features on the GPU reaches the objective of the CPU."""
    x = torch.cat([batch for batch, _ in stream(8)])
    one, two = (kmeans(x.to(device), 60, num_iters=10) for device in ('cpu', DEVICE))
    ratio = two.objective / one.objective
    assert abs(ratio - 1) < 1e-3, f'objective {two.objective:g}, on the CPU {one.objective:g}'
    return f'objective {ratio:.5f} of that on the CPU'


def check_faiss() -> str:
    """k-means by faiss-gpu, where it is installed."""
    import faiss

    if not getattr(faiss, 'get_num_gpus', int)():
        return 'not run: faiss finds no GPU (faiss-cpu)'
    x = torch.cat([batch for batch, _ in stream(8)])
    one, two = (kmeans(x, 60, num_iters=10, backend=backend) for backend in ('cpu', 'gpu'))
    assert abs(two.objective / one.objective - 1) < 1e-3, (two.objective, one.objective)
    return f'objective {two.objective / one.objective:.5f} of that on the CPU'


def figures_of(name: str, *options: str) -> dict:
    """What a program of this folder writes with ``--json``."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'out.json'
        command = [sys.executable, str(HERE / name), '--json', str(file), '--device', DEVICE]
        done = subprocess.run([*command, *options], capture_output=True, text=True)
        assert done.returncode == 0, (done.stderr or done.stdout)[-2000:]
        return json.loads(file.read_text())


def check_synchronizations() -> str:
    """No step of training waits for the device."""
    found = figures_of('synchronizations.py')
    device = found.pop('device')
    assert not any(found.values()), f'on {device}: {found}'
    return f'none, on {device}'


def tests() -> str:
    """The tests marked gpu; those that fail, with their reasons."""
    options = ['-q', '-m', 'gpu', '--tb=short', '-p', 'no:cacheprovider']
    command = [sys.executable, '-m', 'pytest', *options]
    marked = [x for x in (HERE.parent / 'tests').glob('test_*.py') if 'mark.gpu' in x.read_text()]
    run = subprocess.run(
        [*command, *map(str, marked)],
        capture_output=True,
        text=True,
        cwd=HERE.parent,
        env=os.environ | dict(OMP_NUM_THREADS='4'),
    )
    assert run.returncode in (0, 5), run.stdout[-6000:] + run.stderr[-1000:]
    return run.stdout.strip().splitlines()[-1]


def program(name: str, *options: str) -> Callable[[], str]:
    """A benchmark of this folder; its ratios."""

    def run() -> str:
        found = figures_of(name, *options)
        FIGURES[f'{name} {" ".join(options)}'] = found
        return '; '.join(
            f'{key} {value["median"]:.3g} ms ({found["ratio"][key]:.3g})'
            for key, value in found['milliseconds'].items()
        )

    return run


FIGURES: dict[str, dict] = {}


def cifar10(source: str, seconds: int = 60) -> Callable[[], str]:
    """Train for a while through tools/train.py; the last lines of its log."""

    def run() -> str:
        with tempfile.TemporaryDirectory() as folder:
            command = [
                *(sys.executable, str(HERE.parent / 'tools/train.py')),
                str(HERE.parent / 'configs/selfsup/coke/coke_r18_1xb128-2view_cifar10.py'),
                *('--work-dir', folder, '--cfg-options'),
                f'train_dataloader.dataset.source={source}',
            ]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            try:
                output, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.terminate()
                output, _ = process.communicate()
        lines = output.decode(errors='replace').splitlines()
        shown = [line for line in lines if 'Epoch' in line or 'captured' in line]
        assert shown, '\n'.join(lines[-20:])
        return '\n    '.join(shown[-16:])

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seconds', type=float, default=240, help='in all (%(default)s)')
    parser.add_argument('--prototype', help='see cifar10_step.py')
    parser.add_argument('--cifar10', metavar='NPZ', help='x, uint8 (n, 32, 32, 3): train on it')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all figures here')
    parser.add_argument('--only', help='only the parts whose name contains this')
    args = parser.parse_args()
    steps = ['--prototype', args.prototype] if args.prototype else []
    small = [] if DEVICE == 'cuda' else ['--repeats', '3']
    tiny = {'cifar10_step.py': ['--width', '8', '--steps', '2', '--num', '2000']}
    tiny['resnet50_step.py'] = ['--batch', '4', '--size', '64']
    parts: dict[str, Callable[[], str]] = dict(
        labels=check_labels,
        random_numbers=check_random_numbers,
        kmeans=check_kmeans,
        faiss=check_faiss,
        synchronizations=check_synchronizations,
        tests=tests,
    )
    rows = [('labelers.py', case) for case in ('large', 'averaged', 'small')]
    rows += [
        ('lars.py', '--repeats', '5'),
        ('cifar10_step.py', '--rounds', '1', *steps),
        ('resnet50_step.py', '--repeats', '5'),
    ]
    for name, *options in rows:
        extra = [] if DEVICE == 'cuda' else [*small, *tiny.get(name, [])]
        parts[' '.join([name, *(x for x in options[:1] if x[0] != '-')])] = program(
            name, *options, *extra
        )
    if args.cifar10:
        parts['training on CIFAR-10'] = cifar10(args.cifar10)
    name = torch.cuda.get_device_name() if DEVICE == 'cuda' else 'there is no GPU: on CPU'
    print(f'{name}; torch {torch.__version__}; Python {sys.version.split()[0]}', flush=True)
    failed, start = [], time.monotonic()
    for name, part in parts.items():
        if args.only and args.only not in name:
            continue
        began = time.monotonic()
        if began - start > args.seconds:
            print(f'NOT RUN  {name}: {args.seconds:g} s are over', flush=True)
            continue
        try:
            found = part()
            print(f'ok       {name} ({time.monotonic() - began:.0f} s): {found}', flush=True)
        except Exception as error:
            failed.append(name)
            reason = str(error) or traceback.format_exc()
            print(f'FAILED   {name}: {reason}', flush=True)
    if args.json:
        write_text(args.json, json.dumps(FIGURES, indent=2) + '\n')
    raise SystemExit(
        f'{len(failed)} of {len(parts)} parts failed: {", ".join(failed)}' if failed else 0
    )


if __name__ == '__main__':
    main()
