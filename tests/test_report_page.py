"""What the page about a run shows of its clusters, and how it looks."""

import json
import re
import signal

import numpy as np
import pytest
from browser import Browser
from conftest import tiny
from mmengine.config import Config
from PIL import Image

from mmcoke.cli.main import main
from mmcoke.engine import run_report
from mmcoke.engine.launch import train
from mmcoke.engine.run_report import look_at, write_run_report
from mmcoke.files import read_checkpoint
from mmcoke.reporting import clusters
from mmcoke.reporting.clusters import Choice, Classes, Head, LookedAt, Seen, rows_to_look_at
from mmcoke.reporting.pages import png_uri
from mmcoke.reporting.report import Extras, Picture, Table, write_report
from mmcoke.reporting.runs import read_runs
from mmcoke.reporting.tiles import Tiles

LABEL = np.array([0, 0, 0, 0, 2, 2, 2, 1, 1, -1])
CLASS = np.array([5, 5, 5, 6, 6, 6, 6, 5, 6, 5])


def digit(row):
    """The record of a small image."""
    return dict(img=np.full((2, 2), row, np.uint8))


def with_hook(cfg):
    cfg.default_hooks.report = dict(type='ReportHook')
    return cfg


@pytest.fixture(scope='module')
def work_dir(tmp_path_factory):
    """Of three epochs of CoKe on some digits, with the page that training has written."""
    folder = tmp_path_factory.mktemp('the run')
    train(with_hook(tiny('coke', folder, num_images=320)))
    return folder


@pytest.fixture(scope='module')
def looked(work_dir):
    return look_at(read_runs([work_dir])[0], 60)


# ---- choices


def test_clusters_are_those_of_the_last_checkpoint(work_dir, looked):
    state = read_checkpoint(work_dir / 'epoch_3.pth')['state_dict']
    for number, head in enumerate(looked.heads):
        label = state[f'labelers.{number}.labels.label'].numpy()
        assert head.name == f'coke/{head.num_clusters}' and (head.label_A == label).all()
        assert head.size_K.tolist() == np.bincount(label, minlength=head.num_clusters).tolist()
    largest = looked.choices[1].kinds['All, the largest first'][0]
    assert looked.heads[1].size_K[largest] == looked.heads[1].size_K.max()


def test_members_are_the_images_of_a_cluster():
    head = Head('x', LABEL)
    assert sorted(head.members[0].tolist()) == [0, 1, 2, 3]
    assert sorted(head.members[1].tolist()) == [7, 8]
    assert head.size_K.tolist() == [4, 2, 3]


def test_purity_is_the_share_of_the_most_frequent_class():
    share, which = Classes(CLASS).purity(Head('x', LABEL))
    assert share.tolist() == [0.75, 0.5, 1.0]
    assert which[0] == 5 and which[2] == 6
    assert np.isnan(Classes(np.full(10, -1) + (LABEL == 0)).purity(Head('x', LABEL))[0][1])


def test_of_many_clusters_the_extreme_ones_are_shown(monkeypatch):
    monkeypatch.setattr(clusters, 'NUM_OF_KIND', 1)
    choice = Choice(Head('x', LABEL), Classes(CLASS))
    kinds = {kind: found.tolist() for kind, found in choice.kinds.items()}
    assert kinds == {'Largest': [0], 'Smallest': [1], 'Purest': [2], 'Least pure': [1]}
    assert set(Choice(Head('x', LABEL), None).kinds) == {'Largest', 'Smallest'}


def test_first_each_cluster_is_seen_once_however_little_time_there_is():
    label = np.repeat(np.arange(10), 30)
    head = Head('x', label)
    rows = rows_to_look_at([head], [Choice(head, None)], len(label))
    assert len(set(rows.tolist())) == len(rows)
    # Every second one is random, of the whole data set.
    assert {label[row] for row in rows[:20]} == set(range(10))


