"""The head of CoKe: prediction and loss."""

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmcoke.clustering.settings import check_flag, check_number
from mmcoke.losses import coke_loss, instance_loss, multi_view_coke_loss
from mmcoke.registry import MODELS


@MODELS.register_module()
class CoKeHead(BaseModule):
    """Predicts the projection and classifies both branches against the published centers.

    Args:
        in_channels: D, dimension of the projection and so of the centers.
        hid_channels: width of the predictor (linear, BN, ReLU, linear).
        temperature: T of the softmax over clusters.
        prediction_weight: share of the prediction branch in the loss, in (0, 1]; the projection
            branch has the rest. 1 in the published single-view recipe, 0.5 in the others.
        label_weight: with two views, share of the label in the target; the softmax of the other
            view has the rest.
        small_weight: with small crops, their share in the loss.
        chunk_size: images whose loss is computed at a time, which bounds its memory; None for all.
            See :func:`~mmcoke.losses.coke_loss.cross_entropies`.
        norm_cfg: norm layer of the predictor.
        init_cfg: see mmengine's ``BaseModule``.

    Raises:
        ValueError: if a width is no whole number above 0, the temperature not positive and finite,
            or a weight outside [0, 1].
    """

    def __init__(
        self,
        in_channels: int,
        hid_channels: int,
        *,
        temperature: float = 0.1,
        prediction_weight: float = 1.0,
        label_weight: float = 0.2,
        small_weight: float = 0.5,
        chunk_size: int | None = None,
        norm_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_number('in_channels', in_channels, '[1, inf)', whole=True)
        check_number('hid_channels', hid_channels, '[1, inf)', whole=True)
        check_number('temperature', temperature, '(0, inf)')
        check_number('prediction_weight', prediction_weight, '(0, 1]')
        check_number('label_weight', label_weight, '[0, 1]')
        check_number('small_weight', small_weight, '[0, 1]')
        if chunk_size is not None:
            check_number('chunk_size', chunk_size, '[1, inf)', whole=True)
        self.in_channels = in_channels
        self.temperature, self.prediction_weight = temperature, prediction_weight
        self.label_weight, self.small_weight = label_weight, small_weight
        self.chunk_size = chunk_size
        self.predictor = make_predictor(in_channels, hid_channels, norm_cfg)

    def forward(self, projection_nD: Tensor) -> Tensor:
        """Predictions (n, D) for projections (n, D), neither normalized."""
        return self.predictor((projection_nD,))[0]

    def loss(
        self,
        projections: list[Tensor],
        predictions: list[Tensor],
        centers: list[Tensor],
        targets: list[Tensor],
        references: list[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Loss of one view, or of two full-size views and any number of small crops.

        Args:
            projections: for each view, what the neck gives (n, D); full-size views first.
            predictions: for each view, what :meth:`forward` makes of it (n, D).
            centers: for each clustering, the published centers (K, D).
            targets: for each clustering, labels int64 (n,) or soft targets (n, K).
            references: projections (n, D) of the full-size views by another network, if the soft
                targets of the other view are to come from that one.

        Returns:
            ``loss``, a scalar; with small crops its two parts, ``full_views`` and ``small_crops``,
            for the log.
        """
        projections, predictions = (
            [normalize(x_nD.float(), dim=1) for x_nD in views]
            for views in (projections, predictions)
        )
        options = dict(
            temperature=self.temperature,
            prediction_weight=self.prediction_weight,
            chunk_size=self.chunk_size,
        )
        if len(projections) == 1:
            return dict(loss=coke_loss(projections[0], predictions[0], centers, targets, **options))
        if references is not None:
            options['references'] = [normalize(x_nD.float(), dim=1) for x_nD in references]
        losses = multi_view_coke_loss(
            projections, predictions, centers, targets, label_weight=self.label_weight, **options
        )
        if 'loss_small' not in losses:
            return dict(loss=losses['loss_full'])
        full, small = losses['loss_full'], losses['loss_small']
        loss = (1 - self.small_weight) * full + self.small_weight * small
        return dict(loss=loss, full_views=full.detach(), small_crops=small.detach())


@MODELS.register_module()
class InstanceCoKeHead(CoKeHead):
    """CoKe's loss with one that tells images apart, which fades out over the first epochs.

    Not published: the first labels say little about the images, two views of one image much.
    In epoch e the loss is ``(1 - s) CoKe + s NT-Xent`` of the projections of the two full-size
    views, with ``s = max(0, 1 - e / instance_epochs)``; see
    :func:`~mmcoke.losses.instance_loss`.

    Args:
        instance_epochs: E; the epoch at learning rate 0 is the first of them.
        instance_temperature: of NT-Xent.
        instance_decoupled: leave the other view out of NT-Xent's denominator (DCL).
        see :class:`CoKeHead` for the others.

    Raises:
        ValueError: if one of these is out of its range; in training, if there is only one view.
    """

    def __init__(
        self,
        in_channels: int,
        hid_channels: int,
        *,
        instance_epochs: int,
        instance_temperature: float = 0.2,
        instance_decoupled: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(in_channels, hid_channels, **kwargs)
        check_number('instance_epochs', instance_epochs, '[1, inf)', whole=True)
        check_number('instance_temperature', instance_temperature, '(0, inf)')
        check_flag('instance_decoupled', instance_decoupled)
        self.instance_epochs = instance_epochs
        self.instance_temperature = instance_temperature
        self.instance_decoupled = instance_decoupled
        # A tensor, because it changes within a CUDA graph; it follows from the epoch.
        self.register_buffer('share', torch.ones(()), persistent=False)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, numbered from 0, or go on within it."""
        self.share.fill_(max(0.0, 1 - epoch / self.instance_epochs))

    def loss(self, projections: list[Tensor], *args, **kwargs) -> dict[str, Tensor]:
        """As :meth:`CoKeHead.loss`; beside the total, its two parts, for the log."""
        if len(projections) < 2:
            raise ValueError(
                'InstanceCoKeHead tells images apart by two views, but there is one: use a recipe '
                "with two views, or head.type='CoKeHead'."
            )
        losses = super().loss(projections, *args, **kwargs)
        units = [normalize(x_nD.float(), dim=1) for x_nD in projections[:2]]
        apart = instance_loss(
            *units, temperature=self.instance_temperature, decoupled=self.instance_decoupled
        )
        parts = dict(clusters=losses['loss'].detach(), instances=apart.detach())
        return losses | dict(loss=torch.lerp(losses['loss'], apart, self.share)) | parts


@MODELS.register_module()
class NestedCoKeHead(CoKeHead):
    """Classifies by clusterings of the first dimensions, for ``clustering.dim`` with a list.

    Projection and prediction are cut to the width of each clustering's centers and L2-normalized
    again; the loss is the mean over the clusterings. Arguments are those of :class:`CoKeHead`.
    """

    def loss(
        self,
        projections: list[Tensor],
        predictions: list[Tensor],
        centers: list[Tensor],
        targets: list[Tensor],
        references: list[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """As :meth:`CoKeHead.loss`, with centers (K, D_h) of the first D_h dimensions."""
        losses = []
        for centers_KD, target in zip(centers, targets, strict=True):
            first = slice(centers_KD.shape[1])
            branches = [
                views if views is None else [x_nD[:, first] for x_nD in views]
                for views in (projections, predictions, references)
            ]
            losses.append(super().loss(*branches[:2], [centers_KD], [target], branches[2]))
        return {name: torch.stack([x[name] for x in losses]).mean() for name in losses[0]}


def make_predictor(in_channels: int, hid_channels: int, norm_cfg: dict | None) -> nn.Module:
    """Linear, BN, ReLU, linear: from a projection to one of the same width."""
    return MODELS.build(
        dict(
            type='mmpretrain.NonLinearNeck',
            in_channels=in_channels,
            hid_channels=hid_channels,
            out_channels=in_channels,
            num_layers=2,
            with_bias=True,
            with_last_bn=False,
            with_last_bias=True,
            with_avg_pool=False,
            norm_cfg=norm_cfg or dict(type='SyncBN'),
        )
    )
