"""CoKe as an OpenMMLab algorithm."""

from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmcoke.clustering import CoKeLabeler
from mmcoke.clustering.settings import check_flag, check_number
from mmcoke.models.heads import NestedCoKeHead
from mmcoke.models.moving_average import MovingAverage
from mmcoke.registry import MODELS

from .base import ClusteringAlgorithm, explained_batch_norm, global_batch, sample_indices


@MODELS.register_module()
class CoKe(ClusteringAlgorithm):
    """Pre-training by online constrained k-means (Qian et al., CVPR 2022).

    The labelers (pseudo-labels, centers, duals: a :class:`CoKeLabeler` with a head per entry of
    ``num_clusters``) need the size of the data set; ``CoKeHook`` calls :meth:`init_labelers`
    when training starts.

    Args:
        backbone, neck, data_preprocessor, init_cfg: see :class:`ClusteringAlgorithm`.
        head: has ``in_channels``, the dimension of the projection.
        clustering: arguments of :class:`CoKeLabeler` but for ``num_samples``; ``num_clusters`` is a
            list, one number per clustering. ``dim`` is that of the projection, or a list as well:
            then clusterings are nested, and the head is a ``NestedCoKeHead``.
            ``dual_lr_base_batch_size`` is the number of images per iteration that ``dual_lr``
            belongs to, see :meth:`scale_dual_lr`; without it ``dual_lr`` is used as it is.
        joint_views: pass consecutive views of one size through the network in one batch. That is
            faster, but not as published: BN then normalizes views that are augmented differently
            with common statistics, so losses, labels and running statistics are others.
    """

    capturable = True
    labeler = CoKeLabeler

    def __init__(
        self, backbone: dict, neck: dict, head: dict, *, joint_views: bool = False, **kwargs
    ) -> None:
        super().__init__(backbone, neck, head, **kwargs)
        check_clustering(self.clustering)
        check_dims(self.clustering, self.head)
        check_flag('joint_views', joint_views)
        self.joint_views = joint_views

    @property
    def num_clusters(self) -> list[int]:
        """K of each clustering."""
        return as_list(self.clustering['num_clusters'])

    def make_labelers(self, num_samples: int) -> CoKeLabeler:
        if not self.num_clusters:
            raise ValueError('clustering.num_clusters is empty: name one number per clustering.')
        others = ('num_clusters', 'dual_lr_base_batch_size')
        settings = {k: v for k, v in self.clustering.items() if k not in others}
        settings = dict(dim=self.head.in_channels) | settings
        return self.labeler(num_samples, self.num_clusters, **settings)

    @property
    def dual_lr_base_batch_size(self) -> int | None:
        """Images per dual step that ``clustering.dual_lr`` belongs to; None if it is not said."""
        return self.clustering.get('dual_lr_base_batch_size')

    def scale_dual_lr(self, batch_size: int) -> float:
        """Scale ``dual_lr`` linearly to the images that a dual step sees.

        One image then moves a dual by the same amount whatever the batch, and an epoch raises the
        dual of a starved cluster by the same amount. ``CoKeHook`` calls this before training;
        without the hook, call it after :meth:`init_labelers`.

        Args:
            batch_size: images of one iteration on all processes. Gradient accumulation does not
                count, for every micro-batch makes a dual step.

        Returns:
            The result, that of all labelers.
        """
        self.check_labelers()
        if base := self.dual_lr_base_batch_size:
            for labeler in self.labelers:
                labeler.dual_lr = self.clustering['dual_lr'] * batch_size / base
        return self.labelers[0].dual_lr

    def loss(self, inputs: Tensor | list[Tensor], data_samples: list | Tensor) -> dict[str, Tensor]:
        """Cluster the global batch and classify the images by their labels of the last epoch.

        Args:
            inputs: images (n, C, H, W), or a list of views: one; or two of full size, followed by
                any number of small crops. Each passes backbone, neck and predictor on its own, in
                order, unless ``joint_views``.
            data_samples: one per image, each with ``sample_idx``; or these indices, int64 (n,).

        Returns:
            See :meth:`CoKeHead.loss`.
        """
        views = [inputs] if isinstance(inputs, Tensor) else inputs
        num_full = count_full_views(views)
        projections, predictions = [], []
        with explained_batch_norm():
            for group in self.passes(views):
                projection = self.project(torch.cat(group))
                projections += projection.chunk(len(group))
                predictions += self.head(projection).chunk(len(group))
            references = self.references(views[:num_full])
        idx_n = sample_indices(data_samples, views[0].device)
        targets = self._targets(references or projections[:num_full], idx_n)
        return self.head.loss(projections, predictions, self.labelers.centers, targets, references)

    def references(self, views: list[Tensor]) -> list[Tensor] | None:
        """What is clustered and gives soft targets, if not the network's own projections.

        Args:
            views: images of the full-size views.

        Returns:
            Projections (n, D) of each view, without gradient.
        """

    def passes(self, views: list[Tensor]) -> list[list[Tensor]]:
        """The views that go through the network together, in order."""
        return by_size(views) if self.joint_views else [[view] for view in views]

    @torch.no_grad()
    def _targets(self, projections: list[Tensor], idx_n: Tensor) -> list[Tensor]:
        """Step the labelers with the global batch; the targets are those of the own one.

        Clustered is the mean of the full-size views' projections, not normalized again.
        """
        self.check_labelers()
        units = [normalize(x_nD.detach().float(), dim=1) for x_nD in projections]
        self.seen = torch.stack(units).mean(0), idx_n
        return self.labelers.step(*global_batch(*self.seen))


