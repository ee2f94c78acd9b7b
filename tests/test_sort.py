"""``mmcoke sort``: from a folder or vectors to files; stopped anywhere, added to, refused."""

import csv
import importlib
import json
import os
import random
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from children import fork, start_processes
from conftest import CONFIGS
from PIL import Image

import mmcoke
import mmcoke.curation.sort
from mmcoke.cli.main import main
from mmcoke.clustering.dec import assign_dec, dec_cluster
from mmcoke.clustering.streaming_kmeans import stream_kmeans
from mmcoke.datasets import UnreadableImageError
from mmcoke.zoo import DownloadError

OURS = str(CONFIGS / 'coke/coke_r18_1xb256_folder.py')
QUIET = dict(progress=False)
EMPTY = {'lock'}


@pytest.fixture(scope='session')
def network(tmp_path_factory):
    """A small network with weights made at random, as arguments."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('network') / 'resnet18.pth'
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return dict(config=OURS, checkpoint=str(path), size=32, progress=False)


@pytest.fixture
def photos(tmp_path):
    """Sixteen images of four colours in a folder, two of them copies, one with a name of bytes."""
    folder, generator = tmp_path / 'photos', np.random.default_rng(0)
    (folder / 'sub').mkdir(parents=True)
    for i in range(15):
        colour = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250], [128, 128, 128]])[i % 4]
        pixels = (colour + generator.integers(-20, 20, (40, 60, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / ('sub' if i % 2 else '.') / f'{i:02} a,b#.png')
    name = os.fsencode(folder) + b'/copy of 00 \xff.png'
    shutil.copy(folder / '00 a,b#.png', os.fsdecode(name))
    return folder


@pytest.fixture
def vectors(tmp_path):
    """200 vectors in 8 directions, their paths, and what to give for them."""
    generator = np.random.default_rng(1)
    x = generator.normal(size=(8, 16))[np.arange(200) % 8] + 0.3 * generator.normal(size=(200, 16))
    np.save(tmp_path / 'x.npy', x.astype(np.float16))
    (tmp_path / 'paths.txt').write_text(''.join(f'{i}.jpg\n' for i in range(200)))
    return dict(features=str(tmp_path / 'x.npy'), paths=str(tmp_path / 'paths.txt'), **QUIET)


def rows_of(out):
    path = Path(out) / 'images.csv'
    with path.open(encoding='utf-8', errors='surrogateescape', newline='') as file:
        return {row['path']: row for row in csv.DictReader(file)}


def content_of(out):
    """All files of a result but the lock, and what links point to."""
    return {
        str(path.relative_to(out)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(Path(out).rglob('*'))
        if path.is_symlink() or (path.is_file() and path.name != 'lock')
    }


# ---- what comes out


def test_a_folder_becomes_labels_folders_and_a_page(photos, network, tmp_path):
    out = tmp_path / 'out'
    summary = mmcoke.sort(
        photos,
        out,
        **network,
        **dict(num_clusters=4, levels=2, duplicates=0.9999, pick=5, queries=3, link=True),
    )
    rows = rows_of(out)
    names = sorted(os.fsencode(path.relative_to(photos)) for path in photos.rglob('*.png'))
    assert [os.fsencode(name) for name in rows] == names
    assert summary == json.loads((out / 'summary.json').read_bytes())
    assert summary['num_images'] == 16 and summary['levels'] == [4, 2]
    # Images of one colour are together; the copy is in the group of its original.
    clusters = [
        {
            row['cluster']
            for name, row in rows.items()
            if name.endswith('.png') and colour(name) == c
        }
        for c in range(4)
    ]
    assert all(len(cluster) == 1 for cluster in clusters) and len(set.union(*clusters)) == 4
    original, copied = rows['00 a,b#.png'], rows[os.fsdecode(b'copy of 00 \xff.png')]
    assert original['duplicate_group'] == copied['duplicate_group'] == '0'
    assert {original['keep'], copied['keep']} == {'true', 'false'}
    assert sorted(row['pick_rank'] for row in rows.values() if row['pick_rank']) == list('12345')
    picked = [row for row in rows.values() if row['pick_rank']]
    assert {row['cluster'] for row in picked if row['pick_rank'] in '1234'} == set('0123')
    page = (out / 'index.html').read_text()
    assert page.count('<h3>Like ') == 3 and page.count('<span>this one</span>') == 3
    for name, row in rows.items():
        link = out / 'clusters' / row['cluster'] / os.path.basename(name)
        assert os.path.samefile(link, photos / name)
    expected = {'images.csv', 'images.parquet', 'clusters.csv', 'summary.json', 'index.html'}
    expected |= {'label_studio.json', 'label_studio.xml', 'fiftyone', 'clusters', '.work'}
    assert set(os.listdir(out)) == expected
    assert set(os.listdir(out / '.work')) & {'staging', 'ready.json', 'extracted'} == set()


def colour(name):
    return int(os.path.basename(name)[:2]) % 4 if name[0] != 'c' else 0


def test_given_vectors_are_clustered_in_the_order_of_their_paths(vectors, tmp_path):
    summary = mmcoke.sort(None, tmp_path / 'out', **vectors, num_clusters=8)
    rows = rows_of(tmp_path / 'out')
    assert list(rows) == [f'{i}.jpg' for i in range(200)]
    x = torch.from_numpy(np.load(vectors['features']))
    expected = stream_kmeans(x, 8, min_size=2, num_passes=10)
    assert [int(row['cluster']) for row in rows.values()] == expected.label.tolist()
    for name, values in (('similarity', expected.similarity), ('margin', expected.margin)):
        found = torch.tensor([float(row[name]) for row in rows.values()])
        torch.testing.assert_close(found, values, atol=1e-6, rtol=0)
    sizes = torch.bincount(expected.label)
    assert summary['sizes']['least'] == sizes.min() and summary['sizes']['most'] == sizes.max()
    assert not (tmp_path / 'out/.work/vectors.npy').exists()  # they stay where they are


def test_auto_is_the_square_root_and_clusters_have_a_tenth_of_the_mean(vectors, tmp_path):
    summary = mmcoke.sort(None, tmp_path / 'out', **vectors)
    assert summary['num_clusters'] == 14  # of 200
    assert summary['sizes']['least'] >= 1
    summary = mmcoke.sort(None, tmp_path / 'bound', **vectors, num_clusters=10, min_size=19)
    assert summary['sizes']['least'] >= 19


def test_one_image_is_one_cluster(photos, network, tmp_path):
    for path in sorted(photos.rglob('*.png'))[1:]:
        path.unlink()
    summary = mmcoke.sort(photos, tmp_path / 'out', **network, pick=3)
    assert (summary['num_images'], summary['num_clusters'], summary['num_picks']) == (1, 1, 1)


def test_images_that_cannot_be_read_are_left_out_and_named(photos, network, tmp_path):
    (photos / 'empty.jpg').write_bytes(b'')
    (photos / 'a text.png').write_bytes(b'no image')
    summary = mmcoke.sort(photos, tmp_path / 'out', **network, num_clusters=2)
    assert (summary['num_images'], summary['unreadable']) == (16, 2)
    lines = (tmp_path / 'out/unreadable.txt').read_text().splitlines()
    assert [line.split('\t')[0] for line in lines] == ['a text.png', 'empty.jpg']
    assert 'the file is empty' in lines[1]
    assert not {'empty.jpg', 'a text.png'} & set(rows_of(tmp_path / 'out'))


def test_results_within_the_folder_are_no_images_of_it(photos, network):
    out = photos / 'sorted'
    mmcoke.sort(photos, out, **network, num_clusters=2, copy=True)
    assert len(list(out.glob('clusters/*/*.png'))) == 16
    Image.new('RGB', (40, 40)).save(photos / 'new.png')
    assert mmcoke.sort(photos, out, add=True, progress=False)['num_images'] == 17


def test_a_network_for_small_grey_images_says_what_it_does_not_see(photos, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('mmcoke.curation.sizes.print_log', lambda text, **_: said.append(text))
    Image.new('RGB', (400, 300), (200, 30, 30)).save(photos / '00.png')
    mmcoke.sort(photos, tmp_path / 'out', model='coke_tiny_1xb64_digits', **QUIET)
    assert len(said) == 1
    assert said[0].startswith('coke_tiny_1xb64_digits sees grey images of 16 x 16 pixels')


# ---- refused, with nothing lost


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(model='x', config='y', checkpoint='z'), 'Give one of --model'),
        (dict(config='y'), '--config needs --checkpoint'),
        (dict(features='x.npy'), '--features needs --paths'),
        (dict(link=True, copy=True), 'not both'),
        (dict(num_clusters=17), '16 images are too few for --num-clusters 17'),
        (dict(num_clusters=4, min_size=5), 'of at least --min-size 5 each'),
        (dict(num_clusters=3, levels=3), '3 clusters are too few for 3 levels'),
        (dict(num_clusters=0), '--num-clusters must be an integer of at least 1'),
        (dict(num_clusters='many'), "not 'many'"),
        (dict(duplicates=1.5), '--duplicates must be a cosine similarity'),
        (dict(pick=-1), '--pick must be'),
        (dict(model='cokee'), "no 'cokee'"),
        (dict(add=True), 'no result in .* to add to'),
    ],
)
def test_what_does_not_go_together_is_refused_and_leaves_nothing(
    options, message, photos, tmp_path
):
    with pytest.raises(ValueError, match=message):
        mmcoke.sort(photos, tmp_path / 'out', **options, **QUIET)
    assert not (tmp_path / 'out').exists()


def test_without_a_model_the_best_of_the_zoo_is_taken_and_without_a_network_said_what_to_do(
    photos, tmp_path, monkeypatch
):
    def fail(name, **_):
        assert name == 'coke_r50_8xb64-mcrop_in1k'
        raise DownloadError('no network\nOpen ADDRESS in a browser.')

    monkeypatch.setattr(sys.modules['mmcoke.curation.sort'], 'FeatureExtractor', fail)
    message = 'mcrop_in1k cannot be downloaded. Give .*--config.*--features.* Open ADDRESS'
    with pytest.raises(DownloadError, match=message):
        mmcoke.sort(photos, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--out', 'x'], 'name the folder'),
        (['photos', '--out', 'x', '--config', 'c.py'], '--config needs --checkpoint'),
        (['photos', '--out', 'x', '--paths', 'p.txt'], '--features needs --paths'),
        (
            ['photos', '--out', 'x', '--model', 'm', '--features', 'x', '--paths', 'y'],
            'give one of',
        ),
        (['photos', '--out', 'x', '--link', '--copy'], 'not allowed with'),
        (['photos', '--out', 'x', '--num-clusters', '0'], 'at least 1'),
        (['photos', '--out', 'x', '--num-clusters', 'many'], 'invalid'),
    ],
)
def test_wrong_arguments_of_the_command_end_with_status_2(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(['sort', *words])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_folders_without_images_are_refused(tmp_path):
    (tmp_path / 'empty').mkdir()
    for folder, message in (('empty', 'There is no image in'), ('none', 'There is no folder')):
        with pytest.raises(ValueError, match=message):
            mmcoke.sort(tmp_path / folder, tmp_path / 'out')
    for resume in (False, True):
        with pytest.raises(ValueError, match='Name the folder'):
            mmcoke.sort(None, tmp_path / 'out', resume=resume)
    (tmp_path / 'empty/broken.jpg').write_bytes(b'no image')
    with pytest.raises(UnreadableImageError, match='1 of 1 images cannot be read'):
        mmcoke.sort(
            tmp_path / 'empty', tmp_path / 'out', model='coke_tiny_1xb64_digits', progress=False
        )
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('array', 'message'),
    [
        (np.zeros((200, 4), np.float64), "holds float64 .*astype\\('float32'\\)"),
        (np.zeros((200, 4, 4), np.float32), r'holds float32 \(200, 4, 4\)'),
        (np.ones((199, 4), np.float32), '199 vectors, and .* 200 paths'),
        (np.zeros((200, 4), np.float32), 'zero'),
        (np.full((200, 4), np.nan, np.float32), 'finite'),
    ],
    ids=['float64', 'three axes', 'other number', 'zeros', 'NaN'],
)
def test_vectors_of_another_kind_are_refused(array, message, vectors, tmp_path):
    np.save(tmp_path / 'x.npy', array)
    with pytest.raises(ValueError, match=message):
        mmcoke.sort(None, tmp_path / 'out', **vectors)
    assert not (tmp_path / 'out').exists()


def test_a_finished_result_is_not_overwritten(vectors, tmp_path):
    out = tmp_path / 'out'
    first = mmcoke.sort(None, out, **vectors)
    before = content_of(out)
    with pytest.raises(ValueError, match=r'holds a finished sort. Add new images to it by --add'):
        mmcoke.sort(None, out, **vectors)
    assert mmcoke.sort(None, out, **vectors, resume=True) == first
    with pytest.raises(ValueError, match='begun with seed 0, not 1'):
        mmcoke.sort(None, out, **vectors, seed=1, resume=True)
    assert content_of(out) == before


def test_a_folder_of_others_is_left_as_it_is(photos, network):
    before = content_of(photos)
    with pytest.raises(ValueError, match='holds other files'):
        mmcoke.sort(photos, photos, **network)
    assert content_of(photos) == before and '.work' not in os.listdir(photos)


# ---- stopped and resumed


def sort_in_child(out, options, kill_after, took):
    """Sort in this process, for ``children.fork``, which kills itself after so many seconds."""
    module = importlib.import_module('mmcoke.curation.sort')
    module.SECONDS_PER_SAVE = 0.0
    if kill_after is not None:
        threading.Timer(kill_after, os.kill, (os.getpid(), signal.SIGKILL)).start()
    start = time.monotonic()
    module.sort(None, out, resume=True, **options)
    took.write_text(str(time.monotonic() - start))
    os._exit(0)


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_it_ends_as_if_it_had_not_been(vectors, tmp_path):
    options = dict(**vectors, num_clusters=8, pick=9, levels=2, duplicates=0.9)
    said, took = tmp_path / 'said.txt', tmp_path / 'took.txt'

    def run(out, kill_after=None):
        process = fork(sort_in_child, out, options, kill_after, took, said=said)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), said.read_text()
        return process.exitcode != 0

    assert not run(tmp_path / 'whole')
    whole, duration = content_of(tmp_path / 'whole'), float(took.read_text())
    generator, out, num_killed = random.Random(0), tmp_path / 'killed', 0
    for _ in range(14):
        if run(out, generator.uniform(0, 0.9) * duration):
            num_killed += 1
        else:
            assert content_of(out) == whole
            shutil.rmtree(out)
    run(out)
    assert num_killed >= 4 and content_of(out) == whole


STAGES = (
    'mmcoke.curation.vectors.keep_good_rows',
    'mmcoke.curation.sort.stream_kmeans',
    'mmcoke.curation.sort.coarser_levels',
    'mmcoke.curation.sort.near_duplicates',
    'mmcoke.curation.sort.coverage_picks',
    'mmcoke.curation.writers.write_images_parquet',
    'mmcoke.curation.publishing.write_page',
    'mmcoke.curation.out_folder.OutFolder.put',
)


def patched(monkeypatch, name, value):
    owner, _, attribute = name.rpartition('.')
    module = owner if owner in sys.modules else owner.rpartition('.')[0]
    target = sys.modules[module]
    target = target if module == owner else getattr(target, owner.rpartition('.')[2])
    monkeypatch.setattr(target, attribute, value)


@pytest.fixture(scope='module')
def whole_result(tmp_path_factory, network):
    """A folder of twelve images, and its sort that was not stopped."""
    folder = tmp_path_factory.mktemp('images')
    for i in range(12):
        noise = np.random.default_rng(i).integers(0, 99, (30, 30, 3), dtype=np.uint8)
        Image.fromarray(noise + np.uint8(150 * (i % 2))).save(folder / f'{i}.png')
    options = dict(**network, num_clusters=4, levels=2, pick=3, link=True, duplicates=0.9)
    out = tmp_path_factory.mktemp('results') / 'whole'
    mmcoke.sort(folder, out, **options)
    return folder, options, out


@pytest.mark.parametrize('stage', STAGES)
def test_stopped_in_any_stage_it_says_so_and_goes_on(stage, whole_result, tmp_path, monkeypatch):
    folder, options, whole = whole_result
    out = whole.parent / f'stopped_{stage.rpartition(".")[2]}'

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patched(patch, stage, stop)
        with pytest.raises(KeyboardInterrupt):
            mmcoke.sort(folder, out, **options)
    assert not (out / 'summary.json').exists()
    with pytest.raises(ValueError, match=r'was stopped. Go on by --resume'):
        mmcoke.sort(folder, out, **options)
    with pytest.raises(ValueError, match='begun with num_clusters 4, not 5'):
        mmcoke.sort(folder, out, **options | dict(num_clusters=5), resume=True)
    mmcoke.sort(folder, out, resume=True, progress=False)  # the rest it knows
    assert content_of(out) == content_of(whole)


def as_words(options):
    names = {name: value for name, value in options.items() if name != 'progress'}
    return [word for name, value in names.items() for word in (f'--{name}', value)]


def test_ctrl_c_ends_with_the_command_to_go_on(vectors, tmp_path, monkeypatch, capsys):
    import mmcoke.cli.sort  # noqa: F401

    words = ['sort', '--out', str(tmp_path / 'a b'), *as_words(vectors)]
    monkeypatch.setattr(sys, 'orig_argv', ['mmcoke', *words])

    def stop(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules['mmcoke.curation.sort'], 'stream_kmeans', stop)
        with pytest.raises(SystemExit) as ended:
            main(words)
    said = capsys.readouterr().err
    assert ended.value.code == 130
    command = said.split('Go on with:\n  ')[1]
    assert command.startswith('mmcoke sort') and command.rstrip().endswith('--resume')
    main(shlex.split(command)[1:])
    assert '200 photos in 14 clusters' in capsys.readouterr().out


def test_two_sorts_do_not_share_a_folder(vectors, tmp_path):
    from mmcoke.curation.out_folder import OutFolder

    started, going_on = tmp_path / 'started', tmp_path / 'going_on'
    process = fork(hold, tmp_path / 'out', started, going_on, said=tmp_path / 'said.txt')
    while not started.exists():
        time.sleep(0.05)
    try:
        with pytest.raises(BlockingIOError, match='another process'):
            mmcoke.sort(None, tmp_path / 'out', **vectors)
    finally:
        going_on.touch()
        process.join()
    assert OutFolder(str(tmp_path / 'out')).is_new


def hold(out, started, going_on):
    from mmcoke.curation.out_folder import OutFolder

    with OutFolder(str(out)).lock():
        started.touch()
        while not going_on.exists():
            time.sleep(0.05)


# ---- added to


def test_new_images_join_the_given_clusters_and_old_rows_keep_their_labels(
    photos, network, tmp_path
):
    out = tmp_path / 'out'
    mmcoke.sort(photos, out, **network, num_clusters=4, levels=2, pick=4, link=True)
    before = rows_of(out)
    (photos / 'sub/03 a,b#.png').unlink()
    Image.new('RGB', (60, 40), (20, 250, 20)).save(photos / '00 new.png')
    (photos / 'broken.png').write_bytes(b'no image')
    summary = mmcoke.sort(photos, out, add=True, pick=6, **QUIET)
    after = rows_of(out)
    assert list(after) == [*(name for name in before if name != 'sub/03 a,b#.png'), '00 new.png']
    kept = ('cluster', 'cluster_1', 'similarity', 'margin')
    for name in before.keys() & after.keys():
        assert [before[name][key] for key in kept] == [after[name][key] for key in kept]
        if before[name]['pick_rank']:
            assert before[name]['pick_rank'] == after[name]['pick_rank']
    assert after['00 new.png']['cluster'] == after['sub/01 a,b#.png']['cluster']
    assert (out / 'removed.txt').read_text() == 'sub/03 a,b#.png\n'
    assert (summary['num_images'], summary['removed'], summary['unreadable']) == (16, 1, 1)
    assert not list(out.glob('clusters/*/03*')) and len(list(out.glob('clusters/*/*new.png'))) == 1
    # Nothing new: nothing changes. Then once more, on top.
    content = content_of(out)
    (photos / 'broken.png').unlink()
    mmcoke.sort(photos, out, add=True, **QUIET)
    assert content_of(out) == content
    Image.new('RGB', (60, 40), (250, 20, 20)).save(photos / '01 new.png')
    mmcoke.sort(photos, out, add=True, **QUIET)
    assert list(rows_of(out))[-2:] == ['00 new.png', '01 new.png']
    assert (out / 'removed.txt').read_text() == 'sub/03 a,b#.png\n'


def test_images_of_another_folder_are_named_by_their_whole_paths(photos, network, tmp_path):
    out, other = tmp_path / 'out', tmp_path / 'other'
    mmcoke.sort(photos, out, **network, num_clusters=4)
    other.mkdir()
    Image.new('RGB', (60, 40), (20, 250, 20)).save(other / 'new.png')
    mmcoke.sort(other, out, add=True, **QUIET)
    rows = rows_of(out)
    assert len(rows) == 17 and list(rows)[-1] == str(other / 'new.png')
    assert rows[str(other / 'new.png')]['cluster'] == rows['sub/01 a,b#.png']['cluster']


def test_given_vectors_are_added_with_their_paths(vectors, tmp_path):
    out = tmp_path / 'out'
    mmcoke.sort(None, out, **vectors, num_clusters=8, duplicates=0)
    before = rows_of(out)
    x = np.load(vectors['features'])
    np.save(tmp_path / 'more.npy', x[[3, 199, 4]])
    (tmp_path / 'more.txt').write_text('new 3.jpg\n199.jpg\nnew 4.jpg\n')
    more = dict(features=str(tmp_path / 'more.npy'), paths=str(tmp_path / 'more.txt'), **QUIET)
    summary = mmcoke.sort(None, out, add=True, **more)
    after = rows_of(out)
    assert list(after) == [*before, 'new 3.jpg', 'new 4.jpg'] and summary['num_images'] == 202
    for name in ('3.jpg', '4.jpg'):
        assert after[f'new {name}']['cluster'] == before[name]['cluster']
        assert after[f'new {name}']['similarity'] == before[name]['similarity']
    np.save(tmp_path / 'more.npy', np.ones((3, 15), np.float32))
    (tmp_path / 'more.txt').write_text('a\nb\nc\n')
    with pytest.raises(ValueError, match='15 numbers, those of the result 16'):
        mmcoke.sort(None, out, add=True, **more)
    assert list(rows_of(out)) == list(after)
    with pytest.raises(ValueError, match='is one of given vectors'):
        mmcoke.sort(None, out, add=True, **QUIET)


# ---- deep embedded clustering


@pytest.fixture
def short_dec(monkeypatch):
    """DEC of few epochs."""
    monkeypatch.setattr('mmcoke.clustering.dec.NUM_STEPS', 40)


def test_dec_sorts_with_a_bound_on_sizes_and_adds_by_its_encoder(vectors, tmp_path, short_dec):
    out = tmp_path / 'out'
    options = dict(num_clusters=8, min_size=25, levels=2, pick=8)
    summary = mmcoke.sort(None, out, **vectors, method='dec', **options)
    before = rows_of(out)
    x = torch.from_numpy(np.load(vectors['features']))
    expected = dec_cluster(x, 8, min_size=25)
    assert [int(row['cluster']) for row in before.values()] == expected.label.tolist()
    assert summary['sizes'] == dict(least=25, median=25.0, most=25)
    assert summary['settings']['method'] == 'dec'
    similarity = torch.tensor([float(row['similarity']) for row in before.values()])
    torch.testing.assert_close(similarity, expected.similarity, atol=1e-6, rtol=0)
    assert {row['cluster'] for row in before.values() if row['pick_rank']} == set('01234567')
    with pytest.raises(ValueError, match='begun with method dec, not kmeans'):
        mmcoke.sort(None, out, **vectors, method='kmeans', add=True)
    np.save(tmp_path / 'more.npy', x[[3, 4, 5]].numpy())
    (tmp_path / 'more.txt').write_text('new 3.jpg\nnew 4.jpg\nnew 5.jpg\n')
    more = dict(features=str(tmp_path / 'more.npy'), paths=str(tmp_path / 'more.txt'), **QUIET)
    mmcoke.sort(None, out, add=True, **more)
    after = list(rows_of(out).values())
    label, similarity, _ = assign_dec(x[3:6], expected.model)
    assert [int(row['cluster']) for row in after[-3:]] == label.tolist()
    found = torch.tensor([float(row['similarity']) for row in after[-3:]])
    torch.testing.assert_close(found, similarity, atol=1e-6, rtol=0)
    for name, old in before.items():
        row = after[int(name[:-4])]
        assert [row[key] for key in ('cluster', 'margin')] == [
            old[key] for key in ('cluster', 'margin')
        ]
    # Added once more, on top: the encoder is still there.
    (tmp_path / 'more.txt').write_text('a 3.jpg\na 4.jpg\na 5.jpg\n')
    mmcoke.sort(None, out, add=True, **more)
    for row, old in zip(list(rows_of(out).values())[-3:], after[-3:], strict=True):
        assert (row['cluster'], row['similarity']) == (old['cluster'], old['similarity'])


def test_dec_that_was_stopped_goes_on_with_the_same_result(
    vectors, tmp_path, short_dec, monkeypatch
):
    module, options = sys.modules['mmcoke.curation.sort'], dict(num_clusters=8, method='dec')
    mmcoke.sort(None, tmp_path / 'whole', **vectors, **options)
    monkeypatch.setattr(module, 'SECONDS_PER_SAVE', 0.0)
    save, epochs = module.write_whole, []

    def stop_after_eight(path, write):
        save(path, write)
        epochs.append(path.name)
        if len(epochs) == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, 'write_whole', stop_after_eight)
        with pytest.raises(KeyboardInterrupt):
            mmcoke.sort(None, tmp_path / 'stopped', **vectors, **options)
    assert epochs == ['state.pth'] * 8
    mmcoke.sort(None, tmp_path / 'stopped', resume=True, **QUIET)
    assert content_of(tmp_path / 'stopped') == content_of(tmp_path / 'whole')


def test_methods_that_there_are_not_are_refused(vectors, tmp_path):
    with pytest.raises(ValueError, match=r"must be one of kmeans, dec, not 'deep'"):
        mmcoke.sort(None, tmp_path / 'out', **vectors, method='deep')


# ---- other networks


def test_another_network_is_not_added_with(photos, network, vectors, tmp_path):
    out = tmp_path / 'out'
    mmcoke.sort(photos, out, **network, num_clusters=4)
    content = content_of(out)
    with pytest.raises(ValueError, match='begun with size 32, not 64'):
        mmcoke.sort(photos, out, add=True, **network | dict(size=64))
    with pytest.raises(ValueError, match='is one of a network'):
        mmcoke.sort(photos, out, add=True, **vectors)
    assert content_of(out) == content


@pytest.mark.parametrize('stage', STAGES[:1] + STAGES[3:])
def test_adding_that_was_stopped_goes_on(stage, whole_result, tmp_path, monkeypatch):
    folder, options, _ = whole_result
    photos = tmp_path / 'photos'
    shutil.copytree(folder, photos)
    results = []
    for stopped in (False, True):
        out = tmp_path / f'out{stopped}'
        mmcoke.sort(photos, out, **options)
        Image.new('RGB', (40, 40), (9, 200, 9)).save(photos / 'new.png')
        before = rows_of(out)
        if stopped:
            with monkeypatch.context() as patch:
                patched(patch, stage, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
                with pytest.raises(KeyboardInterrupt):
                    mmcoke.sort(photos, out, add=True, **QUIET)
            if not (out / '.work/ready.json').exists():
                assert rows_of(out) == before
            with pytest.raises(ValueError, match='was stopped'):
                mmcoke.sort(photos, out, **QUIET)
        mmcoke.sort(photos, out, add=not stopped, resume=stopped, **QUIET)
        results.append(content_of(out))
        (photos / 'new.png').unlink()
    assert len(results[0]) > 20 and results[0] == results[1]


# ---- several processes


def sort_as_rank(rank, port, out, options):
    import torch.distributed as dist

    importlib.import_module('mmcoke.clustering.dec').NUM_STEPS = 40
    dist.init_process_group('gloo', init_method=f'tcp://localhost:{port}', rank=rank, world_size=2)
    mmcoke.sort(None, out, **options)
    dist.destroy_process_group()


@pytest.mark.parametrize('method', ['kmeans', 'dec'])
def test_two_processes_write_what_one_does(method, vectors, tmp_path, short_dec):
    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        port = probe.getsockname()[1]
    options = dict(**vectors, num_clusters=8, levels=2, pick=5, duplicates=0.9, method=method)
    mmcoke.sort(None, tmp_path / 'one', **options)
    start_processes(sort_as_rank, (port, tmp_path / 'two', options), 2)
    assert content_of(tmp_path / 'one') == content_of(tmp_path / 'two')
