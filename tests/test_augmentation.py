"""Augmentation in batch, compared with torchvision's on PIL."""

from itertools import permutations

import numpy as np
import pytest
import torch
import torchvision.transforms as tv
from made_up_photos import photos, smooth
from PIL import ImageFilter
from scipy import stats
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms import functional as on_pil
from torchvision.transforms.functional import to_pil_image

from mmcoke.augmentation import OPERATIONS, View, build_operation, view_keys
from mmcoke.augmentation.blur import GaussianBlur, blur_weights
from mmcoke.augmentation.colour import (
    ColorJitter,
    RandomBrightness,
    RandomContrast,
    RandomGaussianNoise,
    RandomGrayscale,
    RandomSolarize,
)
from mmcoke.augmentation.geometry import (
    RandomAffine,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)

BILINEAR = tv.InterpolationMode.BILINEAR
EVERYTHING = [
    dict(type='RandomResizedCrop', size=(24, 32), scale=(0.2, 1.0), p=0.7),
    dict(type='RandomHorizontalFlip'),
    dict(type='RandomAffine', degrees=20, translate=(0.1, 0.1), scale=(0.8, 1.2), shear=9, p=0.5),
    dict(type='Resize', size=28),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8),
    dict(type='RandomGrayscale', p=0.2),
    dict(type='GaussianBlur', sigma=(0.1, 2.0), p=0.5),
    dict(type='RandomSolarize', p=0.2),
    dict(type='RandomBrightness', brightness=(0.8, 1.2), p=0.5),
    dict(type='RandomContrast', contrast=(0.8, 1.2), p=0.5),
    dict(type='RandomGaussianNoise', std=0.1, p=0.5),
]
SIMCLR = [
    dict(type='RandomResizedCrop', size=32, scale=(0.2, 1.0)),
    dict(type='RandomHorizontalFlip'),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8),
    dict(type='RandomGrayscale', p=0.2),
    dict(type='GaussianBlur', sigma=(0.1, 2.0), p=0.5),
    dict(type='RandomSolarize', p=0.2),
]


def view_of(configs):
    return View(map(build_operation, configs))


def keys(samples, seed=0, epoch=0, view=0):
    seed, epoch, samples = (torch.as_tensor(x) for x in (seed, epoch, samples))
    return view_keys(seed, epoch, samples, view + 1)[view]


def draws(operation, num_images, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_images, operation.num_draws, generator=generator)


# --- the same parameters: differences of pixels, which the docstrings state


def differences(operation, u, theirs, images):
    """Greatest and mean difference in units of 1/255, theirs of each image on PIL."""
    ours = operation(images / 255, u) * 255
    theirs = [theirs(to_pil_image(x), i) for i, x in enumerate(images)]
    away = (ours - torch.stack([on_pil.pil_to_tensor(x) for x in theirs])).abs()
    return away.max().item(), away.mean().item()


@pytest.mark.parametrize('size', [(32, 32), (20, 24), (48, 40)])
def test_equal_boxes_are_resized_as_by_pil(size):
    operation, images = RandomResizedCrop(size, (0.08, 1.0)), photos(48)
    u = draws(operation, 48)
    boxes = operation.boxes(u[:, 1:], 32, 32).int().tolist()
    most, mean = differences(
        operation, u, lambda x, i: on_pil.resized_crop(x, *boxes[i], size, BILINEAR), images
    )
    assert most <= 1.01
    assert mean < 0.35


@pytest.mark.parametrize('size', [20, (24, 40)])
def test_resizing_is_that_of_pil(size):
    operation, images = Resize(size), photos(16)[:, :, :, :28]
    most, _ = differences(
        operation, draws(operation, 16), lambda x, _: on_pil.resize(x, size), images
    )
    assert most <= 1.01


EXACT = {
    'flip': (RandomHorizontalFlip(1.0), on_pil.hflip, 0.001),
    'gray': (RandomGrayscale(1.0), lambda x: on_pil.rgb_to_grayscale(x, 3), 0.51),
    'solarize': (RandomSolarize(p=1.0), lambda x: on_pil.solarize(x, 128), 0.001),
}


