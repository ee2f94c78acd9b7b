"""The VOC07 SVM protocol: against the published tools, scikit-learn and hand-computed cases."""

import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from mmengine.registry import DefaultScope
from PIL import Image
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC
from test_knn_and_cluster_tools import run

from mmcoke.datasets.voc import CLASSES, RESIZE, Images, read_devkit
from mmcoke.evaluation import low_shot_svm, svm, voc_svm
from mmcoke.evaluation.kernel_svm import kernel_svms, line_search
from mmcoke.evaluation.svm import COSTS, envelope_ap, low_shot_samples
from mmcoke.features.backbones import FrozenNetwork
from mmcoke.features.plain_images import feature_pipeline

GOLDEN = Path(__file__).parent / 'golden/svm.npz'
FEW_COSTS = (1.0, 0.01, 1e-4)


@pytest.fixture(scope='module')
def golden():
    return dict(np.load(GOLDEN))


@pytest.fixture
def sets(golden):
    """Features and targets of the golden file, as ``voc_svm`` takes them."""
    names = ('features_train', 'targets_train', 'features_test', 'targets_test')
    return [golden[name].copy() for name in names]


@pytest.fixture
def golden_samples(golden):
    """The golden low-shot targets, as ``low_shot_samples`` would return them."""
    return {
        int(k): np.stack([golden[f'low_shot_targets_sample{i}_k{k}'] for i in (1, 2, 3)])
        for k in golden['low_shot_k']
    }


def liblinear(cost, **options):
    """The published tools' SVM."""
    options = dict(tol=1e-4, max_iter=2000) | options
    return LinearSVC(C=cost, class_weight={1: 2, -1: 1}, dual=True, random_state=0, **options)


def unit(x):
    return x.astype(float) / (np.linalg.norm(x.astype(float), axis=1, keepdims=True) + 1e-5)


# ---- the published tools


def test_full_svm_equals_the_published_tools(golden, sets):
    found = voc_svm(*sets, costs=golden['costs'], parity=True)
    np.testing.assert_allclose(found['ap'], golden['test_ap'], atol=1e-6)
    assert found['mean_ap'] == pytest.approx(float(golden['mean_ap']), abs=1e-6)


def test_low_shot_svm_equals_the_published_tools(golden, sets, golden_samples):
    sets[1] = golden_samples
    found = low_shot_svm(*sets, costs=golden['costs'])
    for name in ('mean', 'min', 'max', 'std'):
        expected = golden[f'low_shot_ap_{name}']
        np.testing.assert_allclose(found[f'ap_{name}'], expected, atol=1e-4)
    for i, chosen in enumerate(found['by_test_ap']):
        best = golden['low_shot_ap_mean'][i].argmax()
        assert chosen['cost'] == golden['costs'][best]
        for name in ('mean', 'min', 'max', 'std'):
            assert chosen[name] == pytest.approx(golden[f'low_shot_ap_{name}'][i, best], abs=1e-4)


def test_costs_are_the_19_of_the_published_figures():
    assert sorted(COSTS) == [2.0**power for power in range(-19, -3)] + [1, 10, 100]


# ---- the solver


def test_two_orthogonal_samples_by_hand():
    # Each minimizes b²/2 + c (1 - b)²: b = 2c / (1 + 2c), with twice the cost for the positive.
    kernel, sign = torch.eye(2).double(), torch.tensor([1.0, -1.0]).double()
    weight = torch.tensor([[2.0], [1.0]]).double()
    coef, score = kernel_svms(kernel, sign, weight, [0.25, 1.0, 100.0])
    expected = [[0.5, -1 / 3], [0.8, -2 / 3], [400 / 401, -200 / 201]]
    np.testing.assert_allclose(coef[..., 0], expected, atol=1e-6)
    np.testing.assert_allclose(score[..., 0], expected, atol=1e-6)


