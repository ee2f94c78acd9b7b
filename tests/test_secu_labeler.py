"""SeCu's clustering: the published code's recorded streams, cases by hand, properties."""

import copy
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from mmcoke.clustering import SeCuLabeler
from mmcoke.clustering.heads import Rule
from mmcoke.clustering.secu import entropy_change
from mmcoke.engine.optimizers import LARS
from mmcoke.losses import secu_loss

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
        x_VND = normalize(torch.stack(views), dim=2)
        idx = torch.from_numpy(golden['targets'][batch])
        targets = labeler.step(x_VND.detach(), idx)
        weights = dict(
            temperature=float(golden['temperature']), label_weight=float(golden['label_weight'])
        )
        loss = secu_loss(x_VND, labeler.centers, targets, **weights)
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


# ---- by hand


def test_one_step_of_a_center_by_hand():
    """One sample at (0.8, 0.6): p = 1 / (1 + exp(-0.2)) = 0.549834, so the pull is 0.450166."""
    options = dict(center_lr=0.5, momentum=0.9, weight_decay=0.1, center_temperature=1.0)
    labeler = SeCuLabeler(4, 2, 2, dual_lr=0.0, **options)
    labeler.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    labeler.set_epoch(0)
    x_VND, idx = torch.tensor([[[0.8, 0.6]]]), torch.tensor([1])
    assert labeler.step(x_VND, idx).tolist() == [0]
    # Across the center alone, over its length 2: -0.450166 * 0.6 / 2; and the decay.
    velocity = torch.tensor([[0.2, -0.135050], [0.0, 0.1]])
    torch.testing.assert_close(labeler.velocity, velocity, atol=1e-6, rtol=0)
    weight = torch.tensor([[1.9, 0.067525], [0.0, 0.95]])
    torch.testing.assert_close(labeler.weight, weight, atol=1e-6, rtol=0)
    assert labeler.center_loss.item() == pytest.approx(-math.log(0.549834), abs=1e-6)
    assert labeler.centers.tolist() == [[1.0, 0.0], [0.0, 1.0]]  # published when the epoch ends
    labeler.end_epoch()
    torch.testing.assert_close(labeler.centers, normalize(weight, dim=1), atol=1e-6, rtol=0)
    # No pull on the second one: 0.9 of its velocity, and its decay.
    labeler.step(x_VND, idx)
    assert labeler.velocity[1].tolist() == pytest.approx([0.0, 0.185], abs=1e-6)


def test_the_change_of_entropy_by_hand():
    """Of four labels 3 and 1: a fifth sample comes; and one of the first cluster goes elsewhere."""
    count, rule = torch.tensor([3, 1]), Rule([2], 0.0, 0.0)
    new, old = entropy_change(count, torch.tensor([[-1, 0]]), rule).tolist()
    ln = math.log
    assert new == pytest.approx([(4 * ln(4) - 3 * ln(3)) / 5, 2 * ln(2) / 5], abs=1e-6)
    assert old == pytest.approx([(3 * ln(3) - 2 * ln(2)) / 4, 2 * ln(2) / 4], abs=1e-6)

    def negative_entropy(*sizes):
        shares = [size / sum(sizes) for size in sizes]
        return sum(p * ln(p) for p in shares)

    assert new[1] - new[0] == pytest.approx(negative_entropy(3, 2) - negative_entropy(4, 1))
    assert old[1] - old[0] == pytest.approx(negative_entropy(2, 2) - negative_entropy(3, 1))


@pytest.mark.parametrize(('alpha', 'label'), [(0.57, 0), (0.59, 1)])
def test_the_weight_of_the_entropy_decides_by_hand(alpha, label):
    """Similarities differ by 0.1, the changes of entropy by 0.172609: it turns at 0.579."""
    labeler = SeCuLabeler(5, 2, 3, constraint='entropy', alpha=alpha)
    labeler.weight.copy_(torch.eye(3)[:2])
    labeler.labels.write(torch.arange(4), torch.tensor([0, 0, 0, 1]))
    labeler.set_epoch(0)
    assert labeler.count.tolist() == [3, 1]
    x_VND = torch.tensor([[[0.6, 0.5, math.sqrt(1 - 0.61)]]])
    assert labeler.step(x_VND, torch.tensor([4])).tolist() == [label]
    assert labeler.count.tolist() == [3 + (label == 0), 1 + (label == 1)]


def test_entropies_of_large_counts_are_exact():
    """Where entropies are subtracted in float32, digits cancel."""
    sizes = [640000, 641167]
    change = entropy_change(torch.tensor(sizes), torch.tensor([[-1]]), Rule([2], 0.0, 0.0))
    exact = [(math.log(n + 1) + n * math.log1p(1 / n)) / (sum(sizes) + 1) for n in sizes]
    difference = (change[0, 1] - change[0, 0]).item()
    assert 1e5 * difference == pytest.approx(1e5 * (exact[1] - exact[0]), abs=1e-6)


