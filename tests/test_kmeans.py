import copy
import importlib
import pickle
import subprocess
import sys

import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, make_blobs
from sklearn.decomposition import PCA
from torch.nn.functional import normalize

from mmcoke.clustering import kmeans, pca_whiten
from mmcoke.clustering.kmeans import fill_empty_clusters, split_in_two
from mmcoke.clustering.lloyd import NearestCenters, means, on_sphere, split_largest

# By its name, because the package's attribute of that name is the function.
module = importlib.import_module('mmcoke.clustering.kmeans')


def gaussian(num_samples=600, dim=8, seed=0):
    return torch.randn(num_samples, dim, generator=torch.Generator().manual_seed(seed))


def blobs(num_samples=600, seed=0):
    x, _ = make_blobs(num_samples, 8, centers=12, cluster_std=2.0, random_state=seed)
    return torch.from_numpy(x).float()


def uneven(seed=0):
    """One blob of 500 samples, and nine of 11 or 12."""
    return torch.cat([gaussian(500, seed=seed), blobs(100, seed) * 2 + 10])


def digits(seed=0):
    return torch.from_numpy(load_digits().data).float()


def objective(x, centers, label):
    return (x - centers[label]).double().square().sum().item()


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('data', [gaussian, blobs, uneven, digits])
def test_the_objective_is_within_1_percent_of_lloyd_by_scikit_learn(data, seed):
    x = data(seed=seed)
    start = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:10]]
    expected = KMeans(10, init=start.numpy(), n_init=1, max_iter=20, tol=0).fit(x.numpy())
    result = kmeans(x, 10, seed=seed)
    assert result.objective == pytest.approx(expected.inertia_, rel=0.01)
    assert result.objective == pytest.approx(objective(x, *result[::-1]), rel=1e-6)
    assert kmeans(x, 10, init=start).objective == result.objective


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('data', [gaussian, blobs, digits])
def test_spherical_clusters_are_those_of_lloyd_with_inner_products(data, seed):
    x = normalize(data(seed=seed), dim=1)
    # Seeded: the reference leaves empty clusters empty, to which some starts lead.
    start = centers = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:10]]
    for _ in range(20):
        one_hot = torch.eye(10)[(x @ centers.T).argmax(1)]
        centers = normalize(one_hot.T @ x, dim=1)
    label = (x @ centers.T).argmax(1)
    # Any length: only the direction of a first center counts.
    result = kmeans(x, 10, spherical=True, init=start * torch.rand(10, 1).add(0.5))
    assert result.objective == pytest.approx(objective(x, centers, label), rel=0.01)
    assert (result.label == label).float().mean() > 0.95
    torch.testing.assert_close(result.centers.norm(dim=1), torch.ones(10))
    assert torch.equal(result.label, (x @ result.centers.T).argmax(1))


def test_every_sample_is_labelled_by_its_nearest_center():
    x = gaussian()
    label, centers = kmeans(x, 10)
    assert torch.equal(label, torch.cdist(x, centers).argmin(1))
    assert label.dtype == torch.int64
    assert centers.dtype == torch.float32


def test_one_iteration_by_hand():
    x = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    label, centers = kmeans(x, 2, num_iters=1, init=torch.tensor([[0.0], [2.5]]))
    assert centers.tolist() == [[0.5], [6.0]]  # means of {0, 1} and {2, 10}
    assert label.tolist() == [0, 0, 0, 1]


