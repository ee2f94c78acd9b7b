"""CoKe through mmengine's runner, in one process."""

import logging
import signal
from pathlib import Path

import pytest
import torch
from conftest import ROOT, fork_tool, tiny
from mmengine.config import Config

from mmcoke.engine.hooks.coke_hook import curve_names
from mmcoke.engine.launch import build_runner, train
from mmcoke.reporting.report import read_scalars

NUM_IMAGES, LENGTH = 320, 5  # images and iterations of an epoch


@pytest.fixture
def tiny_config(tmp_path):
    """CoKe's digits recipe, made tiny, on few images."""
    return tiny('coke', tmp_path / 'work_dir', num_images=NUM_IMAGES)


def run(cfg, **options):
    cfg.merge_from_dict(options)
    return train(cfg)


def checkpoint(work_dir, epoch):
    return torch.load(Path(work_dir) / f'epoch_{epoch}.pth', weights_only=True)


def labeler_state(model_state):
    return {name: value for name, value in model_state.items() if name.startswith('labelers.')}


def test_training_fills_the_label_tables(tiny_config):
    model = run(tiny_config)
    labeled = [(labeler.newest.label >= 0).sum().item() for labeler in model.labelers]
    assert min(labeled) == LENGTH * 64
    assert [len(labeler.sizes()) for labeler in model.labelers] == [8, 12]


def test_the_first_epoch_forms_centers_and_moves_no_weight(tiny_config):
    runner = build_runner(tiny_config)
    weights = {n: p.detach().clone() for n, p in runner.model.named_parameters()}
    runner.cfg.train_cfg.max_epochs = 3
    centers = {}

    class Watch:
        def __init__(self, hook):
            self.hook, self.after = hook, hook.after_train_epoch

        def __call__(self, runner):
            if runner.epoch == 0:
                model = runner.model
                for name, p in model.named_parameters():
                    assert torch.equal(p, weights[name]), name
                centers['before'] = model.labelers[0].kmeans.centers.clone()
            self.after(runner)
            if runner.epoch == 0:
                centers['after'] = runner.model.labelers[0].kmeans.centers.clone()

    hook = next(h for h in runner.hooks if type(h).__name__ == 'CoKeHook')
    hook.after_train_epoch = Watch(hook)
    runner._hooks = [h for h in runner.hooks]
    runner.model.init_weights = lambda: None  # keep the weights noted above
    runner.train()
    assert not torch.equal(centers['before'], centers['after'])
    assert any(not torch.equal(p, weights[n]) for n, p in runner.model.named_parameters())


def test_checkpoints_hold_the_published_centers_and_fresh_counts(tiny_config):
    model = run(tiny_config)
    state = labeler_state(checkpoint(tiny_config.work_dir, 3)['state_dict'])
    for name, value in labeler_state(model.state_dict()).items():
        assert torch.equal(state[name], value), name
    assert torch.equal(state['labelers.0.kmeans.centers'], state['labelers.0.kmeans.running'])
    assert not state['labelers.0.kmeans.count'].any()


def test_resume_restores_all_clustering_state(tiny_config):
    """Exactly what was saved comes back, on the torch that is installed, with weights_only on."""
    run(tiny_config)
    saved = checkpoint(tiny_config.work_dir, 3)
    tiny_config.merge_from_dict({'resume': True, 'train_cfg.max_epochs': 4})
    runner = build_runner(tiny_config)
    seen = {}
    loop_run = runner.call_hook

    def call_hook(name, **kwargs):
        if name == 'before_train':
            seen.update({k: v.clone() for k, v in runner.model.state_dict().items()})
            seen['epoch'], seen['iter'] = runner.epoch, runner.iter
        return loop_run(name, **kwargs)

    runner.call_hook = call_hook
    runner.train()
    assert (seen.pop('epoch'), seen.pop('iter')) == (3, 3 * LENGTH)
    assert set(seen) == set(saved['state_dict'])
    assert all(torch.equal(value, seen[name]) for name, value in saved['state_dict'].items())
    assert checkpoint(tiny_config.work_dir, 4)['meta']['epoch'] == 4


def test_a_checkpoint_may_not_look_up_other_attributes(tmp_path):
    class Evil:
        def __reduce__(self):
            return getattr, (torch.nn.Module, 'load_state_dict')

    torch.save(dict(x=Evil()), tmp_path / 'evil.pth')
    with pytest.raises(Exception, match=r'may not look up|Weights only load failed'):
        torch.load(tmp_path / 'evil.pth')