@pytest.mark.parametrize('width', [12, 600])
def test_svms_equal_liblinear_at_every_cost(width):
    random = np.random.default_rng(width)
    x = unit(np.maximum(random.normal(0.3, 1, (300, width)) * np.arange(1, width + 1) ** -0.5, 0))
    label = np.where(random.random(300) + x[:, 0] > 1.0, 1, -1)
    weight = np.where(label == 1, 2.0, 1.0)[:, None] * [1, 1]
    weight[200:, 1] = 0
    coef, score = kernel_svms(
        torch.from_numpy(x @ x.T + 1),
        torch.from_numpy(label).double(),
        torch.from_numpy(weight),
        COSTS,
    )
    for i, cost in enumerate(COSTS):
        for column, rows in enumerate((slice(None), slice(200))):
            expected = liblinear(cost, tol=1e-8, max_iter=100_000).fit(x[rows], label[rows])
            expected = expected.decision_function(x)
            found = score[i, :, column].numpy()
            np.testing.assert_allclose(found, expected, atol=2e-4 * np.ptp(expected))
    assert not coef[:, 200:, 1].any()


def test_cross_validation_is_that_of_scikit_learn(sets):
    x, targets = sets[:2]
    found = voc_svm(*sets, costs=FEW_COSTS, parity=True)
    for k in range(targets.shape[1]):
        label = np.where(targets[:, k] == 1, 1, -1)
        for i, cost in enumerate(FEW_COSTS):
            expected = cross_val_score(
                liblinear(cost), unit(x), label, cv=3, scoring='average_precision'
            )
            assert found['cross_validated_ap'][k, i] == pytest.approx(expected.mean(), abs=1e-4)
        assert found['cost'][k] == FEW_COSTS[found['cross_validated_ap'][k].argmax()]


def test_line_search_finds_the_least_objective_on_the_way():
    torch.manual_seed(0)
    x = torch.randn(20, 6).double()
    kernel, sign = x @ x.T, torch.randn(20, 1).double().sign()
    bound = 2 * torch.rand(20, 3).double()
    # A direction that falls, and how far it goes: too short, and twice too far.
    step = bound * sign * torch.tensor([1e-3, 1.0, 4.0]).double()
    start = torch.zeros_like(step)
    t = line_search(sign, bound, start, kernel @ start, step, kernel @ step)

    def objective(t):
        coef = t * step
        slack = (1 - sign * (kernel @ coef)).clamp(min=0)
        return (coef * (kernel @ coef)).sum(0) / 2 + (bound / 2 * slack**2).sum(0)

    grid = torch.stack([objective(torch.tensor(i / 1000)) for i in range(1001)])
    assert (objective(t) <= grid.amin(0) + 1e-9).all()
    assert t[0] == 1 and (t[1:] < 1).all()


# ---- average precision


def test_envelope_takes_the_best_precision_at_any_higher_recall():
    # Precision at the hits: 1/2, 2/3, 3/5; under the envelope 2/3, 2/3, 3/5.
    score = np.array([5.0, 4, 3, 2, 1])[:, None]
    present = np.array([False, True, True, False, True])
    assert envelope_ap(present, score)[0] == pytest.approx((2 / 3 + 2 / 3 + 3 / 5) / 3)


def test_envelope_is_never_below_the_plain_average_precision():
    random = np.random.default_rng(0)
    present, score = random.random(50) < 0.3, random.normal(size=(50, 20))
    plain = [average_precision_score(present, column) for column in score.T]
    assert (envelope_ap(present, score) >= np.array(plain) - 1e-12).all()


def test_ignored_test_images_have_no_influence(sets):
    before = voc_svm(*sets, costs=FEW_COSTS)
    x, targets = sets[2:]
    # For each class another set of images, so one class at a time.
    ignored = targets[:, 0] == svm.IGNORED
    assert ignored.any()
    x[ignored] = np.random.default_rng(0).normal(0, 100, x[ignored].shape)
    after = voc_svm(*sets, costs=FEW_COSTS)
    assert after['ap'][0] == before['ap'][0]
    assert (after['ap'] != before['ap']).any()


