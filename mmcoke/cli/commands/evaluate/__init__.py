"""What frozen features are worth: figures on labelled images."""

import argparse

from mmcoke.cli.parser import add_commands

HELP = 'what features are worth: knn, linear, cluster, voc-svm'
COMMANDS = ('knn', 'linear', 'cluster', 'voc-svm')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_commands(parser, __name__, COMMANDS)
