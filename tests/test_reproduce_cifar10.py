"""The comparison on CIFAR-10, as users type it, on made-up and on small images."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace

import numpy as np
import pytest
from conftest import CONFIGS, ROOT, fork, run_tool
from mmengine.config import Config

from mmcoke.cli.reproduce_cifar10 import check_order, keep_settings, narrow
from mmcoke.datasets.cifar10 import cifar10_sources, save_npz
from mmcoke.files import read_checkpoint

TOOL = 'reproduce_cifar10.py'
OPTIONS = ['--cfg-options', 'model.backbone.channels=[8, 8, 16, 16, 32]']
OPTIONS += ['default_hooks.checkpoint.interval=1']
SMALL = ['--small', '--methods', 'coke', '--seeds', '0', *OPTIONS]


def reproduce(*arguments):
    """The tool in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [TOOL, *map(str, arguments)])
        patch.setattr(sys, 'orig_argv', [sys.executable, *sys.argv])
        runpy.run_path(str(ROOT / 'tools' / TOOL), run_name='__main__')


def results(folder):
    return json.loads((folder / 'results.json').read_text())['runs']


def row(folder, method):
    lines = [line.split(' | ') for line in (folder / 'table.md').read_text().splitlines()]
    names = next(line for line in lines if line[0] == '| method')
    (found,) = (line for line in lines if line[0] == f'| {method}')
    return dict(zip(names, found, strict=True))


@pytest.fixture(scope='module')
def compared(tmp_path_factory):
    """A finished comparison of two methods with one seed, in a folder with a space."""
    folder = tmp_path_factory.mktemp('com pared') / 'work dir'
    arguments = ['--small', '--methods', 'coke', 'deepcluster', '--epochs', '2', '--seeds', '0']
    arguments += ['--knn-every', '1', '--work-dir', folder, *OPTIONS]
    reproduce(*arguments)
    return folder, arguments


@pytest.mark.slow
def test_all_runs_are_in_the_results_and_in_the_table(compared):
    folder, _ = compared
    runs = {run['method']: run for run in results(folder)}
    assert list(runs) == ['untrained', 'coke', 'deepcluster']
    coke = runs['coke']
    assert [epoch for epoch, _, _ in coke['curve']] == [1, 2, 3]  # one at learning rate 0
    assert coke['epochs'] == 3 and coke['split'] == 'test'
    seconds = [seconds for _, seconds, _ in coke['curve']]
    assert 0 < seconds[0] <= seconds[1] <= seconds[2] == coke['seconds']
    checkpoint = read_checkpoint(folder / 'coke/seed0/epoch_3.pth')['state_dict']
    assert checkpoint['labelers.0.labels.label'].shape == (1257,)  # all of the training split
    # The probe of the last epoch and the scores are of the same network.
    assert coke['curve'][-1][2] == pytest.approx(coke['scores']['knn']['20'], abs=2 / 540)
    assert row(folder, 'coke')['kNN 20'] == f'{100 * coke["scores"]["knn"]["20"]:.1f}'
    acc = coke['scores']['kmeans']['test']['acc']
    assert row(folder, 'coke')['k-means ACC'] == f'{100 * acc:.1f}'
    assert runs['untrained']['curve'] == [] and row(folder, 'untrained')['minutes'] == '0.0'
    text = (folder / 'table.md').read_text()
    assert 'digits of scikit-learn: trained on the training split' in text
    assert (folder / 'curves.svg').is_file() and (folder / 'curves.png').is_file()


@pytest.mark.slow
def test_finished_runs_are_skipped_and_further_seeds_are_added(compared, monkeypatch, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in compared[0].rglob('scores.json')}
    folder, arguments = compared
    (folder / 'table.md').unlink()
    reproduce(*arguments)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob('scores.json')} == before
    assert row(folder, 'coke')['seeds'] == '1'

    copy = tmp_path / 'copy'
    shutil.copytree(folder, copy)
    more = ['--small', '--methods', 'coke', '--epochs', '2', '--seeds', '0', '1']
    reproduce(*more, '--work-dir', copy, *OPTIONS)
    assert row(copy, 'coke')['seeds'] == '2' and '±' in row(copy, 'coke')['kNN 20']
    assert row(copy, 'deepcluster')['seeds'] == '1'
    first, second = (run for run in results(copy) if run['method'] == 'coke')
    assert first['scores']['kmeans'] != second['scores']['kmeans']


@pytest.mark.slow
def test_other_settings_in_the_same_work_dir_are_refused(compared):
    folder, arguments = compared
    arguments = ['3' if text == '2' else text for text in arguments]
    with pytest.raises(SystemExit, match=r'epochs 2, not 3\. Give the same') as stop:
        reproduce(*arguments)
    assert '\n' not in str(stop.value)
    assert json.loads((folder / 'settings.json').read_text())['epochs'] == 2