def test_the_same_seed_gives_the_same_result_and_another_seed_another():
    x = gaussian()
    one, same, other = (kmeans(x, 10, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.label, same.label)
    assert torch.equal(one.centers, same.centers)
    assert not torch.equal(one.centers, other.centers)


def test_neither_the_arguments_nor_the_global_generator_change():
    x, start = gaussian(), gaussian(10)
    before, state = x.clone(), torch.get_rng_state()
    kmeans(x, 10, init=start, spherical=True)
    kmeans(x, 10)
    assert torch.equal(x, before)
    assert torch.equal(start, gaussian(10))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('spherical', [False, True])
@pytest.mark.parametrize('num_distinct', [1, 3, 9])
def test_no_cluster_is_empty_with_fewer_distinct_points_than_clusters(num_distinct, spherical):
    x = gaussian(num_distinct)[torch.arange(60) % num_distinct]
    label, _ = result = kmeans(x, 10, spherical=spherical)
    assert torch.bincount(label, minlength=10).min() >= 1
    assert result.num_filled >= 10 - num_distinct
    mean = torch.stack([x[label == k].mean(0) for k in range(10)])
    # The two centers of a cluster that has just been split lie 1/1024 apart.
    expected = normalize(mean, dim=1) if spherical else mean
    torch.testing.assert_close(result.centers, expected, atol=0.005, rtol=0)


def test_without_empty_clusters_none_is_filled():
    assert kmeans(gaussian(), 10).num_filled == 0


def test_as_many_clusters_as_samples_get_one_each():
    assert sorted(kmeans(gaussian(20), 20).label.tolist()) == list(range(20))


def test_empty_clusters_take_halves_of_the_largest_by_hand():
    x = torch.tensor([[0.0], [1.0], [10.0], [12.0], [50.0]])
    label, centers = torch.tensor([0, 0, 0, 0, 2]), torch.tensor([[5.75], [0.0], [50.0], [0.0]])
    assert fill_empty_clusters(x, label, centers) == 2
    # 1 gets a half of 0; then 3 gets one of 0, which is as large as 1 and comes first.
    sizes = torch.bincount(label, minlength=4).tolist()
    assert sizes == [1, 2, 1, 1]
    assert label[4] == 2
    for k in range(4):
        assert centers[k].item() == x[label == k].mean().item()


def test_two_means_separates_two_groups():
    x = torch.cat([gaussian(30), gaussian(20) + 20])[torch.randperm(50)]
    moved = split_in_two(x)
    assert {20, 30} == {int(moved.sum()), int((~moved).sum())}
    assert len(set(moved[x[:, 0] > 10].tolist())) == 1


@pytest.mark.parametrize('num_samples', [2, 3, 8])
def test_two_means_of_equal_samples_takes_the_second_half(num_samples):
    moved = split_in_two(torch.ones(num_samples, 4))
    assert moved.tolist() == [i >= num_samples / 2 for i in range(num_samples)]


@pytest.mark.parametrize('spherical', [False, True])
def test_chunks_do_not_change_the_result(spherical, monkeypatch):
    x = gaussian()
    whole = kmeans(x, 10, spherical=spherical)
    monkeypatch.setattr(module, 'CHUNK_SIZE', 7)
    parts = kmeans(x, 10, spherical=spherical)
    assert torch.equal(whole.label, parts.label)
    assert torch.equal(whole.centers, parts.centers)
    assert parts.objective == pytest.approx(whole.objective, rel=1e-6)


def test_few_samples_per_cluster_are_no_reason_to_warn(capfd):
    kmeans(gaussian(60), 10)
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('num_iters', [1, 7])
def test_progress_sees_each_iteration(num_iters):
    seen = []

    def progress(iterations):
        for i in iterations:
            yield i
            seen.append(i)

    kmeans(gaussian(), 10, num_iters=num_iters, progress=progress)
    assert len(seen) == num_iters


def test_more_iterations_do_not_raise_the_objective():
    values = [kmeans(gaussian(), 10, num_iters=n).objective for n in (1, 2, 4, 8, 16)]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]


def test_half_precision_and_gradients_are_no_obstacle():
    x = gaussian().requires_grad_()
    assert torch.equal(kmeans(x, 10).label, kmeans(x.detach(), 10).label)
    half = x.detach().half()
    assert torch.equal(kmeans(half, 10).label, kmeans(half.float(), 10).label)


