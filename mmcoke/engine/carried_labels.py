"""Labels of a checkpoint for the images that there are now: by name where the data set changed."""

import logging
import re

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmcoke.datasets.identity import KEYS, rows_of_before, sample_keys, say_unknown

TABLE = re.compile(r'(?:module\.)?labelers\.((?:\d+\.)?(?:labels|memory)\..+)')
"""Names of the state with a row per image."""


def rows_in(checkpoint: dict, dataset: Dataset, path: str) -> Tensor | None:
    """Where the images of a data set are in the tables of a checkpoint.

    Args:
        checkpoint: of mmcoke.
        dataset: that training goes on with.
        path: of the checkpoint, for messages.

    Returns:
        int64 (A,), -1 for new images; None if they are the same in the same order, or (a warning
        says so) that cannot be told.

    Raises:
        ValueError: if fewer than half of the checkpoint's images are there.
    """
    before, keys = checkpoint.get(KEYS), sample_keys(dataset)
    if before is None or keys is None:
        say_unknown(path if before is None else type(dataset).__name__)
        return None
    rows = torch.from_numpy(rows_of_before(keys, before.cpu().numpy()))
    if len(rows) == len(before) and torch.equal(rows, torch.arange(len(rows))):
        return None
    kept = int((rows >= 0).sum())
    if kept < len(before) / 2:
        raise ValueError(
            f'{path} is of another data set: of its {len(before)} images {kept} are among the '
            f'{len(rows)} of this one. Name the images that it was trained on, or start a new run '
            'from its backbone: --work-dir NEW --cfg-options '
            f'model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint={path} '
            'model.backbone.init_cfg.prefix=backbone.'
        )
    print_log(
        f'The data set has changed since {path}. Labels are carried over by name: {kept} images '
        f'keep theirs, {len(rows) - kept} are new, {len(before) - kept} are gone.',
        logger='current',
        level=logging.WARNING,
    )
    return rows


def carry_rows(state_dict: dict, labelers: nn.ModuleList, rows: Tensor) -> None:
    """Give the tables in a state dict the rows of the present images.

    Args:
        state_dict: of a checkpoint; changed.
        labelers: new ones; rows of new images are as there.
        rows: of :func:`rows_in`.
    """
    fresh = labelers.state_dict()
    kept = rows >= 0
    for name in list(state_dict):
        if (found := TABLE.fullmatch(name)) and found[1] in fresh:
            before = state_dict[name]
            table = fresh[found[1]].detach().to(before.device, before.dtype, copy=True)
            if table.shape[1:] == before.shape[1:]:  # else another setting, which is refused
                table[kept.to(table.device)] = before[rows[kept].to(before.device)]
                state_dict[name] = table
