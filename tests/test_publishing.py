"""Checkpoints that are given away: weights and no more, the same bytes each time."""

import hashlib
import os
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from conftest import DIGITS, ROOT, tiny
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmcoke import FeatureExtractor, zoo
from mmcoke.clustering import UNASSIGNED
from mmcoke.engine.launch import train
from mmcoke.evaluation.clusterings import label_tables
from mmcoke.files import read_checkpoint
from mmcoke.registry import MODELS
from mmcoke.weights.publish import publish
from mmcoke.zoo import index

METHODS = dict(
    coke='CoKe',
    deepcluster='DeepCluster',
    deepclusterv2='DeepClusterV2',
    odc='ODC',
    sela='SeLa',
    swav='SwAV',
)
TOOL = ROOT / 'tools/model_converters/publish_model.py'
DIGITS_8X8 = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)


def train_briefly(method, work_dir):
    """Config file and checkpoint after one epoch."""
    cfg = tiny(method, work_dir)
    cfg.train_cfg.max_epochs = 1
    train(cfg)
    config = work_dir / f'{method}_tiny.py'
    cfg.dump(config)
    return config, work_dir / 'epoch_1.pth'


@pytest.fixture(scope='module', params=METHODS)
def trained(request, tmp_path_factory):
    """Method, config file and checkpoint."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, *train_briefly(request.param, folder / 'secret-folder')


@pytest.fixture(scope='module')
def coke(tmp_path_factory):
    """Config file and checkpoint of CoKe."""
    return train_briefly('coke', tmp_path_factory.mktemp('coke') / 'secret-folder')


def test_the_published_file_has_the_same_features_bit_for_bit(trained, tmp_path):
    _, config, checkpoint = trained
    published = publish(checkpoint, tmp_path, config=config)
    for feature in ('pooled', 'projected'):
        before, after = (
            FeatureExtractor(config, path, progress=False)(DIGITS_8X8, feature=feature)
            for path in (checkpoint, published.path)
        )
        assert np.array_equal(before, after)
    extractor = FeatureExtractor(config, published.path)
    assert extractor.network.origin['keys'] == '25 of 25 backbone keys matched'


def test_the_published_file_loads_strictly_into_the_algorithm(trained, tmp_path):
    _, config, checkpoint = trained
    published = publish(checkpoint, tmp_path, config=config)
    with DefaultScope.overwrite_default_scope('mmcoke'):
        model = MODELS.build(Config.fromfile(config).model)
    state = read_checkpoint(published.path)['state_dict']
    model.load_state_dict(state, strict=True)
    original = read_checkpoint(checkpoint)['state_dict']
    for name, x in model.state_dict().items():
        assert torch.equal(x, original[name])


def test_only_weights_and_plain_facts_stay(trained, tmp_path):
    _, config, checkpoint = trained
    published = publish(checkpoint, tmp_path, config=config)
    content = read_checkpoint(published.path)
    assert set(content) == {'meta', 'state_dict'}
    assert content['meta'] == dict(epoch=1, iter=19)
    assert not any('labelers' in name for name in content['state_dict'])
    assert published.path.stat().st_size < checkpoint.stat().st_size / 2
    data = published.path.read_bytes()
    for secret in ('secret-folder', str(tmp_path), str(ROOT)):
        assert secret.encode() not in data


def test_labels_are_kept_on_request(trained, tmp_path):
    method, config, checkpoint = trained
    published = publish(checkpoint, tmp_path, config=config, keep_labels=True)
    kept, original = label_tables(published.path), label_tables(checkpoint)
    assert len(kept) == (2 if method in ('coke', 'deepclusterv2', 'sela') else 1)
    for name, label in original.items():
        assert (label != UNASSIGNED).any() and torch.equal(kept[name], label)
    state = read_checkpoint(published.path)['state_dict']
    assert not any('kmeans' in name or 'memory' in name for name in state)


def test_the_backbone_alone(trained, tmp_path):
    _, config, checkpoint = trained
    published = publish(checkpoint, tmp_path, config=config, backbone_only=True)
    state = read_checkpoint(published.path)['state_dict']
    assert all(name.startswith('backbone.') for name in state)
    before, after = (FeatureExtractor(config, p)(DIGITS_8X8) for p in (checkpoint, published.path))
    assert np.array_equal(before, after)


# ---- bytes, names and hashes


def test_another_process_writes_the_same_bytes(coke, tmp_path):
    config, checkpoint = coke
    published = publish(checkpoint, tmp_path / 'here', config=config)
    copy = tmp_path / 'another name.pth'
    copy.write_bytes(checkpoint.read_bytes())
    command = [sys.executable, TOOL, copy, '--config', config, '--out', tmp_path / 'there']
    env = dict(os.environ, PYTHONHASHSEED='7')
    subprocess.run(command, check=True, env=env, capture_output=True)
    (other,) = (tmp_path / 'there').glob('*.pth')
    assert other.name == published.path.name
    assert other.read_bytes() == published.path.read_bytes()


def test_the_name_begins_its_hash(coke, tmp_path):
    config, checkpoint = coke
    published = publish(checkpoint, tmp_path, config=config)
    assert published.sha256 == hashlib.sha256(published.path.read_bytes()).hexdigest()
    assert published.path.name == f'coke_tiny-{published.sha256[:8]}.pth'
    named = publish(checkpoint, tmp_path, name='digits')
    assert named.path.name == f'digits-{published.sha256[:8]}.pth'
    assert publish(checkpoint, tmp_path).path.name.startswith('epoch_1-')
    with pytest.raises(SystemExit):
        run_tool(checkpoint)


def test_what_was_published_is_published_as_it_is(coke, tmp_path):
    config, checkpoint = coke
    once = publish(checkpoint, tmp_path, config=config)
    assert publish(once.path, tmp_path, config=config).sha256 == once.sha256


def test_parts_of_large_tensors_do_not_bring_the_rest(tmp_path):
    secret = torch.arange(100_000.0)
    state = {'backbone.weight': secret[:10], 'backbone.turned': torch.zeros(4, 3).T}
    torch.save(dict(state_dict=state), tmp_path / 'view.pth')
    published = publish(tmp_path / 'view.pth', tmp_path)
    assert published.path.stat().st_size < 10_000
    found = read_checkpoint(published.path)['state_dict']
    assert all(torch.equal(found[name], x) for name, x in state.items())
    # Another order in memory is no other content.
    state = {name: x.clone(memory_format=torch.contiguous_format) for name, x in state.items()}
    torch.save(dict(state_dict=state), tmp_path / 'whole.pth')
    assert publish(tmp_path / 'whole.pth', tmp_path).sha256 == published.sha256


# ---- the entry of the metafile


def run_tool(*args):
    runpy_argv, sys.argv = sys.argv, [str(TOOL), *map(str, args)]
    try:
        runpy.run_path(str(TOOL), run_name='__main__')
    finally:
        sys.argv = runpy_argv


def test_the_tool_prints_the_entry_that_it_writes(trained, tmp_path, capsys):
    method, _, checkpoint = trained
    config = DIGITS[method]
    run_tool(checkpoint, '--config', tiny_config_file(method, tmp_path), '--out', tmp_path / 'out')
    (path,) = (tmp_path / 'out').glob('*.pth')
    text = path.with_suffix('.yml').read_text()
    assert text in capsys.readouterr().out
    (entry,) = yaml.safe_load(text)
    assert entry == {
        'Name': config.stem,
        'In Collection': METHODS[method],
        'Config': f'configs/{config.name}',
        'Metadata': {'Epochs': 1},
        'Weights': f'mmcoke://{config.stem}',
        'Source': path.name,
        'SHA256': hashlib.sha256(path.read_bytes()).hexdigest(),
        'Results': None,
    }


def tiny_config_file(method, folder):
    """The tiny recipe below a folder ``configs``."""
    path = folder / 'configs' / DIGITS[method].name
    path.parent.mkdir()
    tiny(method).dump(path)
    return path


def test_a_published_model_is_used_by_its_name(coke, tmp_path, monkeypatch):
    """From the files that were written, by way of the zoo, to features."""
    config, checkpoint = coke
    package = tmp_path / 'mmcoke'
    published = publish(checkpoint, package / 'zoo/weights', config=config)
    text = f'Collections:\n  - Name: CoKe\nModels:\n{published.metafile()}'
    (config.parent / 'metafile.yml').write_text(text)
    (config.parent / 'model-index.yml').write_text('Import:\n  - metafile.yml\n')
    monkeypatch.setattr(index, 'PACKAGE', package)
    monkeypatch.setattr(index, 'index_file', lambda: config.parent / 'model-index.yml')
    index.entries.cache_clear()
    try:
        assert zoo.show('coke_tiny').source.sha256 == published.sha256
        found = FeatureExtractor('coke_tiny', progress=False)(DIGITS_8X8)
        with pytest.raises(ValueError, match=r"no 'coke_tinny'.*coke_tiny"):
            FeatureExtractor('coke_tinny')
    finally:
        index.entries.cache_clear()
    assert np.array_equal(found, FeatureExtractor(config, checkpoint)(DIGITS_8X8))


# ---- what cannot work


def test_weights_of_another_model_are_refused(coke, tmp_path):
    _, checkpoint = coke
    with pytest.raises(ValueError, match=r'does not fit .*lacks'):
        publish(checkpoint, tmp_path, config=DIGITS['odc'])
    with pytest.raises(ValueError, match=r'does not fit .*of shape'):
        publish(checkpoint, tmp_path, config=DIGITS['coke'])
    with pytest.raises(ValueError, match='of another shape'):
        publish(checkpoint, tmp_path, config=DIGITS['coke'], backbone_only=True)
    assert not list(tmp_path.iterdir())


def test_labels_that_are_not_there_are_missed(coke, tmp_path):
    config, checkpoint = coke
    published = publish(checkpoint, tmp_path, config=config)
    with pytest.raises(ValueError, match='no pseudo-labels'):
        publish(published.path, tmp_path, keep_labels=True)


def test_files_of_other_code_are_refused(tmp_path):
    torch.save({'module.encoder.conv1.weight': torch.ones(1)}, tmp_path / 'coke.pth.tar')
    with pytest.raises(ValueError, match=r'backbone\..*coke_to_mmcoke'):
        publish(tmp_path / 'coke.pth.tar', tmp_path / 'out')


def test_meta_with_paths_is_left_out(tmp_path):
    meta = dict(epoch=3, arch='/home/me/net', mmcoke_version='0.1.0', cfg='work_dir="/home/me"')
    state = {'backbone.weight': torch.ones(1)}
    torch.save(dict(meta=meta, state_dict=state), tmp_path / 'x.pth')
    published = publish(tmp_path / 'x.pth', tmp_path)
    assert read_checkpoint(published.path)['meta'] == dict(epoch=3, mmcoke_version='0.1.0')