def run_out_of_memory(cfg):
    raise RuntimeError('no room on the device')


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch):
    """CoKe has no ``reweight_pow``, DeepCluster has; after it, also errors that are ours."""
    work = tmp_path / 'work'
    options = [*OPTIONS, 'model.clustering.reweight_pow=0.5']
    arguments = ['--small', '--methods', 'coke', 'deepcluster', '--epochs', '1', '--seeds', '0']
    arguments += ['--work-dir', work, *options]
    message = r"error: coke, seed 0: .*no setting 'reweight_pow'.*error\.txt\) The same command"
    with pytest.raises(SystemExit, match=message) as stop:
        reproduce(*arguments)
    assert '\n' not in str(stop.value)
    assert 'reweight_pow' in (work / 'coke/seed0/error.txt').read_text()
    assert [run['method'] for run in results(work)] == ['untrained', 'deepcluster']

    (work / 'deepcluster/seed0/scores.json').unlink()
    (work / 'deepcluster/seed0/error.txt').write_text('of an earlier try')
    with monkeypatch.context() as patch:
        patch.setattr('mmcoke.cli.reproduce_cifar10.train', run_out_of_memory)
        with pytest.raises(SystemExit, match=r'coke, seed 0: no room .*deepcluster, seed 0: no ro'):
            reproduce(*arguments)
    with pytest.raises(SystemExit, match='coke, seed 0'):
        reproduce(*arguments)
    assert not (work / 'deepcluster/seed0/error.txt').exists()


def found(method, acc):
    return dict(method=method, scores=dict(kmeans=dict(test=dict(acc=acc))))


def test_an_order_that_is_not_shown_is_told_by_means_over_the_seeds(capsys):
    runs = [found('untrained', 0.5), found('deepcluster', 0.5), found('deepcluster', 0.75)]
    assert check_order(runs) == []  # 0.625 is 0.125 above; CoKe has not run
    assert 'deepcluster 0.625, untrained 0.500 (kmeans test acc)' in capsys.readouterr().out
    runs += [found('coke-2view', 0.51), found('coke', 0.5)]
    (said,) = check_order(runs)
    assert said.startswith(
        'the order is another one: coke-2view 0.510, coke 0.500 (kmeans test acc)'
    )


def test_a_narrow_network_has_its_share_of_principal_components():
    cfg = Config.fromfile(CONFIGS / 'deepcluster/deepcluster_r18_1xb128_cifar10.py')
    narrow(cfg, 16)
    assert cfg.model.backbone.base_channels == cfg.model.backbone.stem_channels == 16
    assert cfg.model.clustering.pca_dim == 64  # of 128 features, as 256 of 512
    cfg = Config.fromfile(CONFIGS / 'coke/coke_r18_1xb128_cifar10.py')
    narrow(cfg, 16)
    assert 'pca_dim' not in cfg.model.clustering


def until(path, process):
    """Wait until a file of this kind is there."""
    deadline = time.monotonic() + 120
    while not list(path.parent.glob(path.name)):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize('signum', [signal.SIGKILL, signal.SIGINT])
def test_a_killed_or_interrupted_comparison_goes_on_with_the_same_command(signum, tmp_path):
    folder = tmp_path / 'work dir'
    arguments = [*SMALL, '--epochs', '12', '--knn-every', '1', '--work-dir', folder]
    process = fork(run_tool, TOOL, *arguments, said=tmp_path / 'said.txt')
    until(folder / 'coke/seed0/epoch_*.pth', process)
    os.kill(process.pid, signum)
    process.join(60)
    assert process.exitcode == (-signum if signum == signal.SIGKILL else 128 + signum)
    assert not (folder / 'coke/seed0/scores.json').exists()
    assert [run['method'] for run in results(folder)] == ['untrained']
    if signum == signal.SIGINT:
        said = (tmp_path / 'said.txt').read_text()
        assert 'is saved' in said and said.rstrip().endswith('--resume')
        arguments.append('--resume')  # as it says
    reproduce(*arguments)
    (coke,) = (run for run in results(folder) if run['method'] == 'coke')
    assert [epoch for epoch, _, _ in coke['curve']] == list(range(1, 14))
    seconds = [seconds for _, seconds, _ in coke['curve']]
    assert seconds == sorted(seconds)
    # Both runs' log, if they started in the same second.
    logs = folder.glob('coke/seed0/*/vis_data/scalars.json')
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    assert [x['step'] for x in lines if 'knn/acc' in x].count(1) == 1  # not anew


