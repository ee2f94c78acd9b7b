"""``mmcoke train FOLDER`` on made-up images: what it prints, leaves, refuses and resumes."""

import json
import os
import shlex
import signal
import sys
from pathlib import Path

import pytest
import spy_hook  # noqa: F401 (SignalHook)
from conftest import fork_tool
from made_up_photos import photos
from mmengine.config import Config
from PIL import Image
from test_resume import assert_same

import mmcoke
from mmcoke.cli import train_folder
from mmcoke.cli.train_summary import quoted
from mmcoke.files import read_checkpoint
from mmcoke.zoo.index import index_file

NUM_IMAGES = 104  # 6 batches of 16
NETWORK = dict(_delete_=True, type='PlainConvNet', in_channels=3, channels=[8, 8, 8, 16, 16])
SMALL = {'model.backbone': NETWORK, 'model.neck.hid_channels': 16, 'model.head.hid_channels': 16}
OPTIONS = ['--cfg-options', *(f'{key}={value}' for key, value in SMALL.items())]


def fill(folder, number=NUM_IMAGES, side=24):
    folder.mkdir(parents=True)
    for row, image in enumerate(photos(number, side)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f'{row:03}.png')
    return folder


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Images in a folder with a name that needs care, one of them damaged."""
    folder = fill(tmp_path_factory.mktemp('data') / "my pictures, #1 é ~ 'x'")
    (folder / '050.png').write_bytes((folder / '050.png').read_bytes()[:200])
    os.rename(folder / '007.png', os.fsencode(folder) + b'/\xff 007.png')
    return folder


@pytest.fixture(scope='module')
def finished(tmp_path_factory, folder):
    """Folder of a run of two epochs, and what it printed."""
    out = tmp_path_factory.mktemp('runs') / 'a run'
    code, said = run(folder, '--out', out, '--epochs', 2, *OPTIONS)
    assert code == 0, said
    return out, said


def run(*arguments):
    folder = Path(arguments[arguments.index('--out') + 1]).parent
    folder.mkdir(exist_ok=True)
    return fork_tool('train.py', *arguments, said=folder / 'said.txt')


def state(out, epoch):
    return read_checkpoint(Path(out) / f'epoch_{epoch}.pth')['state_dict']


def test_the_screen_has_settings_progress_and_result_and_the_log_has_the_rest(finished):
    out, said = finished
    for words in ('num clusters', '8, 12, 16', 'at least 8', 'will take about', 'images/s'):
        assert words in said
    assert 'epoch 3/3, loss ' in said and 'small clusters: ' in said
    assert 'own view found' in said and 'before training' in said
    assert '12 clusters of ' in said
    (log,) = out.glob('*/*.log')
    for words in ('System environment', 'KaimingInit', 'LARS', 'Hooks will be executed'):
        assert words not in said
    text = log.read_text()
    assert 'System environment' in text and 'train_dataloader=dict(' in text


def test_broken_images_are_left_out_counted_and_named(finished):
    out, said = finished
    assert '1 images could not be read and were skipped' in said
    assert (out / 'unreadable.txt').read_text().split('\t')[0].endswith('050.png')
    assert json.loads((out / 'summary.json').read_text())['unreadable'] == 1


def test_it_ends_with_what_was_learned_and_pages(finished):
    out, _ = finished
    found = json.loads((out / 'summary.json').read_text())
    sizes = [(one['number'], one['smallest'] <= one['largest']) for one in found['clusters']]
    assert sizes == [(8, True), (12, True), (16, True)]
    for when in ('before', 'after'):
        assert 0 <= found[when]['found'] <= 1 and 0 <= found[when]['common'] <= 1
    assert found['before'] == json.loads((out / 'start.json').read_text())
    report = (out / 'report.html').read_text()
    assert (
        f'<td>{found["after"]["common"]:#.4g}</td>' in report and 'neighbours in common' in report
    )
    assert 'coke/16' in report and 'Neighbours of some images' in report and '<svg' in report
    assert 'mmcoke train ' in report[report.index('id="again"') :]
    assert '--epochs 2' in report[report.index('id="again"') :]  # all that was asked for
    gallery = (out / 'gallery.html').read_text()
    assert NUM_IMAGES / 2 < gallery.count('data:image/jpeg') < NUM_IMAGES


def test_the_commands_that_it_names_are_for_a_shell_and_exist(finished, folder):
    out, said = finished
    lines = [shlex.split(line) for line in said.splitlines() if line.startswith('  mmcoke ')]
    assert [line[1] for line in lines] == ['sort', 'evaluate', 'train']
    assert lines[0][2] == lines[2][2] == str(folder)
    assert Path(lines[0][lines[0].index('--checkpoint') + 1]) == out / 'epoch_3.pth'
    assert lines[2][-3:] == ['--resume', '--epochs', '4']


def test_the_config_of_a_run_is_complete_in_itself(finished, tmp_path):
    out, _ = finished
    text = (out / 'config.py').read_text()
    assert '\n_base_' not in f'\n{text}' and 'resume=False' in text
    moved = tmp_path / 'moved.py'
    moved.write_text(text)
    extractor = mmcoke.FeatureExtractor(moved, out / 'epoch_3.pth', size=16, progress=False)
    assert extractor.network.backbone.__class__.__name__ == 'PlainConvNet'


def test_the_recipe_is_where_a_wheel_has_it():
    assert (index_file().parent / 'configs' / train_folder.RECIPE).is_file()


def test_a_run_is_not_overwritten_and_one_that_is_finished_is_said_to_be(finished, folder):
    out, _ = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob('*.p*')}
    code, said = run(folder, '--out', out, '--epochs', 2, *OPTIONS)
    assert code == 1
    assert 'error: ' in said and '--resume' in said and '--out' in said
    assert len(said.splitlines()) == 1
    code, said = run(folder, '--out', out, '--batch-size', 8, '--resume')
    assert code == 1 and '--batch-size was 16' in said
    assert {path: path.stat().st_mtime_ns for path in out.rglob('*.p*')} == before
    code, said = run(folder, '--out', out, '--epochs', 2, '--batch-size', 16, '--resume', *OPTIONS)
    assert code == 0 and 'is finished: 3 of 3 epochs' in said


def test_too_few_images_are_one_line(tmp_path):
    code, said = run(fill(tmp_path / 'few', 12), '--out', tmp_path / 'out')
    assert code == 1 and len(said.splitlines()) == 1
    assert 'error: 12 images are too few' in said and 'mmcoke sort' in said
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['{folder}', '--amp'], '--amp is for a config'),
        (['{config}', '--epochs', '3'], '--epochs is for a folder'),
        (['{folder}/none'], 'there is no folder or config'),
    ],
)
def test_options_of_the_other_kind_are_refused(arguments, words, tmp_path, finished):
    out, _ = finished
    names = dict(folder=tmp_path, config=out / 'config.py')
    arguments = [argument.format(**names) for argument in arguments]
    code, said = run(*arguments, '--out', tmp_path / 'out')
    assert code == 2 and words in said and len(said.splitlines()) == 1


def train(folder, out, **options):
    return train_folder.train(folder, out=out, epochs=2, cfg_options=SMALL, **options)


@pytest.mark.parametrize('iteration', [8, 12])
def test_interrupted_and_resumed_by_the_same_command_equals_uninterrupted(
    finished, folder, tmp_path, monkeypatch, capfd, iteration
):
    out, _ = finished

    def interrupted(cfg):
        hook = dict(type='SignalHook', iteration=iteration, signum=int(signal.SIGINT))
        cfg.custom_hooks = [*cfg.custom_hooks, hook]
        return original(cfg)

    original = train_folder.train_config
    monkeypatch.setattr(train_folder, 'train_config', interrupted)
    with pytest.raises(SystemExit) as stop:
        train(folder, tmp_path / 'parts')
    assert stop.value.code == 130
    said = capfd.readouterr().err
    options = [f'{key}={value}' for key, value in SMALL.items()]
    words = ['mmcoke', 'train', str(folder), '--out', f'{tmp_path}/parts', '--epochs', '2']
    command = shlex.join([*words, '--cfg-options', *options, '--resume'])
    assert f'go on with:\n  {command}\n' in said
    with pytest.raises(ValueError, match='holds a run already'):
        train(folder, tmp_path / 'parts')
    monkeypatch.setattr(train_folder, 'train_config', original)
    found = train(folder, tmp_path / 'parts', resume=True)
    assert_same(state(out, 3), state(tmp_path / 'parts', 3))
    assert found.summary.after == mmcoke_summary(out)
    assert 'resume=False' in found.config.read_text()
    assert 'SignalHook' not in found.config.read_text()


def mmcoke_summary(out):
    found = json.loads((out / 'summary.json').read_text())['after']
    return found['found'], found['common']


def test_more_epochs_and_more_images_can_be_added(tmp_path):
    grown = fill(tmp_path / 'grown', 100)
    found = train(grown, tmp_path / 'run')
    (fill(tmp_path / 'more', 8) / '000.png').rename(grown / 'new.png')
    code, said = run(grown, '--out', tmp_path / 'run', '--resume', '--epochs', 3)
    assert code == 0, said
    assert '100 images keep theirs, 1 are new, 0 are gone' in said
    assert (tmp_path / 'run' / 'epoch_4.pth').is_file()
    assert Config.fromfile(found.config).train_cfg.max_epochs == 4


def test_start_from_takes_the_backbone_of_a_run(finished, folder, tmp_path, monkeypatch):
    out, _ = finished
    began = []

    def noted(cfg):
        began.append(train_folder.untrained(cfg).backbone.state_dict())
        raise KeyboardInterrupt

    monkeypatch.setattr(train_folder, 'train_config', noted)
    with pytest.raises(KeyboardInterrupt):
        train_folder.train(folder, out=tmp_path / 'run', start_from=out / 'epoch_3.pth')
    saved = state(out, 3)
    for name, weight in began[0].items():
        assert weight.equal(saved[f'backbone.{name}'])


def test_another_config_must_read_a_folder(folder, tmp_path):
    with pytest.raises(ValueError, match='does not read its images from a folder'):
        train(
            folder,
            tmp_path / 'run',
            config=train_folder.recipe().with_name('coke_tiny_1xb64_digits.py'),
        )


def test_a_folder_of_what_is_no_image_is_refused(tmp_path):
    folder = tmp_path / 'broken'
    folder.mkdir()
    for number in range(104):
        (folder / f'{number}.jpg').write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'104 of 104 images .* cannot be read: 0\.jpg'):
        train(folder, tmp_path / 'run')


def test_names_that_are_not_utf_8_are_quoted_for_a_shell():
    word = os.fsdecode(b"it's \xff")
    assert quoted(word) == "$'it\\'s \\xff'"
    assert quoted('a b') == "'a b'"


def test_python_has_it_without_importing_it():
    assert mmcoke.train is train_folder.train
    assert 'mmcoke' in sys.modules