def test_more_clusters_than_images_are_refused_before_training(tiny_config):
    with pytest.raises(ValueError, match=r'num_clusters=2000 .* 320 samples'):
        run(tiny_config, **{'model.clustering.num_clusters': [8, 2000]})
    assert not list(Path(tiny_config.work_dir).glob('*.pth'))


def test_an_epoch_without_a_batch_is_refused(tiny_config):
    tiny_config.train_dataloader.batch_size = 2000
    with pytest.raises(ValueError, match=r'does not fill one batch .*batch_size'):
        run(tiny_config)


def test_an_epoch_without_a_batch_is_refused_with_the_numbers(tiny_config):
    tiny_config.merge_from_dict({'train_dataloader.batch_size': 2000, 'param_scheduler': []})
    with pytest.raises(ValueError, match=r'320 samples .* batch of 2000'):
        run(tiny_config)


def test_min_ratio_outside_its_range_is_refused(tiny_config):
    with pytest.raises(ValueError, match=r'min_ratio must be in \(0, 1\]'):
        run(tiny_config, **{'model.clustering.min_ratio': 1.5})


def test_a_missing_folder_is_refused_with_the_remedy(tiny_config, tmp_path):
    tiny_config.train_dataloader.dataset = dict(
        type='CustomDataset',
        data_root=str(tmp_path / 'none'),
        with_label=False,
        pipeline=tiny_config.pipeline,
    )
    with pytest.raises(ValueError, match=r'no image folder .*data_root='):
        run(tiny_config)


def test_the_imagenet_recipe_names_a_missing_folder_and_the_remedy(tmp_path):
    cfg = Config.fromfile(ROOT / 'configs/selfsup/coke/coke_r50_8xb64_in1k.py')
    cfg.merge_from_dict({'work_dir': str(tmp_path), 'model.backbone.depth': 18})
    with pytest.raises(ValueError, match=r"no image folder 'data/imagenet/train'.*data_root="):
        train(cfg)


def test_clusterings_of_one_size_have_curves_of_their_own(tiny_config):
    sizes = {'model.clustering.num_clusters': [8, 12, 8]}
    model = run(tiny_config, experiment_name='equal_sizes', **sizes)
    names = curve_names(model.labelers)
    assert names == ['coke/8_0', 'coke/12', 'coke/8_2']
    curves = read_scalars(tiny_config.work_dir)
    assert all(len(curves[f'{name}/min_size']) == 3 for name in names)
    centers = [labeler.kmeans.centers for labeler in model.labelers]
    assert not torch.equal(centers[0], centers[2])


def test_a_loop_without_epochs_is_refused(tiny_config):
    tiny_config.train_cfg = dict(by_epoch=False, max_iters=20)
    tiny_config.param_scheduler = []
    with pytest.raises(ValueError, match='by_epoch=True'):
        run(tiny_config)


def test_without_the_hook_the_remedy_is_named(tiny_config):
    with pytest.raises(ValueError, match='CoKeHook'):
        run(tiny_config, custom_hooks=[])


def test_a_pipeline_that_drops_sample_idx_is_refused(tiny_config):
    tiny_config.train_dataloader.dataset.pipeline = [
        dict(type='Resize', scale=(16, 16)),
        dict(type='PackInputs', meta_keys=('img_shape',)),
    ]
    with pytest.raises(ValueError, match='no sample_idx'):
        run(tiny_config)


def test_mmengines_concatenation_is_refused(tiny_config):
    part = tiny_config.train_dataloader.dataset
    tiny_config.train_dataloader.dataset = dict(
        type='mmengine.ConcatDataset', datasets=[part, part]
    )
    with pytest.raises(ValueError, match=r'mmcoke\.ConcatDataset'):
        run(tiny_config)


def test_features_that_are_not_finite_stop_training_before_a_checkpoint(tiny_config):
    tiny_config.merge_from_dict({'optim_wrapper.optimizer.lr': 1e30})
    with pytest.raises(ValueError, match=r'NaN or infinite|loss is'):
        run(tiny_config)
    for path in Path(tiny_config.work_dir).glob('epoch_*.pth'):
        state = torch.load(path, weights_only=True)['state_dict']
        assert all(torch.isfinite(value.float()).all() for value in state.values())


def test_training_on_an_unlabelled_folder(tiny_config, image_folder):
    tiny_config.merge_from_dict(
        {'model.backbone.in_channels': 3, 'model.clustering.num_clusters': [2, 3]}
    )
    preprocessor = tiny_config.model.data_preprocessor
    preprocessor.mean, preprocessor.std = [124.0] * 3, [58.0] * 3
    tiny_config.train_dataloader.update(batch_size=4, num_workers=1)
    tiny_config.train_dataloader.dataset = dict(
        type='CustomDataset',
        data_root=str(image_folder),
        with_label=False,
        pipeline=[dict(type='LoadImageFromFile'), *tiny_config.pipeline],
    )
    model = run(tiny_config)
    assert model.labelers[0].newest.num_samples == 9
    assert (model.labelers[0].newest.label >= 0).sum() >= 8