@pytest.mark.parametrize('duplicate', [copy.copy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_result_can_be_sent_to_another_process(duplicate):
    result = kmeans(gaussian(), 10)
    other = duplicate(result)
    assert torch.equal(other.label, result.label)
    assert torch.equal(other.centers, result.centers)
    assert (other.objective, other.num_filled) == (result.objective, result.num_filled)


def test_more_clusters_than_samples_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r'1 \.\.\. 5, .* but is 6\. Choose fewer clusters'):
        kmeans(gaussian(5), 6)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('function', [kmeans, pca_whiten])
def test_features_that_are_not_finite_are_refused_and_counted(function, value):
    x = gaussian(50)
    x[3, 1], x[7, 2], x[7, 3] = value, value, value
    with pytest.raises(ValueError, match='2 of 50 samples are NaN or infinite'):
        function(x, 4)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(backend='cuda'), r"\('auto', 'cpu', 'gpu'\), but is 'cuda'"),
        (dict(num_iters=0), 'num_iters must be at least 1, but is 0'),
        (dict(init=gaussian(9)), r'10 finite centers of dimension 8, but is \(9, 8\)'),
        (dict(init=gaussian(10, 7)), r'\(10, 7\)'),
        (dict(init=gaussian(10) / 0), '10 finite centers'),
    ],
)
def test_arguments_out_of_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        kmeans(gaussian(), 10, **options)


@pytest.mark.parametrize('num_clusters', [0, -1])
def test_no_clusters_are_refused(num_clusters):
    with pytest.raises(ValueError, match='num_clusters'):
        kmeans(gaussian(), num_clusters)


def test_features_that_are_no_table_are_refused():
    with pytest.raises(ValueError, match=r'\(A, D\), but are \(600,\)'):
        kmeans(gaussian()[:, 0], 10)


class TestGPU:
    """On machines with and without GPUs: a faiss that counts them as told and moves nothing."""

    @pytest.fixture
    def moved(self, monkeypatch):
        import faiss

        moved = []
        monkeypatch.setattr(
            faiss, 'index_cpu_to_all_gpus', lambda index: moved.append(1) or index, raising=False
        )
        return moved

    @pytest.mark.parametrize(
        ('backend', 'num_gpus', 'uses'),
        [('cpu', 1, False), ('gpu', 1, True), ('auto', 1, True), ('auto', 0, False)],
    )
    def test_the_backend_says_whether_the_index_moves(
        self, backend, num_gpus, uses, moved, monkeypatch
    ):
        monkeypatch.setattr('faiss.get_num_gpus', lambda: num_gpus, raising=False)
        kmeans(gaussian(), 10, backend=backend)
        assert bool(moved) == uses

    def test_gpu_without_a_gpu_is_refused_with_the_remedy(self, monkeypatch):
        monkeypatch.setattr('faiss.get_num_gpus', lambda: 0, raising=False)
        with pytest.raises(ValueError, match=r"finds none\. Replace faiss-cpu .*backend='auto'"):
            kmeans(gaussian(), 10, backend='gpu')

    def test_a_faiss_that_cannot_count_gpus_has_none(self, moved, monkeypatch):
        monkeypatch.delattr('faiss.get_num_gpus', raising=False)
        kmeans(gaussian(), 10)
        assert not moved


@pytest.mark.parametrize('spherical', [False, True])
@pytest.mark.parametrize('num_clusters', [3, 70, 200])
def test_rows_that_are_left_out_keep_their_nearest_centers(num_clusters, spherical):
    generator = torch.Generator().manual_seed(1)
    points, label = gaussian(num_clusters, 12), torch.arange(4000) % num_clusters
    x = 2 * points[label] + gaussian(4000, 12, seed=2)
    centers = x[:num_clusters].clone()
    nearest, searched = NearestCenters(x, num_clusters, spherical), []
    nearest.settling = 0.05
    search = nearest._search
    nearest._search = lambda part: searched.append(len(x[part])) or search(part)
    for i in range(12):
        if i % 3 == 2:  # one that jumps, and all that creep
            centers[i % num_clusters] = x[99 * i] + 0.1
        centers += 0.01 * torch.randn(centers.shape, generator=generator)
        centers = on_sphere(centers) if spherical else centers
        nearest.assign(centers)
        product = x.double() @ centers.double().T
        score = product if spherical else product - centers.double().square().sum(1) / 2
        assert torch.equal(nearest.label_A, score.argmax(1))
        centers = means(x, nearest.label_A, num_clusters, spherical)
    assert sum(searched) < 12 * len(x)


