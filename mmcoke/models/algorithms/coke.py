"""CoKe as an OpenMMLab algorithm."""

from itertools import groupby

import torch
from mmengine.dist import all_gather, get_rank
from mmpretrain.models import BaseSelfSupervisor
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmcoke.clustering import CoKeLabeler
from mmcoke.registry import MODELS


@MODELS.register_module()
class CoKe(BaseSelfSupervisor):
    """Pre-training by online constrained k-means (Qian et al., CVPR 2022).

    The labelers (pseudo-labels, centers, duals: one :class:`CoKeLabeler` per entry of
    ``num_clusters``) need the size of the data set; ``CoKeHook`` calls :meth:`init_labelers`
    when training starts.

    Args:
        backbone, neck, head, data_preprocessor, init_cfg: see ``BaseSelfSupervisor``. A neck
            without ``in_channels`` adapts to the backbone's width; the head has ``in_channels``,
            the dimension of the projection.
        clustering: arguments of :class:`CoKeLabeler` but for ``num_samples`` and ``dim``;
            ``num_clusters`` is a list, one number per clustering.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: dict,
        *,
        clustering: dict,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        backbone = MODELS.build(backbone)
        if 'in_channels' not in neck:
            neck = dict(neck, in_channels=backbone_width(backbone))
        super().__init__(
            backbone, neck, head, data_preprocessor=data_preprocessor, init_cfg=init_cfg
        )
        clustering = dict(clustering)
        num_clusters = clustering.pop('num_clusters')
        self.num_clusters = [num_clusters] if isinstance(num_clusters, int) else list(num_clusters)
        self.clustering = clustering
        self.labelers = nn.ModuleList()

    def init_labelers(self, num_samples: int) -> None:
        """Make the clustering state for a data set of ``num_samples`` images.

        Raises:
            ValueError: if there are more clusters than samples, or an argument in ``clustering``
                is out of its range.
        """
        seed = self.clustering.get('seed', 0)
        settings = {k: v for k, v in self.clustering.items() if k != 'seed'}
        device = next(self.parameters()).device
        self.labelers = nn.ModuleList(
            CoKeLabeler(num_samples, k, self.head.in_channels, seed=seed + head, **settings)
            for head, k in enumerate(self.num_clusters)
        ).to(device)

    def project(self, inputs: Tensor) -> Tensor:
        """Projections of images (n, C, H, W), not normalized (n, D)."""
        return self.neck(self.backbone(inputs))[-1]

    def loss(self, inputs: Tensor | list[Tensor], data_samples: list) -> dict[str, Tensor]:
        """Cluster the global batch and classify the images by their labels of the last epoch.

        Args:
            inputs: images (n, C, H, W), or a list of views: one; or two of full size, followed by
                any number of small crops. Views of one size go through the network together.
            data_samples: one per image, each with ``sample_idx``.

        Returns:
            See :meth:`CoKeHead.loss`.
        """
        views = [inputs] if isinstance(inputs, Tensor) else inputs
        num_full = count_full_views(views)
        projections, predictions = [], []
        for group in by_size(views):
            projection = self.project(torch.cat(group))
            projections += projection.chunk(len(group))
            predictions += self.head(projection).chunk(len(group))
        idx_n = sample_indices(data_samples, views[0].device)
        targets = self._targets(projections[:num_full], idx_n)
        centers = [labeler.kmeans.centers for labeler in self.labelers]
        return self.head.loss(projections, predictions, centers, targets)

    @torch.no_grad()
    def _targets(self, projections: list[Tensor], idx_n: Tensor) -> list[Tensor]:
        """Step each labeler with the global batch; keep the targets of the own one.

        Clustered is the mean of the full-size views' projections, not normalized again.
        """
        if not self.labelers:
            raise ValueError(
                'The labelers are not there yet: add custom_hooks=[dict(type="CoKeHook")] to the '
                'config, or call model.init_labelers(num_samples) before training.'
            )
        units = [normalize(x_nD.detach().float(), dim=1) for x_nD in projections]
        x_nD = torch.stack(units).mean(0)
        x_ND, idx_N = torch.cat(all_gather(x_nD)), torch.cat(all_gather(idx_n))
        first = get_rank() * len(idx_n)
        own = slice(first, first + len(idx_n))
        return [labeler.step(x_ND, idx_N)[own] for labeler in self.labelers]


@torch.no_grad()
def backbone_width(backbone: nn.Module, image_size: int = 64) -> int:
    """Channels of a backbone's last output, seen from one blank image."""
    stem = next(p for p in backbone.parameters() if p.ndim == 4)
    training = backbone.training
    backbone.eval()  # mmengine's modules return nothing here
    output = backbone(stem.new_zeros(1, stem.shape[1], image_size, image_size))
    backbone.train(training)
    return (output[-1] if isinstance(output, tuple) else output).shape[1]


def by_size(views: list[Tensor]) -> list[list[Tensor]]:
    """Runs of consecutive views with the same height and width."""
    return [list(group) for _, group in groupby(views, key=lambda view: view.shape[-2:])]


def count_full_views(views: list[Tensor]) -> int:
    """Number of views that are as large as the first one: 1 or 2.

    Raises:
        ValueError: if the views are not one, or two of full size and then smaller ones.
    """
    sizes = [tuple(view.shape[-2:]) for view in views]
    num_full = sizes.count(sizes[0])
    full_first = all(size == sizes[0] for size in sizes[:num_full])
    if len(views) == 1 or (num_full == 2 and full_first):
        return num_full
    raise ValueError(
        'CoKe trains on one view per image, or on two of full size followed by small crops, but '
        f'the pipeline made views of {sizes}. Set num_views and sizes in MultiView accordingly.'
    )


def sample_indices(data_samples: list | None, device: torch.device) -> Tensor:
    """Index of each image in the data set, int64 (n,).

    Raises:
        ValueError: if the data samples do not carry it.
    """
    if not data_samples or any('sample_idx' not in sample for sample in data_samples):
        raise ValueError(
            'The data samples have no sample_idx, by which CoKe finds the label of an image. Use a '
            'data '
            "set that derives from mmengine's BaseDataset and end the pipeline with "
            'dict(type="PackInputs"); if you set meta_keys there, keep "sample_idx" among them.'
        )
    return torch.tensor([sample.sample_idx for sample in data_samples]).to(device)
