"""``mmcoke report``: a page about any run."""

import json
import re

import pytest

from mmcoke.cli.main import main
from mmcoke.reporting.curves import curves_by_kind
from mmcoke.reporting.results import write_results

RECORDS = [
    dict(step=10, loss=2.0, lr=0.1, time=0.3),
    dict(step=1, **{'coke/20/min_size': 3, 'coke/30/min_size': 2, 'coke/loss': 2.1}),
    dict(step=20, loss=1.0, lr=0.1, time=0.3),
    dict(step=2, **{'coke/20/min_size': 5, 'coke/30/min_size': 4, 'coke/loss': 1.1}),
]


@pytest.fixture
def work_dir(tmp_path):
    """Of a run that has logged, and was evaluated; its name is not plain."""
    folder = tmp_path / 'a run, <b> & c'
    (folder / '20260101_000000/vis_data').mkdir(parents=True)
    lines = '\n'.join(map(json.dumps, RECORDS))
    (folder / '20260101_000000/vis_data/scalars.json').write_text(lines)
    write_results(folder / 'benchmarks/epoch_2', 'knn', [dict(k=10, top1=93.5)], protocol='votes')
    (folder / 'start.json').write_text('{}')  # of something else
    return folder


def test_the_page_has_a_chart_per_kind_and_a_table_per_result(work_dir, capsys):
    main(['report', str(work_dir)])
    assert f'Wrote {work_dir / "curves.html"}: loss, lr, min_size.' in capsys.readouterr().out
    page = (work_dir / 'curves.html').read_text()
    assert re.findall('<figcaption>(.*?)</figcaption>', page) == ['loss', 'lr', 'min_size']
    assert page.count('<svg') == 3
    assert '<td>10</td><td>93.50</td>' in page and 'benchmarks/epoch_2/knn.json' in page
    assert '<h1>a run, &lt;b&gt; &amp; c</h1>' in page
    assert not re.search('(src|href)="http', page)


def test_curves_are_together_by_what_they_measure():
    curve = [(1, 2.0)]
    names = ('coke/20/min_size', 'coke/30/min_size', 'loss', 'coke/loss', 'time')
    found = curves_by_kind(dict.fromkeys(names, curve))
    assert {kind: list(owners) for kind, owners in found.items()} == {
        'loss': ['coke'],  # by epochs; the other one goes by iterations
        'min_size': ['coke/20', 'coke/30'],
    }


def test_a_folder_without_a_run_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r'^error: No run has logged scalars in .*tmp'):
        main(['report', str(tmp_path)])
    assert list(tmp_path.iterdir()) == []