def test_empty_clusters_take_over_halves_of_the_then_largest_by_hand():
    centers = torch.tensor([[4.0, 4.0], [0.0, 0.0], [8.0, 8.0], [0.0, 0.0]])
    split_largest(centers, [6, 0, 10, 0])
    # 2 of 10 is split into 5 and 5; then 0 of 6 into 3 and 3.
    up, down = torch.tensor([1025.0, 1023.0]) / 1024, torch.tensor([1023.0, 1025.0]) / 1024
    assert torch.equal(centers, torch.stack([4 * down, 8 * up, 8 * down, 4 * up]))


def test_means_are_those_of_the_samples_and_directions_on_the_sphere():
    x, label = torch.tensor([[3.0, 0.0], [1.0, 4.0], [0.0, 2.0]]), torch.tensor([1, 1, 0])
    assert means(x, label, 2).tolist() == [[0.0, 2.0], [2.0, 2.0]]
    half = 0.5**0.5
    assert means(x, label, 2, True).flatten().tolist() == pytest.approx([0, 1, half, half])
    assert on_sphere(torch.zeros(1, 2)).tolist() == [[1.0, 0.0]]


def test_only_faiss_on_gpus_needs_faiss(monkeypatch):
    expected = kmeans(gaussian(), 10)
    monkeypatch.setitem(sys.modules, 'faiss', None)
    for backend in ('auto', 'cpu'):
        assert torch.equal(kmeans(gaussian(), 10, backend=backend).label, expected.label)
    with pytest.raises(ImportError, match=r"pip install faiss-gpu.*backend='auto'"):
        kmeans(gaussian(), 10, backend='gpu')


def test_importing_the_core_does_not_import_faiss():
    code = 'import sys, mmcoke.clustering; print("faiss" in sys.modules)'
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == 'False'


@pytest.mark.parametrize('shift', [0, 100])
@pytest.mark.parametrize('dim', [1, 5, 12])
def test_whitening_is_that_of_scikit_learn_up_to_signs(dim, shift):
    axes = torch.linalg.qr(gaussian(12, 12, seed=1)).Q
    x = gaussian(400, 12) * torch.linspace(0.3, 3, 12) @ axes + shift
    pca = PCA(dim, whiten=True, svd_solver='full').fit_transform(x.double().numpy())
    expected = normalize(torch.from_numpy(pca), dim=1).float()
    result = pca_whiten(x, dim)
    signs = (result * expected).sum(0).sign()
    torch.testing.assert_close(result, expected * signs, atol=1e-3 if shift else 1e-5, rtol=0)


