"""The quickstart, as a user runs it."""

import json
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mmcoke.cli.quickstart import make_room
from mmcoke.reporting import report

ROOT = Path(__file__).resolve().parent.parent
SCORES = {'knn', 'linear', 'cluster_acc', 'nmi', 'ari'}


@pytest.fixture
def quickstart(monkeypatch, capsys):
    """Runs it in this process; gives what it printed and the metrics it wrote."""

    def run(work_dir, *arguments):
        # The test of the promised scores runs it in a process of its own, as users do.
        argv = ['quickstart.py', '--work-dir', str(work_dir), *arguments]
        monkeypatch.setattr(sys, 'argv', argv)
        runpy.run_path(str(ROOT / 'tools/quickstart.py'), run_name='__main__')
        return capsys.readouterr().out, json.loads((work_dir / 'metrics.json').read_text())

    return run


def test_a_short_run_writes_numbers_and_a_self_contained_page(quickstart, tmp_path):
    out, metrics = quickstart(tmp_path, '--cfg-options', 'train_cfg.max_epochs=2')
    assert set(metrics) == {'coke', 'pixels', 'random_init', 'train_seconds'}
    for features in ('coke', 'pixels', 'random_init'):
        assert set(metrics[features]) == SCORES
    assert metrics['pixels']['cluster_acc'] == pytest.approx(0.79, abs=0.02)
    assert metrics['pixels']['nmi'] == pytest.approx(0.74, abs=0.02)
    assert 'epoch 2/2' in out and 'evaluating' in out
    for score in metrics['coke'].values():
        assert f'{score:.3f}' in out

    page = (tmp_path / 'report.html').read_text()
    HTMLParser().feed(page)
    assert len(re.findall('<img [^>]*src="data:image/png;base64,', page)) == 1
    for title in ('Loss', 'coke/20', 'coke/24', 'coke/32'):
        assert f'<figcaption>{title}</figcaption><svg' in page
    assert f'<code>bash tools/quickstart.sh --work-dir {tmp_path} --cfg-options ' in page
    best = max(('coke', 'pixels', 'random_init'), key=lambda name: metrics[name]['cluster_acc'])
    assert f'<td><b>{metrics[best]["cluster_acc"]:.3f}</b></td>' in page
    loaded = re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', page)
    assert not loaded, 'the page needs nothing from elsewhere'


def test_an_interrupted_run_is_resumed(quickstart, tmp_path):
    options = ['--cfg-options', 'default_hooks.checkpoint.interval=1', 'train_cfg.max_epochs=2']
    quickstart(tmp_path, *options)
    out, _ = quickstart(tmp_path, '--resume', *options[:-1], 'train_cfg.max_epochs=4')
    assert 'epoch 4/4' in out and 'epoch 2/4' not in out
    curve = report.read_scalars(tmp_path)['coke/loss']
    assert [epoch for epoch, _ in curve] == [1, 2, 3, 4]


def test_a_wrong_argument_prints_the_usage(quickstart, tmp_path, capsys):
    with pytest.raises(SystemExit, match='2'):
        quickstart(tmp_path, '--sead', '1')
    assert 'usage' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)  # 2 minutes, but no limit to how busy a machine may be
def test_digits_reach_the_promised_scores(tmp_path):
    """The one training in full length, as users start it; docs/methods has more seeds."""
    script = [sys.executable, 'tools/quickstart.py', '--work-dir', str(tmp_path)]
    run = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    print(metrics)
    scores = metrics['coke']
    assert scores['cluster_acc'] >= 0.92
    assert scores['nmi'] >= 0.87
    assert scores['knn'] >= 0.975
    assert scores['linear'] >= 0.96
    check_sizes(report.read_scalars(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize('method', ['deepcluster', 'odc', 'secu'])
def test_the_baselines_learn(quickstart, method, tmp_path):
    """They beat the untrained network clearly, before the end of their recipes already."""
    config = f'configs/selfsup/{method}/{method}_tiny_1xb64_digits.py'
    epochs = dict(deepcluster=60, odc=100, secu=51)[method]  # of 120, 150 and 51
    short = ['--cfg-options', f'train_cfg.max_epochs={epochs}']
    _, metrics = quickstart(tmp_path, '--config', config, *short)
    trained, untrained = metrics[method], metrics['random_init']
    print(trained, untrained, metrics['train_seconds'])
    margins = dict(knn=0.025, linear=0.006, cluster_acc=0.25)
    for name, margin in margins.items():
        assert trained[name] >= untrained[name] + margin, (name, trained, untrained)


def test_all_methods_share_one_table_and_one_page(quickstart, tmp_path):
    out, metrics = quickstart(tmp_path, '--all', '--cfg-options', 'train_cfg.max_epochs=2')
    methods = {'coke', 'secu', 'swav', 'deepclusterv2', 'deepcluster', 'sela', 'odc'}
    assert set(metrics) == methods | {'pixels', 'random_init', 'train_seconds'}
    assert all(set(metrics[name]) == SCORES for name in metrics if name != 'train_seconds')
    trained = ('CoKe', 'SeCu', 'SwAV', 'DeepClusterV2', 'DeepCluster', 'SeLa', 'ODC')
    assert all(name in out for name in (*trained, 'untrained', 'pixels'))
    page = (tmp_path / 'report.html').read_text()
    assert len(re.findall('<img [^>]*src="data:image/png;base64,', page)) == 7
    loss = re.search('aria-label="(Loss[^"]*)"', page)[1]
    assert 'CoKe coke: ' in loss and 'DeepCluster deepcluster: ' in loss
    assert '<th scope="row">SwAV · swav/30</th>' in page
    for name in methods:
        assert (tmp_path / name / 'epoch_2.pth').is_file()


def check_sizes(curves):
    """The lower bound holds in the last epochs, up to the tolerance of docs/methods/coke.md."""
    for num_clusters in (20, 24, 32):
        smallest = np.array([size for _, size in curves[f'coke/{num_clusters}/min_size'][-10:]])
        bound = 0.4 * 1257 / num_clusters
        assert smallest.min() >= 0.5 * bound, (num_clusters, smallest)
        assert smallest.mean() >= 0.8 * bound, (num_clusters, smallest)


def test_curves_of_a_resumed_run_are_joined(tmp_path):
    def log(run, steps):
        folder = tmp_path / run / 'vis_data'
        folder.mkdir(parents=True)
        lines = [json.dumps({'loss': step + float(run), 'step': step}) for step in steps]
        (folder / 'scalars.json').write_text('\n'.join(lines))

    log('1', [1, 2, 3])
    log('2', [3, 4])
    assert report.read_scalars(tmp_path)['loss'] == [(1, 2.0), (2, 3.0), (3, 5.0), (4, 6.0)]
    with pytest.raises(FileNotFoundError, match='No run has logged'):
        report.read_scalars(tmp_path / 'elsewhere')


def test_the_quickstart_makes_room_in_its_own_folder_alone(tmp_path):
    """Repeated, it starts anew; another training's checkpoints stay, and are refused by train."""
    own, other = tmp_path / 'own', tmp_path / 'other'
    make_room(own)
    for folder in (own, other):
        folder.mkdir(exist_ok=True)
        (folder / 'epoch_3.pth').touch()
        (folder / 'last_checkpoint').touch()
        make_room(folder)
    assert [path.name for path in own.iterdir()] == ['.quickstart']
    assert (other / 'epoch_3.pth').exists() and not (other / '.quickstart').exists()
