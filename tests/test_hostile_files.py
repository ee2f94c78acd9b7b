"""Files of strangers: whatever reads them, and wherever they come from, no code in them runs."""

import http.server
import os
import runpy
import subprocess
import sys
import threading
import types
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import DIGITS, ROOT
from mmengine.fileio import BaseStorageBackend, register_backend
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint

import mmcoke
from mmcoke import zoo
from mmcoke.engine.launch import train
from mmcoke.evaluation.clusterings import label_tables
from mmcoke.features.backbones import load_frozen
from mmcoke.weights import StrictPretrained, addresses
from mmcoke.weights.coke import coke_to_mmcoke, mmcoke_to_coke
from mmcoke.weights.publish import publish
from mmcoke.weights.torchvision import export_backbone

CONFIG = DIGITS['coke']


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture(autouse=True)
def setting(tmp_path, monkeypatch, request):
    """A cache of its own, and the variable that turns torch's guard off."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path / 'mmengine'))
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')


@pytest.fixture
def ran(tmp_path):
    """Is a folder once the code of the hostile file has run."""
    return tmp_path / 'ran'


@pytest.fixture(params=['zip', 'legacy'])
def hostile(request, tmp_path, ran):
    """A checkpoint with code in it."""
    path = tmp_path / 'served' / 'evil.pth'
    path.parent.mkdir()
    content = dict(
        meta=dict(epoch=1, iter=19),
        state_dict={'backbone.conv1.weight': torch.ones(2)},
        optimizer=Payload(ran),
    )
    torch.save(content, path, _use_new_zipfile_serialization=request.param == 'zip')
    return path


@pytest.fixture
def server(tmp_path):
    """Address of ``tmp_path/served``."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = partial(Quiet, directory=tmp_path / 'served')
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{found.server_port}'
        found.shutdown()


@pytest.fixture(params=['file', 'http'])
def address(request, hostile):
    """The hostile file's, on this machine or on a server."""
    if request.param == 'file':
        return str(hostile)
    return request.getfixturevalue('server') + '/evil.pth'


def assert_refused(ran, call):
    with pytest.raises(ValueError, match='is refused: it holds') as caught:
        call()
    assert not ran.exists()
    assert '\n' not in str(caught.value)


def run_tool(name, *args):
    """A script of tools/, in this process."""
    before = sys.argv
    sys.argv = [name, *map(str, args)]
    try:
        runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')
    except SystemExit as error:
        raise ValueError(str(error.code)) from error
    finally:
        sys.argv = before


def build(scope, address, where):
    """Init a model of mmpretrain in a config of that scope."""
    pretrained = dict(type=where.get('type', 'Pretrained'), checkpoint=address)
    backbone = dict(type='mmpretrain.ResNet', depth=18, base_channels=8, stem_channels=8)
    if 'prefix' in where:
        pretrained['prefix'] = where['prefix']
    with DefaultScope.overwrite_default_scope(scope):
        if where.get('model'):
            cfg = dict(type='mmpretrain.ImageClassifier', backbone=backbone, init_cfg=pretrained)
            cfg['data_preprocessor'] = dict(type='mmpretrain.ClsDataPreprocessor')
        else:
            cfg = backbone | dict(init_cfg=pretrained)
        MODELS.build(cfg).init_weights()


@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain', 'mmcoke'])
@pytest.mark.parametrize(
    'where', [{}, dict(prefix='backbone.'), dict(type=PretrainedInit), dict(model=True)]
)
def test_pretrained_runs_no_code(scope, where, address, ran):
    assert_refused(ran, lambda: build(scope, address, where))


def test_strict_pretrained_runs_no_code(address, ran):
    assert_refused(ran, lambda: StrictPretrained(address)(torch.nn.Linear(2, 2)))


@pytest.mark.parametrize('resume', [False, True])
def test_training_from_it_runs_no_code(tiny_config, resume, address, ran):
    tiny_config.merge_from_dict(dict(load_from=address, resume=resume))
    assert_refused(ran, lambda: train(tiny_config))


@pytest.mark.parametrize(
    'load',
    [
        lambda address: load_frozen(CONFIG, address),
        lambda address: mmcoke.FeatureExtractor(CONFIG, address),
    ],
)
def test_frozen_networks_run_no_code(load, address, ran):
    assert_refused(ran, lambda: load(address))


@pytest.mark.parametrize('tool', ['extract_features.py', 'benchmarks/knn.py'])
def test_tools_run_no_code(tool, address, ran, tmp_path):
    assert_refused(ran, lambda: run_tool(tool, CONFIG, address, '--out', tmp_path / 'out'))


@pytest.mark.parametrize(
    'read',
    [
        lambda path, out: coke_to_mmcoke(path, out),
        lambda path, out: mmcoke_to_coke(path, out),
        lambda path, out: export_backbone(path, out),
        lambda path, out: publish(path, out),
        lambda path, out: label_tables(path),
    ],
)
def test_conversions_run_no_code(read, hostile, ran, tmp_path):
    assert_refused(ran, lambda: read(hostile, tmp_path / 'out'))
    assert not (tmp_path / 'out').exists()


def test_what_is_refused_is_not_kept(hostile, server, ran, tmp_path):
    for _ in range(2):
        assert_refused(ran, lambda: zoo.local_file(f'{server}/evil.pth'))
    assert not list((tmp_path / 'torch').rglob('*evil.pth'))


# ---- schemes

