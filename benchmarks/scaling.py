"""How time and memory grow: one part each, of at most a minute.

    python benchmarks/scaling.py images         CoKe's step against the images of the data set
    python benchmarks/scaling.py clusters       ... against the clusters of one head
    python benchmarks/scaling.py batch          ... against the images of the global batch
    python benchmarks/scaling.py epoch          what is done once an epoch, against images
    python benchmarks/scaling.py start          the list of images and their keys, against images
    python benchmarks/scaling.py checkpoint     what the labelers add to a checkpoint
    python benchmarks/scaling.py processes      two processes against one, over gloo
    python benchmarks/scaling.py paper          no measurement: the formulas of docs/scaling.md

Measured parts also hold what was counted against the formula, where there is one. Memory is that
of this process, from Linux (peak of resident memory above what it had before).
"""

import argparse
import json
import multiprocessing
import socket
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import _timing
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.modules.batchnorm import _BatchNorm

from mmcoke.clustering import CoKeLabeler
from mmcoke.datasets import CustomDataset
from mmcoke.datasets.identity import sample_keys
from mmcoke.datasets.samplers import TruncatedSampler
from mmcoke.engine.hooks.replica_check_hook import state_checksum
from mmcoke.files import read_checkpoint, save_torch, write_text
from mmcoke.models.algorithms.base import global_batch
from mmcoke.registry import MODELS

HEADS, DIM, SLOTS, BATCH = [3000, 4000, 5000], 128, 5, 1024
OWN = slice(0, 128)
"""Rows with targets: those of one of eight processes."""

NUM_IMAGES = 10_000, 100_000, 1_000_000, 10_000_000
MB = 1e6
ROOT = Path(__file__).resolve().parent.parent


# ---- formulas, which docs/scaling.md uses


def label_bytes(num_clusters: int) -> int:
    """Of one label: the smallest integer that holds it."""
    return next(size for size in (1, 2, 4) if num_clusters <= 2 ** (8 * size - 1))


def table_bytes(num_images: int, heads: list[int], slots: int | None = None) -> int:
    """Of the label tables of CoKe: stage 1 alone, or with the averages of stage 2.

    Heads have the integers of the largest. In stage 2 each image has S labels and S int16 weights.
    """
    size = label_bytes(max(heads))
    return num_images * len(heads) * (size if slots is None else slots * (size + 2))


def center_bytes(heads: list[int], dim: int) -> int:
    """Of published and running centers, duals (float32) and counts (int64)."""
    return sum(heads) * (2 * 4 * dim + 4 + 8)


def gathered_bytes(batch: int, dim: int) -> int:
    """Of the features (float32) and indices (int64) of a global batch."""
    return batch * (4 * dim + 8)


def step_flops(batch: int, heads: list[int], dim: int) -> int:
    """Of the product of a global batch with the centers of all heads."""
    return 2 * batch * sum(heads) * dim


def similarity_bytes(batch: int, heads: list[int]) -> int:
    """Of all similarities at once (float32), as on a GPU."""
    return 4 * batch * sum(heads)


# ---- measurement


def peak_bytes(function: Callable[[], Any]) -> int:
    """How far resident memory rises while a function runs."""
    Path('/proc/self/clear_refs').write_text('5')  # forget the peak so far
    before = resident('VmRSS')
    function()
    return resident('VmHWM') - before


def resident(field: str) -> int:
    lines = Path('/proc/self/status').read_text().splitlines()
    return 1024 * next(int(x.split()[1]) for x in lines if x.startswith(f'{field}:'))


def labeler(num_images: int, heads: list[int] | int, stage: int = 1) -> CoKeLabeler:
    """In the first epoch of stage 1, or the second of stage 2."""
    made = CoKeLabeler(
        num_images, heads, DIM, average_from_epoch=0 if stage == 2 else None, num_slots=SLOTS
    )
    made.set_epoch(1 if stage == 2 else 0)
    return made


def features(batch: int) -> Tensor:
    return normalize(torch.randn(batch, DIM), dim=1)


def stepping(made: CoKeLabeler, batch: int) -> Callable[[], Any]:
    """A step with other images each time, as in training."""
    num_images, x_ND = made[0].newest.num_samples, features(batch)
    return lambda: made.step(x_ND, torch.randint(num_images, (batch,)), OWN)


def state_bytes(made: CoKeLabeler, kind: str) -> int:
    """Of the saved buffers whose name holds a word."""
    return sum(x.nbytes for name, x in made.state_dict().items() if kind in name)


