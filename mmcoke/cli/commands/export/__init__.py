"""Write a checkpoint in another format, or fit to be given away."""

import argparse

from mmcoke.cli.parser import add_commands

HELP = 'write a checkpoint as onnx, torchvision, coke, mmcoke, or publish it'
COMMANDS = ('onnx', 'torchvision', 'coke', 'mmcoke', 'publish')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_commands(parser, __name__, COMMANDS)