LISTS = ('torchvision', 'modelzoo', 'open-mmlab', 'openmmlab', 'mmcls')
STORES = ('s3', 'petrel', 'cluster:s3')


@register_backend('petrel', force=True)
class FakePetrel(BaseStorageBackend):
    """Has the folder ``served`` of the present directory."""

    def get(self, filepath):
        return Path('served', filepath.rpartition('/')[2]).read_bytes()

    def get_text(self, filepath):
        raise NotImplementedError


@pytest.fixture
def all_schemes(server, tmp_path, monkeypatch):
    """All lists and clients have the file ``evil.pth`` of the server under the name ``evil``."""
    monkeypatch.chdir(tmp_path)
    lists = ('get_torchvision_models', 'get_external_models', 'get_mmcls_models')
    for name in lists:
        monkeypatch.setattr(mmengine_checkpoint, name, lambda: {'evil': f'{server}/evil.pth'})
    pavi = types.ModuleType('pavi')
    source = tmp_path / 'served/evil.pth'
    pavi.modelcloud = types.SimpleNamespace(
        get=lambda name: types.SimpleNamespace(
            name='evil.pth', download=lambda path: Path(path).write_bytes(source.read_bytes())
        )
    )
    monkeypatch.setitem(sys.modules, 'pavi', pavi)


@pytest.mark.parametrize(
    'scheme',
    [
        'torchvision',
        'modelzoo',
        'open-mmlab',
        'openmmlab',
        'mmcls',
        'pavi',
        's3',
        'petrel',
        'cluster:s3',
    ],
)
def test_no_scheme_runs_code(scheme, hostile, all_schemes, ran):
    path = 'bucket/evil.pth' if scheme in STORES else 'evil'
    assert_refused(ran, lambda: CheckpointLoader.load_checkpoint(f'{scheme}://{path}'))


@pytest.mark.parametrize('scheme', ['torchvision', 'open-mmlab', 'mmcls', 's3', 'pavi'])
def test_every_scheme_reads_what_is_harmless(scheme, all_schemes, tmp_path):
    (tmp_path / 'served').mkdir()
    state = {'backbone.a': torch.arange(3.0)}
    torch.save(dict(state_dict=state), tmp_path / 'served/evil.pth')
    found = CheckpointLoader.load_checkpoint(
        f'{scheme}://evil.pth'[: -4 if scheme != 's3' else None]
    )
    name = 'a' if scheme == 'mmcls' else 'backbone.a'
    assert found['state_dict'][name].tolist() == [0, 1, 2]


def test_a_name_that_is_not_listed_is_told_in_one_line():
    with pytest.raises(ValueError, match=r'torchvision://resnet51 is unknown\. Similar .*resnet'):
        CheckpointLoader.load_checkpoint('torchvision://resnet51')


def test_an_absent_client_is_told_in_one_line():
    with pytest.raises(ImportError, match='pavi://x needs the package pavi'):
        CheckpointLoader.load_checkpoint('pavi://x')


def test_a_server_without_the_file_is_told_in_one_line(server):
    with pytest.raises(OSError, match=r'^http://127.*/none\.pth answered 404 .*\.$'):
        CheckpointLoader.load_checkpoint(f'{server}/none.pth')


def test_two_addresses_with_files_of_one_name_are_not_confused(server, tmp_path):
    for folder, value in dict(a=1, b=2).items():
        (tmp_path / 'served' / folder).mkdir(parents=True)
        torch.save(dict(value=value), tmp_path / 'served' / folder / 'last.pth')
    found = [CheckpointLoader.load_checkpoint(f'{server}/{x}/last.pth') for x in ('a', 'b')]
    assert [x['value'] for x in found] == [1, 2]


def test_resuming_does_not_execute_the_config_in_a_checkpoint(tiny_config, ran, tmp_path):
    """mmengine executes ``meta['config']``, where releases before 0.1 of it wrote the config."""
    train(tiny_config)
    path = Path(tiny_config.work_dir) / 'epoch_2.pth'
    state = torch.load(Path(tiny_config.work_dir) / 'epoch_3.pth', weights_only=True)
    state['meta'] |= dict(config=f'import os\nos.mkdir({str(ran)!r})\n', epoch=2)
    torch.save(state, path)
    tiny_config.merge_from_dict(dict(load_from=str(path), resume=True))
    train(tiny_config)
    assert not ran.exists()


@pytest.mark.parametrize('module', ['mmcoke.registry', 'mmcoke.models'])
def test_the_guard_stands_as_soon_as_mmcoke_is_imported(module):
    code = (
        f'import {module}\n'
        'from mmengine.model import PretrainedInit\n'
        'from mmengine.runner import CheckpointLoader\n'
        'print({f.__module__ for f in CheckpointLoader._schemes.values()},'
        ' PretrainedInit.__call__.__module__)'
    )
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["{'mmcoke.weights.addresses'}", 'mmcoke.weights.initializers']


def test_models_of_the_zoo_have_an_address_without_importing_the_zoo():
    found = CheckpointLoader._get_checkpoint_loader('mmcoke://coke_tiny')
    assert found is addresses.load_from_address


def test_a_torch_that_would_run_code_is_refused_in_one_line():
    code = "import torch; torch.__version__ = '2.5.1+cpu'; import mmcoke.registry"
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    last = run.stderr.strip().splitlines()[-1]
    assert 'mmcoke needs torch >= 2.6, ' in last
    assert 'pip install "torch>=2.6"' in last
