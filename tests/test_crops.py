"""Views from one decoding: boxes, pixels, scale, files of all kinds, the same for any workers."""

import random

import cv2
import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from mmengine.dataset import Compose, default_collate
from mmengine.registry import init_default_scope
from PIL import Image, ImageOps
from torch.utils.data import DataLoader
from torchvision.transforms import InterpolationMode, RandomResizedCrop

import mmcoke.datasets.reading as reading
from mmcoke.datasets import CustomDataset, LoadImageFromFile, RandomResizedCrops, read_image
from mmcoke.datasets.crops import Box, View, draw_box, part, reduction_for
from mmcoke.datasets.loading import (
    Loading,
    loading_transforms,
    plain_pipeline,
    skip_unreadable,
)
from mmcoke.datasets.seeded_pipeline import seed_pipelines
from mmcoke.registry import TRANSFORMS

TWO_AND_SIX = [dict(size=224)] * 2 + [dict(size=96, scale=(0.05, 0.6))] * 6


def smooth(width, height):
    """RGB, without fine detail."""
    noise = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def save(path, width=120, height=90, mode='RGB', **options):
    Image.fromarray(smooth(width, height)).convert(mode).save(path, **options)
    return str(path)


def views_of(crops, path, seed=0):
    random.seed(seed)
    return crops.transform(dict(img_path=path))['img']


# ---- boxes


@pytest.mark.parametrize('size', [(500, 375), (300, 800)])
@pytest.mark.parametrize('scale', [(0.08, 1.0), (0.05, 0.6)])
def test_boxes_are_distributed_as_those_of_torchvision(size, scale):
    random.seed(0)
    torch.manual_seed(0)
    ratio, image = (3 / 4, 4 / 3), torch.zeros(0, *size[::-1])
    ours = np.array([draw_box(*size, scale, ratio) for _ in range(4000)], float)
    theirs = [RandomResizedCrop.get_params(image, scale, ratio) for _ in range(4000)]
    theirs = np.array(theirs, float)[:, [1, 0, 3, 2]]  # left, top, width, height
    for one, other in zip(moments(ours, size), moments(theirs, size), strict=True):
        error = np.sqrt((one.var() + other.var()) / 4000)
        assert abs(one.mean() - other.mean()) < 4 * error


def moments(boxes, size):
    """What a distribution of boxes is told by: places, shapes, and their squares."""
    left, top, width, height = boxes.T
    area = width * height / np.prod(size)
    for value in (left, top, width, height, area, np.log(width / height)):
        yield value
        yield value**2


def test_a_strip_gives_its_largest_central_part_of_an_allowed_shape():
    assert draw_box(1000, 30, (0.5, 1.0), (3 / 4, 4 / 3)) == Box(480, 0, 40, 30)
    assert draw_box(30, 1000, (0.5, 1.0), (3 / 4, 4 / 3)) == Box(0, 480, 30, 40)


def test_half_of_the_views_are_mirrored(tmp_path):
    path = save(tmp_path / 'a.jpg')
    whole = dict(size=16, scale=(1.0, 1.0), ratio=(4 / 3, 4 / 3))
    plain, mirrored = (RandomResizedCrops([whole] * 400, flip=p) for p in (0.0, 1.0))
    plain, mirrored = views_of(plain, path)[0], views_of(mirrored, path)[0]
    assert torch.equal(plain.flip(-1), mirrored) and not torch.equal(plain, mirrored)
    views = views_of(RandomResizedCrops([whole] * 400), path)
    assert 160 < sum(torch.equal(view, mirrored) for view in views) < 240


# ---- pixels


@pytest.mark.parametrize('ending', ['jpg', 'png'])
def test_a_view_is_what_torchvision_makes_of_the_box_with_pillow(ending, tmp_path):
    path = save(tmp_path / f'a.{ending}', 300, 200)
    crops = RandomResizedCrops([dict(size=64, scale=(0.08, 0.3)), dict(size=160)], flip=0.0)
    views, image = views_of(crops, path), Image.open(path)
    random.seed(0)
    for view, box, size in zip(views, crops.draw_boxes(300, 200), (64, 160), strict=True):
        left, top, width, height = box
        expected = F.resized_crop(
            image, top, left, height, width, [size, size], InterpolationMode.BILINEAR
        )
        difference = view.int() - F.pil_to_tensor(expected).int()
        assert view.dtype == torch.uint8 and view.is_contiguous()
        assert difference.abs().max() <= 1


