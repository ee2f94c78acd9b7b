"""SeLa's labels: the classifier's own scores of all samples, in equal shares."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from .deepcluster import LabelsOfAll
from .kmeans import KMeansResult, check_finite, check_table
from .precision import float32_no_grad
from .settings import check_number
from .sinkhorn import sinkhorn_columns

RESIDENT = 1 << 29
"""Numbers in the largest table of features that is brought to the device as a whole."""


class SeLaLabeler(LabelsOfAll):
    """Self-labelling by optimal transport over the whole data set (Asano et al., ICLR 2020).

    :meth:`refit` with all features and the classifier before training and then from time to time;
    :meth:`step` reads the labels in between. All samples are scored by the classifier, and get the
    labels of the greatest total score among those of equal shares, up to an entropy. The labels
    follow the classifier, so it goes on; several classifiers have a labeler each.

    Args:
        num_samples: A, number of samples in the data set.
        num_clusters: K, at most ``num_samples``.
        temperature: weight of the entropy, 1/lambda in the paper.
        num_iters: most iterations of Sinkhorn.
        tolerance: see :func:`sinkhorn_columns`, where they end earlier.
        chunk_size: samples that are scored at a time, which bounds the memory: chunk_size x K
            scores and one number per sample and per cluster. It does not change the results but
            for rounding.

    Raises:
        ValueError: if there are more clusters than samples, or a setting is out of its range.
    """

    def __init__(
        self,
        num_samples: int,
        num_clusters: int,
        *,
        temperature: float = 1 / 25,
        num_iters: int = 100,
        tolerance: float = 0.01,
        chunk_size: int = 8192,
    ) -> None:
        super().__init__(num_samples, num_clusters)
        check_number('temperature', temperature, '(0, inf)')
        check_number('num_iters', num_iters, '[1, inf)', whole=True)
        check_number('tolerance', tolerance, '[0, inf)')
        check_number('chunk_size', chunk_size, '[1, inf)', whole=True)
        self.temperature, self.num_iters = temperature, num_iters
        self.tolerance, self.chunk_size = tolerance, chunk_size

    @float32_no_grad
    def cluster(
        self,
        x_AD: Tensor,
        progress: Callable[[Iterable], Iterable] = iter,
        *,
        weight_KD: Tensor,
        bias_K: Tensor,
    ) -> KMeansResult:
        """Labels of all samples, without taking them over.

        Args:
            x_AD: what the classifier sees of all samples, in data-set order (A, D).
            progress: wraps the iterable of iterations, such as ``rich.progress.track``.
            weight_KD, bias_K: of the linear classifier; its device computes.

        Returns:
            ``label``, int64 (A,), on the device of the features; as ``centers`` the weights, as
            ``objective`` the mean score of the labels.

        Raises:
            ValueError: if features are not finite, or do not fit the classifier.
        """
        check_table(x_AD)
        check_finite(x_AD)
        if weight_KD.shape != (self.num_clusters, x_AD.shape[1]):
            raise ValueError(
                f'The classifier has weights {tuple(weight_KD.shape)}, but features '
                f'{tuple(x_AD.shape)} and {self.num_clusters} clusters need '
                f'{(self.num_clusters, x_AD.shape[1])}.'
            )

        if x_AD.numel() <= RESIDENT:
            x_AD = x_AD.to(weight_KD.device)

        def chunks() -> Iterator[Tensor]:
            for x_mD in x_AD.split(self.chunk_size):
                yield torch.addmm(bias_K, x_mD.to(weight_KD.device), weight_KD.T)

        column_K = sinkhorn_columns(
            chunks,
            self.num_clusters,
            temperature=self.temperature,
            num_iters=self.num_iters,
            tolerance=self.tolerance,
            progress=progress,
        )
        labels, scores = [], []
        for score_mK in chunks():
            label_m = (score_mK / self.temperature + column_K).argmax(1)
            scores.append(score_mK.gather(1, label_m[:, None]))
            labels.append(label_m.to(x_AD.device))
        return KMeansResult(torch.cat(labels), weight_KD, torch.cat(scores).mean().item(), 0)

    def extra_repr(self) -> str:
        return (
            f'temperature={self.temperature:g}, num_iters={self.num_iters}, '
            f'tolerance={self.tolerance:g}'
        )