def test_whitening_in_chunks_gives_the_same(monkeypatch):
    x = gaussian(400, 12) @ gaussian(12, 12, seed=1)
    whole = pca_whiten(x, 5)
    monkeypatch.setattr(module, 'CHUNK_SIZE', 7)
    torch.testing.assert_close(pca_whiten(x, 5).abs(), whole.abs(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(('num_samples', 'dim', 'most'), [(50, 9, 8), (50, 0, 8), (6, 6, 5)])
def test_too_many_components_are_refused_with_the_most_that_fit(num_samples, dim, most):
    with pytest.raises(ValueError, match=rf'1 \.\.\. {most} for .* dimension 8, but is {dim}'):
        pca_whiten(gaussian(num_samples), dim)


@pytest.mark.parametrize('shift', [0, 3])
@pytest.mark.parametrize('rank', [1, 5, 15])
def test_collapsed_features_are_refused_with_the_directions_that_are_left(rank, shift):
    for seed in range(5):
        x = gaussian(500, rank, seed) @ gaussian(rank, 16, seed + 9) + shift
        assert pca_whiten(x, rank).isfinite().all()
        with pytest.raises(ValueError, match=rf'in {rank} directions .* Lower pca_dim'):
            pca_whiten(x, rank + 1)


@pytest.mark.parametrize('noise', [0.0, 1e-7])
def test_features_that_are_constant_but_for_rounding_are_refused(noise):
    with pytest.raises(ValueError, match=r'in 0 directions .* collapsed'):
        pca_whiten(0.3 + noise * gaussian(100), 1)


@pytest.mark.parametrize('spherical', [False, True])
@pytest.mark.parametrize('exponent', [-125, -60, 40, 63, 120])
def test_features_of_any_size_have_the_clusters_of_those_of_usual_size(exponent, spherical):
    x = gaussian(200).clamp(-8, 8)
    plain = kmeans(x, 12, spherical=spherical)
    other = kmeans(x * 2.0**exponent, 12, spherical=spherical)
    assert torch.equal(other.label, plain.label)
    scale = 1 if spherical else 2.0**exponent
    torch.testing.assert_close(other.centers, plain.centers * scale, rtol=1e-6, atol=1e-45)
    if not spherical:
        assert other.objective == pytest.approx(plain.objective * 4.0**exponent, rel=1e-4)


def test_features_that_once_ended_the_process_are_clustered():
    for size in (1e19, 1e38, 1e-19, 1e-30, 1e-38, 1e-44):
        x = torch.cat([gaussian(20).clamp(-0.2, 0.2) - 1, gaussian(20).clamp(-0.2, 0.2) + 1])
        label, centers = kmeans((x * size).contiguous(), 2, init=x[[0, 39]] * size)
        assert label.tolist() == [0] * 20 + [1] * 20, size
        assert centers.isfinite().all()
        assert centers[0, 0] < 0 < centers[1, 0]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_features_of_any_type_and_layout_are_those_in_float32(dtype):
    x = (100 * gaussian(8, 60)).round().to(dtype).T
    assert not x.is_contiguous()
    for function in (kmeans, pca_whiten):
        result, expected = function(x, 5), function(x.float().contiguous(), 5)
        result, expected = (r.label if function is kmeans else r for r in (result, expected))
        assert torch.equal(result, expected)


@pytest.mark.parametrize('function', [kmeans, pca_whiten])
@pytest.mark.parametrize(
    ('x', 'message'),
    [
        (torch.zeros(9, 0), r'\(A, D\), but are \(9, 0\)'),
        (torch.zeros(9, 3, dtype=torch.complex64), 'complex64'),
        (torch.zeros(9, 3, dtype=torch.bool), 'torch.bool'),
        (torch.zeros(9), r'\(9,\)'),
        (gaussian(9).double() * 1e100, r'float32 ends at .* Multiply all features by a constant'),
        (gaussian(9).double() * 1e-100, r'float32 ends at .* Multiply all features by a constant'),
    ],
)
def test_features_that_cannot_be_clustered_are_refused(x, message, function):
    with pytest.raises(ValueError, match=message):
        function(x, 2)


@pytest.mark.parametrize('value', [0.0, 1.0, 1e30, 1e-40])
def test_constant_features_fill_all_clusters(value):
    result = kmeans(torch.full((9, 3), value), 4)
    assert torch.bincount(result.label, minlength=4).min() >= 1
    torch.testing.assert_close(result.centers, torch.full((4, 3), value), rtol=1e-6, atol=0)
    assert result.objective <= 9 * 3 * (1e-6 * value) ** 2


@pytest.mark.parametrize('exponent', [-120, -60, 40, 100, 120])
def test_whitening_does_not_depend_on_the_size_of_the_features(exponent):
    x = gaussian(100).clamp(-8, 8)
    assert torch.equal(pca_whiten(x * 2.0**exponent, 4), pca_whiten(x, 4))


def test_all_empty_clusters_are_filled_by_one_search_as_by_one_each():
    x, label = gaussian(400), torch.randint(7, (400,), generator=torch.Generator().manual_seed(1))
    centers = torch.zeros(60, 8)
    expected, sizes = label.clone(), torch.bincount(label, minlength=60)
    for cluster in range(7, 60):
        largest = sizes.argmax()
        members = (expected == largest).nonzero().flatten()
        expected[members[module.split_in_two(x[members])]] = cluster
        sizes = torch.bincount(expected, minlength=60)
    searches = []
    members_of = module.members_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'members_of', lambda *a: searches.append(1) or members_of(*a))
        assert module.fill_empty_clusters(x, label, centers) == 53
    assert torch.equal(label, expected)
    assert searches == [1]
    for cluster in range(7, 60):
        torch.testing.assert_close(centers[cluster], x[label == cluster].mean(0))