@pytest.mark.slow
def test_small_shows_the_order_that_it_must(tmp_path, capsys):
    """Without two views, which take most of the time."""
    arguments = ['--small', '--methods', 'deepcluster', '--seeds', '0']
    reproduce(*arguments, '--work-dir', tmp_path / 'work')
    assert 'order: deepcluster' in capsys.readouterr().out


def cifar(folder, num_train=160, num_test=40):
    """Made-up images of ten classes that differ in colour, as CIFAR-10's arrays."""
    random = np.random.default_rng(0)
    folder.mkdir()
    colours = random.integers(40, 216, (10, 1, 1, 3))
    for split, number in dict(train=num_train, test=num_test).items():
        y = np.arange(number) % 10
        x = colours[y] + random.normal(0, 20, (number, 32, 32, 3))
        save_npz(folder / f'cifar10_{split}.npz', x=x.clip(0, 255).astype(np.uint8), y=y)
    return folder


@pytest.fixture(scope='module')
def both_recipes(tmp_path_factory):
    """CoKe's two recipes for CIFAR-10, with a narrow network, few images and one epoch."""
    folder = tmp_path_factory.mktemp('ci far')
    data = cifar(folder / 'da ta', 400, 220)
    arguments = ['--data', data, '--methods', 'coke', 'coke-2view', '--seeds', '0', '--epochs', 1]
    arguments += ['--num-images', 256, '--width', 8, '--train-and-test', '--work-dir']
    reproduce(*arguments, folder / 'work')
    return folder / 'work'


@pytest.mark.slow
def test_the_recipes_of_cifar10_on_a_part_and_on_both_splits(both_recipes):
    runs = {run['method']: run for run in results(both_recipes)}
    assert list(runs) == ['untrained', 'coke', 'coke-2view']
    for method in ('coke', 'coke-2view'):
        run = runs[method]
        assert run['num_images'] == dict(train=256, test=220)
        assert run['split'] == 'train_and_test' and run['epochs'] == 2
        head = run['scores']['head']
        assert head['name'] == 'labelers.0'  # K = 10
        acc = f'{100 * head["train_and_test"]["acc"]:.1f}'
        assert row(both_recipes, method)['head ACC'] == acc
        checkpoint = read_checkpoint(both_recipes / method / 'seed0/epoch_2.pth')['state_dict']
        assert checkpoint['labelers.0.labels.label'].shape == (476,)
        assert checkpoint['backbone.layer4.0.conv1.weight'].shape[0] == 64
        assert checkpoint['backbone.conv1.weight'].shape[0] == 8
    assert row(both_recipes, 'untrained')['head ACC'] == '–'
    assert 'trained on both splits' in (both_recipes / 'table.md').read_text()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--methods', 'cokee'], "invalid choice: 'cokee' (choose from"),
        (['--epochs', '0'], '--epochs must be at least 1'),
        (['--width', '7'], '--width must be at least 8'),
        (['--small', '--width', '8'], '--small has its own images and networks'),
    ],
)
def test_wrong_arguments_are_told(arguments, message):
    command = [sys.executable, f'tools/{TOOL}', *arguments]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 2 and message in found.stderr


def test_other_images_in_the_same_work_dir_are_refused(tmp_path):
    names = ('epochs', 'small', 'num_images', 'width', 'train_and_test', 'cfg_options')
    args, path = Namespace(**dict.fromkeys(names)), tmp_path / 'settings.json'
    data = cifar(tmp_path / 'data')
    keep_settings(args, cifar10_sources(data), path)
    moved = data.rename(tmp_path / 'moved')
    keep_settings(args, cifar10_sources(moved), path)
    y = np.arange(40)[::-1] % 10
    x = np.load(moved / 'cifar10_test.npz')['x']
    save_npz(moved / 'cifar10_test.npz', x=x, y=y)
    with pytest.raises(ValueError, match=r'other settings: data \w+, not \w+\. Give the same'):
        keep_settings(args, cifar10_sources(moved), path)


@pytest.mark.parametrize('missing', ['train', 'test'])
def test_half_of_the_data_is_told_in_one_line(missing, tmp_path):
    data = cifar(tmp_path / 'data')
    (data / f'cifar10_{missing}.npz').unlink()
    with pytest.raises(SystemExit, match=r'neither .*cifar10_train\.npz.* --data FOLDER') as stop:
        reproduce('--data', data, '--work-dir', tmp_path / 'work')
    assert '\n' not in str(stop.value)


def test_too_few_images_are_told_in_one_line(tmp_path):
    data = cifar(tmp_path / 'data')
    arguments = ['--data', data, '--work-dir', tmp_path / 'work', '--num-images', 161]
    with pytest.raises(SystemExit, match=r'161 images cannot be chosen by class.* 160 images'):
        reproduce(*arguments)
