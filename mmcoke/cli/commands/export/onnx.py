"""Write a backbone with its pooling as an ONNX file: from images to features, without PyTorch.

The file takes uint8 images in RGB, (n, H, W, 3), and normalizes them itself; its metadata say how
to resize. Before it gets its name, onnxruntime runs it, and its features are compared with those of
PyTorch.
"""

import argparse

HELP = 'the backbone as an ONNX file'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('config', help='config file that describes the network')
    parser.add_argument(
        'checkpoint', help="of mmcoke, mmpretrain, mmselfsup or torchvision's names"
    )
    parser.add_argument('out', help='file to write, .onnx')
    parser.add_argument(
        '--size', type=int, help='side of the images (224; for data in memory as in the config)'
    )


def run(args: argparse.Namespace) -> None:
    from mmcoke.features.onnx_packages import packages

    packages()  # before the network is loaded
    from mmcoke.features.extractor import FeatureExtractor
    from mmcoke.features.onnx_export import export_onnx

    extractor = FeatureExtractor(
        args.config, args.checkpoint, size=args.size, device='cpu', progress=False
    )
    largest = export_onnx(extractor, args.out)
    print(
        f'Wrote {args.out}. Largest difference from PyTorch: {largest:.1e} of the largest feature.'
    )
