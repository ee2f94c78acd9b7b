"""Checkpoints made fit to be given away: weights and no more, named by their hash."""

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor

from mmcoke.files import read_checkpoint, write_text, write_whole
from mmcoke.messages import some
from mmcoke.registry import MODELS

from .convert import require
from .pretrained import below, load_backbone, weights_of

CLUSTERING = re.compile(r'(?:module\.)?labelers\.')
"""What the names of clustering state begin with: centers, duals, feature memory, labels."""

LABELS = re.compile(CLUSTERING.pattern + r'\d+\.labels\.')
"""What those of the label tables begin with."""

KEPT_META = ('arch', 'epoch', 'iter', 'mmcoke_version', 'stage')
"""Everything else may tell about the machine: the config has paths, and mmengine's version has the
commit of the folder that training was started in."""


@dataclass(frozen=True)
class Published:
    """A file that was written.

    Attributes:
        path: of the checkpoint, ``NAME-<first 8 digits of its hash>.pth``.
        sha256: of the file, hexadecimal.
        kept: what is in it, in words.
        entry: for ``Models`` in a metafile.
    """

    path: Path
    sha256: str
    kept: str
    entry: dict[str, Any]

    def metafile(self) -> str:
        """The entry as lines for ``configs/selfsup/<method>/metafile.yml``."""
        text = yaml.safe_dump([self.entry], sort_keys=False, allow_unicode=True, width=1000)
        return ''.join(f'  {line}\n' for line in text.splitlines())


def publish(
    src: str | Path,
    folder: str | Path,
    *,
    name: str | None = None,
    config: str | Path | None = None,
    keep_labels: bool = False,
    backbone_only: bool = False,
) -> Published:
    """Write the weights of a checkpoint, without what only training needs; name them by their hash.

    Optimizer, schedules, log, clustering state and feature memory stay behind, and so does all that
    could name a machine or a person. The same input gives the same bytes with the same torch.

    Args:
        src: checkpoint of an algorithm.
        folder: where the file goes, and the entry for the metafile, as ``.yml`` beside it.
        name: what it is called; None for the name of the config, or else of ``src``.
        config: that it was trained with; the weights are tried on its model.
        keep_labels: keep the pseudo-labels of the training images.
        backbone_only: keep only what is below ``backbone.``.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if ``src`` is no such checkpoint, has no labels that could be kept, or does not
            fit the config.
    """
    checkpoint = read_checkpoint(src)
    weights = weights_of(checkpoint, src)
    state = {
        key: x
        for key, x in weights.items()
        if is_kept(key, keep_labels=keep_labels, backbone_only=backbone_only)
    }
    check_kept(state, weights, src, keep_labels=keep_labels, backbone_only=backbone_only)
    cfg = None if config is None else Config.fromfile(config)
    if cfg is not None:
        check_fits(cfg, state, src, backbone_only=backbone_only)
    meta = kept_meta(checkpoint)
    content = serialized(dict(meta=meta, state_dict=state))
    sha256 = hashlib.sha256(content).hexdigest()
    name = name or Path(src if config is None else config).stem
    path = Path(folder) / f'{name}-{sha256[:8]}.pth'
    entry = metafile_entry(name, path, sha256, meta, cfg)
    kept = f'{len(state)} of {len(weights)} tensors, {len(content) / 1e3:,.0f} kB'
    published = Published(path, sha256, kept, entry)
    write_whole(path, lambda temporary: temporary.write_bytes(content))
    write_text(path.with_suffix('.yml'), published.metafile())
    return published


def is_kept(key: str, *, keep_labels: bool, backbone_only: bool) -> bool:
    """Whether a tensor is published."""
    if CLUSTERING.match(key):
        return keep_labels and LABELS.match(key) is not None
    return not backbone_only or key.startswith('backbone.')


def check_kept(
    state: dict[str, Tensor],
    weights: dict[str, Tensor],
    src: str | Path,
    *,
    keep_labels: bool,
    backbone_only: bool,
) -> None:
    """ValueError if what was asked for is not in a checkpoint."""
    if keep_labels and not any(map(LABELS.match, state)):
        raise ValueError(f'{src} has no pseudo-labels to keep; leave --keep-labels out.')
    if not any(key.startswith('backbone.') for key in state):
        raise ValueError(
            f"{src} has no key that begins with 'backbone.', but {some(weights)}. Files of the "
            'published CoKe code are converted first, by coke_to_mmcoke.py.'
        )


def check_fits(
    cfg: Config, state: dict[str, Tensor], src: str | Path, *, backbone_only: bool
) -> None:
    """ValueError unless the weights are exactly those of a config's model."""
    with DefaultScope.overwrite_default_scope('mmcoke'):
        if backbone_only:
            backbone = MODELS.build(cfg.model.backbone)
            own = below(state, 'backbone.', backbone.state_dict())
            load_backbone(backbone, own, src, min_matched=1.0)
            return
        model = MODELS.build(cfg.model)
    shapes = {key: x.shape for key, x in model.state_dict().items()}
    own = {key: x for key, x in state.items() if not CLUSTERING.match(key)}
    require(own, shapes, f'{src} does not fit {cfg.filename}: it')


def kept_meta(checkpoint: dict) -> dict[str, int | str]:
    """What the meta of a checkpoint says about the training, and not about the machine."""
    meta = checkpoint.get('meta') or {}
    kept = {key: meta[key] for key in KEPT_META if isinstance(meta.get(key), int | str)}
    return {key: x for key, x in kept.items() if re.fullmatch(r'[\w.+-]*', str(x))}


def serialized(checkpoint: dict) -> bytes:
    """The bytes of a checkpoint file, the same for the same content.

    Tensors are copied, so that each is stored alone and in one order: one that shares its storage
    with others, or is a part of a larger one, would take that along.
    """
    state = {
        key: x.detach().clone(memory_format=torch.contiguous_format)
        for key, x in checkpoint['state_dict'].items()
    }
    stream = io.BytesIO()
    torch.save(dict(checkpoint, state_dict=state), stream)
    return stream.getvalue()


def metafile_entry(
    name: str, path: Path, sha256: str, meta: dict, cfg: Config | None
) -> dict[str, Any]:
    """Entry of a model in a metafile, for a file that is shipped with mmcoke."""
    entry = dict(Name=name)
    if cfg is not None:
        parts = Path(cfg.filename).resolve().parts
        first = max((i for i, part in enumerate(parts) if part == 'configs'), default=-1)
        entry |= {'In Collection': cfg.model.type, 'Config': '/'.join(parts[first:])}
    if 'epoch' in meta:
        entry['Metadata'] = dict(Epochs=meta['epoch'])
    source = dict(Weights=f'mmcoke://{name}', Source=path.name, SHA256=sha256)
    return entry | source | dict(Results=None)
