"""Streaming k-means with a lower bound on cluster sizes, over vectors on disk."""

import math
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from .lloyd import argmax
from .min_size import Repair, similarity_and_margin
from .online_kmeans import OnlineConstrainedKMeans
from .row_stream import RowStream, check_rows, shared
from .settings import SEED_RANGE, check_number

State = dict[str, Tensor | int]

SCORES_PER_CHUNK = dict(cpu=1 << 17, cuda=1 << 27)
"""On CPU 512 kB stay in the cache; a GPU wants much at once."""

MIN_ROWS, MAX_ROWS = 64, 1 << 13
MIN_SCORES = 1 << 16
CHUNKS_PER_BATCH = 8
"""Unless they get too small: so many processes share a batch."""

CHUNKS_PER_SPAN = 64
REACH = 0.3
"""Similarity that a cluster without samples makes up in a pass by its dual: g of
docs/methods/coke.md, "How to choose η"."""

MAX_DUAL_STEP = 0.05
"""By which one sample moves a dual at most; similarities lie in [-1, 1]."""

LOOSE_RATIO = 0.1
"""Bound of the first passes as a share of A / K, if the wanted one is lower: no cluster starves."""

MOST_CHOSEN = 4096
"""Clusters up to which first centers are chosen far from each other; of more, that takes longer
than a pass, and a random sample is as good."""

FEWEST_CANDIDATES, CANDIDATES = 4096, 8
"""Rows that are looked at for it: in all, and per cluster."""

SAMPLES_PER_EPOCH = 128
"""Of a cluster; a pass of a large table has several epochs, so that centers forget the past."""

PRIOR_SAMPLES = 2
"""As so many samples counts a center of the epoch before, if a batch has no more of a cluster. In
larger batches it is better forgotten: new centers get out of places that are merely good."""

SECONDS_PER_SAVE = 30.0


class StreamResult(NamedTuple):
    """A clustering of A samples; all on the CPU.

    Attributes:
        label: int64 (A,), every cluster has at least ``min_size`` members, and one.
        centers: float32 (K, D), unit vectors.
        dual: float32 (K,), ≥ 0: what was added to similarities in favour of small clusters.
        similarity: float32 (A,): cosine to the center of the own cluster.
        margin: float32 (A,): similarity minus that to the best other center; negative where the
            bound moved the sample, infinite if K = 1.
        num_moved: samples that the repair moved, into a cluster below the bound, or out of one
            that does not need them.
    """

    label: Tensor
    centers: Tensor
    dual: Tensor
    similarity: Tensor
    margin: Tensor
    num_moved: int


@torch.no_grad()
def stream_kmeans(
    x_AD: Tensor,
    num_clusters: int,
    *,
    min_size: int = 0,
    num_passes: int = 3,
    batch_size: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    state: State | None = None,
    save: Callable[[State], None] | None = None,
    seconds_per_save: float = SECONDS_PER_SAVE,
    progress: Callable[[Iterable], Iterable] = iter,
) -> StreamResult:
    """Spherical k-means in a few passes over vectors that may lie on disk.

    CoKe's online assignment (see :class:`OnlineConstrainedKMeans`) in random global batches. The
    last pass keeps the centers and takes their means; one more finds the labels; a repair moves
    the samples that lose least until every cluster has ``min_size`` members. Only batches, centers
    and a few numbers for each sample are in memory.

    The same arguments give the same result to the bit, on the same machine with the same number of
    threads. With ``torch.distributed`` every process calls it with the same arguments, computes a
    part of each batch and gets that result, too.

    Args:
        x_AD: vectors (A, D), float16, bfloat16 or float32, of any length but 0, on the CPU; see
            :func:`~mmcoke.clustering.row_stream.memory_mapped`.
        num_clusters: K, at most A.
        min_size: least number of members; K times as many are at most A. With 0 or 1 samples are
            in the cluster of the nearest center, but for those that fill an empty one.
        num_passes: passes ahead of the one for the labels.
        batch_size: N; see :func:`default_batch_size`.
        seed: of the order and of the first centers.
        device: where to compute; a GPU if there is one.
        state: what ``save`` got, to go on from there; the result is the same to the bit.
        save: called now and then with a state, which it may keep: tensors and integers.
        seconds_per_save: between two calls of ``save``; 0 for one after every step.
        progress: wraps the iterable of steps, such as ``rich.progress.track``.

    Raises:
        ValueError: in one line, if an argument is out of its range, rows are zero or not finite,
            or a state belongs to another clustering.
    """
    check_arguments(x_AD, num_clusters, min_size, num_passes, batch_size, seed)
    device = default_device(device)
    if state is None:
        check_rows(x_AD, device)
    batch_size = batch_size or default_batch_size(len(x_AD), num_clusters)
    stream = RowStream(x_AD, batch_size, seed, device)
    clustering = Clustering(stream, num_clusters, min_size, num_passes)
    if state is not None:
        clustering.load(state)
    saved = time.monotonic()
    for _ in progress(range(clustering.step, clustering.num_steps)):
        clustering.advance()
        if save is not None and time.monotonic() - saved >= seconds_per_save:
            save(clustering.state())
            saved = time.monotonic()
    return clustering.result()