@pytest.mark.parametrize('name', EXACT)
def test_operations_without_parameters_are_those_of_pil(name):
    operation, theirs, limit = EXACT[name]
    images = photos(32)
    most, _ = differences(operation, draws(operation, 32), lambda x, _: theirs(x), images)
    assert most <= limit


def test_equal_sigmas_blur_as_torchvision_and_nearly_as_pil():
    operation, images = GaussianBlur((0.1, 2.0)), photos(64)
    u = draws(operation, 64)
    sigma = (0.1 + 1.9 * u[:, 1]).tolist()
    most, _ = differences(
        operation, u, lambda x, i: on_pil.gaussian_blur(x, [23, 23], sigma[i]), images
    )
    assert most <= 0.51
    most, mean = differences(
        operation, u, lambda x, i: x.filter(ImageFilter.GaussianBlur(sigma[i])), images
    )
    assert most <= 28
    assert mean < 0.9


CHANGES = dict(
    brightness=on_pil.adjust_brightness,
    contrast=on_pil.adjust_contrast,
    saturation=on_pil.adjust_saturation,
    hue=on_pil.adjust_hue,
)
ALL = dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
LIMITS = {  # of the greatest and the mean difference
    ('brightness',): (1.01, 0.5),
    ('contrast',): (1.2, 0.55),
    ('saturation',): (1.2, 0.55),
    ('hue',): (18, 0.7),
    ('brightness', 'contrast', 'saturation'): (4, 1.5),
    ('saturation', 'hue'): (28, 1.3),
    tuple(ALL): (28, 1.7),
}


@pytest.mark.parametrize('kinds', LIMITS, ids='+'.join)
def test_equal_factors_and_order_jitter_as_on_pil(kinds):
    operation, images = ColorJitter(**{kind: ALL[kind] for kind in kinds}), photos(96)
    u, orders = draws(operation, 96), list(permutations(kinds))
    chosen = torch.arange(96) % len(orders)
    u[:, 5] = (chosen + 0.5) / len(orders)  # each order

    def theirs(image, i):
        values = dict(zip(ALL, u[i, 1:5].tolist(), strict=True))
        for kind in orders[chosen[i]]:
            amount = ALL[kind] * (2 * values[kind] - 1)
            image = CHANGES[kind](image, amount + (kind != 'hue'))
        return image

    most, mean = differences(operation, u, theirs, images)
    assert most <= LIMITS[kinds][0]
    assert mean <= LIMITS[kinds][1]


def test_equal_angles_map_as_on_pil():
    """Where the edge is black; else PIL's image ends at once, and ours within a pixel."""
    operation = RandomAffine(20, (0.12, 0.12), (0.74, 1.35), (-17, 17, -17, 17))
    images = photos(64, 36)
    images[:, :, (0, 1, -1, -2)] = 0
    images[:, :, :, (0, 1, -1, -2)] = 0
    images = images[:, :, :, :32]
    images[:, :, :, (-1, -2)] = 0
    u = draws(operation, 64)
    # torchvision shifts by whole pixels.
    shift = torch.stack([torch.arange(64) % 7 - 3, torch.arange(64) % 9 - 4], 1)
    u[:, 2:4] = (shift / torch.tensor([32, 36]) / 0.12 + 1) / 2

    def theirs(image, i):
        angle, _, _, scale, x, y = u[i, 1:].tolist()
        shear = [34 * x - 17, 34 * y - 17]
        scale = 0.74 + 0.61 * scale
        return on_pil.affine(image, 40 * angle - 20, shift[i].tolist(), scale, shear, BILINEAR)

    most, mean = differences(operation, u, theirs, images)
    assert most <= 1.01
    assert mean < 0.5


