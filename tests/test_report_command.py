"""``mmcoke report``: a page about any runs."""

import json
import re
from xml.etree import ElementTree

import pytest
from PIL import Image

from mmcoke.cli.main import main
from mmcoke.engine.run_report import write_run_report
from mmcoke.reporting.curves import curves_by_kind, last_numbers
from mmcoke.reporting.results import write_results
from mmcoke.reporting.runs import Run, read_runs

RECORDS = [
    dict(step=10, loss=2.0, lr=0.1, time=0.3),
    dict(step=1, **{'coke/20/min_size': 3, 'coke/30/min_size': 2, 'coke/loss': 2.1}),
    dict(step=20, loss=1.0, lr=0.1, time=0.3),
    dict(step=2, **{'coke/20/min_size': 5, 'coke/30/min_size': 4, 'coke/loss': 1.1}),
]
ADVICE = dict(epoch=2, clustering='coke/4', rule='x', saw='Duals <jump>', why='η is large.')
CONFIG = "model = dict(type='CoKe', temperature={})\nwork_dir = 'here'\n"


def line(epoch, clustering='coke/4', **numbers):
    """Of the monitor: four clusters with 0, 2, 5 and 13 images."""
    found = dict(epoch=epoch, clustering=clustering, min_size=0, q50_size=3.5, max_size=13)
    found |= dict(perplexity=2.36, num_empty=1, changed=0.5 / epoch, nmi=0.5, max_dual=0.25)
    found |= dict(min_dual=0.0, violation=0.125, violation_bound=0.5, size_bound=2.0)
    return found | dict(size_counts=[1, 0, 1, 0, 1, 0, 0, 1]) | numbers