@torch.no_grad()
def assign_stream(
    x_AD: Tensor,
    centers_KD: Tensor,
    dual_K: Tensor | None = None,
    *,
    device: torch.device | str | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[Tensor, Tensor, Tensor]:
    """Clusters of vectors by given centers and duals: for vectors that came later.

    Args:
        x_AD, device: see :func:`stream_kmeans`, as is what several processes do.
        centers_KD, dual_K: of a :class:`StreamResult`; no duals: the nearest center.
        progress: wraps the iterable of spans.

    Returns:
        label, similarity and margin, as in :class:`StreamResult`.

    Raises:
        ValueError: in one line, if shapes do not fit, or rows are zero or not finite.
    """
    device = default_device(device)
    check_rows(x_AD, device)
    if centers_KD.ndim != 2 or centers_KD.shape[1] != x_AD.shape[1]:
        raise ValueError(
            f'The centers must be (K, {x_AD.shape[1]}), as wide as the vectors, but are '
            f'{tuple(centers_KD.shape)}.'
        )
    stream = RowStream(x_AD, 1, 0, device)
    centers_KD = centers_KD.to(device, torch.float32)
    dual_K = centers_KD.new_zeros(len(centers_KD)) if dual_K is None else dual_K.to(centers_KD)
    size = rows_per_chunk(centers_KD) * CHUNKS_PER_SPAN
    parts = [
        assign_rows(stream, centers_KD, dual_K, slice(start, min(start + size, len(x_AD))))
        for start in progress(range(0, len(x_AD), size))
    ]
    return tuple(torch.cat(values) for values in zip(*parts, strict=True))


def default_batch_size(num_samples: int, num_clusters: int) -> int:
    """Two samples a cluster, 1,024 to 32,768; but 40 batches in a pass, of 8 at least."""
    wanted = min(max(2 * num_clusters, 1 << 10), 1 << 15)
    return max(8, min(wanted, num_samples // 40))


def default_device(device: torch.device | str | None) -> torch.device:
    if device is None:
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    return torch.device(device)


def check_arguments(
    x_AD: Tensor,
    num_clusters: int,
    min_size: int,
    num_passes: int,
    batch_size: int | None,
    seed: int,
) -> None:
    """Refuse what cannot be clustered; see :func:`stream_kmeans`."""
    check_number('num_clusters', num_clusters, '[1, inf)', whole=True)
    check_number('min_size', min_size, '[0, inf)', whole=True)
    check_number('num_passes', num_passes, '[1, inf)', whole=True)
    check_number('seed', seed, SEED_RANGE, whole=True)
    if batch_size is not None:
        check_number('batch_size', batch_size, '[1, inf)', whole=True)
    num_samples = len(x_AD)
    if num_clusters > num_samples:
        raise ValueError(
            f'num_clusters must be in 1 ... {num_samples}, the number of vectors, but is '
            f'{num_clusters}. Choose fewer clusters, or give more vectors.'
        )
    if num_clusters * min_size > num_samples:
        raise ValueError(
            f'{num_clusters} clusters of min_size {min_size} need {num_clusters * min_size} '
            f'vectors, but there are {num_samples}. Choose a min_size of at most '
            f'{num_samples // num_clusters}, or fewer clusters.'
        )


class Clustering:
    """The steps of :func:`stream_kmeans` and their state: batches of all passes, then labels.

    Args:
        stream: the vectors.
        num_clusters, min_size, num_passes: see there.
    """

    def __init__(
        self, stream: RowStream, num_clusters: int, min_size: int, num_passes: int
    ) -> None:
        self.stream, self.min_size, self.num_passes = stream, min_size, num_passes
        num_samples, dim = stream.x_AD.shape
        self.kmeans = OnlineConstrainedKMeans(
            num_clusters, dim, average_from_epoch=num_passes - 1
        ).to(stream.device)
        self.label_A = torch.zeros(num_samples, dtype=torch.int64)
        self.similarity_A, self.margin_A = torch.zeros(2, num_samples)
        centers_KD = first_centers(stream, num_clusters)
        self.kmeans.centers.copy_(centers_KD)
        self.kmeans.running.copy_(centers_KD)
        self.span = rows_per_chunk(centers_KD) * CHUNKS_PER_SPAN
        self.num_batches = num_passes * stream.num_batches
        self.num_steps = self.num_batches + -(-num_samples // self.span)
        self.step = 0

    def advance(self) -> None:
        """One batch, or the labels of one span of rows."""
        if self.step < self.num_batches:
            self._batch(*divmod(self.step, self.stream.num_batches))
        else:
            start = (self.step - self.num_batches) * self.span
            part = slice(start, min(start + self.span, len(self.label_A)))
            found = assign_rows(self.stream, self.kmeans.centers, self.kmeans.dual, part)
            for whole, values in zip(self._per_sample(), found, strict=True):
                whole[part] = values
        self.step += 1

    def _batch(self, number: int, index: int) -> None:
        """Assign a batch, and move duals and centers; begin and end epochs."""
        is_last = number == self.num_passes - 1
        # Else the first one or two samples alone would be the center, where a batch has no more.
        is_small = self.stream.batch_size <= PRIOR_SAMPLES * self.kmeans.num_clusters
        prior = PRIOR_SAMPLES if is_small and not is_last else 0
        if index == 0 or self._epoch(number, index) != self._epoch(number, index - 1):
            self.kmeans.set_epoch(number)
            self.kmeans.count.fill_(prior)
        self.kmeans.epoch = number
        x_ND = self.stream.batch(number, index)
        self._bound(len(x_ND), is_last)
        centers = self.kmeans.centers if is_last else self.kmeans.running
        self.kmeans.update(x_ND, assign_batch(x_ND, centers, self.kmeans.dual))
        if self._epoch(number, index) != self._epoch(number, index + 1):
            empty = (self.kmeans.count == prior).nonzero().flatten()
            self.kmeans.end_epoch()
            if len(empty):
                self._reseed(empty)

    def _epoch(self, number: int, index: int) -> int:
        """In which epoch of its pass a batch is: equal parts of it, in which centers are means of
        about 128 samples; the last pass, whose means are the result, is one."""
        num_samples = len(self.label_A)
        wanted = round(num_samples / (SAMPLES_PER_EPOCH * self.kmeans.num_clusters))
        num_batches = self.stream.num_batches
        num_epochs = 1 if number == self.num_passes - 1 else min(max(wanted, 1), num_batches)
        return index * num_epochs // num_batches

    def _bound(self, num_rows: int, is_last: bool) -> None:
        """Bound and step size of the duals for a batch, by the rule of docs/methods/coke.md."""
        num_samples, num_clusters = len(self.label_A), self.kmeans.num_clusters
        loose = LOOSE_RATIO * num_samples / num_clusters
        bound = self.min_size if is_last else max(self.min_size, loose)
        self.kmeans.min_ratio = bound * num_clusters / num_samples
        if is_last and self.min_size <= 1:
            self.kmeans.dual.zero_()
            self.kmeans.dual_lr = 0.0
        else:
            self.kmeans.dual_lr = num_rows * min(REACH / bound, MAX_DUAL_STEP)

    def _reseed(self, empty: Tensor) -> None:
        """Clusters that no sample chose in an epoch begin anew at samples far from centers."""
        num_rows = min(len(self.label_A), 4 * len(empty) + 256)
        x_nD = self.stream.rows(self.stream.spread_rows(num_rows, self.step + 1))
        centers = self.kmeans.centers
        (similarity_n,) = shared(
            [torch.float32],
            num_rows,
            rows_per_chunk(centers),
            lambda part: ((x_nD[part] @ centers.T).amax(1),),
            centers.device,
        )
        far = similarity_n.cpu().topk(len(empty), largest=False)[1].to(x_nD.device)
        for name in ('centers', 'running'):
            getattr(self.kmeans, name)[empty] = x_nD[far]
        self.kmeans.dual[empty] = 0

    def _per_sample(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.label_A, self.similarity_A, self.margin_A

    def result(self) -> StreamResult:
        """Labels repaired; the state is not changed."""
        label_A, similarity_A, margin_A = (x.clone() for x in self._per_sample())
        centers = self.kmeans.centers
        num_moved = Repair(
            self.stream.rows,
            centers,
            label_A,
            similarity_A,
            margin_A,
            min_size=max(self.min_size, 1),
            rows_per_chunk=rows_per_chunk(centers),
        ).run()
        dual_K = self.kmeans.dual - self.kmeans.dual.min()  # balanced ones may be below 0
        return StreamResult(label_A, centers.cpu(), dual_K.cpu(), similarity_A, margin_A, num_moved)

    def _settings(self) -> dict[str, int]:
        """What a state must agree in with the arguments."""
        return dict(
            num_samples=len(self.label_A),
            dim=self.kmeans.dim,
            num_clusters=self.kmeans.num_clusters,
            min_size=self.min_size,
            num_passes=self.num_passes,
            batch_size=self.stream.batch_size,
            seed=self.stream.seed,
        )

    def state(self) -> State:
        """All that :meth:`load` needs; later steps do not change it."""
        buffers = {name: x.detach().cpu().clone() for name, x in self.kmeans.named_buffers()}
        done = self._num_labelled()
        names = ('label', 'similarity', 'margin')
        found = {n: x[:done].clone() for n, x in zip(names, self._per_sample(), strict=True)}
        return dict(self._settings(), step=self.step, **buffers, **found)

    def _num_labelled(self) -> int:
        return min(max(self.step - self.num_batches, 0) * self.span, len(self.label_A))

    def load(self, state: State) -> None:
        """Go on from a state; ValueError if it is another clustering's."""
        for name, value in self._settings().items():
            if state.get(name) != value:
                raise ValueError(
                    f'The saved state has {name} {state.get(name)}, but this clustering has '
                    f'{value}. Give the same arguments, or start without the state.'
                )
        self.step = state['step']
        self.kmeans.load_state_dict({name: state[name] for name in self.kmeans.state_dict()})
        names = ('label', 'similarity', 'margin')
        for name, whole in zip(names, self._per_sample(), strict=True):
            whole[: self._num_labelled()] = state[name]


# ---- first centers


def first_centers(stream: RowStream, num_clusters: int) -> Tensor:
    """Rows from all over the table, unit vectors (K, D): far from each other unless K is large."""
    if num_clusters > MOST_CHOSEN:
        return stream.rows(stream.spread_rows(num_clusters, 0))
    number = min(len(stream.x_AD), max(FEWEST_CANDIDATES, CANDIDATES * num_clusters))
    x_SD = stream.rows(stream.spread_rows(number, 0))
    # On the CPU: a GPU's sums have no fixed order, and processes must choose alike.
    return x_SD[far_rows(x_SD.cpu(), num_clusters, stream.seed).to(x_SD.device)]


def far_rows(x_SD: Tensor, num_rows: int, seed: int) -> Tensor:
    """Rows far from each other, to start k-means from, int64 (``num_rows``,); all different.

    Greedy k-means++ (Arthur and Vassilvitskii, SODA 2007): a row is drawn by its squared distance
    to those before; of 2 + ln K such draws the one that brings all rows nearest is taken.

    Args:
        x_SD: unit vectors, on the CPU (S, D).
        num_rows: K, at most S.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    distance_S = x_SD.new_ones(len(x_SD))  # half of the squares
    chosen = torch.zeros(num_rows, dtype=torch.int64)
    is_free = torch.ones(len(x_SD), dtype=torch.bool)
    for k in range(num_rows):
        chance_S = (distance_S * is_free).double()
        if not chance_S.any():  # all that is left lies on chosen rows
            chance_S = is_free.double()
        draws = 1 if k == 0 else 2 + int(math.log(num_rows))
        rows = torch.multinomial(chance_S, draws, replacement=True, generator=generator)
        nearer_nS = torch.minimum((1 - x_SD[rows] @ x_SD.T).clamp_(min=0), distance_S)
        best = nearer_nS.sum(1).argmin()
        chosen[k], distance_S = rows[best], nearer_nS[best]
        is_free[chosen[k]] = False
    return chosen


# ---- products with the centers, in chunks of fixed shapes


def rows_per_chunk(centers_KD: Tensor) -> int:
    """Rows that are compared with all centers at once."""
    rows = SCORES_PER_CHUNK[centers_KD.device.type] // len(centers_KD) // MIN_ROWS * MIN_ROWS
    return min(max(rows, MIN_ROWS), MAX_ROWS)


def assign_batch(x_ND: Tensor, centers_KD: Tensor, dual_K: Tensor) -> Tensor:
    """Cluster of each row by similarity plus dual, int64 (N,)."""
    # Not smaller than a product is worth the call.
    wanted = max(MIN_ROWS, len(x_ND) // CHUNKS_PER_BATCH, MIN_SCORES // len(centers_KD))
    rows = min(rows_per_chunk(centers_KD), wanted)
    score = x_ND.new_empty(rows, len(centers_KD))

    def labels(part: slice) -> tuple[Tensor]:
        x_nD = x_ND[part]
        return (argmax(torch.addmm(dual_K, x_nD, centers_KD.T, out=score[: len(x_nD)])),)

    return shared([torch.int64], len(x_ND), rows, labels, x_ND.device)[0]


def assign_rows(stream: RowStream, centers_KD: Tensor, dual_K: Tensor, part: slice) -> list[Tensor]:
    """Label, similarity and margin of consecutive rows, on the CPU."""
    rows = rows_per_chunk(centers_KD)
    similarity, score = centers_KD.new_empty(2, rows, len(centers_KD))

    def found(chunk: slice) -> tuple[Tensor, Tensor, Tensor]:
        place = slice(part.start + chunk.start, min(part.start + chunk.stop, part.stop))
        x_nD = stream.rows(place)
        similarity_nK = torch.mm(x_nD, centers_KD.T, out=similarity[: len(x_nD)])
        label_n = argmax(torch.add(similarity_nK, dual_K, out=score[: len(x_nD)]))
        return label_n, *similarity_and_margin(similarity_nK, label_n)

    dtypes = [torch.int64, torch.float32, torch.float32]
    results = shared(dtypes, part.stop - part.start, rows, found, centers_KD.device)
    return [x.cpu() for x in results]
