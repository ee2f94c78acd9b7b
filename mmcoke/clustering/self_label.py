"""Labels that a clustering is sure of, to train on: the confident stage after any method."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from .deepcluster import check_fitted
from .kmeans import KMeansResult, check_table, kmeans
from .online_kmeans import cluster_sizes, dual_step
from .precision import float32_no_grad, unit_rows
from .pseudo_labels import (
    UNASSIGNED,
    PseudoLabels,
    check_batch,
    check_num_clusters,
)
from .settings import SEED_RANGE, check_number

NUM_SIMILARITIES = 1 << 24
"""Similarities at a time where neighbours are looked for: 64 MB."""

NUM_RESTARTS = 10
"""Runs of k-means for the first clusters; the one with the least objective counts."""


def confident(prob_NK: Tensor, threshold: float) -> Tensor:
    """Whether the most probable cluster is at least as probable as the threshold, bool (N,).

    SCAN's rule (Van Gansbeke et al., ECCV 2020) for its self-labelling.

    Args:
        prob_NK: probabilities (N, K).
        threshold: in [0, 1].
    """
    return prob_NK.amax(1) >= threshold


def agreement(label_A: Tensor, neighbor_An: Tensor) -> Tensor:
    """Share of each sample's neighbours that have its label, float32 (A,).

    SPICE's rule (Niu et al., IEEE TIP 2022): a label is reliable if the nearest neighbours agree.

    Args:
        label_A: labels, int64 (A,).
        neighbor_An: samples that are neighbours of each, int64 (A, n).
    """
    return (label_A[neighbor_An] == label_A[:, None]).float().mean(1)


def nearest_neighbors(x_AD: Tensor, num_neighbors: int) -> Tensor:
    """The most similar other samples of each, int64 (A, n).

    Compares each with each; at most 64 MB of similarities at a time.

    Args:
        x_AD: L2-normalized features (A, D).
        num_neighbors: n, below A.
    """
    found = []
    for own_a in torch.arange(len(x_AD)).split(max(NUM_SIMILARITIES // len(x_AD), 1)):
        similarity_aA = x_AD[own_a] @ x_AD.T
        similarity_aA[torch.arange(len(own_a)), own_a] = -torch.inf
        found.append(similarity_aA.topk(num_neighbors, dim=1).indices)
    return torch.cat(found)


def spread_centers(x_AD: Tensor, num_clusters: int, seed: int) -> Tensor:
    """Samples far from each other, to start k-means from: k-means++ (Arthur, Vassilvitskii, 2007).

    Args:
        x_AD: features (A, D) on the CPU.
        num_clusters: K.
        seed: of the draws; each sample is drawn by its squared distance to those before.

    Returns:
        (K, D).
    """
    generator = torch.Generator().manual_seed(seed)
    weight_A, chosen = torch.ones(len(x_AD)), []
    for _ in range(num_clusters):
        cumulated_A = weight_A.double().cumsum(0)
        drawn = torch.rand((), generator=generator, dtype=torch.float64) * cumulated_A[-1]
        place = torch.searchsorted(cumulated_A, drawn, right=True).clamp(max=len(x_AD) - 1)
        chosen.append(x_AD[place])
        distance_A = (x_AD - chosen[-1]).square().sum(1)
        weight_A = distance_A if len(chosen) == 1 else weight_A.minimum(distance_A)
    return torch.stack(chosen)


class SelfLabels(PseudoLabels):
    """The newest label of each sample, and the one that its neighbours confirmed.

    Attributes:
        agreed: label on which a sample and its neighbours agreed at the start, else
            ``UNASSIGNED``; of the type of ``label``, (A,).
    """

    agreed: Tensor

    def __init__(self, num_samples: int, num_clusters: int) -> None:
        super().__init__(num_samples, num_clusters)
        self.register_buffer('agreed', self.label.clone())


class SelfLabeler(nn.Module):
    """Chooses the samples whose cluster is sure, and keeps the clusters' sizes.

    The last stage of SCAN (Van Gansbeke et al., ECCV 2020) and SPICE (Niu et al., 2022), with the
    duals of CoKe in place of their entropy or balancing. Order of use: :meth:`refit` once with the
    features of all samples, which gives ``centers``, the first weights of a classifier; then in an
    epoch :meth:`set_epoch` and :meth:`step` for every global batch.

    A sample is sure of a label if its probability, with the duals as logits of a class prior, is at
    least ``threshold``, or if at the start at least that share of its nearest neighbours had this
    label, as it had.

    Args:
        num_samples: A, number of samples in the data set.
        num_clusters: K, at most A.
        dim: D, dimension of the features.
        threshold: in [0, 1]; labels of smaller probability and agreement are not trained on.
        num_neighbors: n, whose labels are compared with a sample's; 0: probabilities alone count.
        min_ratio: lower bound of the share of a cluster among all labels, times K, in (0, 1].
        dual_lr: step size of the duals, which are added to logits. One sample moves a dual by
            ``dual_lr`` / N.
        seed: of k-means.

    Raises:
        ValueError: if there are more clusters than samples, or a setting is out of its range.
    """

    keeps_features = False
    """Whether :meth:`refit` needs all features on each process, if it gets the clusters."""

    centers: Tensor
    dual: Tensor
    num_fits: Tensor

    def __init__(
        self,
        num_samples: int,
        num_clusters: int,
        dim: int,
        *,
        threshold: float = 0.9,
        num_neighbors: int = 20,
        min_ratio: float = 0.9,
        dual_lr: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_num_clusters(num_clusters, num_samples)
        check_number('dim', dim, '[1, inf)', whole=True)
        check_number('threshold', threshold, '[0, 1]')
        check_number('num_neighbors', num_neighbors, '[0, inf)', whole=True)
        check_number('min_ratio', min_ratio, '(0, 1]')
        check_number('dual_lr', dual_lr, '[0, inf)')
        check_number('seed', seed, SEED_RANGE, whole=True)
        self.threshold, self.num_neighbors = threshold, num_neighbors
        self.min_ratio, self.dual_lr, self.seed = min_ratio, dual_lr, seed
        self.labels = SelfLabels(num_samples, num_clusters)
        self.register_buffer('centers', torch.zeros(num_clusters, dim))
        self.register_buffer('dual', torch.zeros(num_clusters))
        self.register_buffer('num_fits', torch.zeros((), dtype=torch.int64))
        # Shares of labels that changed and that are sure, summed over batches, and their number.
        self.register_buffer('_sums', torch.zeros(3), persistent=False)

    @property
    def num_clusters(self) -> int:
        return self.labels.num_clusters

    @property
    def lower_bound(self) -> float:
        """Lower bound of the size of a cluster, as a share of all samples."""
        return self.min_ratio / self.num_clusters

    @property
    def min_size(self) -> float:
        """Lower bound of the size of a cluster, in samples."""
        return self.lower_bound * self.labels.num_samples

    def start_from(self, centers_KD: Tensor) -> None:
        """Take clusters over, so that :meth:`refit` labels by them and makes none.

        Args:
            centers_KD: their centers (K, D), of any length.
        """
        self.centers.copy_(unit_rows(centers_KD))

    def cluster(
        self, x_AD: Tensor, progress: Callable[[Iterable], Iterable] = iter
    ) -> KMeansResult:
        """First clusters of all samples; ``UNASSIGNED`` where the neighbours do not agree.

        The nearest of the centers of :meth:`start_from`; without them, spherical k-means.

        Args:
            x_AD: features in data-set order (A, D).
            progress: see :func:`kmeans`.

        Raises:
            ValueError: as :func:`kmeans`.
        """
        check_table(x_AD)
        x_AD = unit_rows(x_AD).cpu()
        if self.centers.any():
            centers_KD = self.centers.cpu()
            label_A = (x_AD @ centers_KD.T).argmax(1)
            num_filled = 0
        else:
            result = min(self._restarts(x_AD, progress), key=lambda run: run.objective)
            (label_A, centers_KD), num_filled = result, result.num_filled
        sure_A = torch.zeros(len(x_AD), dtype=torch.bool)
        if self.num_neighbors:
            neighbor_An = nearest_neighbors(x_AD, min(self.num_neighbors, len(x_AD) - 1))
            sure_A = agreement(label_A, neighbor_An) >= self.threshold
        return KMeansResult(label_A.where(sure_A, UNASSIGNED), centers_KD, float('nan'), num_filled)

    def _restarts(self, x_AD: Tensor, progress: Callable) -> Iterable[KMeansResult]:
        for seed in range(self.seed, self.seed + NUM_RESTARTS):
            init = spread_centers(x_AD, self.num_clusters, seed)
            yield kmeans(x_AD, self.num_clusters, spherical=True, init=init, progress=progress)

    @float32_no_grad
    def refit(
        self,
        x_AD: Tensor,
        clusters: KMeansResult | None = None,
        *,
        left_out: Sequence[int] = (),
    ) -> None:
        """Take over what the neighbours agree on, as first labels, and ``centers``.

        Args:
            x_AD: features in data-set order (A, D); with ``clusters``, they do not matter.
            clusters: what :meth:`cluster` returned for them.
            left_out: samples without features; nothing is agreed on for them.
        """
        if clusters is None:
            clusters = self.cluster(x_AD)
        self.labels.agreed.copy_(clusters.label)
        self.labels.agreed[torch.tensor(left_out, dtype=torch.int64)] = UNASSIGNED
        self.labels.label.copy_(self.labels.agreed)
        self.start_from(clusters.centers)
        self.num_fits += 1

    @float32_no_grad
    def step(self, prob_NK: Tensor, idx_N: Tensor) -> Tensor:
        """Label the global batch, and move the duals.

        ``q = softmax_k(log p_k + rho_k)``, ``label = argmax_k q_k``, sure if q of the label is at
        least ``threshold`` or the neighbours agreed; then
        ``rho_k <- max(0, rho_k - dual_lr (n_k / N - min_ratio / K))``, as in CoKe, with n_k of all
        N labels. That is CoKe's assignment by similarity, with duals in units of the temperature,
        and q stays a probability: a cluster of which the network is seldom sure has few sure
        samples, not those of its neighbours. That it is learned all the same is up to the loss,
        in which each cluster is to count alike.

        Args:
            prob_NK: probabilities of the global batch (N, K), the same on every process.
            idx_N: their ``sample_idx``, int64 (N,).

        Returns:
            int64 (N,): the labels, ``UNASSIGNED`` where they are not sure.

        Raises:
            ValueError: if shapes do not agree, or (on CPU) :meth:`refit` was not called, an index
                is not in the data set or a probability is not finite.
        """
        check_fitted(self.num_fits)
        check_batch(prob_NK, idx_N, self.num_clusters, self.labels.num_samples)
        idx_N = idx_N.long()
        prior_prob_NK = (prob_NK.log() + self.dual).softmax(1)
        label_N = prior_prob_NK.argmax(1)
        agreed_N = self.labels.agreed[idx_N] == label_N
        sure_N = confident(prior_prob_NK, self.threshold) | agreed_N
        share_K = cluster_sizes(label_N[None], self.num_clusters) / len(label_N)
        dual_step(self.dual, share_K, self.dual_lr, self.lower_bound, self.min_ratio < 1)
        changed = self.labels.write(idx_N, label_N)
        self._sums += torch.stack([changed, sure_N.float().mean(), torch.ones_like(changed)])
        return label_N.where(sure_N, UNASSIGNED)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch; only what it logs begins anew."""
        self._sums.zero_()

    def sizes(self) -> Tensor:
        """Number of samples per cluster by their newest label, int64 (K,)."""
        return self.labels.sizes()

    def changed(self) -> Tensor:
        """Share of samples whose label changed in this epoch so far, a scalar tensor."""
        return self._sums[0] / self._sums[2].clamp(min=1)

    def sure(self) -> Tensor:
        """Share of samples that were trained on in this epoch so far, a scalar tensor."""
        return self._sums[1] / self._sums[2].clamp(min=1)

    def extra_repr(self) -> str:
        return (
            f'threshold={self.threshold}, num_neighbors={self.num_neighbors}, '
            f'min_ratio={self.min_ratio}, dual_lr={self.dual_lr}'
        )
