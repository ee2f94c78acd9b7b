"""``mmcoke browse`` shows what training shows the network."""

import re

import numpy as np
import pytest
from conftest import CONFIGS, DIGITS, TINY, tiny
from made_up_photos import photos
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image
from rich.console import Console

from mmcoke.cli import browse, train_folder
from mmcoke.cli.main import main
from mmcoke.engine.launch import build_runner

NETWORK = dict(_delete_=True, type='PlainConvNet', in_channels=3, channels=[8, 8, 8, 16, 16])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """104 images of 24 pixels, one of which cannot be read."""
    folder = tmp_path_factory.mktemp('data') / 'my pictures'
    folder.mkdir()
    for row, image in enumerate(photos(104, 24)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f'{row:03}.png')
    for row in range(0, 104, 13):
        (folder / f'{row:03}.png').write_bytes(b'no image')
    return folder


def trained(cfg, num_epochs):
    """Images that a real training shows its network: by epoch, those by the index of the sample."""
    cfg.train_cfg.max_epochs = num_epochs
    runner, seen = build_runner(cfg), []
    preprocessor = runner.model.data_preprocessor
    make = preprocessor.forward

    def forward(data, training=False):
        views = make(data, training)
        if training:
            pixels = [browse.pixels_of(x, preprocessor) for x in views['inputs']]
            seen[-1].update(
                zip(data['sample_idx'].tolist(), zip(*pixels, strict=True), strict=True)
            )
        return views

    preprocessor.forward = forward
    begin = runner.train_loop.run_epoch
    runner.train_loop.run_epoch = lambda: (seen.append({}), begin())
    with DefaultScope.overwrite_default_scope('mmcoke'):
        runner.train()
    return seen


def assert_as_trained(images, browser, seen):
    """Views of images are those of a training, in all of its epochs."""
    for epoch, of_epoch in enumerate(seen):
        for number, view in enumerate(browser.views(images, epoch)):
            for row, pixels in zip(images, view, strict=True):
                if row in of_epoch:  # not in a last batch, which is dropped
                    np.testing.assert_array_equal(pixels, of_epoch[row][number])


def test_views_of_arrays_are_those_of_a_training(tmp_path):
    cfg = tiny('swav', tmp_path, num_images=128)
    with DefaultScope.overwrite_default_scope('mmcoke'):
        browser = browse.Browser(cfg, 0)
        images = browser.images(5)
    seen = trained(cfg, 2)
    assert list(seen[0])[:5] == images
    assert_as_trained(images, browser, seen)
    first, again = (browser.views(images, epoch)[0] for epoch in (0, 1))
    assert (first != again).any()


def test_views_of_a_folder_are_those_of_a_training_with_workers(folder, tmp_path):
    chosen = dict.fromkeys(train_folder.CHOICES) | dict(image_size=16)
    names = [path.name for path in sorted(folder.iterdir())]
    with DefaultScope.overwrite_default_scope('mmcoke'):
        cfg, _ = train_folder.chosen_config(folder, names, chosen, Console(quiet=True))
    cfg.merge_from_dict({'model.backbone': NETWORK, 'model.neck.hid_channels': 16})
    cfg.model.head.hid_channels, cfg.train_dataloader.num_workers = 16, 1
    cfg.work_dir = str(tmp_path)
    with DefaultScope.overwrite_default_scope('mmcoke'):
        browser = browse.Browser(cfg, 0)
        images = browser.images(30)
    assert not any(browser.name(row) == '013.png' for row in images)  # cannot be read
    seen = trained(cfg, 2)
    shown = [row for row in seen[0] if row in images]
    assert shown == [row for row in images if row in seen[0]] and len(shown) > 25
    assert_as_trained(images, browser, seen)


def test_a_folder_gets_a_page_and_a_grid_for_each_view(folder, tmp_path, capsys):
    out = tmp_path / 'a, <b> & c'
    main(['browse', str(folder), '--out', str(out), '--num', '3', '--epochs', '1'])
    said = capsys.readouterr().out
    assert 'view 2 of 2: 24x24, RandomResizedCrops, PackInputs, ColorJitter' in said
    names = {'views.html', *(f'view_{n}.{kind}' for n in (1, 2) for kind in ('png', 'svg'))}
    assert {path.name for path in out.iterdir()} == names
    page = (out / 'views.html').read_text()
    assert page.count('<img') == 2 * 3 * 2 and len(re.findall('alt="[^"]+"', page)) == 2 * 3 * 2
    assert not re.search('(src|href)="http', page)


