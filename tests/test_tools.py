"""Every program of tools/: it parses its arguments before it imports what takes seconds."""

import subprocess
import sys

import pytest
from conftest import ROOT

from mmcoke.cli.commands import check, features
from mmcoke.cli.commands.evaluate import voc_svm
from mmcoke.datasets.check import CHECKS
from mmcoke.evaluation.svm import SHOTS
from mmcoke.features.store import FEATURES

TOOLS = sorted((ROOT / 'tools').rglob('*.py'))
SLOW = {
    'torch',
    'mmengine',
    'mmcv',
    'mmpretrain',
    'sklearn',
    'scipy',
    'cv2',
    'matplotlib',
    'kornia',
}
PROBE = """
import atexit, runpy, sys
atexit.register(lambda: print('IMPORTED', *sys.modules))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def imported_by(tool, *arguments):
    """Modules that a tool has imported when it ends, its exit code and what it printed."""
    command = [sys.executable, '-c', PROBE, str(tool), *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    output, modules = run.stdout.rsplit('IMPORTED', 1)
    return set(modules.split()), run.returncode, output + run.stderr


def test_there_are_tools():
    assert {'train.py', 'knn.py', 'export_onnx.py'} <= {tool.name for tool in TOOLS}


@pytest.mark.parametrize('tool', TOOLS, ids=lambda path: path.stem)
def test_help_imports_nothing_that_takes_seconds(tool):
    modules, code, output = imported_by(tool, '--help')
    assert code == 0 and 'usage: ' in output
    assert not modules & SLOW


@pytest.mark.parametrize('tool', TOOLS, ids=lambda path: path.stem)
def test_wrong_arguments_are_told_before_anything_that_takes_seconds(tool):
    modules, code, output = imported_by(tool, '--no-such-option')
    assert code == 2 and 'error: ' in output
    assert not modules & SLOW


@pytest.mark.parametrize(
    ('tool', 'arguments', 'message'),
    [
        ('train.py', ['none.py'], "there is no config 'none.py'"),
        ('check_data.py', ['imagenett', 'data'], "invalid choice: 'imagenett'"),
        ('extract_features.py', ['c.py', 'c.pth', '--features', 'stage5'], 'invalid choice'),
        ('benchmarks/knn.py', ['c.py', 'c.pth', '--k', '0'], 'error: --k must be at least 1'),
        ('benchmarks/voc_svm.py', ['c.py', 'c.pth', '--batch-size', '0'], 'must be at least 1'),
        ('photo_gallery.py', ['photos', 'name', '--num-clusters', '0'], 'must be at least 1'),
    ],
)
def test_values_that_cannot_be_are_told_before_as_well(tool, arguments, message):
    modules, code, output = imported_by(ROOT / 'tools' / tool, *arguments)
    assert code and message in output
    assert not modules & SLOW


def test_what_may_be_typed_is_what_there_is():
    """The commands hold these names themselves, because they must not import their owners."""
    assert tuple(CHECKS) == check.NAMES
    assert tuple(FEATURES) == features.FEATURES
    assert voc_svm.SHOTS == SHOTS
