"""Commands take paths with any characters, and print them as one line."""

import os
import shutil

import pytest
import torch
import torchvision
from conftest import CONFIGS, fork_tool

from mmcoke.cli.main import main

NAMES = ['a b, c', '~tilde', '#1 [x] 100%', 'größe 日本 🙂', os.fsdecode(b'caf\xe9')]
CONFIG = CONFIGS / 'coke/coke_r18_1xb256_folder.py'


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'resnet18.pth'
    torch.manual_seed(0)
    weights = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(
        dict(state_dict={f'backbone.{k}': x for k, x in weights.items() if 'fc.' not in k}), path
    )
    return path


@pytest.fixture(params=NAMES, ids=['comma', 'tilde', 'number', 'unicode', 'latin1'])
def folder(request, tmp_path, image_folder):
    """A folder of such a name, with the config, the weights and images in it."""
    found = tmp_path / request.param
    shutil.copytree(image_folder, found / request.param)
    return found


def test_every_command_takes_them(folder, weights, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    name = folder.name
    checkpoint = shutil.copy(weights, f'{name}.pth')
    options = ['--size', '32', '--num-workers', '0']
    data = ['--data-root', name]
    main(['features', str(CONFIG), checkpoint, *data, *options, '--out', f'{name} features'])
    main(['evaluate', 'knn', str(CONFIG), checkpoint, *data, *options, '--out', f'{name} knn'])
    main(['export', 'torchvision', checkpoint, f'out {name}.pth'])
    gallery = ['--config', str(CONFIG), '--checkpoint', checkpoint, '--out', f'{name}.html']
    main(['gallery', name, *gallery, '--num-clusters', '2'])
    with pytest.raises(SystemExit) as end:
        main(['check', 'folder', name, '--workers', '0'])
    assert end.value.code == 0
    expected = [f'{name} features', f'{name} knn', f'out {name}.pth', f'{name}.html']
    assert all(os.path.exists(path) for path in expected)


def test_a_name_that_is_not_utf8_is_printed_by_a_real_process(tmp_path, weights):
    """pytest's streams take what those of a process do not."""
    name = os.fsdecode(b'caf\xe9')
    shutil.copy(weights, tmp_path / f'{name}.pth')
    said = tmp_path / 'said.txt'
    tool = 'model_converters/mmcoke_to_torchvision.py'
    code, _ = fork_tool(tool, tmp_path / f'{name}.pth', tmp_path / f'{name}.2.pth', said=said)
    assert code == 0, said.read_text()
    code, text = fork_tool(tool, tmp_path / f'{name}.absent', tmp_path / 'x.pth', said=said)
    assert code == 1 and text.startswith('error: ') and text.count('\n') == 1