def test_an_unreadable_image_ends_training_with_its_name(tiny_config, image_folder, tmp_path):
    (image_folder / 'part1/3.jpg').write_bytes(b'broken')
    script = ['train.py', 'configs/selfsup/coke/coke_r18_1xb256_folder.py']
    options = [
        f'train_dataloader.dataset.data_root={image_folder}',
        'train_dataloader.batch_size=9',
        'train_dataloader.num_workers=1',
        'model.clustering.num_clusters=[2]',
    ]
    command = [*script, '--work-dir', tiny_config.work_dir, '--cfg-options', *options]
    code, said = fork_tool(*command, said=tmp_path / 'said.txt')
    assert code == 1
    last = said.strip().splitlines()[-3:]
    assert 'part1/3.jpg' in last[0] and '--skip-unreadable' in last[0]
    assert 'start again' in last[1] and 'tools/train.py' in last[2]
    assert 'Traceback' not in said


def test_a_killed_run_resumes_from_its_last_checkpoint(tiny_config, tmp_path):
    path = tmp_path / 'tiny.py'
    tiny_config.train_cfg.max_epochs = 4
    tiny_config.custom_imports = dict(imports=['spy_hook'], allow_failed_imports=False)
    tiny_config.custom_hooks.append(dict(type='KillHook', iteration=2 * LENGTH + 2))
    tiny_config.dump(path)
    code, _ = fork_tool('train.py', path, said=tmp_path / 'killed.txt')
    assert code == -signal.SIGKILL
    work_dir = Path(tiny_config.work_dir)
    assert (work_dir / 'last_checkpoint').read_text().endswith('epoch_2.pth')
    last = len(tiny_config.custom_hooks) - 1
    alive = ['--resume', '--cfg-options', f'custom_hooks.{last}.iteration=-1']
    code, said = fork_tool('train.py', path, *alive, said=tmp_path / 'resumed.txt')
    assert code == 0
    assert 'resumed epoch: 2' in said
    assert (work_dir / 'epoch_4.pth').exists()


@pytest.mark.slow
def test_imagenet_recipe_trains_on_real_photos(shared_data, tmp_path):
    cfg = Config.fromfile(ROOT / 'configs/selfsup/coke/coke_r50_8xb64_in1k.py')
    pipeline = cfg.train_pipeline
    cfg.merge_from_dict(
        {
            'work_dir': str(tmp_path),
            'model.clustering.num_clusters': [6, 8],
            'model.clustering.average_from_epoch': 1,
            'train_cfg.max_epochs': 3,
            'param_scheduler': [],
            'train_dataloader.batch_size': 8,
            'train_dataloader.num_workers': 2,
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
    assert all((labeler.newest.label >= 0).sum() == 16 for labeler in model.labelers)
    logging.shutdown()


DIGITS_RECIPES = sorted((ROOT / 'configs/selfsup/coke').glob('coke_tiny_*_digits.py'))


@pytest.mark.slow
@pytest.mark.parametrize('recipe', DIGITS_RECIPES, ids=lambda path: path.stem)
def test_every_digits_recipe_lowers_its_losses(recipe, tmp_path):
    cfg = Config.fromfile(recipe)
    cfg.merge_from_dict(
        {'work_dir': str(tmp_path), 'train_cfg.max_epochs': 14, 'param_scheduler.0.warmup': 3}
    )
    if cfg.model.clustering.get('average_from_epoch'):
        cfg.model.clustering.average_from_epoch = 11
    model = train(cfg)
    history = checkpoint(tmp_path, 14)['message_hub']['log_scalars']
    parts = ('loss', 'full_views', 'small_crops') if 'mcrop' in recipe.stem else ('loss',)
    for part in parts:
        # From the first epoch that trains (in the one before, labels are those just given).
        values = history[f'train/{part}'].data[0].reshape(14, 19).mean(1)
        assert values[-1] < 0.9 * values[1], values
    assert len(model.data_preprocessor.views) == len(cfg.model.data_preprocessor.views)
    if 'stage2' in recipe.stem:
        assert model.labelers[0].kmeans.average_step == 3
        assert (model.labelers[0].labels.weight > 0).sum() > model.labelers[0].newest.num_samples