def test_kornias_operations_are_theirs():
    from kornia.augmentation import RandomBrightness as KorniaBrightness
    from kornia.augmentation import RandomContrast as KorniaContrast

    images = photos(8) / 255
    for operation, cls in (
        (RandomBrightness((0.5, 1.5)), KorniaBrightness),
        (RandomContrast((0.5, 1.5)), KorniaContrast),
    ):
        u = draws(operation, 8)
        name = 'brightness' if cls is KorniaBrightness else 'contrast'
        params = {f'{name}_factor': 0.5 + u[:, 1], 'batch_prob': torch.ones(8)}
        found = cls(**{name: (0.5, 1.5)}, p=1.0)(images, params=params)
        assert torch.allclose(operation(images, u), found, atol=1e-6)


def test_noise_has_the_given_spread():
    operation = RandomGaussianNoise(std=0.1, p=1.0)
    images = photos(64) / 255
    noise = operation(images, draws(operation, 64)) - images
    assert noise.mean().abs() < 4.5 * 0.1 / noise.numel() ** 0.5
    assert noise.std() == pytest.approx(0.1, rel=0.01)
    assert np.corrcoef(noise[:, 0].flatten(), noise[:, 1].flatten())[0, 1] < 0.02


# --- the same distributions


def test_boxes_are_distributed_as_torchvisions():
    """Also where many of the ten tries fail, and on images that are not square."""
    for (height, width), scale, ratio in (
        ((32, 32), (0.2, 1.0), (3 / 4, 4 / 3)),
        ((20, 60), (0.5, 1.0), (0.5, 1.2)),
        ((60, 24), (0.3, 1.0), (1.0, 2.0)),
    ):
        operation = RandomResizedCrop(32, scale, ratio)
        ours = operation.boxes(draws(operation, 3000)[:, 1:], height, width).numpy()
        torch.manual_seed(0)
        image = torch.empty(1, height, width)
        theirs = [tv.RandomResizedCrop.get_params(image, scale, ratio) for _ in range(3000)]
        theirs = np.array(theirs, dtype=np.float32)
        for one, other in zip(aspects(ours), aspects(theirs), strict=True):
            assert stats.ks_2samp(one, other).pvalue > 1e-3, (height, width)


def aspects(boxes):
    """Place, size, area and ratio."""
    top, left, height, width = boxes.T
    return top, left, height, width, height * width, height / width


def test_a_box_that_never_fits_is_central_as_torchvisions():
    for height, width, ratio in ((10, 40, (0.5, 1.0)), (40, 10, (1.0, 2.0))):
        operation = RandomResizedCrop(8, (1.0, 1.0), ratio)
        image = torch.empty(1, height, width)
        u = torch.rand(4, operation.num_draws)
        theirs = tv.RandomResizedCrop.get_params(image, (1.0, 1.0), ratio)
        assert operation.boxes(u[:, 1:], height, width).tolist() == [list(theirs)] * 4


