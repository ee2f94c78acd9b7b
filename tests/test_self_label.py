"""The confident stage: which labels are sure, sizes kept by duals, where clusters come from."""

import math
from contextlib import nullcontext

import pytest
import torch
from conftest import tiny
from mmengine.registry import init_default_scope
from torch.nn.functional import normalize

from mmcoke.clustering import (
    UNASSIGNED,
    CoKeLabeler,
    SelfLabeler,
    agreement,
    confident,
    nearest_neighbors,
)
from mmcoke.clustering.self_label import spread_centers
from mmcoke.engine.hooks.self_label_hook import start_from_clusters
from mmcoke.engine.launch import build_runner, train
from mmcoke.engine.model_wrappers import unwrap
from mmcoke.files import read_checkpoint
from mmcoke.models import CosineClusterHead
from mmcoke.registry import MODELS


def labeler_of(agreed, **options):
    """Three clusters; what was agreed on is given, so that nothing has to be clustered."""
    options = dict(threshold=0.9, min_ratio=0.6, dual_lr=0.5) | options
    labeler = SelfLabeler(len(agreed), 3, 2, **options)
    labeler.labels.agreed.copy_(torch.tensor(agreed))
    labeler.num_fits += 1
    return labeler


# ---- what is sure


def test_confident_by_hand():
    prob = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.05, 0.95]])
    assert confident(prob, 0.9).tolist() == [True, False, True]
    assert confident(prob, 0.0).all()


def test_agreement_by_hand():
    label = torch.tensor([0, 0, 1, 0])
    neighbors = torch.tensor([[1, 2], [0, 3], [0, 1], [2, 2]])
    assert agreement(label, neighbors).tolist() == [0.5, 1.0, 0.0, 0.0]


def test_neighbors_are_the_most_similar_others(monkeypatch):
    angle = torch.tensor([0.0, 0.1, 0.3, 2.0, 2.1])
    x = torch.stack([angle.cos(), angle.sin()], 1)
    expected = [[1, 2], [0, 2], [1, 0], [4, 2], [3, 2]]
    assert nearest_neighbors(x, 2).tolist() == expected
    monkeypatch.setattr('mmcoke.clustering.self_label.NUM_SIMILARITIES', 5)  # row by row
    assert nearest_neighbors(x, 2).tolist() == expected


def test_first_centers_are_of_different_groups():
    """Three points, each many times over: the distance to a chosen one is 0."""
    x = torch.eye(3).repeat_interleave(torch.tensor([60, 30, 5]), 0)
    for seed in range(5):
        assert spread_centers(x, 3, seed).sum(0).tolist() == [1, 1, 1]
    assert spread_centers(x, 4, 0).shape == (4, 3)  # more than there are different ones


def test_labels_are_sure_by_probability_or_if_the_neighbors_agreed():
    labeler = labeler_of([UNASSIGNED, UNASSIGNED, 1, 2])
    prob = torch.tensor([[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.2, 0.5, 0.3]])
    assert labeler.step(prob, torch.arange(4)).tolist() == [0, UNASSIGNED, 1, UNASSIGNED]
    assert labeler.labels.label.tolist() == [0, 0, 1, 1]
    assert labeler.sure() == 0.5


def test_duals_by_hand():
    labeler = labeler_of([UNASSIGNED] * 4)
    prob = torch.tensor([[0.6, 0.4, 0.0]] * 4)
    labeler.step(prob, torch.arange(4))  # none is sure; all count
    # max(0, -0.5 (1 - 0.2)); -0.5 (0 - 0.2) twice
    torch.testing.assert_close(labeler.dual, torch.tensor([0.0, 0.1, 0.1]))
    # log 0.5 + 0 against log 0.47 + 0.1: the dual decides; 0.51 is not sure.
    prob = torch.tensor([[0.5, 0.47, 0.03], [0.95, 0.05, 0.0]])
    assert labeler.step(prob, torch.tensor([0, 1])).tolist() == [UNASSIGNED, 0]
    assert labeler.labels.label.tolist() == [1, 0, 0, 0]
    # Each of the first two has half of the batch, and only the third less than 0.2.
    torch.testing.assert_close(labeler.dual, torch.tensor([0.0, 0.0, 0.2]))


