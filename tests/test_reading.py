"""One reader: the same pixels and the same verdict for every tool."""

import json
import os
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

import mmcoke.datasets.reading as reading
from mmcoke.datasets import (
    LoadImageFromFile,
    RandomResizedCrops,
    UnreadableImageError,
    read_image,
)
from mmcoke.datasets.check.readable import decode_problem
from mmcoke.features.extractor import pixels_of
from mmcoke.reporting.gallery import thumbnail_uri

RANDOM = np.random.default_rng(0)
SMOOTH = cv2.resize(RANDOM.integers(0, 255, (5, 6, 3), dtype=np.uint8), (60, 44))
"""RGB, 44 high and 60 wide."""


def save(path, image=None, **options):
    image = Image.fromarray(SMOOTH) if image is None else image
    image.save(path, **options)
    return path


def rgb(path):
    return read_image(path)[..., ::-1]


def is_refused_by_all(path, reason):
    """Training, features, checks and galleries say the same about a file."""
    for use in (
        read_image,
        pixels_of,
        thumbnail_uri,
        lambda path: LoadImageFromFile().transform(dict(img_path=str(path))),
        lambda path: RandomResizedCrops([dict(size=8)]).transform(dict(img_path=str(path))),
    ):
        with pytest.raises(UnreadableImageError) as error:
            use(path)
        message = str(error.value)
        assert message.startswith(f"Cannot read the image '{path}' (") and '\n' not in message
        assert reason in message
    return reason in decode_problem(str(path))


# ---- pixels

LOSSLESS = ['png', 'apng', 'ppm', 'pnm', 'bmp', 'dib', 'tif', 'tiff']
LOSSY = ['jpg', 'jpeg', 'jpe', 'jfif', 'webp', 'gif', 'avif', 'jp2', 'j2k', 'mpo']


@pytest.mark.parametrize('ending', [*LOSSLESS, *LOSSY])
def test_every_listed_type_is_decoded_whatever_the_case_of_its_ending(tmp_path, ending):
    assert f'.{ending}' in reading.EXTENSIONS
    path = tmp_path / f'a.{ending.upper()}'
    save(path, format=Image.registered_extensions()[f'.{ending}'])
    error = np.abs(rgb(path).astype(int) - SMOOTH)
    assert error.max() == 0 if ending in LOSSLESS else error.mean() < 12
    assert np.array_equal(pixels_of(Image.open(path)), rgb(path))


def test_every_listed_ending_is_of_a_format_that_this_machine_decodes():
    formats = Image.registered_extensions()
    assert {formats[ending] for ending in reading.EXTENSIONS} <= {*reading.FORMATS, 'MPO'}
    assert {'.pgm', '.pbm'} < set(reading.EXTENSIONS)


MODES = dict(
    grey=lambda: Image.fromarray(SMOOTH).convert('L'),
    one_bit=lambda: Image.fromarray(SMOOTH).convert('1'),
    palette=lambda: Image.fromarray(SMOOTH).convert('P'),
    alpha=lambda: Image.fromarray(np.dstack([SMOOTH, SMOOTH[..., :1]])),
    grey_alpha=lambda: Image.fromarray(np.dstack([SMOOTH[..., :1]] * 2), 'LA'),
    deep=lambda: Image.fromarray(SMOOTH[..., 0].astype(np.uint16) * 257),
)


@pytest.mark.parametrize('mode', MODES)
def test_modes_of_png_become_colour_as_opencv_has_it(tmp_path, mode):
    image = MODES[mode]()
    path = save(tmp_path / 'a.png', image)
    expected = cv2.imread(str(path))[..., ::-1]
    assert np.array_equal(rgb(path), expected)
    assert np.array_equal(pixels_of(image), expected)  # one that never was a file
    assert np.array_equal(pixels_of(Image.open(path)), expected)


@pytest.mark.parametrize(('mode', 'options'), [('RGB', {}), ('L', {}), ('RGB', {'progressive': 1})])
def test_jpeg_is_decoded_as_before_and_as_pillow_does(tmp_path, mode, options):
    path = save(tmp_path / 'a.jpg', Image.fromarray(SMOOTH).convert(mode), **options)
    assert np.array_equal(rgb(path), cv2.imread(str(path))[..., ::-1])
    assert np.array_equal(rgb(path), np.asarray(Image.open(path).convert('RGB')))


def test_cmyk_is_colour(tmp_path):
    path = save(tmp_path / 'a.jpg', Image.fromarray(SMOOTH).convert('CMYK'), quality=95)
    assert np.abs(rgb(path).astype(int) - SMOOTH).mean() < 8
    assert np.array_equal(pixels_of(Image.open(path)), rgb(path))


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('ending', ['jpg', 'png', 'webp', 'tif'])
def test_images_stand_upright(tmp_path, orientation, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = dict(lossless=True) if ending == 'webp' else {}
    path = save(tmp_path / f'a.{ending}', exif=exif, **lossless)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert('RGB'))
    assert expected.shape[:2] == ((60, 44) if orientation > 4 else (44, 60))
    assert np.array_equal(rgb(path), expected)
    assert np.array_equal(pixels_of(Image.open(path)), expected)