def make_run(folder, *, lines=(), temperature=0.1):
    (folder / '20260101_000000/vis_data').mkdir(parents=True)
    text = '\n'.join(map(json.dumps, RECORDS))
    (folder / '20260101_000000/vis_data/scalars.json').write_text(text)
    (folder / '20260101_000000/vis_data/config.py').write_text(CONFIG.format(temperature))
    if lines:
        (folder / 'cluster_stats.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    return folder


@pytest.fixture
def work_dir(tmp_path):
    """Of a run that has logged, and was evaluated; its name is not plain."""
    folder = make_run(tmp_path / 'a run, <b> & c', lines=[line(1), line(2)])
    write_results(folder / 'benchmarks/epoch_2', 'knn', [dict(k=10, top1=93.5)], protocol='votes')
    (folder / 'start.json').write_text('{}')  # of something else
    return folder


def page_of(*work_dirs):
    """Without the files of figures, which take a second or two."""
    write_run_report(work_dirs[0] / 'report.html', work_dirs, thorough=False)
    return (work_dirs[0] / 'report.html').read_text()


def captions(page):
    return re.findall('<figcaption>(.*?)(?: <span.*?)?</figcaption>', page)


def test_the_page_has_charts_results_and_config_and_needs_nothing_else(work_dir, capsys):
    main(['report', str(work_dir)])
    page = (work_dir / 'report.html').read_text()
    printed = capsys.readouterr().out
    assert f'Wrote {work_dir / "report.html"}' in printed
    titles = captions(page)
    for title in ('Loss', 'Perplexity', 'Duals', 'Missing to the lower bound', 'coke/4', 'lr'):
        assert title in titles
    assert page.count('<svg') == len(titles)
    assert '<th scope="row">10</th><td>93.50</td>' in page
    assert 'benchmarks/epoch_2/knn.json' in page and 'temperature=0.1' in page
    assert '<h1 id="top">a run, &lt;b&gt; &amp; c</h1>' in page
    assert not re.search('(src|href)="http|url\\(http|@import', page)
    said = 'Clusters, neighbours and features are left out. There is no checkpoint in the work dir'
    assert said in printed and said in page and 'Map of the centers' not in page
    check_figures(work_dir, page)


def check_figures(work_dir, page):
    """Each chart is also a file."""
    links = re.findall(r'href="(figures/[^"]*)"', page)
    assert len(links) == 2 * page.count('<svg') and len(set(links)) == len(links)
    for link in links:
        if link.endswith('.svg'):
            assert ElementTree.parse(work_dir / link).getroot().tag.endswith('svg')
        else:
            with Image.open(work_dir / link) as image:
                assert image.format == 'PNG' and image.getpixel((0, 0))[:3] == (255, 255, 255)
    assert 'currentColor' not in (work_dir / 'figures/loss.svg').read_text()


def test_the_table_has_the_last_numbers_of_each_clustering():
    runs = [Run('a', None, {}, [line(1), line(2), line(1, 'coke/8', size_bound=0.0)])]
    columns, rows = last_numbers(runs)
    first, second = (dict(zip(columns, row, strict=True)) for row in rows)
    assert (first['clustering'], first['epoch'], first['changed']) == ('coke/4', '2', '25.0%')
    assert (first['empty'], first['largest'], first['missing']) == ('1', '13', '12.50%')
    assert second['missing'] == ''  # of a method without a bound
    assert 'class NMI' not in columns  # none has classes


def test_those_who_do_not_see_the_charts_hear_their_numbers(work_dir):
    said = re.findall('role="img" aria-label="([^"]*)"', page_of(work_dir))
    assert any(
        alt == 'Sizes of the clusters of coke/4 over epochs; at the end 0 to 13 images, half of '
        'them up to 4.'
        for alt in said
    )
    assert any(alt.startswith('Changed labels. ') and '0.5 to 0.25' in alt for alt in said)


def test_advice_is_at_the_top(work_dir):
    (work_dir / 'advice.jsonl').write_text(json.dumps(ADVICE) + '\n{"epoch": 3, "sa')
    page = page_of(work_dir)
    assert '<b>Duals &lt;jump&gt;</b> <span class="note">coke/4 · epoch 2</span>' in page
    assert page.index('id="advice"') < page.index('id="numbers"')
    assert page.count('class="advice"') == 1


def test_runs_are_beside_each_other_with_the_settings_that_differ(work_dir, tmp_path):
    other = make_run(tmp_path / 'other', lines=[line(1), line(3)], temperature=0.2)
    page = page_of(work_dir, other)
    assert '<th scope="row">model.temperature</th><td>0.1</td><td>0.2</td>' in page
    assert 'work_dir</th>' not in page and 'model.type</th>' not in page
    loss = re.search('aria-label="(Loss[^"]*)"', page)[1]
    assert 'other coke: 2.1 to 1.1' in loss and 'a run' in loss
    assert '<th scope="row">other · coke/4</th><td>3</td>' in page


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = [make_run(tmp_path / name / 'run') for name in ('one', 'two')]
    assert [run.name for run in read_runs(folders)] == ['one/run', 'two/run']


def test_lines_that_were_cut_off_by_a_kill_are_left_out(work_dir):
    with (work_dir / 'cluster_stats.jsonl').open('a') as file:
        file.write('\n{"epoch": 3, "clustering": "co')
    assert '<td>2</td><td>2.4</td>' in page_of(work_dir)


def test_a_run_that_logs_its_curves_elsewhere_has_the_numbers_of_its_clusterings(work_dir):
    (work_dir / '20260101_000000/vis_data/scalars.json').unlink()
    page = page_of(work_dir)
    assert 'Perplexity' in captions(page) and 'Loss' not in captions(page)


def test_curves_are_together_by_what_they_measure():
    curve = [(1, 2.0)]
    names = ('coke/20/min_size', 'coke/30/min_size', 'loss', 'coke/loss', 'time')
    found = curves_by_kind(dict.fromkeys((*names, 'clusters/coke/20/nmi'), curve))
    assert {kind: list(owners) for kind, owners in found.items()} == {
        'loss': ['coke'],  # by epochs; the other one goes by iterations
        'min_size': ['coke/20', 'coke/30'],
    }


def test_a_folder_without_a_run_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r'^error: No run has logged scalars in .*tmp.* Name the'):
        main(['report', str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_the_page_cannot_take_the_place_of_a_folder(work_dir, tmp_path):
    with pytest.raises(SystemExit, match=r'is a folder\. Give --out the name of a page in it'):
        main(['report', str(work_dir), '--out', str(tmp_path)])
