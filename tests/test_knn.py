import importlib.util
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from mmcoke.evaluation import knn_classify, knn_leave_one_out
from mmcoke.evaluation.knn import knn_classify_many, nearest_neighbours, without_self

DEVICES = [
    'cpu',
    pytest.param('cuda', marks=pytest.mark.gpu),
]


def blobs(num_samples, seed, num_classes=7, dim=12):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(num_classes, (num_samples,), generator=generator)
    return torch.eye(dim)[y] + torch.randn(num_samples, dim, generator=generator), y


def brute_force(x, y, x_test, k, temperature):
    """Votes (B, C), in double precision, one test sample and one neighbour at a time."""
    x, x_test = (normalize(features.double(), dim=1) for features in (x, x_test))
    votes = torch.zeros(len(x_test), int(y.max()) + 1, dtype=torch.double)
    for b, row in enumerate(x_test):
        similarity = x @ row
        for i in similarity.argsort(descending=True)[:k]:
            votes[b, y[i]] += torch.exp(similarity[i] / temperature)
    return votes


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('chunk_size', [7, 64, 1000])
def test_several_k_at_once_equal_brute_force_in_any_chunks(chunk_size, device):
    (x, y), (x_test, _) = blobs(203, 0), blobs(50, 1)
    ks = (200, 1, 10, 20)
    options = dict(temperature=0.07, chunk_size=chunk_size, device=device)
    predicted = knn_classify_many(x, y, x_test, ks=ks, **options)
    assert list(predicted) == list(ks)
    for k in ks:
        expected = brute_force(x, y, x_test, k, 0.07).argmax(1)
        assert torch.equal(predicted[k].cpu(), expected), k
        assert torch.equal(knn_classify(x, y, x_test, k=k, temperature=0.07), expected), k
    assert not torch.equal(predicted[1], predicted[200])


def test_accuracies_equal_those_of_mmselfsup():
    """Its function alone, from its file: the package would fill mmengine's registries."""
    package = importlib.util.find_spec('mmselfsup')
    if package is None:
        pytest.skip('mmselfsup is not installed')
    path = Path(package.origin).parent / 'evaluation/functional/knn_eval.py'
    knn_eval = runpy.run_path(str(path))['knn_eval']
    (x, y), (x_test, y_test) = blobs(600, 0), blobs(300, 1)
    for k, predicted in knn_classify_many(x, y, x_test).items():
        top1, _ = knn_eval(x, y, x_test, y_test, k, 0.07, num_classes=7)
        assert 100 * (predicted == y_test).double().mean().item() == pytest.approx(top1, abs=1e-6)


@pytest.mark.parametrize('device', DEVICES)
def test_neighbours_equal_brute_force(device):
    (x, _), (x_test, _) = blobs(203, 0), blobs(50, 1)
    similarity, neighbour = nearest_neighbours(x, x_test, 30, chunk_size=16, device=device)
    exact = normalize(x_test.double(), dim=1) @ normalize(x.double(), dim=1).T
    expected, order = exact.sort(dim=1, descending=True)
    torch.testing.assert_close(similarity.cpu().double(), expected[:, :30], rtol=0, atol=1e-6)
    assert torch.equal(neighbour.cpu(), order[:, :30])


def test_a_neighbour_votes_by_its_similarity():
    """By hand: exp(1 / T) for class 0 against two of exp(0.8 / T) for class 1."""
    x, y = torch.tensor([[1.0, 0], [4, 3], [4, -3]]), torch.tensor([0, 1, 1])
    test = torch.tensor([[2.0, 0]])
    assert knn_classify(x, y, test, k=3, temperature=0.2 / np.log(2.01)).item() == 0
    assert knn_classify(x, y, test, k=3, temperature=0.2 / np.log(1.99)).item() == 1