def test_a_damaged_orientation_leaves_the_image_as_it_is(tmp_path):
    path = save(tmp_path / 'a.jpg', exif=b'Exif\0\0no EXIF at all')
    assert np.array_equal(rgb(path), cv2.imread(str(path))[..., ::-1])


def test_of_an_animation_the_first_image_is_taken(tmp_path):
    frames = [Image.new('RGB', (9, 7), colour) for colour in ('red', 'blue')]
    for ending in ('gif', 'png', 'webp'):
        path = tmp_path / f'a.{ending}'
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert rgb(path)[3, 3].tolist() == pytest.approx([255, 0, 0], abs=3)


@pytest.fixture
def said(monkeypatch):
    """What the reader warns of."""
    lines = []
    monkeypatch.setattr(reading, 'print_log', lambda line, **_: lines.append(line))
    reading.warn_of_dark_images.cache_clear()
    return lines


@pytest.mark.parametrize('ending', ['png', 'tif'])
def test_of_16_bits_the_higher_8_are_kept_and_dark_images_are_told(tmp_path, said, ending):
    full = np.linspace(0, 65535, 44 * 60).astype(np.uint16).reshape(44, 60)
    path = save(tmp_path / f'full.{ending}', Image.fromarray(full))
    assert np.array_equal(rgb(path)[..., 0], full >> 8) and not said
    path = save(tmp_path / f'dark.{ending}', Image.fromarray(full >> 4))  # 12 bits
    assert np.array_equal(rgb(path)[..., 0], full >> 12)
    assert np.array_equal(pixels_of(Image.open(path)), rgb(path))
    (line,) = said  # once
    assert 'dark or black: scale such data to 16 bits' in line


def test_colour_in_16_bits_follows_the_same_rule(tmp_path, said):
    for scale, warnings in ((257, 0), (16, 1)):
        cv2.imwrite(str(tmp_path / 'a.png'), SMOOTH[..., ::-1].astype(np.uint16) * scale)
        assert np.array_equal(rgb(tmp_path / 'a.png'), SMOOTH.astype(int) * scale >> 8)
        assert len(said) == warnings


def test_a_declared_range_is_scaled(tmp_path, said):
    (tmp_path / 'a.pgm').write_bytes(b'P5 2 1 4095\n' + struct.pack('>HH', 4095, 2048))
    assert rgb(tmp_path / 'a.pgm')[0, :, 0].tolist() == [255, 128] and not said


def test_grey_for_a_network_of_one_channel_is_that_of_the_extractor(tmp_path):
    path = save(tmp_path / 'a.jpg')
    load = LoadImageFromFile(color_type='grayscale')
    grey = load.transform(dict(img_path=str(path)))
    assert np.array_equal(grey['img'], cv2.cvtColor(pixels_of(path), cv2.COLOR_RGB2GRAY))
    assert grey['img_shape'] == grey['ori_shape'] == (44, 60)


def test_values_can_be_loaded_as_they_are(tmp_path):
    deep = RANDOM.integers(0, 4096, (8, 9), dtype=np.uint16)
    path = save(tmp_path / 'a.png', Image.fromarray(deep))
    load = LoadImageFromFile(color_type='unchanged', to_float32=True)
    image = load.transform(dict(img_path=str(path)))['img']
    assert image.dtype == np.float32 and np.array_equal(image, deep)


# ---- verdicts


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'', 'the file is empty'),
        (b'<html>404 not found</html>', 'not an image'),
        (b'\xff\xd8\xff\xe0 broken', 'Truncated File Read'),
        (b'\xff\xd8\xff\xd9', 'not an image'),
        (b'%!PS-Adobe-3.0 EPSF-3.0\n', 'not an image'),
    ],
)
def test_what_is_no_image_is_refused_by_all(tmp_path, content, reason):
    (tmp_path / 'a.jpg').write_bytes(content)
    assert is_refused_by_all(tmp_path / 'a.jpg', reason)


@pytest.mark.parametrize('ending', ['jpg', 'png', 'webp', 'tif', 'gif', 'bmp'])
@pytest.mark.parametrize('part', [0.5, 0.95])
def test_what_is_cut_off_is_refused_by_all(tmp_path, ending, part):
    noise = Image.fromarray(RANDOM.integers(0, 255, (44, 60, 3), dtype=np.uint8))
    content = save(tmp_path / f'a.{ending}', noise).read_bytes()
    (tmp_path / f'a.{ending}').write_bytes(content[: int(len(content) * part)])
    assert is_refused_by_all(tmp_path / f'a.{ending}', '')