def test_the_same_command_writes_the_same_files(tmp_path):
    for name in ('one', 'two'):
        words = ['--out', str(tmp_path / name), '--num', '2', '--epochs', '1', '--seed', '7']
        main(['browse', str(DIGITS['coke']), *words])
    for name in ('views.html', 'view_1.png'):
        assert (tmp_path / 'one' / name).read_bytes() == (tmp_path / 'two' / name).read_bytes()


def test_pictures_have_the_colours_and_the_grey_values_of_the_images(folder, tmp_path):
    """A view without augmentation is the image."""
    cfg = Config.fromfile(CONFIGS / 'coke/coke_r18_1xb64-2view_folder.py')
    cfg.train_dataloader.update(batch_size=4)
    cfg.train_dataloader.dataset.update(
        data_root=str(folder),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='NumpyToPIL', to_rgb=True),
            dict(type='PILToNumpy'),
            dict(type='PackInputs'),
        ],
    )
    cfg.custom_hooks = [dict(type='SkipUnreadableHook')]
    cfg.model.data_preprocessor.views = [[]]
    with DefaultScope.overwrite_default_scope('mmcoke'):
        browser = browse.Browser(cfg, 0)
        images = browser.images(4)
    (view,) = browser.views(images, 0)
    for row, pixels in zip(images, view, strict=True):
        np.testing.assert_array_equal(pixels, browser.original(row))


def test_methods_that_draw_by_clusters_say_that_these_are_not_there_yet(tmp_path, capsys):
    main(['browse', str(DIGITS['deepcluster']), '--out', str(tmp_path), '--num', '2'])
    assert 'draws images by their clusters, which are not there yet' in capsys.readouterr().out


def test_a_config_without_seeds_says_that_training_draws_others(tmp_path, capsys):
    options = ['--cfg-options', 'default_hooks.sample_seed=None']
    main(['browse', str(DIGITS['coke']), '--out', str(tmp_path), '--num', '2', *options])
    assert 'The config has no SampleSeedHook: training draws other views' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['nothing'], "there is no folder or config 'nothing'"),
        (['nothing.py'], "there is no config 'nothing.py'"),
        ([str(DIGITS['coke']), '--num', '0'], '--num must be at least 1, but is 0'),
        ([str(DIGITS['coke']), '--image-size', '32'], 'Use --cfg-options'),
        (['.', '--seed', '-1'], '--seed must be in'),
    ],
)
def test_what_cannot_be_is_told_in_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(['browse', *words])
    said = capsys.readouterr().err
    assert end.value.code == 2 and message in said and len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_data_that_cannot_be_shown_are_told_in_one_line_and_nothing_is_written(folder, tmp_path):
    out, config = tmp_path / 'out', CONFIGS / 'coke/coke_r18_1xb64-2view_folder.py'
    words = ['browse', str(config), '--out', str(out), '--num', '64', '--cfg-options']
    root = f'train_dataloader.dataset.data_root={folder}'
    for options, message in (
        ([root], 'error: Cannot read the image .*png'),
        ([f'{root}/no'], 'error: .*my pictures/no'),
        (['train_dataloader=None'], 'has no train_dataloader'),
    ):
        with pytest.raises(SystemExit, match=message) as end:
            main([*words, *options])
        assert len(str(end.value.code).splitlines()) == 1
    few = tmp_path / 'few'
    few.mkdir()
    for row in range(20):
        Image.new('RGB', (8, 8)).save(few / f'{row}.png')
    with pytest.raises(SystemExit, match='20 images are no batch of 64'):
        main([*words, f'train_dataloader.dataset.data_root={few}'])
    with pytest.raises(SystemExit, match='20 images are too few to train on'):
        main(['browse', str(few), '--out', str(out)])
    assert not out.exists()


def test_the_tiny_recipes_are_all_shown():
    assert set(TINY) == set(DIGITS)
    for method in DIGITS:
        cfg = tiny(method, num_images=128)
        with DefaultScope.overwrite_default_scope('mmcoke'):
            browser = browse.Browser(cfg, 0)
            views = browser.views(browser.images(2), 0)
        assert all(view.shape == (2, 16, 16, 3) for view in views)
        assert all(view.std() > 0 for view in views)
