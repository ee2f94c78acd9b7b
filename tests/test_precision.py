"""Mixed precision, compilation and other backbones."""

import shutil
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement

from mmcoke.engine.launch import train
from mmcoke.models.algorithms.base import output_width
from mmcoke.registry import MODELS


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_amp_leaves_clustering_and_loss_in_float32(tiny_config, monkeypatch, dtype):
    init_default_scope('mmcoke')
    model = MODELS.build(tiny_config.model)
    model.init_labelers(20)
    seen = {}
    model.backbone.register_forward_hook(lambda *a: seen.update(network=a[-1][0].dtype))
    step = model.labelers[0].step

    def spy_step(x_ND, idx_N):
        seen['clustered'] = x_ND.dtype
        return step(x_ND, idx_N)

    # The module; the package has its function under the same name.
    losses = sys.modules['mmcoke.losses.coke_loss']
    logits = losses.cluster_logits

    def spy_logits(*args):
        result = logits(*args)
        seen['logits'] = result.dtype
        return result

    monkeypatch.setattr(model.labelers[0], 'step', spy_step)
    monkeypatch.setattr(losses, 'cluster_logits', spy_logits)
    samples = [BaseDataElement(metainfo=dict(sample_idx=i)) for i in range(16)]
    with torch.autocast('cpu', dtype):
        loss = model.loss(torch.randn(16, 1, 16, 16), samples)['loss']
    loss.backward()
    float32 = torch.float32
    assert seen == dict(network=dtype, clustered=float32, logits=float32)
    assert loss.dtype == float32 and torch.isfinite(loss)
    buffers = model.labelers.state_dict().values()
    assert {b.dtype for b in buffers if b.is_floating_point()} == {float32}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which('g++') is None, reason='torch.compile needs a C++ compiler')
def test_compiled_network_gives_the_same_losses(tiny_config, tmp_path):
    # Labels are chosen in the epoch without learning: rounding cannot change them afterwards. A
    # small learning rate, because training multiplies differences at a large one.
    tiny_config.train_cfg.max_epochs = 2
    tiny_config.optim_wrapper.optimizer.lr = 0.001
    histories = []
    for compiled in (False, True):
        cfg = tiny_config.copy()
        cfg.work_dir = str(tmp_path / str(compiled))
        train(cfg, compile_network=compiled)
        state = torch.load(f'{cfg.work_dir}/epoch_2.pth', weights_only=True)
        histories.append(state['message_hub']['log_scalars']['train/loss'].data[0][-20:])
        assert not any('_orig_mod' in name for name in state['state_dict'])
    assert abs(histories[0] - histories[1]).max() < 1e-3
    assert abs(histories[0][1] - histories[0][-1]) > 0.05  # the network did learn


BACKBONES = [
    (dict(type='ResNet', depth=18), 512),
    (dict(type='ResNet', depth=50), 2048),
    (dict(type='VisionTransformer', arch='deit-tiny', patch_size=16, out_type='cls_token'), 192),
    (dict(type='PlainConvNet', in_channels=1, channels=(4, 6)), 6),
]


@pytest.mark.parametrize(('backbone', 'width'), BACKBONES)
def test_the_width_of_a_backbone_is_seen_without_changing_it(backbone, width):
    init_default_scope('mmcoke')
    module = MODELS.build(backbone)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert output_width(module) == width
    assert module.training
    assert all(torch.equal(before[n], value) for n, value in module.state_dict().items())


def test_the_neck_adapts_to_the_backbone(tiny_config):
    init_default_scope('mmcoke')
    tiny_config.model.backbone.channels = [4, 4, 4, 4, 7]
    assert MODELS.build(tiny_config.model).neck.fc0.in_features == 7


@pytest.mark.slow
def test_the_vit_recipe_trains_on_real_photos(shared_data, tmp_path):
    cfg = Config.fromfile('configs/selfsup/coke/coke_vit-small-p16_8xb64_in1k.py')
    pipeline = cfg.train_pipeline
    cfg.merge_from_dict(
        {
            'work_dir': str(tmp_path),
            'model.clustering.num_clusters': [6, 8],
            'train_cfg.max_epochs': 2,
            'train_dataloader.batch_size': 4,
            'train_dataloader.num_workers': 1,
        }
    )
    cfg.train_dataloader.dataset = dict(
        type='CustomDataset',
        data_root=str(shared_data / 'photos'),
        with_label=False,
        indices=16,
        pipeline=pipeline,
    )
    model = train(cfg)
    assert model.neck.fc0.in_features == 384
    assert all((labeler.newest.label >= 0).sum() == 16 for labeler in model.labelers)