@MODELS.register_module()
class MomentumCoKe(CoKe):
    """CoKe whose targets come from a slowly moving copy of the network.

    Clustered are the projections by an exponential moving average of backbone and neck; of two
    views, so are the soft targets. So labels and centers are those of a network that changes less
    from one epoch to the next. An ablation, not published; costs a forward pass more.

    The copy is ``target``, moved at the beginning of each iteration. In training it normalizes by
    the statistics of the batch, as the network does.

    Args:
        momentum: share of the copy that an iteration keeps, in [0, 1); 0 is the network itself.
        see :class:`CoKe` for the others.
    """

    hook = 'CoKeHook'

    def __init__(
        self, backbone: dict, neck: dict, head: dict, *, momentum: float = 0.99, **kwargs
    ) -> None:
        super().__init__(backbone, neck, head, **kwargs)
        self.target = MovingAverage(self.network(), momentum)

    def network(self) -> nn.Sequential:
        """What makes projections of images; shares the weights."""
        return nn.Sequential(self.backbone, self.maps, self.neck)

    @torch.no_grad()
    def references(self, views: list[Tensor]) -> list[Tensor]:
        """Projections of each view by the copy, which is moved first."""
        self.target.follow(self.network())
        parts = [
            self.target(torch.cat(group))[-1].chunk(len(group)) for group in self.passes(views)
        ]
        return [x_nD for part in parts for x_nD in part]


def check_dims(settings: dict, head: nn.Module) -> None:
    """ValueError if the dimensions of the clusterings do not fit the head."""
    dims = as_list(settings.get('dim', head.in_channels))
    for dim in dims:
        check_number('clustering.dim', dim, f'[1, {head.in_channels}]', whole=True)
    nested = isinstance(settings.get('dim'), (list, tuple))
    if nested != isinstance(head, NestedCoKeHead) or (not nested and dims != [head.in_channels]):
        raise ValueError(
            'clustering.dim is for nested clusterings: name one dimension for each, '
            f'such as {[head.in_channels // 2, head.in_channels]}, and '
            "set head.type='NestedCoKeHead'; else leave both out."
        )


def as_list(num_clusters: int | list[int]) -> list[int]:
    """One number per clustering, where there may be only one number."""
    return list(num_clusters) if isinstance(num_clusters, (list, tuple)) else [num_clusters]


def check_clustering(settings: dict) -> None:
    """ValueError if a setting of the clusterings is out of its range.

    Early: the labelers, which check theirs as well, are made only when the data set is there.
    """
    for number in as_list(settings.get('num_clusters')):
        check_number('clustering.num_clusters', number, '[1, inf)', whole=True)
    if (base := settings.get('dual_lr_base_batch_size')) is not None:
        check_number('clustering.dual_lr_base_batch_size', base, '[1, inf)', whole=True)
        if 'dual_lr' not in settings:
            raise ValueError('clustering.dual_lr_base_batch_size needs clustering.dual_lr.')
    for name, within in dict(dual_lr='[0, inf)', min_ratio='(0, 1]').items():
        if name in settings:
            check_number(f'clustering.{name}', settings[name], within)


def by_size(views: list[Tensor]) -> list[list[Tensor]]:
    """Runs of consecutive views with the same height and width."""
    return [list(group) for _, group in groupby(views, key=lambda view: view.shape[-2:])]


def count_full_views(views: list[Tensor]) -> int:
    """Number of views that are as large as the first one: 1 or 2.

    Raises:
        ValueError: if the views are not one, or two of full size and then smaller ones.
    """
    sizes = [tuple(view.shape[-2:]) for view in views]
    num_full = sizes.count(sizes[0]) if sizes else 0
    full_first = all(size == sizes[0] for size in sizes[:num_full])
    if len(views) == 1 or (num_full == 2 and full_first):
        return num_full
    raise ValueError(
        'CoKe trains on one view per image, or on two of full size followed by small crops, but '
        f'the pipeline made views of {sizes}. Set views in RandomResizedCrops, or num_views and '
        'sizes in MultiView, accordingly.'
    )
