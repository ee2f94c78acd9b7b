"""Rooms import downwards only; the core stands alone; what configs name is registered."""

import ast
import subprocess
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from importlib import import_module

import mmengine
import pytest
from conftest import ROOT

import mmcoke
from mmcoke import _moved, registry

FRAMEWORK = "{'mmengine', 'mmcv', 'mmpretrain'}"


@pytest.mark.parametrize('package', ['mmcoke.clustering', 'mmcoke.losses', 'mmcoke.augmentation'])
def test_the_core_imports_no_framework(package):
    code = f'import sys, {package}; print({FRAMEWORK} & set(sys.modules))'
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == 'set()'


FLOOR = {'files', 'messages', 'registry'}
ROOMS = {
    'files': set(),
    'messages': set(),
    'registry': set(),
    'clustering': set(),
    'losses': set(),
    'augmentation': {'clustering'},
    'weights': {*FLOOR, 'clustering'},
    'datasets': {*FLOOR, 'clustering', 'augmentation'},
    'models': {*FLOOR, 'clustering', 'losses', 'weights', 'augmentation'},
    'zoo': {*FLOOR, 'weights'},
    'features': {*FLOOR, 'clustering', 'weights', 'datasets', 'models', 'zoo'},
    'evaluation': {*FLOOR, 'clustering', 'weights', 'datasets', 'features'},
    'reporting': {*FLOOR, 'clustering', 'datasets'},
    'curation': {*FLOOR, 'clustering', 'datasets', 'features', 'reporting', 'zoo'},
    'engine': {
        *FLOOR,
        'clustering',
        'weights',
        'datasets',
        'models',
        'features',
        'evaluation',
        'reporting',
    },
    'cli': {
        *FLOOR,
        'clustering',
        'weights',
        'datasets',
        'zoo',
        'features',
        'evaluation',
        'reporting',
        'curation',
        'engine',
    },
}
"""What the files of a room may import from others of mmcoke, lazily or not; docs/design.md, 1."""


def imported_modules(path):
    """Full names of what a file imports from mmcoke, anywhere in it."""
    package = path.relative_to(ROOT).with_suffix('').parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = '.'.join([*above, *([node.module] if node.module else [])])
            yield from (f'{module}.{alias.name}' for alias in node.names)


def room_of(module):
    return module.split('.')[1]


def test_rooms_import_only_what_the_table_allows():
    found, package = defaultdict(set), ROOT / 'mmcoke'
    files = [path for path in package.rglob('*.py') if path.parent != package]
    files += [package / f'{name}.py' for name in FLOOR]
    for path in files:
        room = path.relative_to(package).with_suffix('').parts[0]
        modules = (name for name in imported_modules(path) if name.startswith('mmcoke.'))
        found[room] |= {room_of(name) for name in modules} - {room, '__version__'}
    assert set(found) == set(ROOMS)
    assert {room: found[room] - allowed for room, allowed in ROOMS.items()} == {
        room: set() for room in ROOMS
    }


def test_the_table_of_rooms_has_no_circle():
    TopologicalSorter(ROOMS).prepare()  # raises CycleError


def test_modules_under_their_names_of_yesterday_are_those_of_today():
    for old, new in _moved.MOVED.items():
        with pytest.warns(FutureWarning, match=new):
            sys.modules.pop(old, None)
            module = import_module(old)
        assert module is import_module(new)
        assert module.__name__ == module.__spec__.name == new


def test_files_are_read_without_a_framework():
    code = f'import sys, mmcoke.files; print({FRAMEWORK} & set(sys.modules))'
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == 'set()'
    assert mmcoke.__version__


OURS = {
    'MODELS': ('CoKe', 'CoKeHead', 'PlainConvNet', 'BatchAugmentPreprocessor'),
    'HOOKS': ('CoKeHook', 'ProgressHook'),
    'OPTIMIZERS': ('LARS',),
    'PARAM_SCHEDULERS': ('WarmupCosineLR',),
    'DATASETS': ('InMemoryImages', 'CustomDataset', 'ConcatDataset'),
    'TRANSFORMS': ('LoadImageFromFile', 'RandomResizedCrops'),
}


def test_our_modules_are_found_in_a_fresh_process_without_custom_imports():
    code = (
        'from mmengine import registry\n'
        "registry.init_default_scope('mmcoke')\n"
        f'for kind, names in {OURS}.items():\n'
        '    with getattr(registry, kind).switch_scope_and_registry("mmcoke") as found:\n'
        '        print(*(found.get(name).__module__ for name in names), sep="\\n")'
    )
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    modules = run.stdout.split()
    assert len(modules) == sum(map(len, OURS.values()))
    assert all(module.startswith('mmcoke.') for module in modules)


@pytest.mark.parametrize('name', ['ResNet', 'NonLinearNeck', 'SelfSupDataPreprocessor'])
def test_modules_of_mmpretrain_are_found_in_our_scope(name):
    assert registry.MODELS.get(name).__module__.startswith('mmpretrain.')


def test_every_kind_of_mmpretrain_has_a_child():
    from mmpretrain import registry as parents

    kinds = [kind for kind in parents.__all__ if kind != 'TOKENIZER']
    for kind in kinds:
        child = getattr(registry, kind)
        assert isinstance(child, mmengine.Registry)
        assert child.parent is getattr(parents, kind)
        assert child.scope == 'mmcoke'
