"""A backbone with normalization and pooling as an ONNX file, checked against PyTorch."""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from mmcoke import __version__
from mmcoke.features.extraction import averaged
from mmcoke.features.extractor import FeatureExtractor, normalized
from mmcoke.features.onnx_packages import packages
from mmcoke.features.plain_images import center_crop
from mmcoke.files import write_whole

TOLERANCE = 1e-4
"""Largest difference from PyTorch, as a share of the largest feature."""


class FeatureNetwork(nn.Module):
    """From images as files have them to pooled features, in one module.

    Normalization and order of channels become a 1x1 convolution, found by what the data
    preprocessor makes of black and of pure colours. If it did more, the features would differ.

    Args:
        extractor: with the frozen network.
        size: height and width of the images.
    """

    def __init__(self, extractor: FeatureExtractor, size: tuple[int, int]) -> None:
        super().__init__()
        self.backbone, self.grey = extractor.network.backbone, extractor.grey
        channels = 1 if self.grey else 3
        probes = torch.cat([torch.zeros(1, channels), 255 * torch.eye(channels)]).byte()
        probes = probes[:, None, None].expand(-1, *size, -1)
        seen = preprocessed(extractor, probes.squeeze(3) if self.grey else probes)
        black, *colours = seen[:, :, 0, 0]
        weight = torch.stack([(colour - black) / 255 for colour in colours], 1)
        self.register_buffer('weight', weight[:, :, None, None])
        self.register_buffer('bias', black.clone())
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (n, H, W, 3) in RGB, or grey (n, H, W) → (n, D)."""
        x = images[:, None] if self.grey else images.permute(0, 3, 1, 2)
        maps = self.backbone(conv2d(x.float(), self.weight, self.bias))
        return averaged(maps[-1] if isinstance(maps, list | tuple) else maps)


def export_onnx(extractor: FeatureExtractor, path: str | Path) -> float:
    """Write the network of an extractor, up to the pooled features, as an ONNX file.

    The input ``images`` is uint8, RGB, (n, H, W, 3), or grey, (n, H, W), with any n; the output
    ``features`` is float32 (n, D). The file is run by onnxruntime before it gets its name.

    Args:
        extractor: on the CPU.
        path: the file; written whole or not at all.

    Returns:
        The largest difference from PyTorch, as a share of the largest feature.

    Raises:
        ImportError: if a package is missing.
        ValueError: if the network is on another device or cannot be exported, or the difference is
            above :data:`TOLERANCE`.
    """
    if extractor.device.type != 'cpu':
        raise ValueError("The export needs the network on the CPU: FeatureExtractor(device='cpu').")
    onnx, onnxruntime = packages()
    size = image_size(extractor)
    model = to_onnx(FeatureNetwork(extractor, size), sample_images(extractor, size, 2))
    clean(model)
    onnx.helper.set_model_props(model, described(extractor, size))
    differences = []

    def write(temporary: Path) -> None:
        onnx.save(model, temporary)
        session = onnxruntime.InferenceSession(temporary, providers=['CPUExecutionProvider'])
        for number in (1, 3):
            images = sample_images(extractor, size, number)
            differences.append(difference(session, extractor, images))
        if not max(differences) <= TOLERANCE:
            raise ValueError(
                f'{path} was not written: its features differ from those of PyTorch by '
                f'{max(differences):.1e} of the largest one, more than {TOLERANCE:.0e}. Other '
                'versions of torch, onnxscript or onnxruntime may agree.'
            )

    write_whole(Path(path), write)
    return max(differences)


def to_onnx(network: nn.Module, images: Tensor):
    """The ONNX model of a network, for any number of images."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # torch's own, about what it translates
        try:
            program = torch.onnx.export(
                network,
                (images,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim('n')},),
                input_names=['images'],
                output_names=['features'],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            kind = type(network.backbone).__name__
            raise ValueError(f'{kind} cannot be exported: {error}') from error
    return program.model_proto


def clean(model) -> None:
    """Take out where on this machine each step was programmed."""
    for part in (model.graph, *model.graph.node, *model.graph.value_info):
        part.ClearField('metadata_props')
        part.ClearField('doc_string')


def image_size(extractor: FeatureExtractor) -> tuple[int, int]:
    """Height and width of what the extractor's pipeline makes."""
    shape = (64, 64) if extractor.grey else (64, 64, 3)
    packed = extractor.pipeline(dict(img=np.zeros(shape, np.uint8), img_shape=(64, 64)))
    return tuple(packed['inputs'].shape[1:])


def sample_images(extractor: FeatureExtractor, size: tuple[int, int], number: int) -> Tensor:
    """Random pixels, uint8 (number, H, W, 3) or (number, H, W)."""
    shape = (number, *size) if extractor.grey else (number, *size, 3)
    generator = torch.Generator().manual_seed(number)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def preprocessed(extractor: FeatureExtractor, images: Tensor) -> Tensor:
    """Images (n, H, W, 3) or (n, H, W) as the backbone gets them (n, C, H, W)."""
    x = images[:, None] if extractor.grey else images.permute(0, 3, 1, 2)
    takes_bgr = extractor.network.takes_bgr and not extractor.grey
    return normalized(extractor.network, dict(inputs=x.flip(1) if takes_bgr else x))


def difference(session, extractor: FeatureExtractor, images: Tensor) -> float:
    """Between the features of ONNX and of PyTorch, as a share of the largest one."""
    (found,) = session.run(None, {'images': images.numpy()})
    want = extractor.extract([preprocessed(extractor, images)], 'pooled').numpy()
    return float(np.abs(found - want).max() / np.abs(want).max())


def described(extractor: FeatureExtractor, size: tuple[int, int]) -> dict[str, str]:
    """What a user of the file has to know, for its metadata."""
    origin = extractor.network.origin
    layout = '(n, {}, {})' if extractor.grey else '(n, {}, {}, 3)'
    resize = 'by the pipeline of the config'
    if extractor.size:
        shorter, crop = (step['size'] for step in center_crop(extractor.size))
        resize = f'shorter side to {shorter}, bilinear, antialiased; center crop {crop}'
    return dict(
        input=f'uint8, {"grey" if extractor.grey else "RGB"}, {layout.format(*size)}; normalized '
        'in the graph',
        resize=resize,
        feature='pooled',
        config=Path(origin['config']).name,
        checkpoint=Path(origin['checkpoint']).name,
        mmcoke_version=__version__,
    )
