"""SwAV's codes: equal shares of each batch, with the features of the batches before it."""

import torch
from torch import Tensor, nn

from .precision import float32_no_grad
from .pseudo_labels import PseudoLabels, check_batch, check_num_clusters
from .settings import check_number
from .sinkhorn import sinkhorn


class SwAVLabeler(nn.Module):
    """Codes of the full-size views, each of which the other views have to predict.

    After Caron et al., NeurIPS 2020. In an epoch: :meth:`set_epoch`, then :meth:`step` for every
    global batch. The prototypes, to which the codes refer, are no state of it: a head learns them.

    A small batch cannot be shared equally among many prototypes. So the features of the batches
    before are kept in a queue, and from some epoch on take part in the sharing. They are stored
    from the first step on; the queue is used from the first epoch on at whose start it is full.

    The label of a sample, in a table as that of other methods, is the prototype that its codes
    name: nothing is learned from it, it is there for logs and measurements.

    Args:
        num_samples: A, number of samples in the data set.
        num_clusters: K, number of prototypes, at most ``num_samples``.
        dim: D, dimension of the features.
        temperature: of the codes, see :func:`sinkhorn` (epsilon in the paper).
        num_iters: see :func:`sinkhorn`.
        queue_length: features of each view that are kept; 0 for none.
        queue_from_epoch: first epoch, from 0, in which the queue may be used.

    Raises:
        ValueError: if an argument is out of its range, or there are more clusters than samples.
    """

    NUM_VIEWS = 2
    """Full-size views, those that get codes."""

    queue: Tensor
    num_stored: Tensor
    uses_queue: Tensor

    def __init__(
        self,
        num_samples: int,
        num_clusters: int,
        dim: int,
        *,
        temperature: float = 0.05,
        num_iters: int = 3,
        queue_length: int = 0,
        queue_from_epoch: int = 15,
    ) -> None:
        super().__init__()
        check_num_clusters(num_clusters, num_samples)
        check_number('dim', dim, '[1, inf)', whole=True)
        check_number('temperature', temperature, '(0, inf)')
        check_number('num_iters', num_iters, '[1, inf)', whole=True)
        check_number('queue_length', queue_length, '[0, inf)', whole=True)
        check_number('queue_from_epoch', queue_from_epoch, '[0, inf)', whole=True)
        self.dim, self.temperature, self.num_iters = dim, temperature, num_iters
        self.queue_length, self.queue_from_epoch = queue_length, queue_from_epoch
        self.labels = PseudoLabels(num_samples, num_clusters)
        self.register_buffer('queue', torch.zeros(self.NUM_VIEWS, queue_length, dim))
        self.register_buffer('num_stored', torch.zeros((), dtype=torch.int64))
        self.register_buffer('uses_queue', torch.zeros((), dtype=torch.int64))
        # Share of labels that changed, summed over the batches of the epoch, and their number.
        self.register_buffer('_changed', torch.zeros(2), persistent=False)
        self.phase = 0

    phase: int
    """1 if the steps of the epoch use the queue, else 0; see ``CoKeLabeler.phase``."""

    @property
    def num_clusters(self) -> int:
        return self.labels.num_clusters

    @float32_no_grad
    def step(
        self, x_VND: Tensor, idx_N: Tensor, prototypes_KD: Tensor, own: slice = slice(None)
    ) -> Tensor:
        """Codes of the samples; then store their features.

        Args:
            x_VND: L2-normalized features of the two full-size views of the global batch (2, N, D),
                the same on every process.
            idx_N: ``sample_idx`` of the samples, int64 (N,).
            prototypes_KD: L2-normalized, as they are before the batch (K, D).
            own: the n rows whose codes are wanted, those of this process; all by default.

        Returns:
            float32 (2, n, K), for each view soft assignments, rows sum to 1.

        Raises:
            ValueError: if shapes do not agree, an index is not in the data set, or (on CPU) a
                feature is not finite.
        """
        self._check(x_VND, idx_N, prototypes_KD)
        all_VMD = torch.cat([x_VND, self.queue], 1) if self.phase else x_VND
        options = dict(temperature=self.temperature, num_iters=self.num_iters)
        code_VNK = sinkhorn(all_VMD @ prototypes_KD.T, **options)[:, : len(idx_N)]
        self._store(x_VND)
        changed = self.labels.write(idx_N, code_VNK.sum(0).argmax(1))
        self._changed += torch.stack([changed, torch.ones_like(changed)])
        return code_VNK[:, own]

    def _check(self, x_VND: Tensor, idx_N: Tensor, prototypes_KD: Tensor) -> None:
        shapes = (self.NUM_VIEWS, *idx_N.shape, self.dim), (self.num_clusters, self.dim)
        if (tuple(x_VND.shape), tuple(prototypes_KD.shape)) != shapes:
            raise ValueError(
                f'step() takes features and prototypes {shapes[0]} and {shapes[1]}, but got '
                f'{tuple(x_VND.shape)} and {tuple(prototypes_KD.shape)}.'
            )
        for x_ND in x_VND:
            check_batch(x_ND, idx_N, self.dim, self.labels.num_samples)

    def _store(self, x_VND: Tensor) -> None:
        """The newest features in front."""
        moved_VLD = torch.cat([x_VND, self.queue], 1)[:, : self.queue_length]
        self.queue.copy_(moved_VLD)
        self.num_stored += x_VND.shape[1]

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, numbered from 0."""
        is_full = 0 < self.queue_length <= int(self.num_stored)
        self.uses_queue.fill_(is_full and epoch >= self.queue_from_epoch)
        self._changed.zero_()
        self.continue_epoch(epoch)

    def continue_epoch(self, epoch: int) -> None:
        """Go on within an epoch whose state was loaded, instead of :meth:`set_epoch`."""
        self.phase = int(self.uses_queue)

    def sizes(self) -> Tensor:
        """Number of samples per cluster by their newest label, int64 (K,)."""
        return self.labels.sizes()

    def changed(self) -> Tensor:
        """Share of samples whose label changed in this epoch so far, a scalar tensor."""
        return self._changed[0] / self._changed[1].clamp(min=1)

    def extra_repr(self) -> str:
        return (
            f'temperature={self.temperature}, num_iters={self.num_iters}, '
            f'queue_length={self.queue_length}, queue_from_epoch={self.queue_from_epoch}'
        )