def test_leave_one_out_leaves_the_sample_itself_out():
    """By hand: directions of 0, 10, 25 and 45 degrees. Of two neighbours the nearer one wins."""
    angle = torch.tensor([0.0, 10, 25, 45]) * torch.pi / 180
    x, y = torch.stack([angle.cos(), angle.sin()], 1), torch.tensor([0, 0, 1, 1])
    found = knn_leave_one_out(x, y, ks=(1, 2), temperature=0.01)
    # The nearest: of 0 degrees 10, of 10 degrees 0, of 25 degrees 10, of 45 degrees 25.
    assert found[1].tolist() == [0, 0, 0, 1]
    assert found[2].tolist() == [0, 0, 0, 1]
    # All three others, nearly alike: the class that is left with two of three.
    assert knn_leave_one_out(x, y, ks=(3,), temperature=1e6)[3].tolist() == [1, 1, 0, 0]


def test_leave_one_out_is_knn_among_the_others():
    x, y = blobs(40, 0)
    found = knn_leave_one_out(x, y, ks=(1, 7, 39), chunk_size=16)
    for row in range(40):
        others = torch.arange(40) != row
        for k, label in knn_classify_many(
            x[others], y[others], x[row, None], ks=(1, 7, 39)
        ).items():
            assert found[k][row] == label.item()


def test_leave_one_out_among_equals():
    """More equal samples than neighbours: each has k, and never counts itself."""
    x = torch.tensor([[1.0, 2.0]]).repeat(6, 1)
    y = torch.tensor([0, 1, 1, 1, 1, 1])
    similarity, neighbour = nearest_neighbours(x, x, 3)
    _, others = without_self(similarity, neighbour)
    assert others.shape == (6, 2)
    assert not (others == torch.arange(6)[:, None]).any()
    assert knn_leave_one_out(x, y, ks=(5,))[5].tolist() == [1] * 6
    with pytest.raises(ValueError, match=r'1 \.\.\. 5'):
        knn_leave_one_out(x, y, ks=(6,))


def test_features_may_be_memory_mapped(tmp_path, recwarn):
    (x, y), (x_test, _) = blobs(60, 0), blobs(20, 1)
    mapped = []
    for name, features in (('train', x), ('test', x_test)):
        np.save(tmp_path / f'{name}.npy', features.numpy())
        mapped.append(np.load(tmp_path / f'{name}.npy', mmap_mode='r'))
    predicted = knn_classify(mapped[0], y, mapped[1], k=7, chunk_size=8)
    assert torch.equal(predicted, knn_classify(x, y, x_test, k=7))
    assert not recwarn.list


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that a tensor made inside has."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for x in output if isinstance(output, (tuple, list)) else [output]:
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.numel())
        return output


def test_no_block_of_similarities_is_larger_than_a_chunk_of_either_set():
    (x, y), (x_test, _) = blobs(1000, 0), blobs(1000, 1)
    with LargestTensor() as largest:
        knn_classify(x, y, x_test, k=5, chunk_size=20)
    assert largest.numel == x.numel() == 12_000


def test_progress_counts_the_chunks_of_the_training_set():
    (x, y), seen = blobs(60, 0), []
    knn_classify_many(x, y, x, ks=(5,), chunk_size=8, progress=lambda r: seen.append(len(r)) or r)
    assert seen == [8]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(ks=(5, 61)), r'1 \.\.\. 60'),
        (dict(ks=(0, 5)), r'1 \.\.\. 60'),
        (dict(temperature=0.0), 'temperature'),
        (dict(y_train=torch.zeros(59, dtype=torch.int64)), '59 labels for 60'),
        (dict(y_train=torch.tensor([-1, *range(59)])), '1 of 60 .* negative'),
        (dict(x_train=torch.full((60, 12), torch.nan)), 'NaN'),
        (dict(x_test=torch.full((60, 12), torch.inf)), 'NaN or inf'),
    ],
)
def test_what_has_no_nearest_neighbours_is_refused(change, message):
    x, y = blobs(60, 0)
    arguments = dict(x_train=x, y_train=y, x_test=x, ks=(5,)) | change
    with pytest.raises(ValueError, match=message):
        knn_classify_many(**arguments)


