"""Checkpoints of the published CoKe code.

Their layout (github.com/idstcv/CoKe) has the keys ``epoch``, ``arch``, ``state_dict`` and
``optimizer``. Its one-view files have several label slots per sample; those of two views and of
multi-crop look the same as each other, with one label per sample.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from mmpretrain.models import NonLinearNeck, ResNet
from torch import Tensor, nn

from mmcoke import __version__
from mmcoke.clustering import UNASSIGNED, AveragedPseudoLabels
from mmcoke.files import save_torch
from mmcoke.messages import some
from mmcoke.registry import MODELS

from .convert import convert_file, require, split, tensors_of
from .torchvision import resnet_depth

COKE_UNSEEN = 1
"""Label that the published code has in empty slots, and for samples it has never seen."""

COKE_CLUSTERING = re.compile(
    r'(pre_center|cur_center|dual|counter)_(\d+)|assign_labels|label_val|label_idx'
)
LABELER = re.compile(r'labelers\.(\d+)\..+')
LAYER = re.compile(r'(neck|head\.predictor)\.(fc|bn)(\d+)\.(.+)')


@dataclass(frozen=True)
class Clustering:
    """How much clustering state a checkpoint has.

    Attributes:
        num_clusters: K of each clustering; empty if there are weights only.
        num_samples: A; None without a label table.
        num_slots: S; None if labels are not averaged.
    """

    num_clusters: list[int]
    num_samples: int | None = None
    num_slots: int | None = None

    def __str__(self) -> str:
        """The settings of a model that loads the checkpoint strictly."""
        if not self.num_clusters:
            return 'No clustering state.'
        if self.num_samples is None:
            return f'No label table. To load with strict=False: num_clusters={self.num_clusters}.'
        slots = f'<an epoch>, num_slots={self.num_slots}' if self.num_slots else 'None'
        return (
            f'To load: num_clusters={self.num_clusters}, average_from_epoch={slots}; '
            f'{self.num_samples} samples.'
        )


# ---- files


def coke_to_mmcoke(src: str | Path, dst: str | Path) -> str:
    """Convert a published CoKe checkpoint, by :func:`from_coke`.

    Returns:
        What was found, for the user.

    Raises:
        ValueError: if ``src`` cannot be read or is not such a checkpoint, with what is missing.
    """
    meta = convert_file(src, dst, from_coke, save_torch)['meta']
    clustering = Clustering(meta['num_clusters'], meta['num_samples'], meta['num_slots'])
    stage = f', stage {meta["stage"]}' if clustering.num_slots else ''
    return (
        f'{meta["num_keys"]} of {meta["num_keys"]} keys matched: {meta["arch"]} after '
        f'{meta["epoch"]} epochs{stage}.\n{clustering}\nWrote {dst}.'
    )


def mmcoke_to_coke(src: str | Path, dst: str | Path) -> str:
    """Convert a checkpoint of CoKe to the published layout, by :func:`to_coke`.

    Returns and raises as :func:`coke_to_mmcoke`.
    """
    converted = convert_file(src, dst, to_coke, save_torch)
    return (
        f'{len(converted["state_dict"])} keys: {converted["arch"]} after {converted["epoch"]} '
        f'epochs.\nWrote {dst}.'
    )


# ---- checkpoints in memory


def from_coke(checkpoint: dict) -> dict:
    """Turn a published checkpoint into one of ``CoKe``.

    Weights are there in any case; centers and duals, and the label table, where the file has them.
    Counts are 0, because the published ones are those of an older epoch. The optimizer is left out.
    Samples that the published code has never seen carry label 1 there, and so here.

    Raises:
        ValueError: if a key is missing, left over or of another shape, or a label is no cluster.
    """
    state = tensors_of(checkpoint)
    theirs = {name.removeprefix('module.'): x for name, x in state.items()}
    clustering = coke_clustering(theirs)
    buffers, weights = split(theirs, COKE_CLUSTERING)
    model = build_coke(weights, coke_name, clustering)
    require(buffers, coke_shapes(clustering, model.head.in_channels), 'The clustering state')
    ours = {name: weights[coke_name(name)] for name in model.state_dict()}
    for i in range(len(clustering.num_clusters)):
        ours |= {f'labelers.{i}.{n}': x for n, x in labeler_from_coke(buffers, i).items()}
    averaging = 'label_val' in buffers and bool(buffers['label_val'].any())
    meta = dict(
        mmcoke_version=__version__,
        epoch=checkpoint.get('epoch', 0),
        arch=f'resnet{model.backbone.depth}',
        stage=2 if averaging else 1,
        num_keys=len(theirs),
        **vars(clustering),
    )
    return dict(meta=meta, state_dict=cast_by(model, clustering, ours))


def cast_by(
    model: nn.Module, clustering: Clustering, state: dict[str, Tensor]
) -> dict[str, Tensor]:
    """What a model's own state dict is after it has loaded this one, strictly."""
    init_labelers(model, clustering)
    has_table = not clustering.num_clusters or clustering.num_samples is not None
    model.load_state_dict(state, strict=has_table)
    loaded = model.state_dict()
    return {name: loaded[name] for name in state}


