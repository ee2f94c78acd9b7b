"""One clustering step of CoKe's heads: ours together, ours one by one, the published way.

Cases: `large`, the heads of ImageNet (K 3000 + 4000 + 5000, 1024 images, dimension 128) in stage 1;
`averaged`, the same in stage 2 without targets; `soft`, the soft targets of 128 images alone;
`small`, ten heads K 10 ... 100 and 128 images (CIFAR-10). The product with all centers is what no
clustering can do without.

    python benchmarks/labelers.py large
    python benchmarks/labelers.py small --device cuda       (in CUDA graphs, as in training)

The published way is written afresh from its description: centers (D, K) per head, clusters that
were hit by torch.unique, means by index_add, and in stage 2 a loop over the samples for their soft
targets. On CUDA it waits for the host (unique), so it cannot be captured.
"""

import argparse
from collections.abc import Callable

import _timing
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmcoke.clustering import AveragedPseudoLabels, CoKeLabeler

IMAGENET, CIFAR = [3000, 4000, 5000], list(range(10, 101, 10))
CASES = dict(
    large=(IMAGENET, 1024), averaged=(IMAGENET, 1024), soft=(IMAGENET, 128), small=(CIFAR, 128)
)
NUM_SAMPLES, DIM, SLOTS = 100_000, 128, 5


class Published:
    """The steps of the published code for one head."""

    def __init__(self, num_clusters: int, device: str) -> None:
        centers = normalize(torch.randn(DIM, num_clusters, device=device), dim=0)
        self.published, self.running = centers, centers.clone()
        self.dual = torch.zeros(num_clusters, device=device)
        self.count = torch.zeros(num_clusters, device=device)
        self.label = torch.zeros(NUM_SAMPLES, dtype=torch.int64, device=device)

    def step(self, x_ND: Tensor, idx_N: Tensor) -> Tensor:
        target_N = self.label[idx_N]
        label_N = (x_ND @ self.running + self.dual).argmax(1)
        hit, size = label_N.unique(return_counts=True)
        self.dual[hit] -= 20.0 / len(x_ND) * size
        self.dual += 20.0 * 0.4 / len(self.dual)
        self.dual[self.dual < 0] = 0
        before = self.count[hit]
        self.count[hit] += size
        self.running[:, hit] *= before / self.count[hit]
        self.running.index_add_(1, label_N, x_ND.T / self.count[label_N])
        self.running[:, hit] = normalize(self.running[:, hit], dim=0)
        self.label[idx_N] = label_N
        return target_N


def soft_by_loop(table: AveragedPseudoLabels, idx_N: Tensor) -> Tensor:
    """Soft targets, sample by sample, as published."""
    label_NS, weight_NS = table._slots(idx_N)
    share_NS = torch.softmax(weight_NS / table.temperature, 1)
    target_NK = torch.zeros(len(idx_N), table.num_clusters, device=idx_N.device)
    for i in range(len(idx_N)):
        for s in range(label_NS.shape[1]):
            target_NK[i, label_NS[i, s]] += share_NS[i, s]
    return target_NK


def in_graph(function: Callable[[], object]) -> Callable[[], None]:
    """A function as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        function()
    return graph.replay


def functions(case: str, device: str) -> dict[str, Callable[[], object]]:
    """What to time, by name; the last one is the reference."""
    sizes, num = CASES[case]
    torch.manual_seed(0)
    average = 0 if case in ('averaged', 'soft') else None
    settings = dict(min_ratio=0.4, dual_lr=20.0, average_from_epoch=average, num_slots=SLOTS)
    together = CoKeLabeler(NUM_SAMPLES, sizes, DIM, **settings).to(device)
    alone = [CoKeLabeler(NUM_SAMPLES, k, DIM, **settings).to(device) for k in sizes]
    x_ND = normalize(torch.randn(num, DIM, device=device), dim=1)
    idx_N = torch.randperm(NUM_SAMPLES)[:num].to(device)
    for labeler in (together, *alone):
        for epoch in range(3 if average == 0 else 1):  # so that soft targets are due
            labeler.set_epoch(epoch)
            labeler.step(x_ND, idx_N)
    if case == 'soft':
        return dict(
            ours=lambda: [head.labels.read(idx_N) for head in together],
            published=lambda: [soft_by_loop(head.labels, idx_N) for head in together],
        )
    none, centers_CD = slice(0), torch.cat(together.centers)
    theirs = [Published(k, device) for k in sizes]
    timed = dict(
        product=lambda: x_ND @ centers_CD.T,
        ours=lambda: together.step(x_ND, idx_N, none),
        one_by_one=lambda: [labeler.step(x_ND, idx_N, none) for labeler in alone],
    )
    if device == 'cuda':
        timed |= {f'{name}, in a graph': in_graph(function) for name, function in timed.items()}
    if average is None:
        timed['published'] = lambda: [head.step(x_ND, idx_N) for head in theirs]
    return timed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('case', choices=CASES)
    _timing.options(parser)
    args = _timing.parse(parser)
    timed = functions(args.case, args.device)
    times = _timing.alternating(timed, args.repeats, device=args.device, number=3)
    _timing.finish(args, times, list(timed)[-1])


if __name__ == '__main__':
    main()
