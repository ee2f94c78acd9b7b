"""``mmcoke suggest-k``: known numbers are found, noise is told, the rest is one line."""

import json
import math
import re

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from mmcoke.cli.main import main
from mmcoke.clustering.num_clusters import (
    FEWEST,
    Scores,
    between,
    halves_compared,
    numbers_to_try,
    suggest,
    sweep,
)


def mixture(num_samples, num_clusters, dim, imbalance=1.0, seed=0):
    """Unit vectors around random directions, and which: the most frequent is so much more so."""
    generator = torch.Generator().manual_seed(seed)
    means = normalize(torch.randn(num_clusters, dim, generator=generator), dim=1)
    weight = (torch.linspace(0, 1, num_clusters) * math.log(imbalance)).exp()
    component = torch.multinomial(weight, num_samples, True, generator=generator)
    noise = torch.randn(num_samples, dim, generator=generator) / dim**0.5
    return 3 * (1.5 * means[component] + noise), component


def swept(x_AD, most, **options):
    """Scores as the command makes them."""
    scores = sweep(x_AD, numbers_to_try(len(x_AD), most), **options)
    missing = between(scores)
    return sorted(scores + sweep(x_AD, missing, **options)) if missing else scores


@pytest.mark.parametrize(
    ('num_clusters', 'dim', 'imbalance'), [(2, 8, 1), (3, 64, 5), (7, 128, 3), (15, 64, 1)]
)
def test_the_number_of_a_mixture_is_found(num_clusters, dim, imbalance):
    x_AD, component = mixture(40 * max(num_clusters, 10), num_clusters, dim, imbalance)
    scores = swept(x_AD, num_clusters + 3, classes=component)
    found = suggest(scores)
    assert found.num_clusters == num_clusters
    assert found.reason.startswith(f'K = {num_clusters} has ')
    (best,) = (one for one in scores if one.num_clusters == num_clusters)
    assert best.stability > 0.9 and best.ari > 0.9 and best.nmi > 0.9


def gaussian():
    return torch.randn(400, 16, generator=torch.Generator().manual_seed(1)) + 1


def arc():
    """No clusters, but no Gaussian, either."""
    generator = torch.Generator().manual_seed(1)
    angle = 3 * torch.rand(400, generator=generator)
    x_A3 = torch.stack([angle.cos(), angle.sin(), 0 * angle], 1)
    return x_A3 + 0.05 * torch.randn(400, 3, generator=generator)


@pytest.mark.parametrize('noise', [gaussian, arc])
def test_where_there_are_no_clusters_that_is_said(noise):
    found = suggest(swept(noise(), 9))
    assert found.num_clusters is None and found.as_good is None
    assert found.reason.startswith('These features have no preferred number of clusters: ')


def test_the_same_arguments_give_the_same_scores():
    x_AD, _ = mixture(200, 4, 8)
    one, two = (sweep(x_AD, [2, 4], seed=5) for _ in range(2))
    assert one == two
    assert one != sweep(x_AD, [2, 4], seed=6)


def test_classes_decide_nothing():
    x_AD, component = mixture(200, 4, 8)
    plain, told = sweep(x_AD, [3, 4]), sweep(x_AD, [3, 4], classes=component)
    assert plain == [one._replace(nmi=None, ari=None) for one in told]
    assert told[1].ari > told[0].ari


def test_silhouettes_are_of_samples_that_the_centers_have_not_seen():
    """With a center for every other sample, those would be at distance 0 from their own."""
    x_AD = normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    rows = torch.arange(40)
    found = halves_compared(x_AD, 20, (rows[:20], rows[20:]), None, 0)
    distance = (1 - x_AD @ x_AD.T).clamp(min=0)
    expected = []
    for own, other in ((rows[:20], rows[20:]), (rows[20:], rows[:20])):
        first, second = distance[other][:, own].sort(1).values[:, :2].T
        expected.append((1 - first / second).mean().item())
    assert found['silhouette'] == pytest.approx(sum(expected) / 2, abs=1e-5)


def scores(*rows):
    return [Scores(k, sil, stab, ref, 0.1, 0.5, 9) for k, sil, stab, ref in rows]


def test_of_silhouettes_that_hardly_differ_the_most_stable_counts():
    found = suggest(scores((2, 0.4, 0.9, 0.2), (3, 0.59, 0.95, 0.2), (4, 0.6, 0.8, 0.2)))
    assert found.num_clusters == 3 and found.as_good == (3, 4)
    assert '4 is the largest that was tried' in found.reason and '--max-clusters' in found.reason


def test_a_large_silhouette_of_clusters_that_two_halves_do_not_share_is_none():
    found = suggest(scores((2, 0.4, 0.4, 0.1), (3, 0.2, 0.9, 0.1)))
    assert found.num_clusters is None and 'find different clusters there (ARI 0.40)' in found.reason