def images(args: argparse.Namespace) -> None:
    timed, memory = {}, {}
    for stage in (1, 2):
        for num in NUM_IMAGES:
            name, made = f'stage {stage}, {num:,} images', []
            peak = peak_bytes(lambda n=num, s=stage, m=made: m.append(labeler(n, HEADS, s)))
            timed[name] = stepping(made[0], BATCH)
            formula = table_bytes(num, HEADS, SLOTS if stage == 2 else None)
            memory[name] = dict(
                tables=state_bytes(made[0], 'labels'), formula=formula, peak_when_made=peak
            )
    show(memory)
    times = _timing.alternating(timed, args.repeats)
    _timing.finish(args, times, next(iter(timed)), bytes=memory)


def clusters(args: argparse.Namespace) -> None:
    timed, memory = {}, {}
    for k in (100, 1000, 10_000, 100_000):
        made, x_ND = labeler(1_000_000, [k]), features(BATCH)
        centers_KD = made.centers[0]
        timed[f'{k:,} clusters'] = stepping(made, BATCH)
        timed[f'product alone, {k:,}'] = lambda x=x_ND, c=centers_KD: x @ c.T
        memory[f'{k:,} clusters'] = dict(
            centers=state_bytes(made, 'kmeans'), formula=center_bytes([k], DIM)
        )
    show(memory)
    times = _timing.alternating(timed, args.repeats)
    _timing.finish(args, times, '10,000 clusters', bytes=memory)


def batch(args: argparse.Namespace) -> None:
    made = labeler(1_000_000, HEADS)
    timed = {f'batch {n:,}': stepping(made, n) for n in (128, 512, 2048, 8192)}
    times = _timing.alternating(timed, args.repeats)
    _timing.finish(args, times, 'batch 512')


def epoch(args: argparse.Namespace) -> None:
    timed, memory = {}, {}
    for num in NUM_IMAGES:
        made, sampler = labeler(num, HEADS, 2), TruncatedSampler(range(num), seed=0)
        sizes = made.sizes
        timed[f'order, {num:,} images'] = lambda s=sampler: next(iter(s))
        timed[f'sizes of clusters, {num:,}'] = sizes
        timed[f'checksum, {num:,}'] = lambda m=made: state_checksum(m)
        peak = peak_bytes(lambda s=sampler: next(iter(s)))
        memory[f'order, {num:,} images'] = dict(peak=peak, formula=2 * 4 * num)
    show(memory)
    times = _timing.alternating(timed, args.repeats)
    _timing.finish(args, times, f'checksum, {NUM_IMAGES[0]:,}', bytes=memory)


def start(args: argparse.Namespace) -> None:
    init_default_scope('mmcoke')
    times, memory = {}, {}
    for num in NUM_IMAGES[:3]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'files.txt'
            path.write_text(''.join(f'{image_name(i)}\n' for i in range(num)))
            made = []
            listing, listed = clocked(
                lambda p=path, m=made: m.append(
                    CustomDataset(ann_file=str(p), data_prefix='data/imagenet', with_label=False)
                )
            )
        keys, keyed = clocked(lambda m=made: sample_keys(m[0]))
        times[f'list, {num:,} images'], times[f'keys, {num:,} images'] = listing, keys
        records = made[0].data_bytes.nbytes + made[0].data_address.nbytes
        memory[f'{num:,} images'] = dict(
            records=records, peak_of_list=listed, keys=8 * num, peak_of_keys=keyed
        )
    show(memory)
    _timing.finish(args, times, f'list, {num:,} images', bytes=memory)


def image_name(number: int) -> str:
    """As ImageNet's."""
    return f'train/n{number // 1300:08d}/n{number // 1300:08d}_{number:08d}.JPEG'


def clocked(function: Callable[[], Any]) -> tuple[dict[str, float], int]:
    """Time and peak memory of what is done once."""
    begin = time.process_time()
    peak = peak_bytes(function)
    return _timing.summary([1000 * (time.process_time() - begin)]), peak


def checkpoint(args: argparse.Namespace) -> None:
    timed, memory = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for num in NUM_IMAGES[:3]:
            for stage in (1, 2):
                name, made = f'stage {stage}, {num:,} images', labeler(num, HEADS, stage)
                content = dict(made.state_dict(), sample_keys=torch.zeros(num, dtype=torch.int64))
                path = Path(folder) / f'{stage}_{num}.pth'
                timed[f'write, {name}'] = lambda c=content, p=path: save_torch(c, p)
                timed[f'read, {name}'] = lambda p=path: read_checkpoint(p)
                save_torch(content, path)
                formula = table_bytes(num, HEADS, SLOTS if stage == 2 else None)
                formula += 8 * num + center_bytes(HEADS, DIM)
                memory[name] = dict(file=path.stat().st_size, formula=formula)
        show(memory)
        times = _timing.alternating(timed, args.repeats)
    _timing.finish(args, times, next(iter(timed)), bytes=memory)