def test_images_nearest_to_the_center_come_first():
    x = np.array([[1, 0], [0.6, 0.8], [0, 1.0], [0.8, 0.6]])
    head = Head('x', np.array([0, 0, 1, 0]), np.array([[1, 0], [0, 1.0]]))
    looked = LookedAt(
        'x', lambda row: dict(img=np.full((2, 2), row, np.uint8)), np.arange(4), x, x, [head]
    )
    entry = clusters.cluster_entry(looked, Seen(looked, head), looked.choices[0], 0, Tiles())
    (label, strip), *_ = entry['strips']
    assert label == 'nearest' and [one['name'] for one in strip] == [
        'image 0',
        'image 3',
        'image 1',
    ]
    assert entry['note'] == '3 images · similarity 0.80'


def test_without_centers_the_mean_of_the_images_stands_for_one():
    x = np.array([[1, 0], [0, 1.0], [0, 1.0]])
    looked = LookedAt('x', dict, np.arange(3), x, x, [Head('x', np.array([0, 0, 1]))])
    assert Seen(looked, looked.heads[0]).center(0) == pytest.approx([0.5**0.5, 0.5**0.5])


def test_the_map_gives_each_center_a_cell_of_its_own_near_its_place():
    places = np.array([[0, 0], [10, 0], [0, 10], [10, 10], [9, 9.5]])
    cells = clusters.on_grid(places, 3)
    assert len({tuple(cell) for cell in cells.tolist()}) == 5
    assert cells[0].tolist() == [0, 0] and cells[1].tolist() == [2, 0]


def test_a_picture_is_embedded_once_however_often_it_is_shown(tmp_path):
    Image.new('RGB', (300, 200), 'red').save(tmp_path / 'a.png')
    tiles = Tiles()
    record = dict(img_path=str(tmp_path / 'a.png'))
    numbers = [tiles.of('x', row, lambda row: record)['number'] for row in (0, 1, 0)]
    assert numbers == [0, 0, 0] and len(tiles.uris) == 1
    gone = tiles.of('x', 2, lambda row: dict(img_path=str(tmp_path / 'gone.png')))
    assert gone['number'] is None and gone['name'].endswith('/gone.png') and tiles.failed == 1


# ---- the page of a run


def test_training_ends_with_the_page(work_dir):
    page = (work_dir / 'report.html').read_text()
    assert 'of 12 clusters have images' in page and 'Map of the centers' in page
    assert 'Neighbours of some images' in page
    assert 't-SNE of the features' not in page and not (work_dir / 'figures').exists()


def test_by_hand_there_are_also_the_features_and_files_of_figures(work_dir, tmp_path):
    main(['report', str(work_dir), '--out', str(tmp_path / 'page.html')])
    page = (tmp_path / 'page.html').read_text()
    assert 't-SNE of the features' in page
    assert (tmp_path / 'figures/features.png').is_file()


def test_what_is_nearest_does_not_change_from_page_to_page(work_dir, looked):
    again = look_at(read_runs([work_dir])[0], 60)
    assert (again.row_S == looked.row_S).all()
    assert np.allclose(again.projected_SD, looked.projected_SD, atol=1e-6)


def test_where_the_images_are_gone_one_line_says_so(work_dir, tmp_path):
    run = read_runs([work_dir])[0]
    folder = tmp_path / 'moved'
    folder.mkdir()
    for name in ('cluster_stats.jsonl', 'epoch_3.pth', 'last_checkpoint'):
        (folder / name).write_bytes((work_dir / name).read_bytes())
    cfg = Config.fromstring(run.config, '.py')
    cfg.train_dataloader.dataset.source = '/nowhere/images.npz'
    cfg.dump(folder / 'config.py')
    (note,) = write_run_report(tmp_path / 'page.html', [folder])
    assert "There is no file '/nowhere/images.npz'" in note and '\n' not in note
    assert 'Perplexity' in (tmp_path / 'page.html').read_text()