@pytest.mark.parametrize('kind', ['RGB', 'L', 'CMYK', 'orientation', 'png', 'webp'])
def test_any_file_gives_crops_of_what_the_reader_gives(kind, tmp_path):
    """Small ones, which are not reduced."""
    options = dict(mode=kind) if kind in ('L', 'CMYK') else {}
    if kind == 'orientation':
        options['exif'] = exif(6)
    path = save(tmp_path / f'a.{kind if kind in ("png", "webp") else "jpg"}', **options)
    crops = RandomResizedCrops([dict(size=32), dict(size=90)])
    found = views_of(crops, path)
    random.seed(0)
    expected = crops.crops_of(read_image(path))
    assert all(map(torch.equal, found, expected))


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def test_views_have_the_channels_of_their_images(tmp_path):
    path = save(tmp_path / 'a.png')
    (grey,) = views_of(RandomResizedCrops([dict(size=8)], color_type='grayscale'), path)
    assert grey.shape == (1, 8, 8)
    record = dict(img=np.random.rand(20, 30, 4).astype(np.float32))
    (view,) = RandomResizedCrops([dict(size=8)]).transform(record)['img']
    assert (view.shape, view.dtype) == ((4, 8, 8), torch.float32)


# ---- scale


@pytest.mark.parametrize(
    ('sides', 'size', 'reduction'),
    [(223, 224, 1), (447, 224, 1), (448, 224, 2), (896, 224, 4), (1792, 224, 8), (9999, 224, 8)],
)
def test_the_scale_is_the_smallest_at_which_a_box_has_the_pixels_of_its_view(
    sides, size, reduction
):
    wide, large = Box(0, 0, 9999, sides), Box(0, 0, 20_000, 20_000)
    views = [View(size), View(size)]
    assert reduction_for([wide, large], views) == reduction_for([large, wide], views) == reduction