def test_an_absent_file_is_refused_by_all(tmp_path):
    assert is_refused_by_all(tmp_path / 'a.jpg', 'the file is absent')


def test_floating_point_is_refused_by_all_as_no_file_tells_its_range(tmp_path):
    image = Image.fromarray(SMOOTH[..., 0].astype(np.float32) / 255)
    assert is_refused_by_all(save(tmp_path / 'a.tif', image), 'floating-point numbers')
    with pytest.raises(UnreadableImageError, match=r'Pillow image \(its pixels are fl'):
        pixels_of(image)


def test_a_whole_jpeg_with_something_behind_it_is_read(tmp_path):
    path = save(tmp_path / 'a.jpg')
    expected = read_image(path)
    for behind in (b'\0' * 9, b'\r\n', b'what a camera adds'):
        (tmp_path / 'b.jpg').write_bytes(path.read_bytes() + behind)
        assert np.array_equal(read_image(tmp_path / 'b.jpg'), expected)


# ---- the limit on pixels


def huge_png(path, side=30_000):
    """A complete 1-bit PNG; 110 kB."""
    chunks = [
        (b'IHDR', struct.pack('>IIBBBBB', side, side, 1, 0, 0, 0, 0)),
        (b'IDAT', zlib.compress(bytes(side * (side // 8 + 1)), 1)),
        (b'IEND', b''),
    ]
    content = b'\x89PNG\r\n\x1a\n'
    for name, data in chunks:
        crc = struct.pack('>I', zlib.crc32(name + data))
        content += struct.pack('>I', len(data)) + name + data + crc
    path.write_bytes(content)
    return path


MEASURE = """
import json, resource, sys, types
import mmcoke
# The package without what else is in it, whose import takes longer than the test.
package = sys.modules['mmcoke.datasets'] = types.ModuleType('mmcoke.datasets')
package.__path__ = [mmcoke.__path__[0] + '/datasets']
from mmcoke.datasets.reading import UnreadableImageError, read_image
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
try:
    read_image(sys.argv[1])
except UnreadableImageError as error:
    print(json.dumps(dict(kilobytes=peak() - before, reason=error.reason)))
"""


def test_an_image_with_too_many_pixels_is_refused_before_memory_is_spent(tmp_path):
    path = huge_png(tmp_path / 'huge.png')
    command = [sys.executable, '-c', MEASURE, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    assert found['kilobytes'] < 50_000  # 112 MB for the bits alone, 2.7 GB in colour
    assert found['reason'].startswith('it has 30000 x 30000 pixels, more than 268,435,456')


@pytest.mark.parametrize('ending', ['jpg', 'png', 'webp', 'tif'])
def test_the_limit_is_the_same_for_all_and_can_be_set(tmp_path, monkeypatch, ending):
    path = save(tmp_path / f'a.{ending}')
    monkeypatch.setenv(reading.LIMIT, str(44 * 60 - 1))
    assert is_refused_by_all(path, 'it has 60 x 44 pixels, more than 2,639')
    with pytest.raises(UnreadableImageError, match=r'environment variable MMCOKE_MAX_PIXELS'):
        pixels_of(Image.open(path))
    with pytest.raises(UnreadableImageError, match=r'60 x 44 pixels'):
        LoadImageFromFile(color_type='unchanged').transform(dict(img_path=str(path)))
    monkeypatch.setenv(reading.LIMIT, str(44 * 60))  # the remedy
    assert read_image(path).shape == (44, 60, 3)
    monkeypatch.setenv(reading.LIMIT, 'many')
    with pytest.raises(UnreadableImageError, match=r"must be a number of pixels, but is 'many'"):
        read_image(path)


def test_a_panorama_beyond_the_limit_of_pillow_is_read_and_that_limit_stays(tmp_path, monkeypatch):
    """As of 180 megapixels, where Pillow's own limit is 179; here both are smaller."""
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    for ending in ('jpg', 'png', 'tif', 'webp'):
        path = save(tmp_path / f'a.{ending}')
        assert read_image(path).shape == (44, 60, 3)
        assert thumbnail_uri(path)
    assert Image.MAX_IMAGE_PIXELS == 100
    assert reading.MAX_PIXELS > 180_000_000


# ---- names


def test_a_name_that_is_not_utf8_is_read_and_shown_escaped(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b'/caf\xe9\n.jpg')
    save(path)
    assert read_image(path).shape == (44, 60, 3)
    open(path, 'wb').close()
    with pytest.raises(UnreadableImageError) as error:
        read_image(path)
    assert str(error.value).encode() and r"caf\xe9\n.jpg' (the file is empty)" in str(error.value)