@pytest.mark.parametrize(('min_ratio', 'first', 'second'), [(0.5, 0.0, 0.05), (1.0, -0.1, 0.1)])
def test_the_dual_of_a_starved_cluster_rises(min_ratio, first, second):
    labeler = SeCuLabeler(8, 2, 2, min_ratio=min_ratio, dual_lr=0.2, center_lr=0.0)
    labeler.weight.copy_(torch.eye(2))
    labeler.set_epoch(0)
    x_VND = normalize(torch.tensor([[1.0, 0.3]]), dim=1).expand(2, 8, 2)
    for step in (1, 2):
        labeler.step(x_VND, torch.arange(8))
        assert labeler.dual.tolist() == pytest.approx([first * step, second * step], abs=1e-6)
    labeler.dual.copy_(torch.tensor([0.0, 0.8]))  # more than the similarities differ by
    labeler.step(x_VND, torch.arange(8))
    assert labeler.sizes().tolist() == [0, 8]


# ---- properties


SIZES, NUM_SAMPLES, DIM = [7, 40, 300], 1000, 16
CONSTRAINTS = pytest.mark.parametrize('constraint', ['size', 'entropy'])


def make(num_clusters, constraint='size', **settings):
    settings = dict(constraint=constraint, dual_lr=2.0, alpha=50.0) | settings
    return SeCuLabeler(NUM_SAMPLES, num_clusters, DIM, seed=3, **settings)


def stream(num_epochs):
    """For each epoch, batches of features of two views and indices; not all images in each."""
    generator = torch.Generator().manual_seed(0)
    base = normalize(torch.randn(NUM_SAMPLES, DIM, generator=generator), dim=1)
    for _ in range(num_epochs):
        order = torch.randperm(NUM_SAMPLES, generator=generator)[:900]
        yield [
            (normalize(base[i] + 0.1 * torch.randn(2, 100, DIM, generator=generator), dim=2), i)
            for i in order.split(100)
        ]


@CONSTRAINTS
def test_the_closed_form_is_the_gradient_that_autograd_finds(constraint):
    labeler = make(7, constraint, center_lr=0.7, momentum=0.8, weight_decay=1e-2)
    weight = nn.Parameter(labeler.weight.clone() * 1.7)
    labeler.weight.copy_(weight.detach())
    sgd = torch.optim.SGD([weight], lr=0.7, momentum=0.8, weight_decay=1e-2)
    for epoch, batches in enumerate(stream(2)):
        labeler.set_epoch(epoch)
        for x_VND, idx in batches[:4]:
            labeler.step(x_VND, idx)
            label = labeler.labels.read(idx)
            logit_VNK = x_VND @ normalize(weight, dim=1).T / 0.05
            own = nn.functional.one_hot(label, 7).bool()
            logit_VNK = torch.where(own, logit_VNK, logit_VNK.detach())
            loss = cross_entropy(logit_VNK.flatten(0, 1), label.repeat(2))
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            torch.testing.assert_close(labeler.center_loss, loss.detach(), atol=1e-5, rtol=0)
            torch.testing.assert_close(labeler.weight, weight.detach(), atol=2e-5, rtol=0)


@pytest.mark.parametrize('num_clusters', [7, [7, 40]])
def test_with_a_trust_coefficient_the_step_is_that_of_lars(num_clusters):
    settings = dict(center_lr=3.0, momentum=0.8, weight_decay=1e-2)
    plain = make(num_clusters, **settings, dual_lr=0.0)
    labeler = make(num_clusters, **settings, dual_lr=0.0, trust_coefficient=0.02)
    heads = [labeler] if num_clusters == 7 else list(labeler)
    weights = [nn.Parameter(head.weight.clone()) for head in heads]
    lars = LARS(weights, lr=3.0, momentum=0.8, weight_decay=1e-2, trust_coefficient=0.02)
    labeler.set_epoch(0)
    for x_VND, idx in next(stream(1))[:4]:
        plain.load_state_dict(labeler.state_dict())
        plain.set_epoch(0)
        for head in [plain] if num_clusters == 7 else plain:
            head.velocity.zero_()
        plain.step(x_VND, idx)  # its velocity is the gradient, decay included
        for weight, head in zip(weights, [plain] if num_clusters == 7 else plain, strict=True):
            weight.grad = head.velocity - 1e-2 * weight.detach()
        lars.step()
        labeler.step(x_VND, idx)
        for weight, head in zip(weights, heads, strict=True):
            torch.testing.assert_close(head.weight, weight.detach(), atol=2e-5, rtol=0)


