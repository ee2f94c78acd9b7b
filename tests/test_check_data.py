"""What tools/check_data.py finds wrong with data sets, each in a folder broken by hand."""

import dataclasses
import hashlib
import json
import pickle
import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from mmpretrain.datasets import CIFAR10 as MMPretrainCIFAR10
from PIL import Image

from mmcoke.datasets import CustomDataset, InMemoryImages, voc
from mmcoke.datasets.check import CHECKS, check_data, cifar, listed, readable, stl10

ROOT = Path(__file__).resolve().parent.parent
CLASSES = ('a', 'a-b', 'c')  # '-' sorts before '/': whole paths are in another order than classes


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The published sizes shrunk: 3 classes, 6 training images, 3 of validation."""
    sizes = dict(train=6, val=3)
    for name, spec in listed.LISTED.items():
        splits = tuple(dataclasses.replace(s, num_images=sizes[s.name]) for s in spec.splits)
        monkeypatch.setitem(
            listed.LISTED, name, dataclasses.replace(spec, splits=splits, num_classes=3)
        )
    monkeypatch.setattr(cifar, 'CIFAR10_IMAGES', dict(train=20, test=10))


@pytest.fixture
def look(tmp_path):
    """Checks ``tmp_path/data``."""

    def look(name, **options):
        return check_data(name, tmp_path / 'data', notes=tmp_path / 'notes', **options)

    return look


@pytest.fixture
def root(tmp_path):
    (tmp_path / 'data').mkdir()
    return tmp_path / 'data'


def save_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def fill(root, splits=None):
    """Class folders with as many images each: 2 in train, 1 in val."""
    for split, count in (splits or dict(train=2, val=1)).items():
        for name in CLASSES:
            for i in range(count):
                save_image(root / split / name / f'{name}_{i}.JPEG')


def problems(report):
    return ' | '.join(f'{error.what} -> {error.remedy}' for error in report.problems)


# ---- folders with a list


def test_complete_folders_get_the_lists_that_mmpretrain_would_see(root, look):
    fill(root)
    report = look('imagenet')
    assert not report.problems
    assert '9 images can be decoded' in report.facts
    for split in ('train', 'val'):
        options = dict(data_root=str(root), data_prefix=split)
        seen = CustomDataset(**options)
        listed = CustomDataset(**options, ann_file=f'meta/{split}.txt')
        assert [dict(row) for row in listed] == [dict(row) for row in seen]
    assert (root / 'meta/val.txt').read_text().splitlines()[1] == 'a-b/a-b_0.JPEG 1'


def test_a_second_check_reads_the_lists_and_writes_none(root, look):
    fill(root)
    assert sum(fact.startswith('wrote') for fact in look('imagenet').facts) == 2
    again = look('imagenet')
    assert not again.problems
    assert not any(fact.startswith('wrote') for fact in again.facts)


@pytest.mark.parametrize('name', CHECKS)
def test_a_folder_that_is_absent_is_named_with_what_to_unpack(tmp_path, name):
    (error,) = check_data(name, tmp_path / 'nowhere').problems
    assert str(tmp_path / 'nowhere') in error.what
    assert error.remedy


def test_a_split_that_is_absent_is_named(root, look):
    fill(root, dict(train=2))
    report = look('imagenet')
    assert f'There is no folder {root / "val"}' in problems(report)
    assert 'ILSVRC2012_img_val.tar' in problems(report)
    assert (root / 'meta/train.txt').is_file()


def test_an_incomplete_split_is_counted_and_gets_no_list(root, look):
    fill(root)
    (root / 'train/c/c_0.JPEG').unlink()
    report = look('imagenet')
    assert 'train has 5 images instead of 6' in problems(report)
    assert not (root / 'meta/train.txt').exists()
    assert (root / 'meta/val.txt').is_file()


def test_a_class_without_images_is_named(root, look):
    fill(root)
    for path in (root / 'val/c').iterdir():
        path.unlink()
    assert 'val has no image of 1 of the 3 classes (labels 2)' in problems(look('imagenet'))


def test_validation_images_in_one_folder_need_a_list(root, look):
    fill(root, dict(train=2))
    for i in range(3):
        save_image(root / f'val/ILSVRC2012_val_{i}.JPEG')
    report = look('imagenet')
    assert 'no class folders, so its 3 images have no labels' in problems(report)
    assert "torchvision.datasets.ImageNet(root, 'val')" in problems(report)
    (root / 'meta/val.txt').write_text(
        ''.join(f'ILSVRC2012_val_{i}.JPEG {2 - i}\n' for i in range(3))
    )
    assert not look('imagenet').problems


BROKEN_LISTS = {
    'a/a_0.JPEG': 'Line 1 of .*train.txt is not an image and a label',
    'a/a_0.JPEG zero': 'Line 1 of .*train.txt is not an image and a label',
    'a/other.JPEG 0': '1 images of train are absent from train: a/other.JPEG',
    'a/a_1.JPEG 0': 'names 1 images twice: a/a_1.JPEG',
    'a/a_0.JPEG 3': 'has labels that are not 0 ... 2: 3',
    'a/a_0.JPEG 2': '1 labels in meta/train.txt are not the position of the class folder',
}


@pytest.mark.parametrize(('line', 'message'), BROKEN_LISTS.items())
def test_a_wrong_line_of_a_list_is_named(root, look, line, message):
    fill(root)
    look('imagenet')
    path = root / 'meta/train.txt'
    path.write_text('\n'.join([line, *path.read_text().splitlines()[1:]]) + '\n')
    report = look('imagenet')
    assert re.search(message, problems(report))
    assert re.search('Remove|Unpack', problems(report))


def test_a_list_that_cannot_be_written_is_a_problem(root, look):
    fill(root)
    (root / 'meta').write_text('')
    assert f'Cannot write {root / "meta/train.txt"}' in problems(look('imagenet', decode=False))


def test_a_list_of_few_labels_must_be_a_part_of_train(root, look):
    fill(root)
    assert any('label_list.py makes it' in fact for fact in look('imagenet').facts)
    path = root / 'meta/train_1percent.txt'
    path.write_text('a/a_0.JPEG 0\nc/c_1.JPEG 2\n')
    report = look('imagenet')
    assert not report.problems
    assert 'meta/train_1percent.txt: 2 images' in report.facts
    path.write_text('a/a_0.JPEG 0\nc/c_1.JPEG 1\n')
    assert '1 lines that train has not: c/c_1.JPEG 1' in problems(look('imagenet'))


# ---- lists that the data set comes with


def fill_places205(root):
    folder = root / listed.IMAGES_205
    for split, count in dict(train=2, val=1).items():
        lines = []
        for label, name in enumerate(CLASSES):
            for i in range(count):
                save_image(folder / f'a/{name}/{split}_{i}.jpg')
                lines.append(f'a/{name}/{split}_{i}.jpg {label}\n')
        path = root / f'trainvalsplit_places205/{split}_places205.csv'
        path.parent.mkdir(exist_ok=True)
        path.write_text(''.join(lines))


def test_places205_is_checked_by_its_own_lists(root, look):
    fill_places205(root)
    report = look('places205')
    assert not report.problems
    assert 'train: 6 images of 3 classes' in report.facts
    (root / 'trainvalsplit_places205/val_places205.csv').unlink()
    assert 'The labels of val are missing' in problems(look('places205'))
    (root / listed.IMAGES_205 / 'a/c/train_1.jpg').unlink()
    assert '1 images of train are absent' in problems(look('places205'))


def test_who_lacks_places205_is_pointed_to_places365(root, look):
    assert 'places365' in problems(look('places205'))
    fill(root)
    assert not look('places365').problems


def annotations(split, count):
    names = [(label, i) for label in range(3) for i in range(count)]
    images = [
        dict(id=7 * label + i, file_name=f'train_val2018/Aves/{label}/{split}_{i}.jpg')
        for label, i in names
    ]
    rows = [dict(image_id=7 * label + i, category_id=label) for label, i in names]
    return dict(images=images, annotations=rows[::-1])


def test_inaturalist_lists_are_made_from_the_annotations(root, look):
    for split, count in dict(train=2, val=1).items():
        content = annotations(split, count)
        (root / f'{split}2018.json').write_text(json.dumps(content))
        for image in content['images']:
            save_image(root / image['file_name'])
    assert not look('inat18').problems
    assert (root / 'meta/val.txt').read_text() == ''.join(
        f'Aves/{label}/val_0.jpg {label}\n' for label in range(3)
    )


def test_annotations_that_are_cut_off_or_absent_are_named(root, look):
    (root / 'train_val2018').mkdir()
    (root / 'train2018.json').write_text(json.dumps(annotations('train', 2))[:-9])
    found = problems(look('inat18'))
    assert 'train2018.json is cut off' in found
    assert 'there is neither meta/val.txt nor val2018.json' in found


# ---- images that cannot be decoded


def test_unreadable_images_are_named_with_the_reason(root, look, tmp_path):
    fill(root)
    cut, empty, text = (root / f'train/{name}/{name}_0.JPEG' for name in CLASSES)
    cut.write_bytes((root / 'train/a/a_1.JPEG').read_bytes()[:-40])
    empty.write_bytes(b'')
    text.write_text('<html>404</html>')
    assert not look('imagenet', decode=False).problems
    report = look('imagenet')
    assert '3 images cannot be decoded' in problems(report)
    assert '6 images can be decoded' in report.facts
    listing = (tmp_path / 'notes/imagenet_unreadable.txt').read_text().splitlines()
    assert listing[0].startswith(f'{cut}: ') and 'truncated' in listing[0]
    assert listing[1:] == [f'{empty}: the file is empty', f'{text}: not an image']
    fill(root)
    assert not look('imagenet').problems
    assert not (tmp_path / 'notes/imagenet_unreadable.txt').exists()


def test_several_processes_find_the_same(image_folder):
    paths = sorted(map(str, image_folder.rglob('*.jpg')))
    for path in paths[::4]:
        Path(path).write_bytes(b'')
    state = image_folder / 'state.json'
    alone = readable.find_unreadable(paths, state)
    assert list(alone) == paths[::4]
    assert readable.find_unreadable(paths, state, num_workers=2) == alone


def test_an_interrupted_check_goes_on_where_it_was(image_folder, monkeypatch):
    monkeypatch.setattr(readable, 'BATCH', 2)
    monkeypatch.setattr(readable, 'SAVE_EVERY', 1)
    paths = sorted(map(str, image_folder.rglob('*.jpg')))
    Path(paths[0]).write_bytes(b'')
    Path(paths[-1]).write_bytes(b'')
    state = image_folder / 'state.json'

    def interrupted(batches):
        for number, batch in enumerate(batches):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    def interrupt():
        with pytest.raises(KeyboardInterrupt):
            readable.find_unreadable(paths, state, progress=interrupted)

    interrupt()
    decoded = []
    monkeypatch.setattr(
        readable,
        'decode_problem',
        lambda path, look=readable.decode_problem: decoded.append(path) or look(path),
    )
    assert list(readable.find_unreadable(paths, state)) == [paths[0], paths[-1]]
    assert decoded == paths[4:]
    assert not state.exists()
    interrupt()
    decoded.clear()
    assert list(readable.find_unreadable(paths[1:], state)) == [paths[-1]]
    assert decoded == paths[1:]  # of other images the note says nothing


# ---- VOC 2007


@pytest.fixture
def devkit(shared_data, root, monkeypatch):
    """A copy of the small devkit, whose size counts as the published one."""
    source = shared_data / 'VOCdevkit_subset100/VOC2007'
    shutil.copytree(source, root / 'VOC2007', copy_function=shutil.copyfile)
    monkeypatch.setattr(voc, 'NUM_IMAGES', dict(trainval=50, test=50))
    return root / 'VOC2007'


def test_a_complete_devkit_is_found_by_either_folder(devkit, look, tmp_path):
    above, own = look('voc07'), check_data('voc07', devkit, notes=tmp_path)
    assert not above.problems
    assert above.facts == own.facts
    assert above.facts[0].startswith('trainval: 50 images of 20 classes')
    assert above.facts[-1] == '100 images can be decoded'


def test_what_a_devkit_lacks_is_named_with_its_archive(devkit, look):
    main = devkit / 'ImageSets/Main'
    first, *_ = (main / 'test.txt').read_text().split()
    (devkit / f'JPEGImages/{first}.jpg').unlink()
    (main / 'cat_trainval.txt').unlink()
    found = problems(look('voc07', decode=False))
    assert re.search(r'1 of 20 lists are missing.* cat_trainval.txt.* VOCtrainval_06-Nov', found)
    assert re.search(rf'1 of 50 images of test.txt are missing.* {first}.jpg.* VOCtest_06', found)


def test_another_number_of_images_and_absent_annotations_are_named(devkit, look, monkeypatch):
    monkeypatch.setattr(voc, 'NUM_IMAGES', dict(trainval=5011, test=50))
    first, *_ = (devkit / 'ImageSets/Main/test.txt').read_text().split()
    (devkit / f'Annotations/{first}.xml').unlink()
    count, annotation = look('voc07', decode=False).problems
    assert count.what == 'trainval has 50 images instead of 5,011.'
    assert annotation.what == f'1 images of test have no XML file in Annotations: {first}.'


def test_a_folder_without_devkit_says_what_to_unpack(root, look):
    assert 'VOCtrainval_06-Nov-2007.tar and VOCtest' in problems(look('voc07'))


# ---- CIFAR


def save_arrays(root, split, num_images, **changes):
    arrays = dict(
        x=np.zeros((num_images, 32, 32, 3), np.uint8),
        y=np.arange(num_images, dtype=np.uint8) % 10,
        classes=np.array([f'class {i}' for i in range(10)]),
    )
    arrays |= changes
    path = root / f'cifar10_{split}.npz'
    np.savez(path, **{name: x for name, x in arrays.items() if x is not None})
    return path


def test_cifar_arrays_are_complete_and_usable(root, look):
    path = save_arrays(root, 'train', 20)
    save_arrays(root, 'test', 10)
    assert not look('cifar').problems
    assert len(InMemoryImages(str(path))) == 20


BROKEN_ARRAYS = {
    'instead of (20, 32, 32, 3)': dict(x=np.zeros((20, 28, 28, 3), np.uint8)),
    'but has none': dict(y=None),
    'but has 20 of 0': dict(y=np.zeros(20, np.uint8)),
    'has no 10 names in classes': dict(classes=None),
    'x in': dict(x=np.zeros((20, 32, 32, 3))),
}


@pytest.mark.parametrize(('message', 'changes'), BROKEN_ARRAYS.items())
def test_wrong_cifar_arrays_are_named(root, look, message, changes):
    save_arrays(root, 'train', 20, **changes)
    save_arrays(root, 'test', 10)
    (error,) = look('cifar').problems
    assert message in error.what
    assert 'cifar10_train.npz' in error.what


def test_absent_and_damaged_cifar_arrays_are_named(root, look):
    path = save_arrays(root, 'train', 20)
    path.write_bytes(path.read_bytes()[:2000])
    first, second = look('cifar').problems
    assert 'damaged' in first.what
    assert second.what == f'{root / "cifar10_test.npz"} is absent.'


@pytest.fixture
def official(root, monkeypatch):
    """The published layout with 1 image per file, and its MD5 sums in place of the real ones."""
    folder = root / 'cifar-10-batches-py'
    folder.mkdir()
    files = dict(train_list=['data_batch_1', 'data_batch_2'], test_list=['test_batch'])
    sums = {}
    for names in files.values():
        for name in names:
            batch = dict(data=np.zeros((1, 3072), np.uint8), labels=[0])
            (folder / name).write_bytes(pickle.dumps(batch))
    names = dict(label_names=[str(i) for i in range(10)])
    (folder / 'batches.meta').write_bytes(pickle.dumps(names))
    for path in folder.iterdir():
        sums[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    for kind in (cifar.CIFAR10, MMPretrainCIFAR10):
        for key, members in files.items():
            monkeypatch.setattr(kind, key, [[name, sums[name]] for name in members])
        monkeypatch.setattr(kind, 'meta', dict(kind.meta, md5=sums['batches.meta']))
    return folder


def test_the_published_cifar_files_are_accepted_where_mmpretrain_reads_them(official, look):
    report = look('cifar')
    assert not report.problems
    assert 'cifar-10-batches-py: 4 files compared with their MD5 sums' in report.facts
    assert len(MMPretrainCIFAR10(str(official.parent), download=False)) == 2


def test_damaged_and_absent_cifar_files_are_named(official, look):
    (official / 'data_batch_2').write_bytes(b'other')
    (official / 'batches.meta').unlink()
    first, second = look('cifar').problems
    assert first.what == f'{official / "data_batch_2"} is damaged.'
    assert second.what == f'{official / "batches.meta"} is absent.'
    assert 'cifar-10-python.tar.gz' in first.remedy


def test_a_folder_without_cifar_says_what_to_unpack(root, look):
    assert 'cifar-10-python.tar.gz' in problems(look('cifar'))


# ---- STL-10


def test_the_published_files_of_stl10_are_accepted_and_others_named(root, look, monkeypatch):
    folder = root / 'stl10_binary'
    folder.mkdir()
    for kind in ('train_list', 'test_list'):
        files = []
        for name, _ in getattr(stl10.STL10, kind):
            (folder / name).write_bytes(name.encode())
            files.append([name, hashlib.md5(name.encode()).hexdigest()])
        monkeypatch.setattr(stl10.STL10, kind, files)
    report = look('stl10')
    assert not report.problems
    assert report.facts == ['stl10_binary: 5 files compared with their MD5 sums']
    (folder / 'test_y.bin').write_bytes(b'other')
    (folder / 'unlabeled_X.bin').unlink()
    first, second = look('stl10').problems
    assert first.what == f'{folder / "unlabeled_X.bin"} is absent.'
    assert second.what == f'{folder / "test_y.bin"} is damaged.'
    assert 'stl10_binary.tar.gz' in first.remedy


def test_a_folder_without_stl10_says_what_to_unpack(root, look):
    assert 'stl10_binary.tar.gz' in problems(look('stl10'))


# ---- any folder


def test_real_photos_are_complete(shared_data, tmp_path):
    report = check_data('folder', shared_data / 'caltech10', notes=tmp_path)
    assert not report.problems
    assert 'train: 500 images in 10 class folders, 50 to 50 in each' in report.facts
    assert '800 images can be decoded' in report.facts


def test_images_without_labels_are_complete(image_folder, tmp_path):
    (image_folder / 'readme.txt').write_text('')
    report = check_data('folder', image_folder / 'part0', notes=tmp_path)
    assert not report.problems
    assert report.facts[0] == 'part0: 5 images, without labels'


def test_a_folder_without_images_says_which_files_count(root, look):
    (root / 'a.heic').write_text('')
    found = problems(look('folder'))
    assert 'There is no image' in found
    assert '.jpeg' in found and '1 .heic (not decoded)' in found


def test_class_folders_that_are_empty_or_in_one_split_only_are_named(root, look):
    fill(root)
    (root / 'train/empty').mkdir()
    save_image(root / 'train/other/0.png')
    save_image(root / 'train/beside.png')
    report = look('folder')
    assert 'train: 1 images beside the class folders, seen without labels only' in report.facts
    assert 'train: 1 folders without an image, which are no classes: empty' in report.facts
    (problem,) = report.problems
    assert 'val lacks 1 class folders that another split has: other' in problem.what


# ---- the tool


@pytest.fixture
def tool(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*args):
        path = str(ROOT / 'tools/check_data.py')
        monkeypatch.setattr(sys, 'argv', [path, *map(str, args)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(path, run_name='__main__')
        return end.value.code

    return run


def test_the_tool_ends_with_0_if_all_is_well_and_else_with_1(root, tool, capsys):
    fill(root)
    assert tool('imagenet', root, '--workers', 0) == 0
    assert 'complete' in capsys.readouterr().out
    (root / 'train/a/a_0.JPEG').write_bytes(b'')
    assert tool('imagenet', root, '--quick') == 0
    assert tool('imagenet', root, '--workers', 0) == 1
    said = capsys.readouterr().out
    assert 'wrong: 1 images cannot be decoded' in said
    assert 'fix: Unpack or download them again' in said


def test_the_tool_refuses_other_names(root, tool):
    assert tool('mnist', root) == 2


def test_a_name_without_a_check_is_refused(root):
    with pytest.raises(ValueError, match=r"no check of 'mnist', only of imagenet"):
        check_data('mnist', root)
