"""SeCu's clustering: the published code's recorded streams, cases by hand, properties."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mmcoke.clustering import SeCuLabeler
from mmcoke.losses.coke_loss import cross_entropies

GOLDEN = Path(__file__).parent / 'golden'


def settings_of(golden):
    names = ('min_ratio', 'dual_lr', 'alpha', 'center_lr', 'momentum', 'weight_decay')
    numbers = {name: float(golden[name]) for name in (*names, 'center_temperature')}
    return numbers | dict(constraint=str(golden['constraint']))


def close(value, golden, tolerance):
    expected = torch.from_numpy(np.asarray(golden)).to(value.dtype)
    torch.testing.assert_close(value, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize('constraint', ['size', 'entropy'])
def test_the_published_code_is_followed(constraint):
    golden = np.load(GOLDEN / f'secu_{constraint}.npz')
    num_clusters = golden['K'].tolist()
    dim, num_samples = int(golden['dim']), int(golden['A'])
    labeler = SeCuLabeler(num_samples, num_clusters, dim, **settings_of(golden))
    for number, head in enumerate(labeler):
        for buffer in (head.weight, head.centers):
            buffer.copy_(torch.from_numpy(golden[f'init_center_{number}']))
    num_batches = len(golden['targets'])
    per_epoch = num_batches // int(golden['E'])
    for batch in range(num_batches):
        epoch, position = divmod(batch, per_epoch)
        if position == 0:
            labeler.set_epoch(epoch)
            for number, centers in enumerate(labeler.centers):
                close(centers, golden[f'published_{number}'][epoch], 1e-5)
        views = [torch.from_numpy(golden[f'view{v}'][batch]).requires_grad_() for v in (1, 2)]
        x_VND = torch.nn.functional.normalize(torch.stack(views), dim=2)
        idx = torch.from_numpy(golden['targets'][batch])
        targets = labeler.step(x_VND.detach(), idx)
        loss = cross_entropies(
            x_VND,
            labeler.centers,
            targets,
            temperature=float(golden['temperature']),
            references=[(1,), (0,)],
            label_weight=float(golden['label_weight']),
        ).mean()
        loss.backward()
        close(loss.detach(), golden['loss_features'][batch], 1e-5)
        close(labeler.center_loss, golden['loss_centers'][batch], 1e-5)
        close(views[0].grad, golden['grad_view1'][batch], 1e-6)
        for number, head in enumerate(labeler):
            labels = torch.from_numpy(golden[f'labels_new_{number}'][batch])
            assert torch.equal(head.labels.read(idx), labels)
            close(head.weight, golden[f'centers_{number}'][batch], 1e-5)
            if constraint == 'size':
                close(head.dual, golden[f'duals_{number}'][batch], 1e-5)
        if position == per_epoch - 1:
            for number, head in enumerate(labeler):
                size = torch.from_numpy(golden[f'cluster_size_{number}'])[epoch].long()
                assert torch.equal(head.sizes(), size)
                assert torch.equal(head.count, size)
            labeler.end_epoch()
