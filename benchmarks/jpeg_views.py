"""Views of photos per core: ours, cropped by the workers, beside the published pipeline on PIL.

For one view, two views, and two with six crops of 96 pixels, of all photos in a folder:

- published: as in the authors' scripts: PIL, then torchvision's crop, jitter, gray, PIL's blur,
  flip, to tensor, normalize, for each view anew;
- the recipe's ``*_pil`` base here: the same through OpenMMLab's transforms;
- ours: the recipe's own pipeline; colour, blur and normalization are left to the device.

And how long decoders take at full size and at 1/2, those of them that are installed. Times are of
one photo, in CPU time of one thread, files in the page cache:

    python benchmarks/jpeg_views.py FOLDER
"""

import argparse
import io
import random
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import torch
from _timing import alternating, finish, options, parse
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from PIL import Image, ImageFilter
from torchvision import transforms

from mmcoke.datasets.listing import list_images
from mmcoke.datasets.reading import decode_image

BASES = Path(__file__).parent.parent / 'configs/selfsup/_base_/datasets'
RECIPES = dict(one='imagenet_coke', two='imagenet_coke_2view', crops='imagenet_coke_mcrop')
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('folder', type=Path, help='of JPEG files')
    options(parser, repeats=5)
    args = parse(parser)
    cv2.setNumThreads(args.threads)
    init_default_scope('mmcoke')
    files = photos(args.folder)
    times = {}
    for group in (pipelines(), decoders()):
        runs = {name: partial(over, function, files) for name, function in group.items()}
        times |= per_photo(alternating(runs, args.repeats, device=args.device), len(files))
    base = times['one: published']['median']
    print({f'{name} per s': round(1000 / times[name]['median']) for name in times})
    print(f'one view: ours {base / times["one: ours"]["median"]:.2f} x published')
    finish(args, times, 'one: published', photos=len(files))


def photos(folder: Path) -> list[str]:
    """JPEG files of a folder."""
    files = [str(folder / name) for name in list_images(folder).images]
    files = [name for name in files if Path(name).read_bytes()[:2] == b'\xff\xd8']
    if not files:
        raise SystemExit(f'There is no JPEG file in {folder}.')
    return files


def over(function: Callable[[str], object], files: list[str]) -> None:
    """All photos, with the same random numbers in every round."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    for file in files:
        function(file)


def per_photo(times: dict, number: int) -> dict:
    return {
        name: {key: value / number for key, value in time.items()} for name, time in times.items()
    }


# ---- pipelines


def pipelines() -> dict[str, Callable[[str], object]]:
    """By views and kind, functions of a file's name."""
    found = {}
    for views, base in RECIPES.items():
        found[f'{views}: published'] = published(views)
        for kind, suffix in {'recipe on PIL': '_pil', 'ours': ''}.items():
            pipeline = Config.fromfile(BASES / f'{base}{suffix}.py').train_pipeline
            found[f'{views}: {kind}'] = partial(run, Compose(pipeline))
    return found


def run(pipeline: Compose, file: str) -> dict:
    return pipeline(dict(img_path=file, sample_idx=0))


class Blur:
    """The authors' blur: PIL's, with a standard deviation uniform in 0.1 ... 2."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def view(size: int, scale: tuple, jitter: tuple, blur: float, solarize: float = 0) -> Callable:
    """One view as the authors make it."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=scale),
            transforms.RandomApply([transforms.ColorJitter(*jitter)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([Blur()], p=blur),
            *([transforms.RandomSolarize(128, p=solarize)] if solarize else []),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def published(views: str) -> Callable[[str], list[torch.Tensor]]:
    """The authors' views of a file."""
    strong, weak, full = (0.8, 0.8, 0.8, 0.2), (0.4, 0.4, 0.2, 0.1), (0.08, 1.0)
    made = [view(224, full, weak, blur=1.0), view(224, full, weak, blur=0.1, solarize=0.2)]
    if views == 'one':
        made = [view(224, full, strong, blur=0.5)]
    elif views == 'crops':
        made += [view(96, (0.05, 0.6), strong, blur=0.5)] * 6

    def of(file: str) -> list[torch.Tensor]:
        with open(file, 'rb') as opened:
            image = Image.open(opened).convert('RGB')
        return [make(image) for make in made]

    return of


# ---- decoders


def decoders() -> dict[str, Callable[[str], object]]:
    """By name, at full size and at 1/2."""
    found = {}
    for half in (False, True):
        where = 'half' if half else 'full size'
        for name, decode in kinds(half).items():
            found[f'{name}, {where}'] = partial(read_and, decode)
    return found


def read_and(decode: Callable[[bytes], object], file: str) -> object:
    return decode(Path(file).read_bytes())


def kinds(half: bool) -> dict[str, Callable[[bytes], object]]:
    """Decoders that are installed and can do it."""
    found = dict(ours=partial(decode_image, reduction=2 if half else 1))
    flag = cv2.IMREAD_REDUCED_COLOR_2 if half else cv2.IMREAD_COLOR
    found['opencv'] = lambda content: cv2.imdecode(np.frombuffer(content, np.uint8), flag)

    def pillow(content: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(content))
        if half:
            image.draft('RGB', (image.width // 2, image.height // 2))
        return np.asarray(image.convert('RGB'))

    found['pillow'] = pillow
    if simplejpeg := installed('simplejpeg'):

        def with_simplejpeg(content: bytes) -> np.ndarray:
            if not half:
                return simplejpeg.decode_jpeg(content)
            height, width, *_ = simplejpeg.decode_jpeg_header(content)
            return simplejpeg.decode_jpeg(
                content, min_height=-(-height // 2), min_width=-(-width // 2), min_factor=2
            )

        found['simplejpeg'] = with_simplejpeg
    codecs = installed('torchcodec.decoders')
    if codecs and not half:
        found['torchcodec'] = lambda content: codecs.decode_jpeg(
            torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=codecs.ImageReadMode.RGB
        )
    return found


def installed(module: str) -> object | None:
    try:
        return import_module(module)
    except (ImportError, OSError):
        return None


if __name__ == '__main__':
    main()
