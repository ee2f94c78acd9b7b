"""Files: damage is found whatever it hits, and what is written is whole or not there."""

import json
import os
import pickle
import random
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny
from mmengine.logging import HistoryBuffer
from mmengine.runner import runner as mmengine_runner

from mmcoke.datasets.in_memory import load_npz
from mmcoke.engine.launch import train
from mmcoke.features.store import open_features
from mmcoke.files import (
    read_array,
    read_checkpoint,
    read_json,
    remove_leftovers,
    save_torch,
    write_whole,
)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Bytes of a checkpoint of a training."""
    cfg = tiny('coke', tmp_path_factory.mktemp('training') / 'work_dir')
    cfg.train_cfg.max_epochs = 1
    train(cfg)
    return (Path(cfg.work_dir) / 'epoch_1.pth').read_bytes()


def same(a, b):
    """Whether two contents are equal, exactly."""
    if isinstance(a, HistoryBuffer):
        return same(vars(a), vars(b)) if type(a) is type(b) else False
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.array_equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or callable(a)


def read_or_refuse(path):
    """The content, or None where the file is refused with one line."""
    try:
        return read_checkpoint(path)
    except ValueError as error:
        assert str(error).startswith(str(path))
        assert '\n' not in str(error)
        return None


def test_a_flipped_bit_is_refused_or_changes_nothing(checkpoint, tmp_path):
    """Most hit the values, which only the check sums know; some the zip's own records."""
    path, draw, refused = tmp_path / 'a.pth', random.Random(0), 0
    path.write_bytes(checkpoint)
    original = read_checkpoint(path)
    # Half of them where the zip keeps its own records, which are few of the bytes.
    end = 8 * len(checkpoint)
    places = [draw.randrange(end) for _ in range(100)]
    places += [draw.randrange(end - 160_000, end) for _ in range(100)]
    for place in places:
        damaged = bytearray(checkpoint)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        found = read_or_refuse(path)
        refused += found is None
        assert found is None or same(found, original)
    assert refused > 100


def test_a_wrong_value_is_named_as_damage(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save(dict(a=torch.arange(1000.0)), path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.tensor([500.0]).numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'a\.pth is damaged: a check sum within it is wrong\.'):
        read_checkpoint(path)


@pytest.mark.parametrize('in_zip', [True, False])
def test_a_file_cut_off_anywhere_is_refused(in_zip, tmp_path):
    path = tmp_path / 'a.pth'
    content = dict(a=torch.arange(30.0), b='text')
    torch.save(content, path, _use_new_zipfile_serialization=in_zip)
    whole = path.read_bytes()
    assert same(read_or_refuse(path), content)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert read_or_refuse(path) is None, size


def test_a_training_checkpoint_cut_off_is_refused(checkpoint, tmp_path):
    path = tmp_path / 'a.pth'
    for size in np.linspace(0, len(checkpoint) - 1, 50).astype(int):
        path.write_bytes(checkpoint[:size])
        assert read_or_refuse(path) is None, size


def test_a_file_written_without_check_sums_is_read(tmp_path):
    try:
        torch.serialization.set_crc32_options(False)
        torch.save(dict(a=torch.arange(3)), tmp_path / 'a.pth')
    finally:
        torch.serialization.set_crc32_options(True)
    assert not any(x.CRC for x in zipfile.ZipFile(tmp_path / 'a.pth').infolist())
    assert read_checkpoint(tmp_path / 'a.pth')['a'].tolist() == [0, 1, 2]


def finished_process():
    """Number of a process that has ended."""
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    return process.pid


def test_leftovers_of_killed_processes_are_removed_and_no_others(tmp_path):
    dead, keep = finished_process(), ['.b.tmp', 'b.1.tmp', f'.b.pth.{os.getpid()}.tmp', '.b.1x.tmp']
    for name in (f'.epoch_1.pth.{dead}.tmp', f'.c.json.{dead}.tmp', *keep):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(keep)


def test_writing_a_file_again_removes_what_a_killed_process_left_of_it(tmp_path):
    left, other = (tmp_path / f'.{x}.pth.{finished_process()}.tmp' for x in ('[a]', 'b'))
    left.touch(), other.touch()
    write_whole(tmp_path / '[a].pth', lambda path: path.write_bytes(b'x'))
    assert {path.name for path in tmp_path.iterdir()} == {'[a].pth', other.name}


def test_a_full_disk_is_told_as_such_for_any_content():
    for content in ({}, dict(a=torch.zeros(100_000))):
        with pytest.raises(OSError, match='No space left'):
            save_torch(content, '/dev/full')


def test_a_checkpoint_goes_to_the_disk_without_a_copy_in_memory(tmp_path):
    content = {str(i): torch.zeros(500_000) for i in range(20)}  # 40 MB
    tracemalloc.start()
    mmengine_runner.save_checkpoint(
        content, str(tmp_path / 'a.pth'), backend_args=dict(backend='whole_files')
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6
    assert same(read_checkpoint(tmp_path / 'a.pth'), content)


# ---- notes and arrays


@pytest.mark.parametrize(
    'content',
    [b'', b'{', b'[1]', b'{"key": 1}', b'\xff\xfe\x00', b'[' * 100_000, pickle.dumps(dict(key=1))],
)
def test_a_damaged_note_is_told_in_one_line(content, tmp_path):
    path = tmp_path / 'a.json'
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r'a\.json is damaged or of another kind .* Remove'
    ) as caught:
        read_json(path, 'key', 'done')
    assert '\n' not in str(caught.value)


def test_a_note_is_read(tmp_path):
    (tmp_path / 'a.json').write_text('{"key": "é", "done": 1}', encoding='utf-8')
    assert read_json(tmp_path / 'a.json', 'done') == dict(key='é', done=1)


@pytest.mark.parametrize('mmap', [False, True])
def test_an_array_with_objects_or_cut_off_is_told_in_one_line(mmap, tmp_path):
    path = tmp_path / 'a.npy'
    np.save(path, np.arange(100))
    whole = path.read_bytes()
    assert read_array(path, mmap=mmap).tolist() == list(range(100))
    np.save(path, np.array([dict(a=1)]), allow_pickle=True)
    contents = [path.read_bytes(), pickle.dumps([1]), *(whole[:n] for n in range(0, len(whole), 7))]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r'a\.npy is damaged or of another kind') as caught:
            read_array(path, mmap=mmap)
        assert '\n' not in str(caught.value)


def test_features_of_another_number_of_rows_are_refused(tmp_path):
    meta = dict(complete=True, num_samples=4, features=dict(pooled=2), labels=False)
    (tmp_path / 'meta.json').write_text(json.dumps(meta))
    np.save(tmp_path / 'pooled.npy', np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match=r'pooled\.npy in .* is \(3, 2\), not of 4 rows'):
        open_features(tmp_path)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_images_with_a_flipped_bit_are_refused_or_the_same(save, tmp_path):
    path, draw = str(tmp_path / 'a.npz'), random.Random(0)
    images = np.random.default_rng(0).integers(0, 255, (20, 4, 4), np.uint8)
    save(path, x=images, y=np.arange(20))
    whole, refused = Path(path).read_bytes(), 0
    for _ in range(200):
        damaged, place = bytearray(whole), draw.randrange(8 * len(whole))
        damaged[place // 8] ^= 1 << place % 8
        Path(path).write_bytes(damaged)
        try:
            x, y = load_npz(path)
        except ValueError as error:
            refused += 1
            assert '\n' not in str(error)
        else:
            assert np.array_equal(x, images)
            assert np.array_equal(y, np.arange(20))
    assert refused > 100