def to_coke(checkpoint: dict) -> dict:
    """Turn a checkpoint of ``CoKe`` into the published layout, without its optimizer.

    A label table with slots gives the layout of one view, a plain one that of two views and
    multi-crop. Samples without a label get label 1, as there.

    Raises:
        ValueError: if a key is missing, left over or of another shape.
    """
    ours = tensors_of(checkpoint)
    clustering = mmcoke_clustering(ours)
    buffers, weights = split(ours, LABELER)
    model = build_coke(weights, str, clustering)
    init_labelers(model, clustering)
    expected = {f'labelers.{name}': x.shape for name, x in model.labelers.state_dict().items()}
    if clustering.num_samples is None:
        expected = {name: shape for name, shape in expected.items() if '.kmeans.' in name}
    require(buffers, expected, 'The clustering state')

    theirs = {coke_name(name): x for name, x in weights.items()}
    theirs |= labelers_to_coke(buffers, clustering)
    return dict(
        epoch=checkpoint.get('meta', {}).get('epoch', 0),
        arch=f'resnet{model.backbone.depth}',
        state_dict={f'module.{name}': x for name, x in theirs.items()},
    )


# ---- weights


def coke_name(name: str) -> str:
    """The published name of a weight of ``CoKe``, or of the prefix ``backbone.``."""
    if layer := LAYER.fullmatch(name):
        module, kind, index, rest = layer.groups()
        module = {'neck': 'encoder.fc', 'head.predictor': 'predictor'}[module]
        # linear, BN, ReLU; linear, BN, ReLU; ...
        return f'{module}.{3 * int(index) + (kind == "bn")}.{rest}'
    return name.replace('backbone.', 'encoder.', 1)


def build_coke(
    weights: dict[str, Tensor], name: Callable[[str], str], clustering: Clustering
) -> nn.Module:
    """A model with the shapes of some weights, its labelers not yet made.

    Args:
        weights: of backbone, neck and predictor.
        name: gives their names for those of ``CoKe``.
        clustering: what the labelers will be.

    Raises:
        ValueError: if the weights are not those of such a model.
    """
    layers = ('neck.fc0', 'neck.fc2', 'head.predictor.fc0')
    anchors = [name(f'{layer}.weight') for layer in layers]
    missing = [key for key in anchors if key not in weights or weights[key].ndim != 2]
    if missing:
        raise ValueError(f'it is no CoKe: {", ".join(missing)} missing. It has {some(weights)}.')
    first, last, predictor = (weights[anchor] for anchor in anchors)
    (hid, channels), dim = first.shape, len(last)
    neck = dict(type=NonLinearNeck, in_channels=channels, hid_channels=hid, out_channels=dim)
    model = MODELS.build(
        dict(
            type='mmcoke.CoKe',
            backbone=dict(type=ResNet, depth=resnet_depth(encoder(weights, name))),
            neck=neck | dict(num_layers=3, with_bias=True, with_last_bias=True),
            head=dict(type='mmcoke.CoKeHead', in_channels=dim, hid_channels=len(predictor)),
            clustering=clustering_settings(clustering),
        )
    )
    shapes = {name(key): x.shape for key, x in model.state_dict().items()}
    require(weights, shapes, 'The network')
    return model


def encoder(weights: dict[str, Tensor], name: Callable[[str], str]) -> dict[str, Tensor]:
    """The weights of the backbone, without prefix; in the published code it holds the projector."""
    backbone, projector = name('backbone.'), name('neck.fc0.weight').removesuffix('0.weight')
    return {
        key.removeprefix(backbone): x
        for key, x in weights.items()
        if key.startswith(backbone) and not key.startswith(projector)
    }


# ---- clustering


def clustering_settings(clustering: Clustering) -> dict:
    """The argument ``clustering`` of ``CoKe``; any epoch makes it average labels."""
    # 0 where centers are missing: that file is refused with their names, once its network is built.
    num_clusters = [max(k, 1) for k in clustering.num_clusters]
    if clustering.num_slots is None:
        return dict(num_clusters=num_clusters)
    return dict(num_clusters=num_clusters, num_slots=clustering.num_slots, average_from_epoch=0)


