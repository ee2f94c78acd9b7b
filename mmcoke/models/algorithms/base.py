"""What the algorithms share: networks that fit together, labelers, indices of the samples."""

import inspect
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_gather, get_rank
from mmengine.utils import to_2tuple
from mmpretrain.models import BaseSelfSupervisor
from torch import Tensor, nn

from mmcoke.registry import MODELS


class ClusteringAlgorithm(BaseSelfSupervisor):
    """A network and the labelers that give its images pseudo-labels.

    The labelers need the size of the data set; the hook of the method calls
    :meth:`init_labelers` when training starts.

    Args:
        backbone, neck, head, data_preprocessor, init_cfg: see ``BaseSelfSupervisor``. A neck
            without ``in_channels`` adapts to the backbone's width.
        clustering: arguments of the labelers but for ``num_samples`` and the dimension.
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
        maps = ChannelsFirst()
        neck = MODELS.build(fill_in(neck, in_channels=lambda: output_width(backbone, maps)))
        head = self.complete_head(head, nn.Sequential(backbone, maps, neck), clustering)
        super().__init__(
            backbone, neck, head, data_preprocessor=data_preprocessor, init_cfg=init_cfg
        )
        self.maps = maps
        self.clustering = dict(clustering)
        self.labelers = nn.ModuleList()

    def complete_head(self, head: dict, network: nn.Module, clustering: dict) -> dict:
        """The head's config with what follows from the rest of the model."""
        return head

    def make_labelers(self, num_samples: int) -> nn.Module:
        """The labelers for a data set of ``num_samples`` images: a module that iterates over them.

        A single one comes in an ``nn.ModuleList``.
        """
        raise NotImplementedError

    def init_labelers(self, num_samples: int) -> None:
        """Make the clustering state for a data set of ``num_samples`` images.

        Raises:
            ValueError: if there are more clusters than samples, or an argument in ``clustering``
                is out of its range.
        """
        device = next(self.parameters()).device
        self.labelers = self.make_labelers(num_samples).to(device)

    @property
    def hook(self) -> str:
        """Name of the hook that makes the labelers and tells them when an epoch begins."""
        return f'{type(self).__name__}Hook'

    def check_labelers(self) -> None:
        """ValueError before :meth:`init_labelers`."""
        if not self.labelers:
            raise ValueError(
                f'The labelers are not there yet: add dict(type="mmcoke.{self.hook}") to '
                'custom_hooks in the config, or call model.init_labelers(num_samples) before '
                'training.'
            )

    def forward(
        self,
        inputs: Tensor | list[Tensor],
        data_samples: list | None = None,
        mode: str = 'tensor',
        sample_idx: Tensor | None = None,
    ) -> Any:
        """See ``BaseSelfSupervisor``; indices of the images may come as one tensor (n,)."""
        if mode == 'loss':
            return self.loss(inputs, data_samples if sample_idx is None else sample_idx)
        return super().forward(inputs, data_samples, mode)

    capturable = False
    """Whether a step runs the same operations on the same memory until :meth:`step_key` changes."""

    def step_key(self) -> Hashable:
        """What a step depends on besides its batch and what lies in tensors.

        ``CapturedTrainLoop`` captures the step again when it changes.
        """
        return tuple(getattr(labeler, 'phase', 0) for labeler in self.labelers)

    def obstacle_to_capture(self) -> str | None:
        """Why a step cannot be captured in a CUDA graph; None if it can."""
        if not self.capturable:
            return f'the steps of {type(self).__name__} are not made for it'
        if not getattr(self.data_preprocessor, 'is_pure', True):
            return 'augmentation draws its random numbers on the host'
        return None

    seen: tuple[Tensor, Tensor] | None = None
    """Features of the step before, (n, D) without gradient, and indices (n,), for who looks on.

    Within a CUDA graph they lie where each replay writes them.
    """

    def project(self, inputs: Tensor) -> Tensor:
        """Features after the neck, not normalized (n, D), of images (n, C, H, W)."""
        return self.neck(self.maps(self.backbone(inputs)))[-1]


def fill_in(cfg: dict, **values) -> dict:
    """The config with arguments that its class takes and it does not name.

    Args:
        cfg: with ``type``.
        **values: functions that give the arguments.
    """
    with MODELS.switch_scope_and_registry(None) as registry:  # as MODELS.build looks it up
        cls = cfg['type'] if inspect.isclass(cfg['type']) else registry.get(cfg['type'])
    missing = set(values) - set(cfg)
    if cls is not None:  # else MODELS.build says so
        missing &= set(inspect.signature(cls).parameters)
    return dict(cfg, **{name: values[name]() for name in missing})