def alone(constraint):
    """A labeler for each head; its loss is not divided by the number of heads."""
    rates = dict(center_lr=1.2 / len(SIZES), weight_decay=1e-4 * len(SIZES))
    labelers = [make(k, constraint, **rates) for k in SIZES]
    for number, labeler in enumerate(labelers):
        seeded = SeCuLabeler(NUM_SAMPLES, SIZES[number], DIM, seed=3 + number)
        labeler.weight.copy_(seeded.weight), labeler.centers.copy_(seeded.centers)
    return labelers


def assert_same_state(together, labelers):
    state = nn.ModuleList(labelers).state_dict()
    assert set(together.state_dict()) == set(state)
    for name, value in together.state_dict().items():
        expected = state[name].double()
        if name.endswith('.velocity'):
            expected = expected / len(SIZES)
        torch.testing.assert_close(value.double(), expected, atol=2e-5, rtol=1e-5, msg=name)


@CONSTRAINTS
def test_heads_together_equal_each_alone(constraint):
    together, labelers = make(SIZES, constraint), alone(constraint)
    for epoch, batches in enumerate(stream(3)):
        for labeler in (together, *labelers):
            labeler.set_epoch(epoch)
        for x_VND, idx in batches:
            targets = together.step(x_VND, idx, slice(20, 60))
            expected = [labeler.step(x_VND, idx, slice(20, 60)) for labeler in labelers]
            assert all(map(torch.equal, targets, expected))
            losses = torch.stack([labeler.center_loss for labeler in labelers])
            torch.testing.assert_close(together.center_loss, losses.mean(), atol=1e-5, rtol=0)
        for labeler in (together, *labelers):
            labeler.end_epoch()
        assert_same_state(together, labelers)
        for size, share, labeler in zip(
            together.sizes(), together.changed(), labelers, strict=True
        ):
            assert torch.equal(size, labeler.sizes())
            assert torch.equal(size, labeler.count)
            assert share == labeler.changed()


@CONSTRAINTS
@pytest.mark.parametrize(
    'copied',
    [
        copy.deepcopy,
        lambda x: pickle.loads(pickle.dumps(x)),
        lambda x: x.to(torch.device('meta')).to_empty(device='cpu'),
        lambda x: (x.load_state_dict(x.state_dict(), assign=True), x)[1],
    ],
    ids=['deepcopy', 'pickle', 'moved', 'assigned'],
)
def test_heads_stay_parts_of_the_whole(copied, constraint):
    together, labelers = make(SIZES, constraint), alone(constraint)
    state = {name: value.clone() for name, value in together.state_dict().items()}
    together = copied(together)
    together.load_state_dict(state)
    for epoch, batches in enumerate(stream(2)):
        for labeler in (together, *labelers):
            labeler.set_epoch(epoch)
        for x_VND, idx in batches[:2]:
            together.step(x_VND, idx)
            [labeler.step(x_VND, idx) for labeler in labelers]
        assert_same_state(together, labelers)
        for labeler in (together, *labelers):
            labeler.end_epoch()


@CONSTRAINTS
def test_a_step_does_not_depend_on_the_order_of_the_batch(constraint):
    one, other = make(SIZES, constraint), make(SIZES, constraint)
    generator = torch.Generator().manual_seed(1)
    for epoch, batches in enumerate(stream(2)):
        one.set_epoch(epoch), other.set_epoch(epoch)
        for x_VND, idx in batches:
            order = torch.randperm(100, generator=generator)
            targets = one.step(x_VND, idx)
            for target, shuffled in zip(
                targets, other.step(x_VND[:, order], idx[order]), strict=True
            ):
                assert torch.equal(target[order], shuffled)
        for name, value in one.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], value, atol=2e-5, rtol=1e-5)


def test_sizes_respect_the_bound_that_the_duals_enforce():
    """Features of one blob: without duals one cluster has nearly all, with them none starves."""
    smallest = {}
    for dual_lr in (0.0, 5.0):
        labeler = make(8, min_ratio=0.5, dual_lr=dual_lr, center_lr=0.01)
        generator = torch.Generator().manual_seed(0)
        base = torch.randn(DIM, generator=generator)
        for epoch in range(6):
            labeler.set_epoch(epoch)
            for idx in torch.randperm(NUM_SAMPLES, generator=generator).split(100):
                noise = torch.randn(2, 100, DIM, generator=generator)
                labeler.step(normalize(base + 0.5 * noise, dim=2), idx)
        smallest[dual_lr] = labeler.sizes().min().item()
    assert smallest[0.0] <= 5
    assert smallest[5.0] >= 0.7 * labeler.min_size