def init_labelers(model: nn.Module, clustering: Clustering) -> None:
    """Make the labelers; without a label table they get one that nobody reads."""
    if clustering.num_clusters:
        model.init_labelers(clustering.num_samples or max(clustering.num_clusters))


def coke_clustering(state: dict[str, Tensor]) -> Clustering:
    """What a published state dict, without ``module.``, has of the clustering."""
    heads = {m[2] for name in state if (m := COKE_CLUSTERING.fullmatch(name)) and m[2]}
    labels = state.get('assign_labels', state.get('label_val', state.get('label_idx')))
    num_heads, num_samples, num_slots = len(heads), None, None
    if labels is not None:
        if labels.ndim not in (2, 3):
            raise ValueError(f'assign_labels has the shape {tuple(labels.shape)}: not of CoKe.')
        num_heads, num_samples = max(num_heads, len(labels)), labels.shape[1]
        num_slots = labels.shape[2] if labels.ndim == 3 else None
    # A width of 0 stands for what is missing; it is named when names are compared.
    centers = [state.get(f'pre_center_{i}', torch.empty(0)) for i in range(num_heads)]
    return Clustering([x.shape[-1] for x in centers], num_samples, num_slots)


def mmcoke_clustering(state: dict[str, Tensor]) -> Clustering:
    """What a state dict of ``CoKe`` has of the clustering."""
    heads = {m[1] for name in state if (m := LABELER.fullmatch(name))}
    centers = [state.get(f'labelers.{i}.kmeans.centers') for i in range(len(heads))]
    labels = 'labelers.0.labels'
    label = state.get(f'{labels}.newest.label', state.get(f'{labels}.label'))
    weight = state.get(f'{labels}.weight')
    return Clustering(
        [1 if x is None else len(x) for x in centers],
        None if label is None else len(label),
        None if weight is None else weight.shape[1],
    )


def coke_shapes(clustering: Clustering, dim: int) -> dict[str, torch.Size]:
    """Names and shapes of the published clustering state."""
    shapes = {}
    for i, k in enumerate(clustering.num_clusters):
        shapes |= {f'pre_center_{i}': (dim, k), f'cur_center_{i}': (dim, k)}
        shapes |= {f'dual_{i}': (k,), f'counter_{i}': (k,)}
    table = (len(clustering.num_clusters), clustering.num_samples)
    if clustering.num_slots is not None:
        slots = (*table, clustering.num_slots)
        shapes |= dict(assign_labels=slots, label_val=slots, label_idx=table)
    elif clustering.num_samples is not None:
        shapes |= dict(assign_labels=table)
    return {name: torch.Size(shape) for name, shape in shapes.items()}


