"""The head of CoKe: prediction and loss."""

from mmengine.model import BaseModule
from torch import Tensor
from torch.nn.functional import normalize

from mmcoke.losses import coke_loss
from mmcoke.registry import MODELS


@MODELS.register_module()
class CoKeHead(BaseModule):
    """Predicts the projection and classifies both branches against the published centers.

    Args:
        in_channels: D, dimension of the projection and so of the centers.
        hid_channels: width of the predictor (linear, BN, ReLU, linear).
        temperature: T of the softmax over clusters.
        prediction_weight: share of the prediction branch in the loss, in [0, 1]; the projection
            branch has the rest. 1 in the published single-view recipe.
        norm_cfg: norm layer of the predictor.
        init_cfg: see mmengine's ``BaseModule``.

    Raises:
        ValueError: if the temperature is not positive or the weight is outside [0, 1].
    """

    def __init__(
        self,
        in_channels: int,
        hid_channels: int,
        *,
        temperature: float = 0.1,
        prediction_weight: float = 1.0,
        norm_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not temperature > 0:
            raise ValueError(f'temperature must be positive, but is {temperature}.')
        if not 0 <= prediction_weight <= 1:
            raise ValueError(f'prediction_weight must be in [0, 1], but is {prediction_weight}.')
        self.in_channels = in_channels
        self.temperature, self.prediction_weight = temperature, prediction_weight
        self.predictor = MODELS.build(
            dict(
                type='NonLinearNeck',
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

    def loss(
        self, projection_nD: Tensor, centers: list[Tensor], targets: list[Tensor]
    ) -> dict[str, Tensor]:
        """Loss of one view.

        Args:
            projection_nD: output of the neck, not normalized (n, D).
            centers: for each clustering, the published centers (K, D).
            targets: for each clustering, labels int64 (n,) or soft targets (n, K).

        Returns:
            ``{'loss': scalar}``
        """
        prediction_nD = self.predictor((projection_nD,))[0]
        loss = coke_loss(
            normalize(projection_nD.float(), dim=1),
            normalize(prediction_nD.float(), dim=1),
            centers,
            targets,
            temperature=self.temperature,
            prediction_weight=self.prediction_weight,
        )
        return dict(loss=loss)
