"""CoKe as an OpenMMLab algorithm."""

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
        backbone, neck, head, data_preprocessor, init_cfg: see ``BaseSelfSupervisor``. The head has
            ``in_channels``, the dimension of the projection.
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
            inputs: images (n, C, H, W), or a list with that one view.
            data_samples: one per image, each with ``sample_idx``.

        Returns:
            ``{'loss': scalar}``
        """
        view = single_view(inputs)
        projection_nD = self.project(view)
        targets = self._targets(projection_nD, sample_indices(data_samples, view.device))
        centers = [labeler.kmeans.centers for labeler in self.labelers]
        return self.head.loss(projection_nD, centers, targets)

    @torch.no_grad()
    def _targets(self, projection_nD: Tensor, idx_n: Tensor) -> list[Tensor]:
        """Step each labeler with the global batch; keep the targets of the own one."""
        if not self.labelers:
            raise ValueError(
                'The labelers are not there yet: add custom_hooks=[dict(type="CoKeHook")] to the '
                'config, or call model.init_labelers(num_samples) before training.'
            )
        x_nD = normalize(projection_nD.detach().float(), dim=1)
        x_ND, idx_N = torch.cat(all_gather(x_nD)), torch.cat(all_gather(idx_n))
        first = get_rank() * len(idx_n)
        own = slice(first, first + len(idx_n))
        return [labeler.step(x_ND, idx_N)[own] for labeler in self.labelers]


def single_view(inputs: Tensor | list[Tensor]) -> Tensor:
    """The only view in the inputs."""
    if isinstance(inputs, Tensor):
        return inputs
    if len(inputs) != 1:
        raise ValueError(
            f'CoKe trains on one view per image, but the pipeline made {len(inputs)}. Remove '
            'MultiView from the train pipeline, or set its num_views=1.'
        )
    return inputs[0]


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