def labeler_from_coke(state: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    """State of the i-th labeler, in the types of the file.

    Raises:
        ValueError: if a label is no cluster, or a weight of a slot is not in [0, 1].
    """
    centers, dual = state[f'pre_center_{i}'].T, state[f'dual_{i}']
    ours = {
        'kmeans.centers': centers,
        'kmeans.running': state[f'cur_center_{i}'].T,
        'kmeans.dual': dual,
        'kmeans.count': torch.zeros_like(dual),
    }
    if 'assign_labels' not in state:
        return ours
    label = state['assign_labels'][i]
    if label.min() < 0 or label.max() >= len(centers):
        raise ValueError(
            f'assign_labels of clustering {i} go from {label.min()} to {label.max()}, but it has '
            f'{len(centers)} clusters.'
        )
    if label.ndim == 1:
        return ours | {'labels.label': label}
    table = slots_from_coke(label, state['label_val'][i], state['label_idx'][i])
    return ours | {f'labels.{name}': x for name, x in table.items()}


def slots_from_coke(label_AS: Tensor, weight_AS: Tensor, next_A: Tensor) -> dict[str, Tensor]:
    """State of :class:`AveragedPseudoLabels` for the published label slots.

    The published file does not say which label of a sample is the newest. Here it is the heaviest
    (it weighs at least as much as the newest, 1/t, and is what the sample has been most often), and
    the others follow by weight. The slot that the published code replaces next has the least
    weight; it comes last of equals, so that it is replaced next here too. Slots with the
    same label (the published code splits the weight of label 1) become one. A sample without
    weights has one label, in slot 0: so in stage 1, and where stage 2 has not seen it.

    Args:
        label_AS: ``assign_labels``, int64 (A, S).
        weight_AS: ``label_val``, float32 (A, S), 0 in empty slots.
        next_A: ``label_idx``, int64 (A,), the slot to be replaced next.

    Raises:
        ValueError: if a weight is not in [0, 1].
    """
    # Written so that NaN is refused too; the published updates may round above 1.
    if not ((weight_AS >= 0) & (weight_AS <= 1 + 1e-4)).all():
        raise ValueError('label_val has weights outside [0, 1].')
    weight_AS = merge_equal_labels(label_AS, weight_AS) * AveragedPseudoLabels.WEIGHT_SCALE
    weight_AS = weight_AS.round().to(torch.int16)
    # Two stable sorts: the slot to be replaced next goes last, then all by weight.
    is_next_AS = (torch.arange(label_AS.shape[1]) == next_A[:, None]).int()
    order_AS = is_next_AS.argsort(dim=1, stable=True)
    by_weight_AS = weight_AS.gather(1, order_AS).argsort(dim=1, descending=True, stable=True)
    order_AS = order_AS.gather(1, by_weight_AS)
    sorted_AS, weight_AS = label_AS.gather(1, order_AS), weight_AS.gather(1, order_AS)
    newest_A = torch.where(weight_AS[:, 0] > 0, sorted_AS[:, 0], label_AS[:, 0])
    older_AS = torch.where(weight_AS > 0, sorted_AS, UNASSIGNED)
    return {'newest.label': newest_A, 'older': older_AS[:, 1:], 'weight': weight_AS}


def merge_equal_labels(label_AS: Tensor, weight_AS: Tensor) -> Tensor:
    """Weights (A, S); those of equal labels are added up in the first such slot."""
    same_ASS = (label_AS[:, :, None] == label_AS[:, None]) & (weight_AS > 0)[:, None]
    first_AS = same_ASS.int().argmax(2) == torch.arange(label_AS.shape[1])
    return (same_ASS * weight_AS[:, None]).sum(2) * first_AS


def labelers_to_coke(state: dict[str, Tensor], clustering: Clustering) -> dict[str, Tensor]:
    """The published clustering state for a state dict of ``CoKe``."""
    theirs, tables = {}, []
    for i in range(len(clustering.num_clusters)):
        prefix = f'labelers.{i}.'
        ours = {n.removeprefix(prefix): x for n, x in state.items() if n.startswith(prefix)}
        theirs[f'pre_center_{i}'] = ours['kmeans.centers'].T.contiguous()
        theirs[f'cur_center_{i}'] = ours['kmeans.running'].T.contiguous()
        theirs[f'dual_{i}'] = ours['kmeans.dual']
        theirs[f'counter_{i}'] = torch.zeros_like(ours['kmeans.dual'])
        tables.append(labels_to_coke(ours))
    for name in tables[0] if tables else ():
        theirs[name] = torch.stack([table[name] for table in tables])
    return theirs


def labels_to_coke(labeler: dict[str, Tensor]) -> dict[str, Tensor]:
    """One clustering's part of the published label table, for the state of a labeler."""
    if 'labels.weight' in labeler:
        names = ('labels.newest.label', 'labels.older', 'labels.weight')
        return slots_to_coke(*(labeler[name] for name in names))
    if 'labels.label' in labeler:
        label_A = labeler['labels.label'].long()
        return dict(assign_labels=torch.where(label_A == UNASSIGNED, COKE_UNSEEN, label_A))
    return {}


def slots_to_coke(newest_A: Tensor, older_AR: Tensor, weight_AS: Tensor) -> dict[str, Tensor]:
    """The published label slots for the state of :class:`AveragedPseudoLabels`.

    Args:
        newest_A: newest label of each sample (A,).
        older_AR: the others (A, S - 1).
        weight_AS: multiples of 1 / ``WEIGHT_SCALE`` (A, S).

    Returns:
        ``assign_labels`` (A, S), ``label_val`` (A, S) and ``label_idx`` (A,).
    """
    label_AS = torch.cat([newest_A[:, None], older_AR], 1).long()
    empty_AS = weight_AS == 0
    empty_AS[:, 0] &= newest_A == UNASSIGNED
    label_AS = torch.where(empty_AS, COKE_UNSEEN, label_AS)
    next_A = weight_AS.shape[1] - 1 - weight_AS.flip(1).argmin(1)
    next_A = torch.where(weight_AS.any(1), next_A, 0)
    weight_AS = weight_AS / AveragedPseudoLabels.WEIGHT_SCALE
    return dict(assign_labels=label_AS, label_val=weight_AS, label_idx=next_A)
