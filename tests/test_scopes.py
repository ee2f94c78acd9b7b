"""What mmcoke registers is found by its prefix, whatever the default scope of a config."""

import pytest
from mmengine.registry import MODELS, DefaultScope, Registry

from mmcoke import registry

REGISTRIES = [value for value in vars(registry).values() if type(value) is Registry]


@pytest.fixture
def scope(request):
    """Sets the default scope for one test; skips it if the package is not installed."""
    pytest.importorskip(request.param)
    with DefaultScope.overwrite_default_scope(request.param):
        yield request.param


@pytest.mark.parametrize(
    'scope', ['mmengine', 'mmpretrain', 'mmcls', 'mmselfsup', 'mmcoke'], indirect=True
)
def test_every_registered_name_is_found_by_prefix(scope):
    found = set()
    for ours in REGISTRIES:
        ours.import_from_location()
        if scope == 'mmselfsup' and ours is registry.LOOPS:
            continue  # it names a module of loops that it does not have; build_runner gives a class
        with ours.root.switch_scope_and_registry(None) as active:
            assert active.scope == scope or not ours.module_dict
            for name, registered in ours.module_dict.items():
                assert active.get(f'mmcoke.{name}') is registered
                found.add(name)
    assert {'CoKe', 'CoKeHead', 'CoKeHook', 'LARS', 'WarmupCosineLR', 'ConcatDataset'} < found


@pytest.mark.parametrize(
    ('scope', 'prefix'), [('mmengine', 'mmpretrain.'), ('mmpretrain', '')], indirect=['scope']
)
def test_the_algorithm_builds_with_the_networks_of_mmpretrain(scope, prefix):
    model = dict(
        type='mmcoke.CoKe',
        data_preprocessor=dict(type=f'{prefix}SelfSupDataPreprocessor'),
        backbone=dict(type=f'{prefix}ResNet', depth=18, stem_channels=8, base_channels=8),
        neck=dict(type=f'{prefix}NonLinearNeck', hid_channels=8, out_channels=4),
        head=dict(type='mmcoke.CoKeHead', in_channels=4, hid_channels=8),
        clustering=dict(num_clusters=[2], min_ratio=0.4, dual_lr=1.0),
    )
    with MODELS.switch_scope_and_registry(None) as active:
        assert type(active.build(model).head).__module__.startswith('mmcoke.')


@pytest.mark.parametrize('scope', ['mmcoke'], indirect=True)
def test_names_of_mmselfsup_are_found_by_prefix(scope):
    mmselfsup = pytest.importorskip('mmselfsup.models')
    assert registry.MODELS.get('mmselfsup.ODC') is mmselfsup.ODC