def test_numbers_near_the_best_one_are_tried_as_well():
    found = scores((8, 0.3, 1, 0), (10, 0.6, 1, 0), (14, 0.5, 1, 0), (20, 0.4, 1, 0))
    assert between(found) == [9, 11, 12, 13]
    assert between(scores((2, 0.6, 1, 0), (3, 0.5, 1, 0))) == []
    assert numbers_to_try(400) == [2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 17, 20]
    assert numbers_to_try(FEWEST) == [2, 3]


@pytest.fixture(scope='module')
def vectors(tmp_path_factory):
    """Folder with ``X.npy``, two rows of which have no direction, and ``paths.txt``."""
    folder = tmp_path_factory.mktemp('a folder <b>')
    x_AD, component = mixture(300, 4, 32)
    x_AD[7], x_AD[11] = 0, torch.nan
    np.save(folder / 'X.npy', x_AD.numpy())
    names = [f'train/{kind}/{row}.jpg' for row, kind in enumerate(component.tolist())]
    (folder / 'paths.txt').write_text('\n'.join(names) + '\n')
    return folder


def test_the_command_writes_page_curves_and_numbers(vectors, tmp_path, capsys):
    words = ['--features', str(vectors / 'X.npy'), '--paths', str(vectors / 'paths.txt')]
    main(['suggest-k', *words, '--out', str(tmp_path / 'out'), '--max-clusters', '6'])
    said = capsys.readouterr().out
    assert 'K = 4 has ' in said and 'a diagnosis, which decides nothing' in said
    names = {f'suggest_k.{kind}' for kind in ('html', 'json', 'png', 'svg')}
    assert {path.name for path in (tmp_path / 'out').iterdir()} == names
    record = json.loads((tmp_path / 'out/suggest_k.json').read_text())
    assert record['num_clusters'] == 4 and record['classes'] == ['0', '1', '2', '3']
    assert (record['num_images'], record['num_looked_at'], record['dim']) == (300, 298, 32)
    assert [one['num_clusters'] for one in record['scores']] == [2, 3, 4, 5, 6]
    page = (tmp_path / 'out/suggest_k.html').read_text()
    assert '<h1>4 clusters</h1>' in page and page.count('<svg') == 5
    assert '&lt;b&gt;' in page and '<b>' not in page
    assert not re.search('(src|href)="http', page)


def test_a_folder_is_taken_by_a_network(tmp_path, capsys):
    from conftest import ROOT
    from made_up_photos import photos
    from PIL import Image

    for row, image in enumerate(photos(64, 16)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f'{row:02}.png')
    (tmp_path / '63.png').write_bytes(b'no image')
    config = ROOT / 'configs/selfsup/coke/coke_r18_1xb64-2view_folder.py'
    torch.save(fresh_network(config), tmp_path / 'net.pth')
    words = ['--config', str(config), '--checkpoint', str(tmp_path / 'net.pth'), '--size', '16']
    words += ['--num-workers', '0', '--out', str(tmp_path / 'out')]
    main(['suggest-k', str(tmp_path), *words])
    said = capsys.readouterr().out
    assert '1 images cannot be read, and are left out' in said
    record = json.loads((tmp_path / 'out/suggest_k.json').read_text())
    assert (record['num_images'], record['num_looked_at']) == (64, 63)
    assert record['classes'] is None and 'net.pth' in record['features']


def fresh_network(config):
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    from mmcoke.registry import MODELS

    with DefaultScope.overwrite_default_scope('mmcoke'):
        torch.manual_seed(0)
        model = MODELS.build(Config.fromfile(config).model)
    return dict(state_dict=model.state_dict())


@pytest.mark.parametrize(
    ('words', 'code', 'message'),
    [
        ([], 2, 'name either the folder with your images, or --features'),
        (['.', '--features', 'X.npy'], 2, 'name either'),
        (['.', '--config', 'c.py'], 2, '--config needs --checkpoint'),
        (['.', '--paths', 'p.txt'], 2, '--paths needs --features'),
        (['.', '--max-clusters', '1'], 2, '--max-clusters must be at least 2'),
        (['--features', 'no.npy'], 1, 'no.npy'),
        (['--features', 'few.npy'], 1, '59 samples are too few'),
        (['--features', 'X.npy', '--max-clusters', '40'], 1, 'must be in 2 ... 14'),
        (['--features', 'int.npy'], 1, 'Vectors are float16 or float32'),
        (['--features', 'X.npy', '--paths', 'few.txt'], 1, 'Each vector needs the path'),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    words, code, message, vectors, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(vectors)
    np.save('few.npy', np.random.default_rng(0).normal(size=(59, 4)).astype(np.float32))
    np.save('int.npy', np.zeros((100, 4), int))
    (vectors / 'few.txt').write_text('a.jpg\n')
    with pytest.raises(SystemExit) as end:
        main(['suggest-k', *words, '--out', str(tmp_path / 'out')])
    text = end.value.code if isinstance(end.value.code, str) else capsys.readouterr().err
    assert (1 if isinstance(end.value.code, str) else end.value.code) == code
    assert message in text and len(text.splitlines()) == 1
    assert not (tmp_path / 'out').exists()