def test_a_checkpoint_of_other_images_is_not_mixed_with_these(work_dir, tmp_path):
    cfg = Config.fromstring(read_runs([work_dir])[0].config, '.py')
    cfg.train_dataloader.dataset.split = 'test'
    dataset = run_report.training_images(cfg)
    with pytest.raises(ValueError, match='is of 320 images, and the data set of the config has'):
        run_report.heads_of(read_runs([work_dir])[0], cfg, work_dir / 'epoch_3.pth', dataset)


@pytest.mark.parametrize('method', ['swav', 'deepcluster'])
def test_other_methods_have_clusters_too(method, tmp_path):
    """SwAV's prototypes are centers; DeepCluster has a classifier instead."""
    cfg = tiny(method, tmp_path / 'run', num_images=320)
    cfg.train_cfg.max_epochs = 1
    train(cfg)
    looked = look_at(read_runs([tmp_path / 'run'])[0], 60)
    assert (looked.heads[0].center_KD is None) == (method == 'deepcluster')
    assert write_run_report(tmp_path / 'page.html', [tmp_path / 'run'], thorough=False) == []
    assert f'{method}/12' in (tmp_path / 'page.html').read_text()


# ---- the hook


def test_a_page_that_fails_costs_a_warning_and_not_the_training(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError('no room')

    monkeypatch.setattr(run_report, 'write_run_report', fail)
    cfg = with_hook(tiny('coke', tmp_path / 'a run', num_images=320))
    cfg.train_cfg.max_epochs = 1
    train(cfg)
    (log,) = (tmp_path / 'a run').glob('*/*.log')
    said = f"report.html was not written (no room). To write it: mmcoke report '{tmp_path}/a run'"
    assert said in log.read_text()
    assert (tmp_path / 'a run/epoch_1.pth').is_file()


def test_ctrl_c_leaves_the_page_out_and_the_training_is_finished(tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        signal.raise_signal(signal.SIGINT)
        raise AssertionError('it went on')

    monkeypatch.setattr(run_report, 'write_run_report', interrupted)
    cfg = with_hook(tiny('coke', tmp_path / 'run', num_images=320))
    cfg.train_cfg.max_epochs = 1
    assert train(cfg) is not None
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert 'report.html was not written (Interrupted)' in log.read_text()


def test_none_turns_a_default_hook_off(tmp_path):
    cfg = tiny('coke', tmp_path / 'run', num_images=320)
    cfg.merge_from_dict({'default_hooks.report': None, 'default_hooks.cluster_monitor': None})
    cfg.train_cfg.max_epochs = 1
    train(cfg)
    assert not (tmp_path / 'run/report.html').exists()
    assert not (tmp_path / 'run/cluster_stats.jsonl').exists()


# ---- in a browser

PROBE = """(() => {
    const boxes = [...document.querySelectorAll('a, button, summary')];
    const seen = boxes.map((one) => one.getBoundingClientRect()).filter((box) => box.width);
    return {
        width: document.documentElement.scrollWidth,
        missing: [...document.images].filter((image) => !image.naturalWidth).length,
        pictures: [...document.querySelectorAll('.t:not(.none)')].filter(
            (one) => getComputedStyle(one).backgroundImage.startsWith('url("data:image/')).length,
        tiles: document.querySelectorAll('.t').length,
        unnamed: document.querySelectorAll('[role=img]:not([aria-label]), img:not([alt])').length,
        headings: [...document.querySelectorAll('h1, h2, h3, h4')].map((one) => +one.tagName[1]),
        low: Math.min(...seen.filter((box) => box.top < 300).map((box) => box.height)),
        colour: getComputedStyle(document.body).backgroundColor,
        ink: getComputedStyle(document.querySelector('svg text')).fill,
    };
})()"""


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp('profile')) as browser:
        yield browser


def test_the_page_is_whole_on_a_phone_and_on_a_screen_by_day_and_night(work_dir, browser):
    browser.errors.clear()
    colours = set()
    for width, dark in ((390, False), (390, True), (1280, False), (1280, True)):
        browser.open(work_dir / 'report.html', width, dark=dark)
        browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        seen = browser.run(PROBE)
        assert seen['width'] <= width
        assert seen['missing'] == 0 and seen['unnamed'] == 0
        assert seen['pictures'] == seen['tiles'] > 100
        steps = zip(seen['headings'], seen['headings'][1:], strict=False)
        assert all(after <= before + 1 for before, after in steps)
        assert seen['low'] >= 40  # for a finger
        assert seen['ink'] != seen['colour']
        colours.add((seen['colour'], seen['ink']))
    assert len(colours) == 2
    assert browser.errors == []


def test_the_page_is_used_by_the_keyboard(work_dir, browser):
    browser.open(work_dir / 'report.html', 1280)
    browser.press('Tab')
    outline = 'getComputedStyle(document.activeElement).outlineStyle'
    assert browser.run('document.activeElement.hash') == '#numbers'
    assert browser.run(outline) == 'solid'
    browser.run("document.querySelector('#configuration ~ details > summary').focus()")
    browser.press('Enter')
    assert browser.run("document.querySelector('#configuration ~ details').open")
    # Wide tables scroll by the keyboard, too.
    assert browser.run("document.querySelectorAll('.wide:not([tabindex])').length") == 0


def test_a_wide_table_and_a_strip_scroll_in_their_place_on_a_phone(tmp_path, browser, work_dir):
    """The strip keeps its size, no caption touches it, and the last column can be reached."""
    rows = [['untrained network', *['0.123'] * 5], ['pixels', *['0.456'] * 5]]
    names = ['features', 'kNN', 'linear', 'cluster acc.', 'NMI', 'ARI']
    table = Table('Frozen features', names, rows, 'How.', best=True)
    strip = np.zeros((90, 215), np.uint8)
    picture = Picture('CoKe', png_uri(strip), 645, 'Digits', 'Random members.')
    runs = read_runs([work_dir])
    write_report(tmp_path / 'x.html', runs, extras=Extras(tables=[table], pictures=[picture]))
    browser.errors.clear()
    browser.open(tmp_path / 'x.html', 390)
    found = browser.run(
        """(() => {
            const box = (one) => document.querySelector(one).getBoundingClientRect();
            const wide = document.querySelector('.wide');
            wide.scrollLeft = 10000;
            const cell = wide.querySelector('thead th:last-child').getBoundingClientRect();
            return { page: document.documentElement.scrollWidth, right: cell.right,
                strip: box('.picture img').width, bottom: box('.picture img').bottom,
                caption: box('.picture figcaption').top };
        })()"""
    )
    assert found['page'] <= 390 and found['right'] <= 390
    assert found['strip'] == 645
    assert found['caption'] >= found['bottom'] + 8
    assert browser.errors == []


def test_the_largest_number_of_a_column_is_bold_whoever_has_it():
    table = Table('x', ['features', 'a'], [['CoKe', '0.1'], ['pixels', '0.9']], best=True)
    assert not table.is_best(0, 1) and table.is_best(1, 1) and not table.is_best(1, 0)
    assert not table._replace(best=False).is_best(1, 1)


def test_numbers_of_each_epoch_have_a_histogram_of_sizes(work_dir):
    """The counts are those of the labels, and add up to K."""
    text = (work_dir / 'cluster_stats.jsonl').read_text()
    last = json.loads(text.splitlines()[-1])
    label = read_checkpoint(work_dir / 'epoch_3.pth')['state_dict']['labelers.1.labels.label']
    sizes = np.bincount(label.numpy(), minlength=12)
    bins = [0, 1, 2, 3, 4, 6, 8, 12, 16, 23, 32, 46, 64, 91, 128, 182, 257]
    expected = np.histogram(sizes, bins)[0].tolist()
    counts = last['size_counts']
    assert counts == expected[: len(counts)] and sum(counts) == 12
    assert last['size_bound'] == pytest.approx(0.4 / 12 * 320)


def test_the_page_names_no_address(work_dir):
    page = re.sub('data:image/[^)"]*', '', (work_dir / 'report.html').read_text())
    assert not re.search(r'(src|href)="(?!#|")|url\((?!#|\))|@import', page)