def test_one_bad_row_of_the_training_set_does_not_hide():
    x, y = blobs(60, 0)
    bad = x.clone()
    bad[33] = torch.nan
    with pytest.raises(ValueError, match='NaN'):
        knn_classify(bad, y, x, k=1, chunk_size=8)


@pytest.mark.parametrize('factor', [1e-40, 1e-20, 1e-12, 1e20, 1e25, 1e36])
def test_features_of_any_size_have_the_same_neighbours(factor):
    (x, y), (x_test, _) = blobs(203, 0), blobs(50, 1)
    expected = brute_force(x, y, x_test, 20, 0.07).argmax(1)
    if factor > 1e-40:  # of which float32 has four digits
        assert torch.equal(knn_classify(x * factor, y, x_test * factor), expected)
        assert torch.equal(knn_classify(x * factor, y, x_test), expected)
    double = x.double() * factor * factor
    assert torch.equal(knn_classify(double, y, x_test.double() * factor), expected)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_features_of_any_type_have_neighbours(dtype):
    (x, y), (x_test, _) = blobs(203, 0), blobs(50, 1)
    x, x_test = ((50 * features).round() for features in (x, x_test))
    result = knn_classify(x.to(dtype), y, x_test.to(dtype))
    assert torch.equal(result, knn_classify(x.to(dtype).float(), y, x_test.to(dtype).float()))


def test_labels_may_be_of_any_integer_type_and_as_large_as_they_like():
    (x, y), (x_test, _) = blobs(203, 0), blobs(50, 1)
    expected = knn_classify(x, y, x_test)
    for dtype in (torch.uint8, torch.int8, torch.int32):
        assert torch.equal(knn_classify(x, y.to(dtype), x_test), expected)
    assert torch.equal(knn_classify(x, y * 2**55, x_test), expected * 2**55)


@pytest.mark.parametrize('temperature', [1e-320, 1e-30, 1e30, 1e300])
def test_at_the_ends_of_the_temperature_the_nearest_or_the_majority_decides(temperature):
    x, y = torch.tensor([[1.0, 0], [4, 3], [4, -3]]), torch.tensor([0, 1, 1])
    result = knn_classify(x, y, torch.tensor([[2.0, 0]]), k=3, temperature=temperature)
    assert result.item() == (temperature > 1)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(x_train=torch.zeros(60, 12)), '60 of 60 samples .* all 0'),
        (dict(x_test=torch.eye(60, 12)), '48 of 60 samples .* all 0'),
        (dict(x_test=torch.ones(60, 11)), r'\(60, 12\) and \(60, 11\)'),
        (dict(x_test=torch.ones(12)), r'\(12,\)'),
        (dict(y_train=torch.ones(60)), 'integers .*float32'),
        (dict(y_train=torch.ones(60, dtype=torch.bool)), 'torch.bool'),
        (dict(y_train=torch.ones(60, 1, dtype=torch.int64)), r'\(60, 1\)'),
        (dict(ks=(2.5,)), r'1 \.\.\. 60 .* but is 2\.5'),
        (dict(ks=(float('nan'),)), 'but is nan'),
        (dict(ks=(True,)), 'but is True'),
        (dict(temperature=float('nan')), 'temperature'),
        (dict(temperature=float('inf')), 'temperature'),
        (dict(chunk_size=0), 'chunk_size must be at least 1'),
    ],
)
def test_what_cannot_vote_is_refused(change, message):
    x, y = blobs(60, 0)
    arguments = dict(x_train=x, y_train=y, x_test=x, ks=(5,)) | change
    with pytest.raises(ValueError, match=message):
        knn_classify_many(**arguments)
