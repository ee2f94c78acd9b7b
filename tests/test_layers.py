"""The core stands alone; what configs name is registered."""

import subprocess
import sys

import mmengine
import pytest

from mmcoke import registry

FRAMEWORK = "{'mmengine', 'mmcv', 'mmpretrain'}"


@pytest.mark.parametrize('package', ['mmcoke.clustering', 'mmcoke.losses'])
def test_the_core_imports_no_framework(package):
    code = f'import sys, {package}; print({FRAMEWORK} & set(sys.modules))'
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == 'set()'


OURS = {
    'MODELS': ('CoKe', 'CoKeHead', 'PlainConvNet', 'BatchAugmentPreprocessor'),
    'HOOKS': ('CoKeHook', 'ProgressHook'),
    'OPTIMIZERS': ('LARS',),
    'PARAM_SCHEDULERS': ('WarmupCosineLR',),
    'DATASETS': ('InMemoryImages', 'CustomDataset', 'ConcatDataset'),
    'TRANSFORMS': ('LoadImageFromFile',),
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