class ChannelsFirst(nn.Module):
    """Outputs of any backbone as a tuple of what necks take: (n, C), or maps (n, C, h, w).

    Tokens (n, L, C) become a map (n, C, L, 1), so that pooling is their mean, class token included.

    Attributes:
        channels_last: whether outputs with more than two dimensions are (n, ..., C), as those of
            timm's Swin; None: tokens are, maps are not.
    """

    channels_last: bool | None = None

    def forward(self, outputs: Tensor | tuple | list) -> tuple[Tensor, ...]:
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return tuple(self.convert(last_tensor(x)) for x in outputs)

    def convert(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            return x
        channels_last = x.ndim == 3 if self.channels_last is None else self.channels_last
        x = x.movedim(-1, 1) if channels_last else x
        return x[..., None] if x.ndim == 3 else x


def last_tensor(output: Tensor | tuple | list) -> Tensor:
    """The tensor that comes last in nested tuples and lists (so the class token of ViTs)."""
    while isinstance(output, (tuple, list)):
        output = output[-1]
    return output


def is_channels_last(x: Tensor, network: nn.Module) -> bool:
    """Whether a network's output for a square image is (n, ..., C)."""
    if x.ndim == 3:
        return getattr(network, 'embed_dims', x.shape[2]) == x.shape[2]  # MLP-Mixer: (n, C, L)
    return x.ndim == 4 and x.shape[1] == x.shape[2] != x.shape[3]


def output_width(network: nn.Module, maps: ChannelsFirst | None = None) -> int:
    """Channels of a network's last output, seen from one blank image.

    Args:
        network: a backbone, or one with its neck.
        maps: is told where the channels are.

    Raises:
        ValueError: if it takes no blank image.
    """
    x = last_tensor(see_blank(network, network))
    channels_last = is_channels_last(x, network)
    if maps is not None:
        maps.channels_last = channels_last
    return x.shape[-1 if channels_last else 1]


IMAGE_SIZES = (64, 224, 32, 96, 128, 160, 192, 256, 288, 320, 384, 448, 512)


@torch.no_grad()
def see_blank(network: nn.Module, forward: Callable[[Tensor], Any]) -> Any:
    """What ``forward`` makes of one blank image, with the network in evaluation mode.

    Networks say in no common way what they take. So the size that one names is tried first, then
    usual ones, with three channels and with as many as its convolutions take.

    Raises:
        ValueError: if it takes none of these images.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()  # mmengine's modules return nothing here
    errors = []
    try:
        for blank in blank_images(network):
            try:
                return forward(blank)
            except Exception as error:
                errors.append(str(error) or type(error).__name__)
    finally:
        for module, training in modes:
            module.training = training
    reason = ' '.join(errors[0].split())[:200]
    raise ValueError(
        f'The width of {type(network).__name__} cannot be seen, for it takes no blank image '
        f'({reason}). Set in_channels, the channels of its output, in the neck (without a neck: in '
        'the head).'
    )


def blank_images(network: nn.Module) -> Iterator[Tensor]:
    """One image (1, C, H, W) of each size and number of channels that the network may take."""
    modules = list(network.modules())
    named = [to_2tuple(m.img_size) for m in modules if getattr(m, 'img_size', None)]
    convolutions = [m.in_channels for m in modules if isinstance(m, nn.Conv2d)]
    for size in dict.fromkeys([*named[:1], *map(to_2tuple, IMAGE_SIZES)]):
        for channels in dict.fromkeys([3, *convolutions, 1]):
            yield next(network.parameters()).new_zeros(1, channels, *size)


@contextmanager
def explained_batch_norm() -> Iterator[None]:
    """Say what to change where BatchNorm has one value per channel to normalize in training."""
    try:
        yield
    except ValueError as error:
        if 'more than 1 value per channel' not in str(error):
            raise
        raise ValueError(
            'BatchNorm cannot normalize a batch of one image in training. Set '
            'train_dataloader.batch_size, the images per process, to 2 or more, and '
            'train_dataloader.drop_last=True, so that no batch of one image is left over.'
        ) from None


@torch.no_grad()
def global_batch(x_nD: Tensor, idx_n: Tensor) -> tuple[Tensor, Tensor, slice]:
    """Features (N, D) and indices (N,) of all processes, in order, and where the own ones are.

    Features of several views, (V, n, D), become (V, N, D).
    """
    first = get_rank() * len(idx_n)
    own = slice(first, first + len(idx_n))
    return torch.cat(all_gather(x_nD), -2), torch.cat(all_gather(idx_n)), own


def sample_indices(data_samples: list | Tensor | None, device: torch.device) -> Tensor:
    """Index of each image in the data set, int64 (n,).

    Args:
        data_samples: of mmpretrain, or of mmselfsup; or the indices (n,), which are what
            preprocessors of mmpretrain make of a batch without data samples.

    Raises:
        ValueError: if the data samples do not carry it.
    """
    if isinstance(data_samples, Tensor):
        return data_samples.to(device, non_blocking=True)
    if not data_samples or any('sample_idx' not in sample for sample in data_samples):
        raise ValueError(
            'The data samples have no sample_idx, by which the label of an image is found. Use a '
            "data set that derives from mmengine's BaseDataset and end the pipeline with "
            'dict(type="PackInputs"); if you set meta_keys there, keep "sample_idx" among them. '
            "With mmselfsup, use PackSelfSupInputs(algorithm_keys=['sample_idx'])."
        )
    indices = [sample.sample_idx for sample in data_samples]
    indices = [int(getattr(idx, 'value', idx)) for idx in indices]
    # From pinned memory, or the host would wait for the device.
    pinned = torch.tensor(indices, pin_memory=device.type == 'cuda')
    return pinned.to(device, non_blocking=True)