def test_duals_are_logits_of_a_prior():
    """0.7 e^d / (0.7 e^d + 0.3) is 0.9 for d = log(27 / 7), about 1.35."""
    prob = torch.tensor([[0.7, 0.3, 0.0]])
    for dual, label in ((1.34, UNASSIGNED), (1.36, 0)):
        labeler = labeler_of([UNASSIGNED] * 3)
        labeler.dual[0] = dual
        assert labeler.step(prob, torch.tensor([0])).tolist() == [label]


def test_no_dual_makes_an_impossible_cluster_sure():
    labeler = labeler_of([UNASSIGNED] * 3)
    labeler.dual[2] = 1000.0
    assert labeler.step(torch.tensor([[0.95, 0.05, 0.0]]), torch.tensor([0])).tolist() == [0]


def test_hard_clusters_do_not_get_samples_of_others():
    """Two clusters side by side, of which few samples are sure, and two that are far away.

    Where sure samples alone move duals that are added to probabilities, those of the two rise
    until samples between them count as sure: 5 to 6 % of those labels are wrong.
    """
    generator = torch.Generator().manual_seed(0)
    centers = normalize(torch.cat([torch.eye(8)[:3], torch.eye(8)[2:3] + 0.45 * torch.eye(8)[3]]))
    truth = torch.arange(1000) % 4
    x = normalize(centers[truth] + 0.25 * torch.randn(1000, 8, generator=generator))
    prob = (x @ centers.T / 0.05).softmax(1)
    labeler = SelfLabeler(1000, 4, 8, num_neighbors=0)
    labeler.num_fits += 1
    for _ in range(30):
        for idx in torch.randperm(1000, generator=generator).split(100):
            labeler.step(prob[idx], idx)
    label = labeler.step(prob, torch.arange(1000))
    right = (label == truth)[label != UNASSIGNED].float().mean()
    assert (label != UNASSIGNED).float().mean() > 0.5
    assert right > 0.97
    assert (labeler.labels.label == truth).float().mean() > 0.85


def test_duals_keep_a_cluster_that_would_starve():
    """Samples between two clusters, always a little nearer to the first."""
    sizes = {}
    for dual_lr in (0.0, 0.2):
        labeler = labeler_of([UNASSIGNED] * 300, threshold=0.0, dual_lr=dual_lr)
        generator = torch.Generator().manual_seed(0)
        prob = torch.rand(300, 1, generator=generator) * 0.45 + torch.tensor([[0.1, 0.0, 0.05]])
        prob = torch.cat([prob[:, :1], prob[:, 1:2], 1 - prob[:, :1] - prob[:, 1:2]], 1)
        for _ in range(10):
            for idx in torch.randperm(300, generator=generator).split(50):
                labeler.step(prob[idx], idx)
        sizes[dual_lr] = labeler.sizes().tolist()
    assert sizes[0.0][1] == 0
    assert min(sizes[0.2]) >= 0.5 * 0.6 * 100


# ---- where clusters come from