# ---- ignored training images


def test_ignored_training_images_are_left_out(sets):
    x, targets, *test = sets
    found = voc_svm(*sets, costs=FEW_COSTS)
    for k in range(targets.shape[1]):
        kept = targets[:, k] != svm.IGNORED
        alone = voc_svm(
            x[kept], targets[kept, k : k + 1], test[0], test[1][:, k : k + 1], costs=FEW_COSTS
        )
        assert found['ap'][k] == pytest.approx(alone['ap'][0], abs=1e-9)
        np.testing.assert_allclose(
            found['cross_validated_ap'][k], alone['cross_validated_ap'][0], atol=1e-9
        )


def test_parity_makes_them_negatives(sets):
    x, targets, *test = sets
    found = voc_svm(*sets, costs=FEW_COSTS, parity=True)
    relabelled = voc_svm(x, np.maximum(targets, svm.ABSENT), *test, costs=FEW_COSTS)
    np.testing.assert_array_equal(found['ap'], relabelled['ap'])
    assert (found['ap'] != voc_svm(*sets, costs=FEW_COSTS)['ap']).any()


# ---- low shot


def test_samples_have_k_positives_and_19k_negatives_of_20_classes():
    random = np.random.default_rng(0)
    targets = random.choice([1, 0, -1], (400, 20), p=[0.2, 0.75, 0.05])
    samples = low_shot_samples(targets, shots=(1, 8), num_samples=3)
    assert list(samples) == [1, 8]
    for k, drawn in samples.items():
        assert drawn.shape == (3, 400, 20)
        assert ((drawn == 1).sum(1) == k).all()
        assert ((drawn == 0).sum(1) == 19 * k).all()
        assert (drawn == -1)[:, targets == -1].all()
        assert ((drawn == targets) | (drawn == -1)).all()
        assert not (drawn[0] == drawn[1]).all()


def test_samples_depend_on_the_seed_and_not_on_the_other_shots():
    targets = np.random.default_rng(0).choice([1, 0], (400, 5))
    alone = low_shot_samples(targets, shots=(4,), num_samples=1)[4]
    np.testing.assert_array_equal(alone[0], low_shot_samples(targets, shots=(1, 4))[4][0])
    assert (alone != low_shot_samples(targets, shots=(4,), num_samples=1, seed=1)[4]).any()


def test_the_published_cost_is_the_best_on_average_not_once():
    ap = np.array([[[0.9, 0.6], [0.1, 0.7]]])  # one k, two samples, two costs
    found = svm.summary([2], ap, ap, [1.0, 10.0])
    assert found['by_test_ap'][0] == dict(
        cost=10.0, mean=pytest.approx(0.65), min=0.6, max=0.7, std=pytest.approx(0.05)
    )
    assert found['by_cross_validation'][0]['cost'] == [1.0, 10.0]
    assert found['by_cross_validation'][0]['mean'] == pytest.approx(0.8)


def test_the_honest_cost_does_not_see_the_test(sets, golden_samples):
    sets[1] = golden_samples
    before = low_shot_svm(*sets, costs=FEW_COSTS)
    sets[3] = np.random.default_rng(0).permutation(sets[3])
    after = low_shot_svm(*sets, costs=FEW_COSTS)
    assert before['by_cross_validation'][0] is None is after['by_cross_validation'][0]
    for i in (1, 2):
        ways = before['by_cross_validation'][i], after['by_cross_validation'][i]
        assert ways[0]['cost'] == ways[1]['cost']
        assert ways[0]['mean'] != ways[1]['mean']


