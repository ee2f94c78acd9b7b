"""Memory of a data set that is a long list of files: to build it, and of each worker that reads it.

A list file with made-up names becomes a CustomDataset, here and in mmpretrain, each in a process of
its own. Workers then take records in random order, as many as an epoch of training gives each in
some minutes; what a worker has of its own (private pages) is what an additional one costs. No
image is read. Linux only:

    python benchmarks/loading_memory.py --num-files 10000000
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.registry import init_default_scope
from mmpretrain.datasets import CustomDataset as Theirs
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from mmcoke.datasets import CustomDataset
from mmcoke.datasets.identity import sample_keys
from mmcoke.files import write_text

FORK = multiprocessing.get_context('fork')
NUM_WORKERS = 1, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--num-files', type=int, default=1_000_000)
    parser.add_argument('--num-records', type=int, default=100_000, help='that each worker takes')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures here, too')
    args = parser.parse_args()
    # More workers than this machine has cores.
    warnings.filterwarnings('ignore', message='This DataLoader will create')
    init_default_scope('mmcoke')
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = write_list(Path(folder) / 'files.txt', args.num_files)
        for name, kind in dict(ours=CustomDataset, mmpretrain=Theirs).items():
            found[name] = in_a_process(measure, kind, path, args.num_records)
    show(found, args.num_files)
    if args.json:
        write_text(args.json, json.dumps(dict(num_files=args.num_files, **found), indent=2) + '\n')


def write_list(path: Path, num_files: int) -> Path:
    """A list file with names like ImageNet's."""
    with path.open('w') as file:
        for i in range(num_files):
            file.write(f'train/n{i // 1300:08d}/n{i // 1300:08d}_{i:08d}.JPEG\n')
    return path


def in_a_process(function, *arguments) -> dict:
    """What a function returns in a process of its own, where memory is that of its work."""
    queue = FORK.SimpleQueue()
    process = FORK.Process(target=lambda: queue.put(function(*arguments)))
    process.start()
    result = queue.get()
    process.join()
    return result


def measure(kind: type, path: Path, num_records: int) -> dict:
    """Megabytes and seconds of CPU time."""
    before, start = resident(), time.process_time()
    dataset = kind(data_root='data', ann_file=str(path), with_label=False, pipeline=[])
    dataset.full_init()
    found = dict(
        seconds=time.process_time() - start,
        peak=peak() - before,
        kept=resident() - before,
        records=(dataset.data_bytes.nbytes + dataset.data_address.nbytes) / 1e6,
    )
    for number in NUM_WORKERS:
        found[f'private, {number} workers'] = max(private_of_workers(dataset, number, num_records))
    start = time.process_time()
    if kind is CustomDataset:
        sample_keys(dataset)
        found |= {'sample_keys: seconds': time.process_time() - start}
        found |= {'sample_keys: peak': peak() - before}
    return found


class Indices:
    """A random order, made as it is needed."""

    def __init__(self, num_samples: int, length: int) -> None:
        self.num_samples, self.length = num_samples, length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        random = torch.Generator().manual_seed(0)
        for _ in range(self.length):
            yield int(torch.randint(self.num_samples, (), generator=random))


def private_of_workers(dataset, number: int, num_records: int) -> list[float]:
    """Megabytes that each worker has of its own behind its last record."""
    sampler = Indices(len(dataset), number * num_records)
    loader = DataLoader(
        dataset,
        256,
        sampler=sampler,
        num_workers=number,
        collate_fn=len,
        persistent_workers=True,
        multiprocessing_context='fork',
    )
    batches = iter(loader)
    for _ in batches:
        pass
    return [private(worker.pid) for worker in batches._workers]


def private(pid: int) -> float:
    lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
    return sum(int(x.split()[1]) for x in lines if x.startswith('Private_')) / 1e3


def resident() -> float:
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def show(found: dict[str, dict], num_files: int) -> None:
    table = Table('MB (seconds: of CPU)', *found, title=f'{num_files:,} files')
    for name in found['ours']:
        table.add_row(name, *(f'{x[name]:,.1f}' if name in x else '–' for x in found.values()))
    Console().print(table)


if __name__ == '__main__':
    main()
