"""Accuracy of a linear classifier on frozen features, of any checkpoint.

    mmcoke evaluate linear CONFIG CHECKPOINT --data-root labelled

Logistic regression to convergence, for features that fit into memory. The published protocols for
ImageNet train by SGD, with augmentation: docs/benchmarks.md, "Linear evaluation". DATA_ROOT has
train and val; or a folder per class, for a cross-validation of 5 parts.
"""

import argparse

from mmcoke.cli.arguments import add_frozen_arguments

HELP = 'accuracy of a linear classifier'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_frozen_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from mmcoke.cli import linear

    linear.main(args)