def groups(seed=0):
    """Two groups of 10 unit vectors and one vector between them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.cat([torch.eye(2).repeat_interleave(10, 0), torch.full((1, 2), 0.7)])
    return normalize(x + 0.01 * torch.randn(21, 2, generator=generator), dim=1)


def test_the_first_clusters_are_those_of_kmeans_where_neighbors_agree():
    labeler = SelfLabeler(21, 2, 2, threshold=0.9, num_neighbors=8)
    labeler.refit(3 * groups())
    agreed = labeler.labels.agreed
    assert len({*agreed[:10].tolist()}) == len({*agreed[10:20].tolist()}) == 1
    assert {*agreed[:20].tolist()} == {0, 1}
    similarity = groups()[:20] @ labeler.centers.T
    assert torch.equal(similarity.argmax(1), agreed[:20].long())
    torch.testing.assert_close(labeler.centers.norm(dim=1), torch.ones(2))
    assert torch.equal(labeler.labels.label, agreed)


def test_one_whose_neighbors_are_of_another_cluster_is_not_agreed_on():
    labeler = SelfLabeler(21, 2, 2, threshold=0.9, num_neighbors=8)
    degrees = torch.tensor([25.0, 120.0, 60.0]).deg2rad()  # two centers, and the last vector
    labeler.start_from(torch.stack([degrees.cos(), degrees.sin()], 1)[:2])
    x = groups()  # at 0 and at 90 degrees
    x[20] = torch.stack([degrees.cos(), degrees.sin()], 1)[2]
    assert (x @ labeler.centers.T).argmax(1).tolist() == [0] * 10 + [1] * 10 + [0]
    labeler.refit(x)
    assert labeler.labels.agreed.tolist() == [0] * 10 + [1] * 10 + [UNASSIGNED]


def test_clusters_that_are_given_stay_and_keep_their_numbers():
    labeler = SelfLabeler(21, 2, 2, num_neighbors=5)
    centers = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    labeler.start_from(centers)
    labeler.refit(groups(), left_out=[0])
    assert torch.equal(labeler.centers, torch.eye(2).flip(0))
    assert labeler.labels.agreed[:20].tolist() == [UNASSIGNED, *[1] * 9, *[0] * 10]


def test_without_neighbors_probabilities_alone_count():
    labeler = SelfLabeler(21, 2, 2, num_neighbors=0)
    labeler.refit(groups())
    assert labeler.labels.agreed.tolist() == [UNASSIGNED] * 21
    assert labeler.centers.any()


class Logged:
    """A runner that keeps what is logged."""

    def __init__(self):
        self.logger, self.said = self, []

    def info(self, message):
        self.said.append(message)


def test_clusters_of_a_checkpoint_are_taken_if_number_and_width_fit():
    coke = CoKeLabeler(50, [4, 3, 3], 2, seed=1)
    state = {f'labelers.{name}': x for name, x in coke.state_dict().items()}
    for num_clusters, dim, name in (
        (3, 2, 'labelers.1.kmeans.centers'),
        (5, 2, None),
        (3, 4, None),
    ):
        labeler, runner = SelfLabeler(50, num_clusters, dim), Logged()
        start_from_clusters(labeler, state, runner)
        (said,) = runner.said
        assert name in said if name else 'k-means finds them' in said
        if name:
            torch.testing.assert_close(labeler.centers, coke[1].kmeans.centers)
        else:
            assert not labeler.centers.any()


# ---- refusals


@pytest.mark.parametrize(
    'bad',
    [
        dict(num_clusters=51),
        dict(threshold=1.5),
        dict(num_neighbors=-1),
        dict(min_ratio=0),
        dict(dual_lr=-1.0),
        dict(dim=0),
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        SelfLabeler(**(dict(num_samples=50, num_clusters=4, dim=8) | bad))


def test_steps_before_the_first_clusters_and_bad_batches_are_refused():
    labeler = SelfLabeler(5, 3, 2)
    prob = torch.full((2, 3), 1 / 3)
    with pytest.raises(ValueError, match='refit'):
        labeler.step(prob, torch.arange(2))
    labeler = labeler_of([UNASSIGNED] * 5)
    for x, idx in (
        (prob[:, :2], torch.arange(2)),
        (prob, torch.arange(3)),
        (prob, torch.tensor([0, 5])),
        (prob * math.nan, torch.arange(2)),
    ):
        with pytest.raises(ValueError):
            labeler.step(x, idx)
    assert labeler.labels.label.tolist() == [UNASSIGNED] * 5
    assert not labeler.dual.any()


# ---- the head


def test_the_head_classifies_by_cosine_from_the_centers_it_was_given():
    head = CosineClusterHead(2, 2, temperature=0.5)
    head.start_from(torch.tensor([[2.0, 0.0], [0.0, 0.1]]))
    logits = head(torch.tensor([[3.0, 4.0]]))
    torch.testing.assert_close(logits, torch.tensor([[1.2, 1.6]]))  # 0.6 and 0.8, over 0.5


def test_the_loss_is_the_mean_over_clusters_of_the_sure_samples():
    head = CosineClusterHead(2, 3)
    logits = torch.zeros(5, 3)
    logits[1, 0] = 5.0
    logits[4, 2] = math.log(2)
    logits.requires_grad_()
    loss = head.loss(logits, torch.tensor([1, UNASSIGNED, 1, 1, 2]))['loss']
    # log 3 thrice in one cluster, log 4 / 2 once in the other, which counts as much
    torch.testing.assert_close(loss, torch.tensor((math.log(3) + math.log(2)) / 2))
    loss.backward()
    assert not logits.grad[1].any()
    assert head.loss(logits, torch.full((5,), UNASSIGNED))['loss'] == 0


# ---- the algorithm


def test_one_view_is_refused_with_the_remedy():
    init_default_scope('mmcoke')
    model = MODELS.build(tiny('selflabel').model)
    model.init_labelers(20)
    for inputs in (torch.randn(4, 1, 16, 16), [torch.randn(4, 1, 16, 16)]):
        with pytest.raises(ValueError, match=r'made 1\. Set data_preprocessor\.views'):
            model.loss(inputs, torch.arange(4))


def test_labels_are_of_the_weak_view_and_gradients_of_the_strong_one():
    init_default_scope('mmcoke')
    torch.manual_seed(0)
    model = MODELS.build(tiny('selflabel').model).eval()
    model.init_labelers(20)
    weak, strong = torch.randn(2, 4, 1, 16, 16).unbind()
    strong.requires_grad_(), weak.requires_grad_()
    seen = []
    model.labelers[0].step = lambda prob, idx: seen.append(prob) or torch.tensor([0, 1, 2, -1])
    model.loss([weak, strong], torch.arange(4))['loss'].backward()
    torch.testing.assert_close(seen[0], model.head(model.project(weak)).softmax(1).detach())
    assert weak.grad is None
    assert strong.grad[:3].flatten(1).any(1).all()
    assert not strong.grad[3].any()
    assert model.head.weight.grad.any()


def test_a_step_asks_nothing_of_the_device(monkeypatch):
    monkeypatch.setattr(torch, 'autocast', lambda *args, **kwargs: nullcontext())
    init_default_scope('mmcoke')
    model = MODELS.build(tiny('selflabel').model)
    model.init_labelers(100)
    model.labelers[0].refit(torch.randn(100, model.head.in_channels))
    assert model.capturable
    model.to('meta').train()
    images = torch.empty(8, 1, 16, 16, device='meta')
    idx = torch.empty(8, dtype=torch.int64, device='meta')
    model.labelers[0].set_epoch(0)
    assert model.loss([images, images], idx)['loss'].device.type == 'meta'


def test_training_starts_from_weights_and_clusters_of_another_method(tmp_path):
    """CoKe with a head of that many clusters, then the confident stage, with its neck."""
    coke = tiny('coke', tmp_path / 'coke', num_images=200)
    coke.merge_from_dict({'model.clustering.num_clusters': [8, 5], 'train_cfg.max_epochs': 1})
    train(coke)
    start = read_checkpoint(tmp_path / 'coke/epoch_1.pth')['state_dict']
    cfg = tiny('selflabel', tmp_path / 'second', num_images=200)
    cfg.model.neck = coke.model.neck
    cfg.model.clustering.num_clusters = 5
    cfg.merge_from_dict({'load_from': str(tmp_path / 'coke/epoch_1.pth')})
    runner = build_runner(cfg)
    runner.train()
    model = unwrap(runner.model)
    log = next((tmp_path / 'second').rglob('*.log')).read_text()
    assert 'starts from 5 clusters in 8 dimensions of the checkpoint (labelers.1.kmeans.c' in log
    torch.testing.assert_close(model.labelers[0].centers, start['labelers.1.kmeans.centers'])
    assert model.labelers[0].num_fits == 1


def test_another_number_of_clusters_is_refused_when_a_run_is_resumed(tmp_path):
    cfg = tiny('selflabel', tmp_path / 'run', num_images=200)
    cfg.merge_from_dict({'train_cfg.max_epochs': 1})
    train(cfg.copy())
    cfg.merge_from_dict({'model.clustering.num_clusters': 6, 'resume': True})
    with pytest.raises(ValueError, match=r'weights fit; head\.weight|SelfLabel.*\[5\].*\[6\]'):
        train(cfg)