def test_the_honest_cost_is_the_best_in_cross_validation(sets, golden_samples):
    x, _, *test = sets
    samples = {4: golden_samples[4][:1]}
    found = low_shot_svm(x, samples, *test, costs=FEW_COSTS)['by_cross_validation'][0]
    mean = np.zeros(len(FEW_COSTS))
    for targets in samples[4][0].T:
        rows = targets != svm.IGNORED
        label = np.where(targets[rows] == 1, 1, -1)
        for i, cost in enumerate(FEW_COSTS):
            mean[i] += cross_val_score(
                liblinear(cost), unit(x[rows]), label, cv=3, scoring='average_precision'
            ).mean()
    assert found['cost'] == [FEW_COSTS[mean.argmax()]]


def test_targets_are_sampled_by_default(sets, monkeypatch):
    monkeypatch.setattr(
        svm.low_shot_samples, '__kwdefaults__', dict(shots=(2,), num_samples=2, seed=0)
    )
    drawn = low_shot_samples(sets[1])
    found, expected = (
        low_shot_svm(sets[0], targets, *sets[2:], costs=FEW_COSTS) for targets in (sets[1], drawn)
    )
    np.testing.assert_array_equal(found['ap'], expected['ap'])
    assert found['ap'].shape == (1, 2, len(FEW_COSTS))


# ---- how it runs


