"""What the launch scripts do with arguments and signals, with stand-ins for what they start."""

import os
import shlex
import signal
import subprocess
import time

import pytest
from conftest import ROOT

LONG_JOB = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$LOGS/$(basename "$0")"
echo "$MMCOKE_COMMAND" > "$LOGS/command"
trap 'exit 138' USR1
trap 'exit 143' TERM
trap 'exit 130' INT
touch "$LOGS/running"
while [[ ! -e $LOGS/end ]]; do sleep 0.05; done
"""
SBATCH = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$LOGS/sbatch"
export SLURM_JOB_ID=7
for argument; do
    case $argument in --wrap=*) exec sh -c "${argument#--wrap=}" ;; esac
done
"""
SCONTROL = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$LOGS/scontrol"
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a space in its name, where stand-ins write their logs."""
    folder, programs = tmp_path / 'a b', tmp_path / 'programs'
    folder.mkdir()
    programs.mkdir()
    scripts = dict(srun=LONG_JOB, python=LONG_JOB, sbatch=SBATCH, scontrol=SCONTROL)
    for name, text in scripts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{programs}:{os.environ["PATH"]}')
    monkeypatch.setenv('LOGS', str(folder))
    for name in (
        'REQUEUE',
        'SLURM_RESTART_COUNT',
        'GPUS',
        'MMCOKE_COMMAND',
        'MMCOKE_BATCH',
        'OMP_NUM_THREADS',
    ):
        monkeypatch.delenv(name, raising=False)
    return folder


def start(place, script, *arguments, **environment):
    """The script, once what it starts is running."""
    process = subprocess.Popen(
        ['bash', f'tools/{script}', *arguments], cwd=ROOT, env=dict(os.environ, **environment)
    )
    while not (place / 'running').exists():
        assert process.poll() is None
        time.sleep(0.02)
    return process


def stop(process, signum):
    process.send_signal(signum)
    return process.wait()


def lines(path):
    return path.read_text().splitlines()


SLURM = ['slurm_train.sh', 'part', 'job', 'my config.py']


@pytest.mark.parametrize('environment', [{}, {'REQUEUE': '1'}], ids=['srun', 'requeue'])
def test_slurm_starts_the_training_that_was_asked_for(place, environment):
    work_dir = str(place / 'work dir')
    process = start(place, *SLURM, work_dir, '--amp', GPUS='2', **environment)
    (place / 'end').touch()
    assert process.wait() == 0
    srun = lines(place / 'srun')
    train = srun[srun.index(f'{ROOT}/tools/train.py') :]
    assert train[1:] == [
        'my config.py', '--work-dir', work_dir, '--launcher', 'slurm', '--amp',
    ]  # fmt: skip
    given = lines(place / 'sbatch') if environment else srun
    assert {'--partition=part', '--job-name=job', '--ntasks=2', '--gres=gpu:2'} <= set(given)
    assert not (place / 'scontrol').exists()  # training is complete


def test_slurm_saves_before_its_time_is_up_and_requeues_itself(place):
    process = start(place, *SLURM, str(place / 'work dir'), REQUEUE='1', NOTICE='90')
    assert stop(process, signal.SIGUSR1) == 0
    assert {'--requeue', '--signal=B:USR1@90'} <= set(lines(place / 'sbatch'))
    assert lines(place / 'scontrol') == ['requeue', '7']


def test_slurm_does_not_requeue_what_was_cancelled(place):
    process = start(place, *SLURM, str(place / 'work dir'), REQUEUE='1')
    assert stop(process, signal.SIGTERM) == 143
    assert not (place / 'scontrol').exists()


@pytest.mark.parametrize(('restarts', 'saved'), [('0', True), ('1', True), ('1', False)])
def test_a_job_that_is_started_again_resumes_if_it_has_saved(place, restarts, saved):
    if saved:
        (place / 'work').mkdir()
        (place / 'work/last_checkpoint').write_text('epoch_1.pth')
    environment = dict(REQUEUE='1', SLURM_RESTART_COUNT=restarts)
    process = start(place, *SLURM, str(place / 'work'), **environment)
    stop(process, signal.SIGUSR1)
    assert ('--resume' in lines(place / 'srun')) == (restarts == '1' and saved)


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_dist_train_passes_signals_on_and_has_their_status(place, signum):
    """torchrun would not know USR1, and leave its processes behind."""
    process = start(place, 'dist_train.sh', 'my.py', '2', PYTHON='python')
    assert stop(process, signum) == 128 + signum


def test_the_scripts_tell_the_command_that_was_typed(place):
    arguments = ['my config.py', '2', '--cfg-options', 'a=b c']
    process = start(place, 'dist_train.sh', *arguments, PYTHON='python')
    (place / 'end').touch()
    process.wait()
    typed = shlex.split((place / 'command').read_text())
    assert typed == ['env', 'PYTHON=python', 'bash', 'tools/dist_train.sh', *arguments]


def test_dist_sort_starts_as_many_processes_and_tells_the_command(place):
    arguments = ['3', 'my photos', '--out', 'a,b #1']
    process = start(place, 'dist_sort.sh', *arguments, PYTHON='python')
    typed = shlex.split((place / 'command').read_text())
    assert typed == ['env', 'PYTHON=python', 'bash', 'tools/dist_sort.sh', *arguments]
    started = lines(place / 'python')
    assert '--nproc-per-node=3' in started
    expected = ['-m', 'mmcoke', 'sort', *arguments[1:], '--launcher', 'pytorch']
    assert started[-len(expected) :] == expected
    assert stop(process, signal.SIGINT) == 128 + signal.SIGINT


def test_dist_sort_without_a_number_of_processes_says_how_it_is_used():
    command = ['bash', 'tools/dist_sort.sh', 'my photos', '--out', 'x']
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2 and 'dist_sort.sh PROCESSES FOLDER' in run.stderr