def moments(images):
    """What describes an image: (n, 16): means and mean products of channels, and how rough it is.

    For each channel also of the left half: so that flips and places count.
    """
    x = images.double()
    flat = x.flatten(2)
    mixed = torch.einsum('nap,nbp->nab', flat, flat) / flat.shape[2]
    upper = torch.triu_indices(3, 3)
    rough = [x.diff(dim=dim).square().mean((1, 2, 3))[:, None] for dim in (2, 3)]
    left = x[..., : x.shape[3] // 2].mean((2, 3))
    spread = flat.std(2)
    return torch.cat([flat.mean(2), mixed[:, upper[0], upper[1]], left, spread, *rough], dim=1)


JITTER = tv.ColorJitter(0.4, 0.4, 0.2, 0.1)
THEIRS = {
    'RandomResizedCrop': tv.RandomResizedCrop(32, (0.2, 1.0)),
    'RandomHorizontalFlip': tv.RandomHorizontalFlip(),
    'ColorJitter': tv.RandomApply([JITTER], 0.8),
    'RandomGrayscale': tv.RandomGrayscale(0.2),
    'GaussianBlur': tv.RandomApply([tv.GaussianBlur(23, (0.1, 2.0))], 0.5),
    'RandomSolarize': tv.RandomSolarize(128, 0.2),
}
ROUNDING = dict(ColorJitter=1.5 / 255, GaussianBlur=0.5 / 255)
"""By how much means may differ: PIL cuts off in each blend instead of rounding."""


def check_statistics(configs, theirs, images, tolerance):
    """Mean moments of both, of the same images: equal within 4.5 standard errors."""
    ours = view_of(configs)(images / 255, keys(range(len(images))))
    torch.manual_seed(1000)  # not one of the photos: equal seeds, equal numbers
    theirs = torch.stack([on_pil.to_tensor(theirs(to_pil_image(x))) for x in images])
    away = moments(ours) - moments(theirs)
    error = away.std(0) / len(images) ** 0.5
    assert (away.mean(0).abs() <= 4.5 * error + tolerance).all()
    # Also how much augmentation spreads them, by the squares of the distances to the image.
    plain = moments(images / 255)
    ours, theirs = (moments(ours) - plain).square(), (moments(theirs) - plain).square()
    error = (ours - theirs).std(0) / len(images) ** 0.5
    assert ((ours - theirs).mean(0).abs() <= 4.5 * error + tolerance / 2).all()


@pytest.mark.parametrize('name', THEIRS)
@pytest.mark.parametrize('kind', [smooth, photos])
def test_statistics_of_each_operation_are_torchvisions(name, kind):
    config = next(config for config in SIMCLR if config['type'] == name)
    check_statistics([config], THEIRS[name], kind(600), ROUNDING.get(name, 0.3 / 255))


@pytest.mark.parametrize('kind', [smooth, photos])
def test_statistics_of_a_whole_view_are_torchvisions(kind):
    check_statistics(SIMCLR, tv.Compose(THEIRS.values()), kind(1000), 1.5 / 255)


def test_statistics_of_the_affine_map_are_torchvisions():
    """Shifts of whole pixels there, any here: of large images, it counts little."""
    config = dict(type='RandomAffine', degrees=20, translate=(0.1, 0.1), scale=(0.8, 1.2), shear=9)
    theirs = tv.RandomAffine(20, (0.1, 0.1), (0.8, 1.2), 9, interpolation=BILINEAR)
    check_statistics([config], theirs, smooth(400, 64), 1 / 255)


def test_shares_are_the_given_ones():
    images = photos(1)[:, :, :4, :4].expand(4000, -1, -1, -1) / 255
    for cls in (RandomHorizontalFlip, RandomGrayscale, RandomSolarize, GaussianBlur):
        for p in (0.2, 0.5):
            changed = view_of([dict(type=cls.__name__, p=p)])(images, keys(range(4000)))
            share = (changed != images).any(1).any(1).any(1).double().mean()
            assert abs(share - p) < 4.5 * (p * (1 - p) / 4000) ** 0.5, cls


# --- a pure function


def test_a_view_hangs_on_seed_epoch_sample_and_view_alone():
    """The same in any batch, in any order, and in parts, as several processes have them."""
    images, view = photos(12) / 255, view_of(EVERYTHING)
    whole = view(images, keys(range(12)))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = view(images[order], keys(order))
    parts = [view(images[i : i + 3], keys(range(i, i + 3))) for i in range(0, 12, 3)]
    alone = torch.cat([view(images[i : i + 1], keys([i])) for i in range(12)])
    for other in (torch.cat(parts), alone, shuffled[order.argsort()]):
        assert torch.allclose(whole, other, atol=2e-6, rtol=0)
    assert torch.equal(whole, view(images, keys(range(12))))
    for change in (dict(seed=1), dict(epoch=1), dict(view=1)):
        other = view(images, keys(range(12), **change))
        assert (other != whole).flatten(1).any(1).all(), change


def test_the_generator_of_torch_is_left_alone():
    before = torch.get_rng_state()
    view_of(EVERYTHING)(photos(4) / 255, keys(range(4)))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('config', EVERYTHING, ids=lambda config: config['type'])
def test_each_operation_keeps_range_and_input(config, channels):
    operation = build_operation(config)
    images = photos(64)[:, :channels] / 255
    images[:8] = images[:8].round()  # black and white
    before, u = images.clone(), draws(operation, 64)
    changed = operation(images, u)
    assert torch.equal(images, before)
    assert changed.shape[:2] == images.shape[:2]
    assert changed.isfinite().all()
    if config['type'] != 'RandomGaussianNoise':  # which is not cut off
        assert changed.min() >= 0
        assert changed.max() <= 1
    alone = torch.cat([operation(images[i : i + 1], u[i : i + 1]) for i in range(64)])
    assert torch.allclose(alone, changed, atol=1e-6, rtol=0)
    if operation.p < 1 and changed.shape == images.shape:
        same = (changed == images).flatten(1).all(1)
        assert same[u[:, 0] >= operation.p].all(), 'left exactly as they were'


@pytest.mark.parametrize('channels', [2, 4])
def test_colours_need_one_or_three_channels(channels):
    for operation in (ColorJitter(0.4), RandomGrayscale(1.0)):
        with pytest.raises(ValueError, match=f'1 or 3 channels, not {channels}'):
            operation(torch.rand(2, channels, 8, 8), draws(operation, 2))


def test_jitter_of_gray_images_changes_brightness_and_contrast():
    images = photos(32)[:, :1]
    operation = ColorJitter(0.4, 0.4, 0.4, 0.1)
    plain = ColorJitter(saturation=0.4, hue=0.1)
    assert torch.allclose(plain(images / 255, draws(plain, 32)), images / 255, atol=1e-6)
    assert not torch.allclose(operation(images / 255, draws(operation, 32)), images / 255)


def test_blur_weights_mirror_the_border():
    """By hand: three pixels, each at its place and mirrored at both ends, but for those there."""
    k = np.exp(-0.5 * np.arange(5) ** 2)
    found = blur_weights(torch.ones(1), 3)[0].double().numpy()
    # Pixel 0 mirrors 1 and 2 at -1 and -2; at the other end, 1 and 0 lie at 3 and 4.
    first = [1 + k[4], k[1] + k[1] + k[3], k[2] + k[2]]
    middle = [k[1] + k[3], 1 + 2 * k[2], k[1] + k[3]]
    expected = np.array([first, middle, first[::-1]])
    assert np.allclose(found, expected / expected.sum(1, keepdims=True))
    assert np.allclose(blur_weights(torch.ones(1), 1), 1)


def test_nothing_waits_for_a_gpu():
    """Tensors without data, as on a GPU: what needs a value, or mixes devices, fails."""
    with FakeTensorMode():
        there = dict(device='cuda')
        view = view_of(EVERYTHING).to(**there)
        scalars = [torch.zeros((), dtype=torch.int64, **there) for _ in range(2)]
        key = view_keys(*scalars, torch.arange(8, **there), 2)[1]
        for channels in (1, 3):
            made = view(torch.empty(8, channels, 32, 40, **there), key)
            assert made.device.type == 'cuda'
            assert made.shape == (8, channels, 28, 37)


@pytest.mark.slow
def test_a_compiler_sees_one_graph():
    images, view = photos(6) / 255, view_of(EVERYTHING)
    compiled = torch.compile(view, backend='eager', fullgraph=True)
    assert torch.allclose(compiled(images, keys(range(6))), view(images, keys(range(6))), atol=1e-6)


@pytest.mark.gpu
def test_a_cuda_graph_sees_the_epoch_change():
    view = view_of(EVERYTHING).cuda()
    images, epoch = photos(16).cuda() / 255, torch.tensor(0).cuda()
    seed, samples = torch.tensor(0).cuda(), torch.arange(16).cuda()
    view(images, view_keys(seed, epoch, samples, 1)[0])
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = view(images, view_keys(seed, epoch, samples, 1)[0])
    for number in (3, 4):
        epoch.fill_(number)
        graph.replay()
        there = view(images, view_keys(seed, epoch, samples, 1)[0])
        assert torch.equal(made, there)
        here = view.cpu()(images.cpu(), keys(range(16), epoch=number))
        view.cuda()
        assert torch.allclose(made.cpu(), here, atol=2e-3)


@pytest.mark.gpu
@pytest.mark.slow
def test_compiled_views_are_the_same_on_a_gpu():
    view = view_of(EVERYTHING).cuda()
    images, key = photos(16).cuda() / 255, keys(range(16)).cuda()
    assert torch.allclose(torch.compile(view)(images, key), view(images, key), atol=2e-3)


# --- settings

WRONG = {
    'GausianBlur': (dict(type='GausianBlur'), r"no augmentation 'GausianBlur' \(GaussianBlur"),
    'no type': (dict(p=0.5), 'no augmentation None'),
    'close argument': (dict(type='GaussianBlur', sigmas=1), r"takes no 'sigmas' \(sigma"),
    'no size': (dict(type='RandomResizedCrop'), "RandomResizedCrop needs 'size'"),
    'size': (dict(type='RandomResizedCrop', size=0), 'size of RandomResizedCrop must be'),
    'sizes': (dict(type='Resize', size=(1, 2, 3)), r'must be a number or \(height, width\)'),
    'scale': (dict(type='RandomResizedCrop', size=8, scale=(0.5, 1.5)), r'in \(0, 1\]'),
    'order': (dict(type='RandomResizedCrop', size=8, scale=(1, 0.5)), 'the lesser number first'),
    'ratio': (dict(type='RandomResizedCrop', size=8, ratio=0.75), 'must be two numbers'),
    'p': (dict(type='RandomHorizontalFlip', p=50), r'p of RandomHorizontalFlip must be in \[0, 1'),
    'p text': (dict(type='RandomGrayscale', p='0.1'), 'a finite number'),
    'degrees': (dict(type='RandomAffine', degrees='20'), 'degrees of RandomAffine must be two'),
    'shear': (dict(type='RandomAffine', degrees=0, shear=90), 'shear of RandomAffine'),
    'translate': (dict(type='RandomAffine', degrees=0, translate=(0.1, 2)), 'translate of'),
    'translate 1': (dict(type='RandomAffine', degrees=0, translate=0.1), 'translate of'),
    'affine scale': (dict(type='RandomAffine', degrees=0, scale=(0, 1)), 'scale of RandomAffine'),
    'brightness': (dict(type='ColorJitter', brightness=-1), 'brightness of ColorJitter'),
    'hue': (dict(type='ColorJitter', hue=0.6), r'hue of ColorJitter must be in \[-0.5, 0.5\]'),
    'sigma': (dict(type='GaussianBlur', sigma=(0, 2)), 'sigma of GaussianBlur must be above 0'),
    'threshold': (dict(type='RandomSolarize', threshold=128), r'\[0, 1\].*0 \.\.\. 255'),
    'std': (dict(type='RandomGaussianNoise', std=-1), 'std of RandomGaussianNoise'),
    'contrast': (dict(type='RandomContrast', contrast=0.4), 'must be two numbers'),
}


@pytest.mark.parametrize(('config', 'message'), WRONG.values(), ids=WRONG)
def test_wrong_settings_are_refused_in_one_line(config, message):
    with pytest.raises(ValueError, match=message) as error:
        build_operation(config)
    assert '\n' not in str(error.value)


def test_settings_mean_what_they_mean_in_torchvision():
    jitter, theirs = ColorJitter(0.4, (0.5, 2), 1.5, 0.1), tv.ColorJitter(0.4, (0.5, 2), 1.5, 0.1)
    assert jitter.factors == [theirs.brightness, theirs.contrast, theirs.saturation]
    assert jitter.hue == theirs.hue
    affine = RandomAffine(10, shear=(1, 2, 3, 4))
    assert affine.degrees == (-10, 10)
    assert affine.shear == ((1, 2), (3, 4))
    assert GaussianBlur(1).sigma == (1, 1)
    assert RandomAffine((0, 5), shear=7).shear == ((-7, 7), (0, 0))
    assert RandomAffine((0, 5), shear=(2, 3)).shear == ((2, 3), (0, 0))


def test_the_table_has_all_operations():
    assert {config['type'] for config in EVERYTHING} == set(OPERATIONS)