def test_a_second_run_goes_on_where_the_first_was_stopped(sets, tmp_path, monkeypatch):
    expected = voc_svm(*sets, costs=FEW_COSTS)
    fit, calls = svm.fit, []

    def stop_at_the_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit(*arguments)

    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(svm, 'fit', stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        voc_svm(*sets, costs=FEW_COSTS, folder=tmp_path)
    num_done = len(list(tmp_path.glob('class_*.json')))
    assert 2 <= num_done < 6
    calls[:] = [1] * 10
    found = voc_svm(*sets, costs=FEW_COSTS, folder=tmp_path)
    torch.set_num_threads(torch_threads)
    assert len(calls) == 10 + 6 - num_done
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_stored_results_are_of_the_same_arrays_only(sets, tmp_path):
    voc_svm(*sets, costs=FEW_COSTS, folder=tmp_path)
    sets[0][:, 0] += 100
    found = voc_svm(*sets, costs=FEW_COSTS, folder=tmp_path)
    np.testing.assert_array_equal(found['ap'], voc_svm(*sets, costs=FEW_COSTS)['ap'])


def test_low_shot_results_are_stored_too(sets, golden_samples, tmp_path, monkeypatch):
    sets[1] = golden_samples
    first = low_shot_svm(*sets, costs=FEW_COSTS, folder=tmp_path)
    monkeypatch.delattr(svm, 'fit')
    second = low_shot_svm(*sets, costs=FEW_COSTS, folder=tmp_path)
    np.testing.assert_array_equal(first['ap'], second['ap'])
    assert first['by_cross_validation'] == second['by_cross_validation']


def test_threads_and_kinds_of_array_change_nothing(sets, tmp_path):
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    two = voc_svm(*sets, costs=FEW_COSTS)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    np.save(tmp_path / 'train.npy', sets[0])
    mapped = np.load(tmp_path / 'train.npy', mmap_mode='r')
    one = voc_svm(mapped, sets[1].tolist(), torch.from_numpy(sets[2]), sets[3], costs=FEW_COSTS)
    torch.set_num_threads(torch_threads)
    np.testing.assert_allclose(one['ap'], two['ap'], atol=1e-9)
    np.testing.assert_allclose(one['cross_validated_ap'], two['cross_validated_ap'], atol=1e-9)


@pytest.mark.gpu
def test_a_gpu_finds_the_same(golden, sets, golden_samples):
    x_train, targets, x_test, targets_test = sets
    x_train, x_test = torch.from_numpy(x_train).cuda(), torch.from_numpy(x_test).cuda()
    full = voc_svm(x_train, targets, x_test, targets_test, costs=golden['costs'], parity=True)
    np.testing.assert_allclose(full['ap'], golden['test_ap'], atol=1e-6)
    few = low_shot_svm(x_train, golden_samples, x_test, targets_test, costs=golden['costs'])
    np.testing.assert_allclose(few['ap_mean'], golden['low_shot_ap_mean'], atol=1e-4)


def test_progress_counts_the_classes(sets):
    seen = []

    def progress(jobs):
        seen.append(len(jobs))
        return jobs

    voc_svm(*sets, costs=FEW_COSTS, progress=progress)
    assert seen == [6]


def wrong(index, change):
    def apply(sets):
        sets[index] = change(sets[index])

    return apply


@pytest.mark.parametrize(
    ('apply', 'message'),
    [
        (wrong(0, lambda x: x[:-1]), r'features_train are \(239, 48\), but .* 240 images'),
        (wrong(2, lambda x: x[:, :-1]), 'features_train are 48 numbers .* features_test 47'),
        (wrong(2, lambda x: x * np.nan), 'features_test are not all finite'),
        (wrong(1, lambda y: y * 2), r'1 \(present\), 0 \(absent\) and -1 \(ignored\)'),
        (wrong(1, lambda y: y[:, 0]), 'must be a matrix'),
        (wrong(3, lambda y: y[:, 1:]), '6 classes for training, but 5 for the test'),
        (wrong(1, lambda y: np.where(y == 1, 0, y)), 'Class 0 has 0 positives for training'),
        (wrong(3, lambda y: np.where(y == 1, 0, y)), 'Class 0 has 0 positives for test'),
    ],
)
def test_what_does_not_fit_is_refused(sets, apply, message):
    apply(sets)
    with pytest.raises(ValueError, match=message):
        voc_svm(*sets, costs=FEW_COSTS)


def test_costs_that_are_not_positive_are_refused(sets):
    with pytest.raises(ValueError, match='costs must be above 0'):
        voc_svm(*sets, costs=[1, 0])


def test_a_sample_without_positives_is_refused(sets):
    with pytest.raises(ValueError, match='shots must be at least 1'):
        low_shot_samples(sets[1], shots=(0, 1))


def test_too_few_images_for_a_sample_are_named():
    targets = np.zeros((10, 3), int)
    targets[:5] = 1
    with pytest.raises(ValueError, match='Class 0 has 5 negatives for training, but needs 8'):
        low_shot_samples(targets, shots=(1, 4))


# ---- the development kit


@pytest.fixture(scope='module')
def devkit(tmp_path_factory):
    """A complete VOC2007 with 4 + 2 images that nobody decodes."""
    root = tmp_path_factory.mktemp('VOCdevkit') / 'VOC2007'
    for name in ('ImageSets/Main', 'JPEGImages'):
        (root / name).mkdir(parents=True)
    for name, ids in (('trainval', ['000005', '000007', '000009', '000012']), ('test', ['1', '2'])):
        (root / f'ImageSets/Main/{name}.txt').write_text('\n'.join(ids) + '\n')
        for image_id in ids:
            (root / f'JPEGImages/{image_id}.jpg').touch()
        for i, class_name in enumerate(CLASSES):
            values = [['-1', ' 0', ' 1'][(i + j) % 3] for j in range(len(ids))]
            lines = (f'{image_id} {value}' for image_id, value in zip(ids, values, strict=True))
            (root / f'ImageSets/Main/{class_name}_{name}.txt').write_text('\n'.join(lines) + '\n')
    return root


@pytest.fixture
def broken(devkit, tmp_path):
    """A copy of the devkit that a test may spoil."""
    shutil.copytree(devkit, tmp_path / 'VOC2007')
    return tmp_path / 'VOC2007'


def test_the_devkits_labels_become_targets(devkit):
    splits = read_devkit(devkit)
    assert list(splits) == ['trainval', 'test']
    assert [len(split.paths) for split in splits.values()] == [4, 2]
    assert splits['trainval'].paths[0] == str(devkit / 'JPEGImages/000005.jpg')
    # -1, 0, 1 in the lists: absent, ignored, present.
    np.testing.assert_array_equal(splits['trainval'].targets[:, 0], [0, -1, 1, 0])
    np.testing.assert_array_equal(splits['trainval'].targets[:, 1], [-1, 1, 0, -1])
    assert splits['test'].targets.shape == (2, 20)


def test_targets_agree_with_the_annotations_of_real_images(shared_data):
    root = shared_data / 'VOCdevkit_subset100/VOC2007'
    splits = read_devkit(root)
    assert [len(split.paths) for split in splits.values()] == [50, 50]
    for split in splits.values():
        for path, targets in zip(split.paths, split.targets, strict=True):
            tree = ElementTree.parse(root / f'Annotations/{Path(path).stem}.xml')
            objects = [
                (item.find('name').text, item.find('difficult').text)
                for item in tree.iter('object')
            ]
            for name, target in zip(CLASSES, targets, strict=True):
                levels = [difficult for found, difficult in objects if found == name]
                assert target == (1 if '0' in levels else -1 if levels else 0)


def spoil_line(root):
    (root / 'ImageSets/Main/bird_trainval.txt').write_text('000005 1\n000007 2\n')


def spoil_ids(root):
    (root / 'ImageSets/Main/bird_test.txt').write_text('1 1\n3 -1\n')


@pytest.mark.parametrize(
    ('spoil', 'message', 'archive'),
    [
        (
            lambda root: shutil.rmtree(root / 'ImageSets'),
            'is no VOC2007: it has no folder ImageSets/Main',
            'VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar',
        ),
        (
            lambda root: (root / 'ImageSets/Main/test.txt').unlink(),
            r'Main/test\.txt is missing\.',
            'VOCtest_06-Nov-2007.tar',
        ),
        (
            lambda root: (root / 'ImageSets/Main/test.txt').write_text('\n'),
            r'Main/test\.txt is empty\.',
            'VOCtest_06-Nov-2007.tar',
        ),
        (
            lambda root: [path.unlink() for path in root.glob('ImageSets/Main/*_test.txt')],
            r'20 of 20 lists are missing in .*: aeroplane_test.txt, .* and 17 more\.',
            'VOCtest_06-Nov-2007.tar',
        ),
        (spoil_line, "bird_trainval.txt, line 2: expected .* got '000007 2'", 'VOCtrainval'),
        (spoil_ids, r'2 lines for 2 images; 2 missing, 3 unknown\.', 'VOCtest'),
        (
            lambda root: (root / 'JPEGImages/000007.jpg').unlink(),
            r'1 of 4 images of trainval.txt are missing in .*JPEGImages: 000007.jpg\.',
            'VOCtrainval_06-Nov-2007.tar',
        ),
    ],
)
def test_what_is_wrong_with_the_layout_is_said_with_the_remedy(broken, spoil, message, archive):
    spoil(broken)
    with pytest.raises(ValueError, match=message) as error:
        read_devkit(broken)
    assert f'Get {archive}' in str(error.value)


def test_the_folder_above_is_pointed_down(devkit):
    with pytest.raises(ValueError, match=r'Name .*/VOC2007\.'):
        read_devkit(devkit.parent)


def test_the_whole_image_is_resized_not_a_crop(tmp_path):
    pixels = np.zeros((300, 600, 3), np.uint8)
    pixels[:, :120] = 255, 0, 0
    pixels[:, -120:] = 0, 0, 255
    Image.fromarray(pixels).save(tmp_path / 'wide.png')
    network = FrozenNetwork(torch.nn.Identity(), torch.nn.Identity())
    with DefaultScope.overwrite_default_scope('mmcoke'):
        images = Images([str(tmp_path / 'wide.png')], feature_pipeline(network, RESIZE))
    found = images[0]['inputs']
    assert found.shape == (3, 224, 224)
    assert found[0, :, :40].float().mean() > 250  # red
    assert found[2, :, -40:].float().mean() > 250  # blue


# ---- the tool

CONFIG = """
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, stem_channels=8, base_channels=8),
)
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
"""
"""A ResNet-18 with an eighth of the channels."""


@pytest.fixture(scope='module')
def small_network(tmp_path_factory):
    folder = tmp_path_factory.mktemp('network')
    (folder / 'small.py').write_text(CONFIG)
    from mmpretrain.models import ResNet

    torch.manual_seed(0)
    backbone = ResNet(18, stem_channels=8, base_channels=8)
    state = {f'backbone.{name}': x for name, x in backbone.state_dict().items()}
    torch.save(dict(state_dict=state), folder / 'small.pth')
    return folder / 'small.py', folder / 'small.pth'


@pytest.fixture
def torchvision_network(tmp_path):
    """A ResNet-18 as torchvision publishes it."""
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / 'resnet18.pth')
    return 'mmpretrain::resnet/resnet18_8xb32_in1k.py', tmp_path / 'resnet18.pth'


