"""The clustering equals the authors' code on recorded streams (see tests/golden/README.md)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mmcoke.clustering import CoKeLabeler

GOLDEN = Path(__file__).parent / 'golden'
STREAMS = (
    'single_view_two_stage',
    'single_view_official_rates',
    'balanced_ratio_one',
    'hard_labels_only',
)


def one_hot_targets(target, num_clusters):
    if target.ndim == 2:
        return target
    return torch.nn.functional.one_hot(target, num_clusters).float()


@pytest.mark.parametrize('stream', STREAMS)
def test_every_head_follows_the_published_code(stream):
    golden = np.load(GOLDEN / f'{stream}.npz')
    for head, num_clusters in enumerate(golden['K']):
        follow_stream(golden, head, int(num_clusters))


def follow_stream(golden, head, num_clusters):
    num_slots = int(golden['ls'])
    labeler = CoKeLabeler(
        int(golden['N']),
        num_clusters,
        int(golden['dim']),
        min_ratio=float(golden['ratio']),
        dual_lr=float(golden['dual_lr']),
        average_from_epoch=int(golden['stage']) if num_slots > 1 else None,
        num_slots=num_slots,
        label_temperature=float(golden['t']),
    )
    kmeans = labeler.kmeans
    init = torch.from_numpy(golden[f'init_center_{head}'])
    kmeans.centers.copy_(init)
    kmeans.running.copy_(init)
    feats, idx = torch.from_numpy(golden['feats']), torch.from_numpy(golden['targets'])
    batch_sizes = golden['batch_sizes'].tolist()
    batches_per_epoch = len(batch_sizes) // int(golden['E'])
    rows = torch.arange(len(feats)).split(batch_sizes)

    for batch, row in enumerate(rows):
        epoch, position = divmod(batch, batches_per_epoch)
        if position == 0:
            labeler.set_epoch(epoch)
        target = labeler.step(feats[row], idx[row])
        used = torch.from_numpy(golden[f'labels_used_{head}'])[row]
        torch.testing.assert_close(one_hot_targets(target, num_clusters), used, rtol=0, atol=1e-5)
        expected = torch.from_numpy(golden[f'labels_new_{head}'])[row]
        assert torch.equal(labeler.newest.read(idx[row]), expected)
        dual = torch.from_numpy(golden[f'duals_{head}'])[batch]
        torch.testing.assert_close(kmeans.dual, dual, rtol=0, atol=1e-5)
        if position == batches_per_epoch - 1:
            size = torch.from_numpy(golden[f'cluster_size_{head}'])[epoch].long()
            assert torch.equal(kmeans.count, size)
            assert torch.equal(labeler.sizes(), size)
            labeler.end_epoch()
            for buffer, name in ((kmeans.centers, 'pre_center'), (kmeans.running, 'cur_center')):
                center = torch.from_numpy(golden[f'{name}_{head}'])[epoch]
                torch.testing.assert_close(buffer, center, rtol=0, atol=1e-5)
