"""Deep embedded clustering of frozen features: an embedding and its clusters, learned together.

Xie, Girshick and Farhadi, "Unsupervised Deep Embedding for Clustering Analysis", ICML 2016, with
the reconstruction kept as in Guo, Gao, Liu and Yin, "Improved Deep Embedded Clustering with Local
Structure Preservation", IJCAI 2017.
"""

import math
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from .kmeans import kmeans
from .min_size import Repair, similarity_and_margin
from .row_stream import RowStream, check_rows
from .settings import check_number
from .streaming_kmeans import SECONDS_PER_SAVE, check_arguments, default_device, rows_per_chunk

HIDDEN = (512, 256)
"""Widths between the vectors and the embedding; the decoder has them in reverse."""

LEARNING_RATE = 1e-3
KL_WEIGHT = 1.0
"""Of KL(P‖Q) beside the mean squared error of the reconstruction; γ of Guo et al., who have 0.1."""

NUM_STEPS = 1000
"""Of each of the two stages, about."""

MAX_BATCH = 256
NUM_STARTS = 4
"""Of the k-means that gives the first centers; the best one is taken."""

ROWS_PER_CHUNK = 1 << 12


class DecResult(NamedTuple):
    """A clustering of A samples; all on the CPU.

    Attributes:
        label: int64 (A,), every cluster has at least ``min_size`` members, and one.
        centers: float32 (K, D), unit vectors: mean directions of the members' vectors.
        similarity: float32 (A,): q of the own cluster, see :func:`soft_assignment`; in (0, 1].
        margin: float32 (A,): that less the largest other q; negative where the bound moved the
            sample, infinite if K = 1.
        num_moved: samples that the repair of sizes moved.
        model: what :func:`assign_dec` needs: encoder, and centers in the embedding.
    """

    label: Tensor
    centers: Tensor
    similarity: Tensor
    margin: Tensor
    num_moved: int
    model: dict[str, Tensor]


def dec_cluster(
    x_AD: Tensor,
    num_clusters: int,
    *,
    min_size: int = 0,
    dim: int = 10,
    num_epochs: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    state: dict[str, Any] | None = None,
    save: Callable[[dict[str, Any]], None] | None = None,
    seconds_per_save: float = SECONDS_PER_SAVE,
    progress: Callable[[Iterable], Iterable] = iter,
) -> DecResult:
    """Deep embedded clustering of vectors that may lie on disk.

    An autoencoder learns an embedding of the unit vectors; k-means there gives the first centers;
    then encoder, decoder and centers learn from KL(P‖Q) and the reconstruction, with a new target
    P at the beginning of each epoch. In the end each sample is in the cluster of its largest q, and
    a repair moves those that are least farther from another center until every cluster has
    ``min_size`` members. In memory are batches, the network and ``dim`` numbers per sample.

    The same arguments give the same result to the bit, on the same machine with the same number of
    threads. Several processes each compute all of it.

    Args:
        x_AD: vectors (A, D), see :func:`~mmcoke.clustering.stream_kmeans`.
        num_clusters, min_size, seed, device: see there.
        dim: of the embedding.
        num_epochs: of each of the two stages; see :func:`default_num_epochs`.
        state: what ``save`` got, to go on from there; the result is the same to the bit.
        save: called between epochs with a state, which it may keep.
        seconds_per_save: between two calls of ``save``; 0 for one after every epoch.
        progress: wraps the iterable of epochs, such as ``rich.progress.track``.

    Raises:
        ValueError: in one line, if an argument is out of its range, rows are zero or not finite,
            or a state belongs to another clustering.
    """
    check_arguments(x_AD, num_clusters, min_size, 1, None, seed)
    check_number('dim', dim, '[1, inf)', whole=True)
    if num_epochs is None:
        num_epochs = default_num_epochs(len(x_AD))
    check_number('num_epochs', num_epochs, '[1, inf)', whole=True)
    device = default_device(device)
    if state is None:
        check_rows(x_AD, device)
    stream = RowStream(x_AD, default_batch_size(len(x_AD)), seed, device)
    training = Training(stream, num_clusters, dim, num_epochs)
    if state is not None:
        training.load(state)
    saved = time.monotonic()
    for _ in progress(range(training.epoch, 2 * num_epochs)):
        training.advance()
        if save is not None and time.monotonic() - saved >= seconds_per_save:
            save(training.state())
            saved = time.monotonic()
    return result(stream, training.encoder, min_size)


