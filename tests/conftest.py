"""What several tests use: a tiny config, folders of images, the shared data."""

import gc
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from children import fork, run_tool
from mmengine.config import Config
from PIL import Image

pytest_plugins = ['run_options']
ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / 'configs/selfsup'
DIGITS = dict(
    coke=CONFIGS / 'coke/coke_tiny_1xb64_digits.py',
    deepcluster=CONFIGS / 'deepcluster/deepcluster_tiny_1xb64_digits.py',
    deepclusterv2=CONFIGS / 'deepclusterv2/deepclusterv2_tiny_1xb64_digits.py',
    odc=CONFIGS / 'odc/odc_tiny_1xb64_digits.py',
    secu=CONFIGS / 'secu/secu_tiny_1xb64_digits.py',
    sela=CONFIGS / 'sela/sela_tiny_1xb64_digits.py',
    swav=CONFIGS / 'swav/swav_tiny_1xb64_digits.py',
    selflabel=CONFIGS / 'self_label/self_label_tiny_1xb64_digits.py',
)
SMALL = {
    'model.backbone.channels': [8, 8, 8, 16, 16],
    'train_cfg.max_epochs': 3,
    'default_hooks.checkpoint.interval': 1,
}
TINY = dict(
    coke=SMALL
    | {
        'model.neck.hid_channels': 16,
        'model.neck.out_channels': 8,
        'model.head.in_channels': 8,
        'model.head.hid_channels': 16,
        'model.clustering.num_clusters': [8, 12],
        'model.clustering.dual_lr': 0.5,
        'param_scheduler.0.warmup': 1,
    },
    deepcluster=SMALL
    | {
        'model.clustering.num_clusters': 12,
        'model.clustering.pca_dim': 8,
        'custom_hooks.0.interval': 1,
        'param_scheduler': [],
    },
    deepclusterv2=SMALL
    | {
        'model.neck.hid_channels': 16,
        'model.neck.out_channels': 8,
        'model.clustering.num_clusters': [8, 12],
        'param_scheduler.0.warmup': 1,
    },
    odc=SMALL
    | {
        'model.neck.hid_channels': 16,
        'model.neck.out_channels': 8,
        'model.clustering.num_clusters': 12,
        'model.clustering.min_size': 40,
        'param_scheduler': [],
    },
    secu=SMALL
    | {
        'model.neck.hid_channels': 16,
        'model.neck.out_channels': 8,
        'model.head.in_channels': 8,
        'model.clustering.num_clusters': [8, 12],
        'model.clustering.dual_lr': 0.5,
        'param_scheduler.0.warmup': 1,
    },
    sela=SMALL
    | {
        'model.clustering.num_clusters': [8, 12],
        'custom_hooks.0.num_updates': 4,
        'param_scheduler': [],
    },
    swav=SMALL
    | {
        'model.neck.hid_channels': 16,
        'model.neck.out_channels': 8,
        'model.head.in_channels': 8,
        'model.clustering.num_clusters': 12,
        'model.clustering.queue_length': 100,
        'model.clustering.queue_from_epoch': 1,
        'param_scheduler.0.warmup': 1,
    },
    selflabel=SMALL
    | {
        'load_from': None,  # the network is another one
        'model.clustering.num_clusters': 5,
        'model.clustering.threshold': 0.8,  # some images are sure, others not
        'model.clustering.num_neighbors': 5,
        'param_scheduler': [],
    },
)
"""Smaller networks and 3 epochs, by method."""


def tiny(method, work_dir=None, num_images=None):
    """The digits recipe of a method, made tiny; on the first images alone, if told so."""
    cfg = Config.fromfile(DIGITS[method])
    cfg.merge_from_dict(TINY[method] | {'work_dir': str(work_dir)})
    del cfg.default_hooks.report  # a page takes some seconds
    if num_images is not None:
        cfg.train_dataloader.dataset.indices = num_images
        if method == 'odc':
            cfg.model.clustering.min_size = num_images // 30  # as 40 of all 1,257
    # By default the time in seconds, and mmengine lets runs of one name share a visualizer.
    cfg.experiment_name = str(work_dir)
    return cfg


def fork_tool(tool, *arguments, said):
    """Run a program of tools/ to its end; its exit code and what it printed."""
    process = fork(run_tool, tool, *arguments, said=said)
    process.join()
    return process.exitcode, said.read_text()


def fork_ranks(num_processes, tool, *arguments, folder):
    """Run a program of tools/ by several processes; their exit codes, and what they printed."""
    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        port = probe.getsockname()[1]
    world = dict(MASTER_ADDR='localhost', MASTER_PORT=str(port))
    world |= dict(WORLD_SIZE=str(num_processes), LOCAL_WORLD_SIZE=str(num_processes))
    said = [folder / f'said_by_{rank}.txt' for rank in range(num_processes)]
    processes = [
        fork(
            run_tool,
            tool,
            *(*arguments, '--launcher', 'pytorch'),
            said=said[rank],
            **(world | dict(RANK=str(rank), LOCAL_RANK=str(rank))),
        )
        for rank in range(num_processes)
    ]
    for process in processes:
        process.join(300)
        process.kill()  # one that hangs; its exit code then says so
        process.join()
    return [process.exitcode for process in processes], '\n'.join(x.read_text() for x in said)


def pytest_collection_finish():
    """For each data set mmengine collects garbage, which with all these modules takes 0.6 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session', autouse=True)
def unformatted_configs():
    """A run formats its config, which takes 0.3 s."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.config.config.FormatCode', lambda text, **_: (text, True))
        yield


@pytest.fixture
def tiny_config(tmp_path):
    """CoKe's digits recipe, made tiny, writing to ``tmp_path``."""
    return tiny('coke', tmp_path / 'work_dir')


@pytest.fixture
def image_folder(tmp_path):
    """Nine unlabelled JPEG images in nested folders."""
    random = np.random.default_rng(0)
    for i in range(9):
        folder = tmp_path / 'images' / f'part{i % 2}'
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f'{i}.jpg')
    return tmp_path / 'images'


@pytest.fixture(scope='session')
def shared_data():
    """The folder of real test images, or a skip that says why."""
    folder = Path(os.environ.get('MMCOKE_TEST_DATA', ROOT.parent / 'shared/data'))
    if not folder.is_dir():
        pytest.skip(f'no test images: {folder} is absent (MMCOKE_TEST_DATA names the folder)')
    return folder
