"""Mixed precision, compilation and other backbones."""

import shutil
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement
from torch import nn

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
    step = model.labelers.step

    def spy_step(x_ND, idx_N, own):
        seen['clustered'] = x_ND.dtype
        return step(x_ND, idx_N, own)

    # The module; the package has its function under the same name.
    losses = sys.modules['mmcoke.losses.coke_loss']
    inner = losses.chunk_cross_entropies

    def spy_losses(x_BmD, *args, **kwargs):
        result = inner(x_BmD, *args, **kwargs)
        seen.update(classified=x_BmD.dtype, losses=result[0].dtype, gradient=result[1].dtype)
        return result

    monkeypatch.setattr(model.labelers, 'step', spy_step)
    monkeypatch.setattr(losses, 'chunk_cross_entropies', spy_losses)
    samples = [BaseDataElement(metainfo=dict(sample_idx=i)) for i in range(16)]
    with torch.autocast('cpu', dtype):
        loss = model.loss(torch.randn(16, 1, 16, 16), samples)['loss']
    loss.backward()
    float32 = torch.float32
    core = ('clustered', 'classified', 'losses', 'gradient')
    assert seen == dict(network=dtype, **dict.fromkeys(core, float32))
    assert loss.dtype == float32 and torch.isfinite(loss)
    buffers = model.labelers.state_dict().values()
    assert {b.dtype for b in buffers if b.is_floating_point()} == {float32}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which('g++') is None, reason='torch.compile needs a C++ compiler')
def test_compiled_network_gives_the_same_losses(tiny_config, tmp_path):
    # Labels are chosen in the epoch without learning: rounding cannot change them afterwards. A
    # small learning rate, because training multiplies differences at a large one.
    tiny_config.train_cfg.max_epochs = 2
    tiny_config.optim_wrapper.optimizer.lr = 3e-5
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


class TimmLike(nn.Module):
    """What timm's transformers look like: an exact image size, known to the patch embedding."""

    class PatchEmbed(nn.Module):
        def __init__(self, img_size, in_chans, embed_dim):
            super().__init__()
            self.img_size = (img_size, img_size)
            self.proj = nn.Conv2d(in_chans, embed_dim, 16, 16)

        def forward(self, x):
            assert x.shape[2:] == self.img_size, 'Input height does not match model.'
            return self.proj(x)

    def __init__(self, output, in_chans=3, img_size=240, embed_dim=10):
        super().__init__()
        self.in_channels = 99  # of something else
        self.later = nn.Conv2d(embed_dim, embed_dim, 1)  # registered first, applied last
        self.norm = nn.BatchNorm2d(embed_dim)
        self.patch_embed = self.PatchEmbed(img_size, in_chans, embed_dim)
        self.output = output

    def forward(self, x):
        maps = self.later(self.norm(self.patch_embed(x)))
        tokens = maps.flatten(2).mT
        outputs = dict(
            map=maps,
            channels_last=maps.permute(0, 2, 3, 1),
            tokens=tokens,
            pooled=tokens.mean(1),
            nested=(maps, [maps, tokens[:, 0]]),
        )
        return outputs[self.output]


BACKBONES = [
    (dict(type='ResNet', depth=18), 512),
    (dict(type='ResNet', depth=50), 2048),
    (dict(type='ResNetSobel', depth=18), 512),
    (dict(type='ResNet', depth=18, in_channels=5), 512),
    (dict(type='VisionTransformer', arch='deit-tiny', patch_size=16, out_type='cls_token'), 192),
    (dict(type='VisionTransformer', arch='deit-tiny', img_size=96, out_type='featmap'), 192),
    (dict(type='VisionTransformer', arch='deit-tiny', img_size=96, out_type='raw'), 192),
    (dict(type='BEiTViT', arch='deit-tiny'), 192),
    (dict(type='SwinTransformer', arch='tiny'), 768),
    (dict(type='ConvNeXt', arch='atto'), 320),
    (dict(type='EfficientNet', arch='b0'), 1280),
    (dict(type='MobileNetV2'), 1280),
    (dict(type='MlpMixer', arch='s'), 512),
    (dict(type='PlainConvNet', in_channels=1, channels=(4, 6)), 6),
    (dict(type=TimmLike, output='map'), 10),
    (dict(type=TimmLike, output='channels_last', in_chans=1), 10),
    (dict(type=TimmLike, output='tokens', img_size=72), 10),
    (dict(type=TimmLike, output='pooled', in_chans=4), 10),
    (dict(type=TimmLike, output='nested'), 10),
]


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize(('backbone', 'width'), BACKBONES)
def test_the_width_of_a_backbone_is_seen_without_changing_it(backbone, width, training):
    init_default_scope('mmcoke')
    torch.manual_seed(0)
    module = MODELS.build(backbone)
    module.train(training)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [m.training for m in module.modules()]
    assert output_width(module) == width
    assert [m.training for m in module.modules()] == modes
    for name, value in module.state_dict().items():
        assert torch.equal(before[name].nan_to_num(), value.nan_to_num()), name


def test_the_neck_adapts_to_the_backbone(tiny_config):
    init_default_scope('mmcoke')
    tiny_config.model.backbone.channels = [4, 4, 4, 4, 7]
    assert MODELS.build(tiny_config.model).neck.fc0.in_features == 7


@pytest.mark.parametrize('output', ['map', 'channels_last', 'tokens'])
def test_the_neck_averages_over_space_wherever_the_channels_are(tiny_config, output):
    init_default_scope('mmcoke')
    tiny_config.model.backbone = dict(type=TimmLike, output=output, img_size=32)
    model = MODELS.build(tiny_config.model).eval()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    projections = model.project(images)
    model.backbone.output = 'pooled'
    pooled = model.backbone(images)[..., None, None]
    torch.testing.assert_close(projections, model.neck((pooled,))[0])


def test_a_backbone_that_cannot_be_seen_has_a_remedy_that_helps(tiny_config):
    init_default_scope('mmcoke')
    tiny_config.model.backbone = dict(type=TimmLike, output='map', img_size=32)
    tiny_config.model.backbone.output = 'typo'
    with pytest.raises(ValueError, match=r'of TimmLike cannot be seen.*Set in_channels') as caught:
        MODELS.build(tiny_config.model)
    assert len(str(caught.value).splitlines()) == 1
    tiny_config.model.neck.in_channels = 10
    assert MODELS.build(tiny_config.model).neck.fc0.in_features == 10


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