@torch.no_grad()
def assign_dec(
    x_AD: Tensor,
    model: dict[str, Tensor],
    *,
    device: torch.device | str | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[Tensor, Tensor, Tensor]:
    """Clusters of vectors that came later, by an encoder that has learned.

    Args:
        x_AD, device: see :func:`dec_cluster`.
        model: of a :class:`DecResult`.
        progress: wraps the iterable of chunks.

    Returns:
        label, similarity and margin, as in :class:`DecResult`.

    Raises:
        ValueError: in one line, if shapes do not fit, or rows are zero or not finite.
    """
    device, width = default_device(device), len(model['mean'])
    check_rows(x_AD, device)
    if x_AD.shape[1] != width:
        raise ValueError(f'The vectors have {x_AD.shape[1]} numbers, those of the model {width}.')
    encoder = Encoder(width, *model['centers'].T.shape).to(device)
    encoder.load_state_dict(model)
    z_Ad = embedded(RowStream(x_AD, 1, 0, device), encoder, progress)
    label_A = nearest(z_Ad, encoder.centers)
    return label_A, *soft_margins(z_Ad, encoder.centers, label_A)


def default_num_epochs(num_samples: int) -> int:
    """For about 1,000 steps; 5 at least."""
    return max(5, math.ceil(NUM_STEPS / math.ceil(num_samples / default_batch_size(num_samples))))


def default_batch_size(num_samples: int) -> int:
    """A sixteenth of the samples, from 16 to 256."""
    return min(max(16, num_samples // 16), MAX_BATCH)


# ---- the equations


def soft_assignment(z_Nd: Tensor, centers_Kd: Tensor) -> Tensor:
    """q (N, K): Student's t with one degree of freedom of the distances; eq. 1, α = 1."""
    similarity_NK = 1 / (1 + squared_distances(z_Nd, centers_Kd))
    return similarity_NK / similarity_NK.sum(1, keepdim=True)


def target_distribution(q_NK: Tensor, frequency_K: Tensor) -> Tensor:
    """p (N, K), sharper than q and without favour for large clusters; eq. 3.

    Args:
        q_NK: soft assignments of some samples.
        frequency_K: sums of q over all samples.
    """
    weight_NK = q_NK.square() / frequency_K
    return weight_NK / weight_NK.sum(1, keepdim=True)


def kl_loss(p_NK: Tensor, q_NK: Tensor) -> Tensor:
    """KL(P‖Q), mean over samples; eq. 2."""
    return (torch.xlogy(p_NK, p_NK) - torch.xlogy(p_NK, q_NK)).sum(1).mean()


def squared_distances(z_Nd: Tensor, centers_Kd: Tensor) -> Tensor:
    """(N, K), not below 0."""
    size_N1 = z_Nd.square().sum(1, keepdim=True)
    return (size_N1 - 2 * z_Nd @ centers_Kd.T + centers_Kd.square().sum(1)).clamp_min(0)


# ---- the network and how it learns


class Encoder(nn.Module):
    """From unit vectors to an embedding, and the centers there.

    Args:
        width: D of the vectors.
        dim: of the embedding.
        num_clusters: K.
    """

    def __init__(self, width: int, dim: int, num_clusters: int) -> None:
        super().__init__()
        self.register_buffer('mean', torch.zeros(width))
        self.register_buffer('scale', torch.ones(()))
        self.layers = mlp([width, *HIDDEN, dim])
        self.centers = nn.Parameter(torch.zeros(num_clusters, dim))

    def standardized(self, x_ND: Tensor) -> Tensor:
        """Without the mean, and 1 the mean square of a number: what is encoded and decoded."""
        return (x_ND - self.mean) * self.scale

    def forward(self, x_ND: Tensor) -> Tensor:
        return self.layers(self.standardized(x_ND))


def mlp(widths: list[int]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Training:
    """Both stages, epoch by epoch, and their state.

    Args:
        stream: the vectors.
        num_clusters, dim, num_epochs: see :func:`dec_cluster`.
    """

    def __init__(self, stream: RowStream, num_clusters: int, dim: int, num_epochs: int) -> None:
        self.stream, self.num_epochs, self.epoch = stream, num_epochs, 0
        width = stream.x_AD.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream.seed)
            self.encoder = Encoder(width, dim, num_clusters)
            self.decoder = mlp([dim, *HIDDEN[::-1], width])
        self.model = nn.ModuleList([self.encoder, self.decoder]).to(stream.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), LEARNING_RATE)

    def advance(self) -> None:
        """One epoch: of the autoencoder, or of the clustering."""
        if self.epoch == 0:
            standardize(self.stream, self.encoder)
        if self.epoch == self.num_epochs:
            self._first_centers()
        targets = self._targets() if self.epoch >= self.num_epochs else None
        for index in range(self.stream.num_batches):
            x_ND = self.stream.batch(self.epoch, index)
            loss = self._loss(x_ND, None if targets is None else targets(index))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.epoch += 1

    def _loss(self, x_ND: Tensor, p_NK: Tensor | None) -> Tensor:
        z_Nd = self.encoder(x_ND)
        loss = mse_loss(self.decoder(z_Nd), self.encoder.standardized(x_ND))
        if p_NK is None:
            return loss
        return loss + KL_WEIGHT * kl_loss(p_NK, soft_assignment(z_Nd, self.encoder.centers))

    @torch.no_grad()
    def _first_centers(self) -> None:
        """The best of several k-means in the embedding."""
        z_Ad, num_clusters = embedded(self.stream, self.encoder), len(self.encoder.centers)
        seeds = range(self.stream.seed, self.stream.seed + NUM_STARTS)
        found = [kmeans(z_Ad, num_clusters, seed=seed % (1 << 32), backend='cpu') for seed in seeds]
        best = min(found, key=lambda result: result.objective)
        self.encoder.centers.copy_(best.centers)

    @torch.no_grad()
    def _targets(self) -> Callable[[int], Tensor]:
        """P of all batches of this epoch, by the network of now."""
        centers_Kd = self.encoder.centers.clone()
        batches = range(self.stream.num_batches)
        z = [self.encoder(self.stream.batch(self.epoch, index)) for index in batches]
        # Rather the embedding than all q: K may be large.
        frequency_K = sum(soft_assignment(z_Nd, centers_Kd).sum(0) for z_Nd in z)
        return lambda index: target_distribution(soft_assignment(z[index], centers_Kd), frequency_K)

    def _settings(self) -> dict[str, int]:
        """What a state must agree in with the arguments."""
        num_samples, width = self.stream.x_AD.shape
        num_clusters, dim = self.encoder.centers.shape
        return dict(
            num_samples=num_samples,
            width=width,
            num_clusters=num_clusters,
            dim=dim,
            num_epochs=self.num_epochs,
            seed=self.stream.seed,
        )

    def state(self) -> dict[str, Any]:
        """All that :meth:`load` needs; later epochs do not change it."""
        content = dict(model=self.model.state_dict(), optimizer=self.optimizer.state_dict())
        return dict(self._settings(), epoch=self.epoch, **copied(content))

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state; ValueError if it is another clustering's."""
        for name, value in self._settings().items():
            if state.get(name) != value:
                raise ValueError(
                    f'The saved state has {name} {state.get(name)}, but this clustering has '
                    f'{value}. Give the same arguments, or start without the state.'
                )
        self.epoch = state['epoch']
        self.model.load_state_dict(state['model'])
        self.optimizer.load_state_dict(copied(state['optimizer']))


def copied(content: Any) -> Any:
    """Copies of all tensors within, on the CPU."""
    if isinstance(content, Tensor):
        return content.detach().cpu().clone()
    if isinstance(content, dict):
        return {name: copied(value) for name, value in content.items()}
    return [copied(value) for value in content] if isinstance(content, list) else content


@torch.no_grad()
def standardize(stream: RowStream, encoder: Encoder) -> None:
    """Mean of the vectors and what makes their mean square 1, for the first layer."""
    total_D = sum(stream.rows(part).double().sum(0) for part in chunks(len(stream.x_AD)))
    mean_D = total_D / len(stream.x_AD)
    # Of unit vectors; those that are all the same stay next to 0.
    variance = (1 - mean_D.square().sum()) / len(mean_D)
    encoder.mean.copy_(mean_D)
    encoder.scale.copy_(variance.clamp_min(1e-6 / len(mean_D)).rsqrt())


# ---- from a network to a clustering


def chunks(num_rows: int, size: int = ROWS_PER_CHUNK) -> list[slice]:
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]


def embedded(
    stream: RowStream, encoder: Encoder, progress: Callable[[Iterable], Iterable] = iter
) -> Tensor:
    """Embedding of all rows in order (A, d), on the CPU."""
    parts = progress(chunks(len(stream.x_AD)))
    return torch.cat([encoder(stream.rows(part)).cpu() for part in parts])


@torch.no_grad()
def result(stream: RowStream, encoder: Encoder, min_size: int) -> DecResult:
    """Labels, repaired, with what is told of them."""
    z_Ad = embedded(stream, encoder)
    centers_Kd = encoder.centers.detach()
    label_A, num_moved = bounded_labels(z_Ad, centers_Kd, min_size)
    similarity_A, margin_A = soft_margins(z_Ad, centers_Kd, label_A)
    centers_KD = mean_directions(stream, label_A, len(centers_Kd))
    model = copied(encoder.state_dict())
    return DecResult(label_A, centers_KD, similarity_A, margin_A, num_moved, dict(model))


def bounded_labels(z_Ad: Tensor, centers_Kd: Tensor, min_size: int) -> tuple[Tensor, int]:
    """Nearest centers, moved so that sizes hold a bound; and how many were moved.

    The repair compares products; (z, 1) · (c, -|c|²/2) differ as halved squared distances do.
    """
    centers_Ke = torch.cat([centers_Kd, -centers_Kd.square().sum(1, keepdim=True) / 2], 1)
    rows = rows_per_chunk(centers_Ke)

    def read(part: Tensor | slice) -> Tensor:
        return nn.functional.pad(z_Ad[part].to(centers_Kd.device), (0, 1), value=1.0)

    label_A = nearest(z_Ad, centers_Kd)
    parts = [
        similarity_and_margin(read(part) @ centers_Ke.T, label_A[part].to(centers_Kd.device))
        for part in chunks(len(z_Ad), rows)
    ]
    similarity_A, margin_A = (torch.cat(values).cpu() for values in zip(*parts, strict=True))
    # Rounding may put the nearest center a hair behind another; that holds no sample back.
    margin_A.clamp_(min=0)
    repair = Repair(
        read, centers_Ke, label_A, similarity_A, margin_A,
        min_size=max(min_size, 1), rows_per_chunk=rows,
    )  # fmt: skip
    return label_A, repair.run()


def nearest(z_Ad: Tensor, centers_Kd: Tensor) -> Tensor:
    """Cluster of the largest q of each sample, int64 (A,), on the CPU."""
    centers_Kd = centers_Kd.detach().cpu()
    parts = chunks(len(z_Ad), rows_per_chunk(centers_Kd))
    return torch.cat([squared_distances(z_Ad[part], centers_Kd).argmin(1) for part in parts])


def soft_margins(z_Ad: Tensor, centers_Kd: Tensor, label_A: Tensor) -> tuple[Tensor, Tensor]:
    """q of the own cluster, and that less the largest other one (A,), on the CPU."""
    centers_Kd = centers_Kd.detach().cpu()
    parts = [
        similarity_and_margin(soft_assignment(z_Ad[part], centers_Kd), label_A[part])
        for part in chunks(len(z_Ad), rows_per_chunk(centers_Kd))
    ]
    similarity_A, margin_A = (torch.cat(values) for values in zip(*parts, strict=True))
    return similarity_A, margin_A


def mean_directions(stream: RowStream, label_A: Tensor, num_clusters: int) -> Tensor:
    """Mean directions of the vectors in each cluster (K, D), on the CPU."""
    sum_KD = torch.zeros(num_clusters, stream.x_AD.shape[1])
    for part in chunks(len(label_A)):
        sum_KD.index_add_(0, label_A[part], stream.rows(part).cpu())
    return normalize(sum_KD, dim=1)
