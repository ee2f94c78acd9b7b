"""What the algorithms share: networks that fit together, labelers, indices of the samples."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from mmengine.dist import all_gather, get_rank
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
        neck = MODELS.build(fill_in(neck, in_channels=lambda: output_width(backbone)))
        head = self.complete_head(head, nn.Sequential(backbone, neck), clustering)
        super().__init__(
            backbone, neck, head, data_preprocessor=data_preprocessor, init_cfg=init_cfg
        )
        self.clustering = dict(clustering)
        self.labelers = nn.ModuleList()

    def complete_head(self, head: dict, network: nn.Module, clustering: dict) -> dict:
        """The head's config with what follows from the rest of the model."""
        return head

    def make_labelers(self, num_samples: int) -> Iterable[nn.Module]:
        """The labelers for a data set of ``num_samples`` images."""
        raise NotImplementedError

    def init_labelers(self, num_samples: int) -> None:
        """Make the clustering state for a data set of ``num_samples`` images.

        Raises:
            ValueError: if there are more clusters than samples, or an argument in ``clustering``
                is out of its range.
        """
        device = next(self.parameters()).device
        self.labelers = nn.ModuleList(self.make_labelers(num_samples)).to(device)

    def check_labelers(self) -> None:
        """ValueError before :meth:`init_labelers`."""
        if not self.labelers:
            name = type(self).__name__
            raise ValueError(
                f'The labelers are not there yet: add dict(type="mmcoke.{name}Hook") to '
                'custom_hooks in the config, or call model.init_labelers(num_samples) before '
                'training.'
            )

    def project(self, inputs: Tensor) -> Tensor:
        """Features after the neck, not normalized (n, D), of images (n, C, H, W)."""
        return self.neck(self.backbone(inputs))[-1]


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


def output_width(network: nn.Module, image_size: int = 64) -> int:
    """Channels of a network's last output, seen from one blank image."""
    output = see_blank(network, network, image_size)
    return (output[-1] if isinstance(output, (tuple, list)) else output).shape[1]


@torch.no_grad()
def see_blank(network: nn.Module, forward: Callable[[Tensor], Any], image_size: int = 64) -> Any:
    """What ``forward`` makes of one blank image, with the network in evaluation mode."""
    channels = next(m.in_channels for m in network.modules() if hasattr(m, 'in_channels'))
    blank = next(network.parameters()).new_zeros(1, channels, image_size, image_size)
    training = network.training
    network.eval()  # mmengine's modules return nothing here
    output = forward(blank)
    network.train(training)
    return output


@torch.no_grad()
def global_batch(x_nD: Tensor, idx_n: Tensor) -> tuple[Tensor, Tensor, slice]:
    """Features (N, D) and indices (N,) of all processes, in order, and where the own ones are."""
    first = get_rank() * len(idx_n)
    own = slice(first, first + len(idx_n))
    return torch.cat(all_gather(x_nD)), torch.cat(all_gather(idx_n)), own


def sample_indices(data_samples: list | None, device: torch.device) -> Tensor:
    """Index of each image in the data set, int64 (n,).

    Args:
        data_samples: of mmpretrain, or of mmselfsup.

    Raises:
        ValueError: if the data samples do not carry it.
    """
    if not data_samples or any('sample_idx' not in sample for sample in data_samples):
        raise ValueError(
            'The data samples have no sample_idx, by which the label of an image is found. Use a '
            "data set that derives from mmengine's BaseDataset and end the pipeline with "
            'dict(type="PackInputs"); if you set meta_keys there, keep "sample_idx" among them. '
            "With mmselfsup, use PackSelfSupInputs(algorithm_keys=['sample_idx'])."
        )
    indices = [sample.sample_idx for sample in data_samples]
    indices = [int(getattr(idx, 'value', idx)) for idx in indices]
    return torch.tensor(indices).to(device)