@CONSTRAINTS
def test_counts_are_those_of_the_table_also_when_an_image_comes_twice(constraint):
    labeler = make(7, constraint)
    labeler.set_epoch(0)
    for x_VND, idx in next(stream(1)):
        idx[50:60] = idx[:10]
        labeler.step(x_VND, idx)
        assert torch.equal(labeler.count, labeler.sizes())
    count = labeler.count.clone()
    labeler.count.zero_()  # as in a model whose state was loaded: it is not saved
    labeler.continue_epoch(0)
    assert torch.equal(labeler.count, count)
    assert not any('count' in name for name in labeler.state_dict())


def test_an_image_is_trained_on_its_label_of_the_epoch_before():
    labeler = make(7)
    (first, *_), (second, *_) = stream(2)
    labeler.set_epoch(0)
    new = labeler.step(*first)
    assert torch.equal(new, labeler.labels.read(first[1]))
    labeler.end_epoch()
    labeler.set_epoch(1)
    x_VND = second[0]
    assert torch.equal(labeler.step(x_VND, first[1]), new)
    assert not torch.equal(labeler.labels.read(first[1]), new)


def test_half_precision_computes_in_float32():
    one, other = make(SIZES), make(SIZES)
    one.set_epoch(0), other.set_epoch(0)
    x_VND, idx = next(stream(1))[0]
    x_VND = x_VND.bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        one.step(x_VND, idx)
    other.step(x_VND.float(), idx)
    assert_equal = torch.testing.assert_close
    for name, value in one.state_dict().items():
        assert_equal(value, other.state_dict()[name], rtol=0, atol=0)


# ---- what is refused


BAD = dict(
    num_clusters=[0, 2.5, True, 'a', None],
    dim=[0, 1.5, None],
    min_ratio=[0, 1.1, math.nan, None],
    dual_lr=[-1, math.inf, 'a'],
    constraint=['sizes', None, 1, ['size']],
    alpha=[-1.0, math.nan, '6000'],
    center_lr=[-0.1, math.inf, None],
    momentum=[1.0, -0.1, math.nan],
    weight_decay=[-1e-4, None],
    trust_coefficient=[0, -0.001, 'a', math.inf],
    center_temperature=[0, -0.05, math.inf],
    seed=[-1, 0.5],
)


@pytest.mark.parametrize('name', BAD)
def test_bad_settings_are_named_in_one_line(name):
    for value in BAD[name]:
        settings = dict(num_clusters=4, dim=8) | {name: value}
        with pytest.raises(ValueError, match=name) as caught:
            SeCuLabeler(100, settings.pop('num_clusters'), settings.pop('dim'), **settings)
        assert len(str(caught.value).splitlines()) == 1, value


def test_more_clusters_than_samples_are_refused():
    for num_clusters in (101, [4, 101]):
        with pytest.raises(ValueError, match='num_clusters=101 is more than the 100 samples'):
            SeCuLabeler(100, num_clusters, 8)
    with pytest.raises(ValueError, match='num_clusters is empty'):
        SeCuLabeler(100, [], 8)


@pytest.mark.parametrize('num_clusters', [7, [7, 9]])
def test_bad_batches_change_nothing(num_clusters):
    labeler = make(num_clusters)
    labeler.set_epoch(0)
    x_VND, idx = next(stream(1))[0]
    before = {name: value.clone() for name, value in labeler.state_dict().items()}
    not_finite, too_large = x_VND.clone(), idx.clone()
    not_finite[1, 3, 2], too_large[0] = math.inf, NUM_SAMPLES
    bad = {
        'got torch.float32 of shape': (x_VND[0], idx),
        'got torch.int64': (x_VND.long(), idx),
        r'features \(N, 16\)': (x_VND[:, :50], idx),
        'NaN or infinite': (not_finite, idx),
        'label table has': (x_VND, too_large),
        'empty batch': (x_VND[:, :0], idx[:0]),
    }
    for message, batch in bad.items():
        with pytest.raises(ValueError, match=message) as caught:
            labeler.step(*batch)
        assert len(str(caught.value).splitlines()) == 1
    for name, value in labeler.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_an_epoch_without_a_batch_or_with_centers_that_are_not_finite_is_refused():
    labeler = make([7, 9])
    labeler.set_epoch(0)
    with pytest.raises(ValueError, match='without any batch'):
        labeler.end_epoch()
    labeler.step(*next(stream(1))[0])
    labeler[1].weight[2, 3] = math.nan
    with pytest.raises(ValueError, match='not finite'):
        labeler.end_epoch()