@pytest.mark.parametrize('size', [224, 225])
def test_no_reduced_box_has_fewer_pixels_than_its_view(size):
    for width in range(2 * size, 3 * size, 3):
        pixels = np.empty((-(-width // 2), -(-width // 2)))
        for left in range(width - 2 * size + 1):
            box = part(pixels, Box(left, left, 2 * size, 2 * size), (width, width))
            assert min(box.shape) >= size


@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
def test_a_reduced_photo_gives_nearly_the_same_views_upright(orientation, tmp_path, monkeypatch):
    path = save(tmp_path / 'a.jpg', 1600, 1200, exif=exif(orientation), quality=95)
    crops = RandomResizedCrops([dict(size=64)] * 4)
    shapes = noted_shapes(monkeypatch)
    found = views_of(crops, path)
    assert shapes == [(1200 // 8, 1600 // 8)] or shapes == [(1200 // 4, 1600 // 4)]
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    random.seed(0)
    for view, expected in zip(found, crops.crops_of(upright[..., ::-1].copy()), strict=True):
        assert (view.int() - expected.int()).abs().float().mean() < 4


def noted_shapes(monkeypatch):
    """List that gets height and width of whatever OpenCV decodes."""
    shapes, decode = [], cv2.imdecode

    def noting(*args):
        pixels = decode(*args)
        shapes.append(pixels.shape[:2])
        return pixels

    monkeypatch.setattr(reading.cv2, 'imdecode', noting)
    return shapes


def test_all_views_take_one_decoding(tmp_path, monkeypatch):
    path, shapes = save(tmp_path / 'a.jpg', 500, 375), noted_shapes(monkeypatch)
    views = views_of(RandomResizedCrops(TWO_AND_SIX), path)
    assert shapes == [(375, 500)]
    assert [tuple(view.shape) for view in views] == [(3, 224, 224)] * 2 + [(3, 96, 96)] * 6


def test_a_reduced_photo_that_opencv_gives_up_is_cropped_at_full_size(tmp_path, monkeypatch):
    path = save(tmp_path / 'a.jpg', 1600, 1200)
    crops = RandomResizedCrops([dict(size=64, scale=(0.5, 1.0))], flip=0.0)
    expected = views_of(crops, path)[0].int()
    monkeypatch.setattr(reading.cv2, 'imdecode', lambda *args: None)
    assert (views_of(crops, path)[0].int() - expected).abs().float().mean() < 4


# ---- in a data set


def loader_of(folder, num_workers, tmp_path=None, epoch=0):
    init_default_scope('mmcoke')
    pipeline = [dict(type='RandomResizedCrops', views=[dict(size=16)] * 2), dict(type='PackInputs')]
    dataset = CustomDataset(data_root=str(folder), with_label=False, pipeline=pipeline)
    if tmp_path:
        skip_unreadable(dataset, tmp_path / 'unreadable.txt')
    seed_pipelines(dataset, 5, torch.tensor(epoch).share_memory_())
    return DataLoader(dataset, 3, num_workers=num_workers, collate_fn=default_collate)


def test_crops_follow_from_seed_epoch_and_sample_alone(tmp_path):
    for i in range(5):
        save(tmp_path / f'{i}.jpg')
    here, in_workers = (
        [view for batch in loader_of(tmp_path, n) for view in batch['inputs']] for n in (0, 2)
    )
    assert all(map(torch.equal, here, in_workers))
    later = next(iter(loader_of(tmp_path, 0, epoch=1)))['inputs']
    assert not torch.equal(here[0], later[0]) and not torch.equal(here[0], here[1])


def test_skipping_names_a_file_that_cannot_be_read(tmp_path):
    photos = tmp_path / 'photos'
    photos.mkdir()
    for i in range(3):
        save(photos / f'{i}.jpg')
    (photos / '1.jpg').write_bytes(b'\xff\xd8 no image')
    assert len(next(iter(loader_of(photos, 0, tmp_path)))['inputs'][0]) == 3
    (line,) = (tmp_path / 'unreadable.txt').read_text().splitlines()
    assert line == f'{photos}/1.jpg\tnot an image'


def test_features_for_a_clustering_are_of_whole_images(tmp_path):
    save(tmp_path / '0.jpg')
    dataset = loader_of(tmp_path, 0).dataset
    transforms = [TRANSFORMS.build(dict(type=x)) for x in ('LoadImageFromFile', 'PackInputs')]
    plain = plain_pipeline(dataset, transforms)
    assert plain(dataset.get_data_info(0))['inputs'].shape == (3, 90, 120)


def test_ignore_empty_skips_and_without_it_the_message_names_the_remedy(tmp_path):
    path = tmp_path / 'a.jpg'
    path.write_bytes(b'')
    crops = RandomResizedCrops([dict(size=8)], ignore_empty=True)
    assert Compose([crops])(dict(img_path=str(path))) is None
    crops.ignore_empty = False
    with pytest.raises(ValueError, match=r'is empty.*ignore_empty=True in RandomResizedCrops'):
        crops.transform(dict(img_path=str(path)))


# ---- settings


@pytest.mark.parametrize(
    ('views', 'message'),
    [
        ([], 'must have at least one'),
        ([dict(scale=(0.1, 1.0))], r'views\[0\] .* must have size'),
        ([dict(size=8), dict(size=8, scales=(0.1, 1))], r'views\[1\] .* must have size, and may'),
        ([dict(size=0)], r'size in views\[0\] .* at least 1, but is 0'),
        ([dict(size=8, scale=(0.5, 1.5))], r'scale in views\[0\] .* in \(0, 1\], but is 1.5'),
        ([dict(size=8, scale=0.5)], 'must be two numbers, but is 0.5'),
        ([dict(size=8, ratio=(2, 1))], 'must begin with the smaller'),
    ],
)
def test_impossible_views_are_refused(views, message):
    with pytest.raises(ValueError, match=message):
        RandomResizedCrops(views)


def test_an_image_of_pillow_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match='leave NumpyToPIL ahead of it out'):
        RandomResizedCrops([dict(size=8)]).transform(dict(img=Image.new('RGB', (9, 9))))


def test_where_unreadable_files_are_passed_over_the_whole_image_is_still_found():
    """Features without augmentation, as k-means of the first labels wants them."""
    crops = RandomResizedCrops(views=[dict(size=8)])
    (loader,) = loading_transforms([Loading([crops])])
    assert type(loader) is LoadImageFromFile