# ---- two processes


def processes(args: argparse.Namespace) -> None:
    """The same global batch; CPU time of one process."""
    context = multiprocessing.get_context('spawn')
    found, memory = {}, {}
    for world in (1, 2):
        with socket.socket() as probe:
            probe.bind(('localhost', 0))
            address = f'tcp://localhost:{probe.getsockname()[1]}'
        results = context.Queue()
        ranks = [
            context.Process(target=process, args=(rank, world, address, args.repeats, results))
            for rank in range(world)
        ]
        for rank in ranks:
            rank.start()
        times, memory[f'{world} process(es)'] = results.get(timeout=120)
        for rank in ranks:
            rank.join()
        found |= {f'{name}, {world} process(es)': time_ for name, time_ in times.items()}
    show(memory)
    _timing.finish(args, found, 'step, 1 process(es)', bytes=memory)


def process(rank: int, world: int, address: str, repeats: int, results: Any) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    dist.init_process_group('gloo', init_method=address, rank=rank, world_size=world)
    made, x_nD = labeler(1_000_000, HEADS), features(BATCH // world)
    idx_n = torch.randint(1_000_000, (len(x_nD),))
    gather = partial(global_batch, x_nD, idx_n)
    timed = dict(gather=gather, step=lambda: made.step(*gather()))
    times = _timing.alternating(timed, repeats, number=5)
    before, calls = sent(), 200
    dist.barrier()
    for _ in range(calls):
        gather()
    dist.barrier()
    # Over the loopback device goes what both have sent.
    mine = (sent() - before) / calls / world
    formula = gathered_bytes(BATCH // world, DIM) * (world - 1)
    if rank == 0:
        results.put((times, dict(sent_by_each=round(mine), formula=formula)))
    dist.destroy_process_group()


def sent() -> int:
    """Bytes that this machine has sent to itself so far; those of other programs count as well."""
    lines = Path('/proc/net/dev').read_text().splitlines()
    return int(next(x for x in lines if x.strip().startswith('lo:')).split()[9])


# ---- on paper

PER_GPU = 64
GPUS = 8, 64, 512
CASES = (1_300_000, HEADS), (14_000_000, [30_000, 40_000, 50_000]), (10**9, [300_000])

# Measured on one H200: ResNet-50 at 224 in bfloat16, 256 images in 61 ms; a float32 product of
# 1024 x 128 and 128 x 12,000 in 0.11 ms.
IMAGES_PER_SECOND = 256 / 61e-3
FLOPS_PER_SECOND = step_flops(1024, HEADS, DIM) / 0.11e-3
# Measured on a CPU core: by jpeg_views.py, and by the parts `start` and `epoch` at most images.
SECONDS_PER_JPEG = 3.1e-3
BYTES_PER_RECORD = 90
SECONDS_PER_RECORD, SECONDS_PER_KEY, SECONDS_PER_PLACE = 5.1e-6, 3.9e-6, 49e-9
# Assumed.
BYTES_PER_SECOND = 50e9
SECONDS_PER_COLLECTIVE = 50e-6


class Network(NamedTuple):
    """What is exchanged of a network in a step."""

    parameters: int
    norm_layers: int
    norm_channels: int

    @classmethod
    def of(cls, config: Path) -> 'Network':
        """Counted: of backbone, projector and predictor."""
        init_default_scope('mmcoke')
        model = MODELS.build(Config.fromfile(config).model)
        norms = [m.num_features for m in model.modules() if isinstance(m, _BatchNorm)]
        return cls(sum(p.numel() for p in model.parameters()), len(norms), sum(norms))


def on_paper(num: int, heads: list[int], gpus: int, network: Network) -> dict[str, float]:
    """Of each GPU, unless a row says otherwise."""
    size = gpus * PER_GPU
    steps = num // size
    return (
        {'images of a step': size, 'steps of an epoch': steps}
        | memory_on_paper(num, heads, size)
        | exchange_on_paper(gpus, steps, network)
        | times_on_paper(heads, gpus, steps, network)
        | files_on_paper(num, heads, gpus, network)
    )


def memory_on_paper(num: int, heads: list[int], size: int) -> dict[str, float]:
    return {
        'tables of stage 1, MB': table_bytes(num, heads) / MB,
        'tables of stage 2, MB': table_bytes(num, heads, SLOTS) / MB,
        'centers, duals, counts, MB': center_bytes(heads, DIM) / MB,
        'similarities of a step, MB': similarity_bytes(size, heads) / MB,
    }


def exchange_on_paper(gpus: int, steps: int, network: Network) -> dict[str, float]:
    """Rings: what is gathered comes from the others, a sum goes around twice."""
    others = (gpus - 1) / gpus
    gathered = gathered_bytes(gpus * PER_GPU, DIM) * others
    norms = 4 * (2 * network.norm_channels + network.norm_layers)
    return {
        'features and indices received in a step, MB': gathered / MB,
        '... in an epoch, GB': gathered * steps / 1e9,
        'gradients sent in a step, MB': sum_bytes(gpus, network) / MB,
        'statistics of SyncBN received in a step, MB': gpus * others * norms / MB,
    }


def sum_bytes(gpus: int, network: Network) -> float:
    """That a process sends to sum float32 gradients."""
    return 2 * (gpus - 1) / gpus * 4 * network.parameters


def times_on_paper(heads: list[int], gpus: int, steps: int, network: Network) -> dict[str, float]:
    forward = PER_GPU / IMAGES_PER_SECOND
    product = step_flops(gpus * PER_GPU, heads, DIM) / FLOPS_PER_SECOND
    machine = min(gpus, 8) * PER_GPU / (forward + product)
    return {
        'network, ms a step': 1e3 * forward,
        'product of the clustering, ms a step': 1e3 * product,
        'gradients, ms a step': 1e3 * sum_bytes(gpus, network) / BYTES_PER_SECOND,
        'latency of SyncBN, ms a step': 1e3 * 2 * network.norm_layers * SECONDS_PER_COLLECTIVE,
        'network and product, minutes an epoch': steps * (forward + product) / 60,
        'cores for JPEG, on a machine': machine * SECONDS_PER_JPEG,
    }


def files_on_paper(num: int, heads: list[int], gpus: int, network: Network) -> dict[str, float]:
    """Of lists and files; the checkpoint has weights, their momentum, labelers and keys."""
    machine = min(gpus, 8)
    labelers = table_bytes(num, heads, SLOTS) + center_bytes(heads, DIM)
    return {
        'list of files, on a machine, GB': machine * BYTES_PER_RECORD * num / 1e9,
        'list of files, minutes at a start': SECONDS_PER_RECORD * num / 60,
        'keys of images, minutes': SECONDS_PER_KEY * num / 60,
        'order while drawn, on a machine, GB': machine * 4 * num * (1 + 1 / gpus) / 1e9,
        'order, seconds an epoch': SECONDS_PER_PLACE * num,
        'checkpoint, GB': (2 * 4 * network.parameters + labelers + 8 * num) / 1e9,
    }


def paper(args: argparse.Namespace) -> None:
    network = Network.of(ROOT / 'configs/selfsup/coke/coke_r50_8xb64_in1k.py')
    found = {}
    for num, heads in CASES:
        columns = {str(gpus): on_paper(num, heads, gpus, network) for gpus in GPUS}
        table = Table(f'{num:,} images, K {heads}', *(f'{gpus} GPUs' for gpus in GPUS))
        for name in columns['8']:
            table.add_row(name, *(f'{column[name]:,.4g}' for column in columns.values()))
        Console().print(table)
        found[num] = columns
    print(f'On paper: nothing of it was run. Counted: {network}')
    if args.json:
        content = dict(program='scaling.py', network=network._asdict(), on_paper=found)
        write_text(args.json, json.dumps(content, indent=2) + '\n')


def show(rows: dict[str, dict[str, int]]) -> None:
    """Bytes, in MB."""
    columns = list(next(iter(rows.values())))
    table = Table('MB', *columns)
    for name, row in rows.items():
        table.add_row(name, *(f'{row[x] / MB:,.3f}' for x in columns))
    Console().print(table)


PARTS = dict(
    images=images,
    clusters=clusters,
    batch=batch,
    epoch=epoch,
    start=start,
    checkpoint=checkpoint,
    processes=processes,
    paper=paper,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('part', choices=PARTS)
    _timing.options(parser, repeats=5)
    args = _timing.parse(parser)
    if args.device != 'cpu':
        parser.error('this program measures on the CPU alone; leave --device out.')
    torch.manual_seed(0)
    PARTS[args.part](args)


if __name__ == '__main__':
    main()