@pytest.mark.slow
@pytest.mark.parametrize(('network', 'width'), [('small', 64), ('torchvision', 512)])
def test_the_tool_from_photos_to_tables(network, width, shared_data, tmp_path, capsys, request):
    root = shared_data / 'VOCdevkit_subset100/VOC2007'
    files = request.getfixturevalue(f'{network}_network')
    arguments = [*files, '--voc-root', root, '--out', tmp_path / 'out']
    arguments += ['--num-workers', 0, '--stages', 4, 0, 4, '--low-shot', '--shots', 1]
    run('voc_svm.py', *arguments)
    out = tmp_path / 'out'
    record = json.loads((out / 'voc_svm.json').read_text())
    assert 'are left out' in record['protocol']
    *rows, best = record['rows']
    assert [row['features'] for row in rows] == ['stage0', 'stage4']
    assert best['features'] == 'best'
    assert best['mean_ap'] == max(row['mean_ap'] for row in rows)
    assert {row['features']: row['mean_ap'] for row in rows}[best['stage']] == best['mean_ap']
    features = [np.load(out / f'features/voc07_{name}/stage4.npy') for name in ('trainval', 'test')]
    assert [x.shape for x in features] == [(50, 4 * width)] * 2
    splits = read_devkit(root)
    train, test = (split.targets for split in splits.values())
    expected = voc_svm(features[0], train, features[1], test)
    assert record['rows'][1]['mean_ap'] == pytest.approx(100 * expected['mean_ap'], abs=1e-6)
    assert record['rows'][1]['ap']['person'] == pytest.approx(100 * expected['ap'][14], abs=1e-6)

    (few,) = (row for row in rows_of(out, 'voc_low_shot_svm') if row['features'] == 'stage4')
    samples = low_shot_samples(train, shots=(1,))
    expected = low_shot_svm(features[0], samples, features[1], test)
    assert few['mean_ap_by_test'] == pytest.approx(
        100 * expected['by_test_ap'][0]['mean'], abs=1e-6
    )
    assert few['mean_ap_by_cv'] is None
    assert '| stage4 | 1 |' in (out / 'voc_low_shot_svm.md').read_text()
    shown = capsys.readouterr().out
    assert 'stage4' in shown and '…' not in shown  # no name is cut off in 80 columns


def rows_of(folder, name):
    return json.loads((folder / f'{name}.json').read_text())['rows']


def test_the_tool_checks_the_layout_first(small_network, tmp_path):
    with pytest.raises(SystemExit, match='is no VOC2007'):
        run('voc_svm.py', *small_network, '--voc-root', tmp_path, '--out', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('factor', [1e-20, 1e300])
def test_features_of_a_size_at_which_the_published_norm_fails_are_refused(factor):
    x = torch.ones(4, 3, dtype=torch.float64) * factor
    with pytest.raises(ValueError, match=r'features_train have lengths .* Multiply'):
        svm.unit_rows(x, 4, 'features_train')
