"""Export the ResNet of a checkpoint as a state dict for torchvision or timm, without a classifier.

Both name the weights of a ResNet alike, so the files are the same; ``--timm`` shows how timm loads
them.
"""

import argparse

HELP = "a ResNet with torchvision's and timm's names"
LOAD_TORCHVISION = """\
model = torchvision.models.resnet{depth}()
model.fc = torch.nn.Identity()
model.load_state_dict({read}({dst!r}))"""
LOAD_TIMM = "timm.create_model('resnet{depth}', num_classes=0, checkpoint_path={dst!r})"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('src', help='checkpoint of any mmcoke or mmpretrain algorithm, .pth')
    parser.add_argument('dst', help='state dict to write, .pth or .safetensors')
    parser.add_argument('--timm', action='store_true', help='show how timm loads it')
    parser.add_argument(
        '--safetensors',
        action='store_true',
        help='write that format, as also for a DST that ends in .safetensors',
    )


def run(args: argparse.Namespace) -> None:
    from mmcoke.weights.torchvision import export_backbone

    safetensors = args.safetensors or args.dst.endswith('.safetensors')
    depth = export_backbone(args.src, args.dst, safetensors=safetensors)
    load = LOAD_TIMM if args.timm else LOAD_TORCHVISION
    read = 'safetensors.torch.load_file' if safetensors else 'torch.load'
    print(f'ResNet-{depth}. Wrote {args.dst}; to load it:')
    print(load.format(depth=depth, dst=args.dst, read=read))
