"""The table and the curves of a comparison."""

import xml.etree.ElementTree as ET

import pytest
from PIL import Image

from mmcoke.reporting.comparison import comparison_table, spread, write_curves


def run(method, seed, knn=0.5, *, split='test', head=None, curve=(), **scores):
    clusters = {name: dict(acc=value, nmi=0.2, ari=0.1) for name, value in scores.items()}
    found = dict(knn={'20': knn, '200': 0.25}, linear=0.75, kmeans=clusters, head=head)
    about = dict(method=method, seed=seed, epochs=10, seconds=90.0, split=split)
    return about | dict(scores=found, curve=list(curve))


def cells(table):
    return [[cell.strip() for cell in line.split('|')[1:-1]] for line in table.splitlines()]


def test_rows_are_means_over_seeds_with_their_spread():
    runs = [run('a', 0, 0.5, test=0.3), run('b', 0, 0.9, test=0.4), run('a', 1, 0.6, test=0.5)]
    names, _, first, second = cells(comparison_table(runs))
    row = dict(zip(names, first, strict=True))
    assert row['method'] == 'a' and row['seeds'] == '2'
    assert row['kNN 20'] == '55.0 ± 7.1'  # sqrt((5² + 5²) / 1)
    assert row['k-means ACC'] == '40.0 ± 14.1'
    assert row['minutes'] == '1.5 ± 0.0' and row['epochs'] == '10'
    row = dict(zip(names, second, strict=True))
    assert (row['method'], row['kNN 20'], row['linear']) == ('b', '90.0', '75.0')


def test_clusters_are_those_of_the_split_that_counts_and_a_missing_head_is_a_dash():
    scores = dict(test=0.3, train_and_test=0.8)
    table = comparison_table([run('a', 0, split='train_and_test', **scores)])
    names, _, row = cells(table)
    row = dict(zip(names, row, strict=True))
    assert row['k-means ACC'] == '80.0'
    assert row['head ACC'] == row['head NMI'] == row['head ARI'] == '–'


def test_a_table_without_runs_is_its_header():
    assert len(cells(comparison_table([]))) == 2


@pytest.mark.parametrize(
    ('values', 'expected'), [([0.5], '50.0'), ([0.5, 0.7], '60.0 ± 14.1'), ([0.5, None], '–')]
)
def test_spread(values, expected):
    assert spread(values, 100) == expected


def test_curves_show_each_seed_and_name_each_method(tmp_path):
    curve = [(1, 30.0, 0.2), (2, 60.0, 0.4)]
    runs = [run('one', 0, curve=curve), run('one', 1, curve=curve), run('two', 0, curve=curve)]
    write_curves([*runs, run('untrained', 0)], tmp_path / 'curves')
    text = (tmp_path / 'curves.svg').read_text()
    assert ET.fromstring(text).tag.endswith('svg')
    for name in ('one', 'two', 'minutes of training', 'epochs; dotted: without training'):
        assert text.count(f'<!-- {name} -->') == 1
    assert '<!-- untrained -->' not in text
    assert text.count('stroke-dasharray') >= 2  # the untrained network, in both
    write_curves(runs, tmp_path / 'without')
    assert 'stroke-dasharray' not in (tmp_path / 'without.svg').read_text()
    assert Image.open(tmp_path / 'curves.png').size == (1080, 432)
    write_curves([], tmp_path / 'none')  # nothing measured yet
    assert (tmp_path / 'none.svg').is_file()
