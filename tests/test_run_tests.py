"""How the tests are run: tools/run_tests.sh and its plugin of pytest."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mmengine
import pytest
import run_options
from conftest import ROOT
from run_options import pytest_xdist_auto_num_workers, usable_cores

DEFAULTS = ['-m', 'pytest', '--numprocesses', 'auto', '--dist', 'worksteal']


@pytest.fixture
def command(tmp_path):
    """Runs the script in another folder with an environment that prints its arguments."""
    tools = tmp_path / 'tools'
    tools.mkdir()
    shutil.copy(ROOT / 'tools/run_tests.sh', tools)
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$OMP_NUM_THREADS" "$@"\n')
    python.chmod(0o755)
    (tools / 'setup_env.sh').write_text(f'root={tmp_path}\npython={python}\necho "set up $*"\n')

    def run(*arguments, **env):
        env = {name: value for name, value in os.environ.items() if name[:3] != 'OMP'} | env
        call = ['bash', str(tools / 'run_tests.sh'), *arguments]
        return subprocess.run(call, env=env, capture_output=True, text=True, check=True).stdout

    return run


def test_by_default_all_cores_work_with_one_thread_each(command):
    assert command().splitlines() == ['set up tests', '1', *DEFAULTS]


def test_arguments_reach_pytest_as_they_are_after_the_defaults(command):
    arguments = ['-k', 'a or b', '--quick', 'tests/my test.py', '-n', '3', '']
    assert command(*arguments).split('\n')[2:-1] == [*DEFAULTS, *arguments]


@pytest.mark.parametrize('off', [['-p', 'no:xdist'], ['-pno:xdist']])
def test_without_xdist_its_options_are_not_given(command, off):
    assert command(*off, '-x').splitlines()[2:] == ['-m', 'pytest', *off, '-x']


def test_the_number_of_threads_can_be_chosen(command):
    assert command(OMP_NUM_THREADS='4').splitlines()[1] == '4'


@pytest.mark.parametrize('option', ['--help', '-h'])
def test_help_prints_the_usage_and_sets_up_nothing(command, option):
    out = command('tests', option)
    assert out.startswith('Runs the tests') and '--quick' in out
    assert 'set up' not in out and 'set -euo' not in out


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['tests'], 8),
        (['tests', 'tests/test_losses.py'], 8),
        (['tests/test_losses.py'], 0),
        (['tests/test_losses.py::test_x[a b]'], 0),
        (['tests/test_losses.py::test_x', 'tests/test_losses.py::test_y'], 2),
    ],
)
def test_no_more_processes_start_than_files_are_named(monkeypatch, arguments, expected):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(run_options, 'usable_cores', lambda: 8)
    assert pytest_xdist_auto_num_workers(SimpleNamespace(args=arguments)) == expected


@pytest.mark.parametrize(
    ('groups', 'files', 'expected'),
    [
        ('0::/', {'cpu.max': 'max 100000'}, 8),
        ('0::/', {'cpu.max': '250000 100000'}, 2),
        ('0::/', {'cpu.max': '50000 100000'}, 1),
        ('0::/job/step', {'job/cpu.max': '300000 100000', 'job/step/cpu.max': 'max 100000'}, 3),
        ('3:cpuset:/\n2:cpu:/', {'cpu/cpu.cfs_quota_us': '-1', 'cpu/cpu.cfs_period_us': '1'}, 8),
        # A container of version 1: the group's path is that of the host, the mount its own.
        (
            '4:cpu,cpuacct:/docker/1f',
            {'cpu/cpu.cfs_quota_us': '400000', 'cpu/cpu.cfs_period_us': '100000'},
            4,
        ),
        ('', {}, 8),
    ],
)
def test_usable_cores_are_those_of_affinity_and_quota(
    monkeypatch, tmp_path, groups, files, expected
):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(8)))
    files = {f'sys/fs/cgroup/{name}': text for name, text in files.items()}
    for name, text in (files | {'proc/self/cgroup': groups}).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + '\n' if text else '')
    assert usable_cores(tmp_path) == expected


def test_the_environment_of_setup_env_is_compiled():
    """Where PYTHONDONTWRITEBYTECODE is set, importing mmengine takes three times as long else."""
    if Path(sys.prefix).resolve() != ROOT / '.venv':
        pytest.skip('the tests run in another environment than .venv')
    assert Path(importlib.util.cache_from_source(mmengine.__file__)).is_file()


TESTS = """
import pytest

def test_a(): pass

@pytest.mark.slow
def test_b(): assert False

@pytest.mark.slow
def test_c(): assert False
"""


@pytest.mark.parametrize('processes', [['-p', 'no:xdist'], ['-n', '2']])
def test_quick_leaves_out_the_slow_tests_and_says_how_many(tmp_path, processes):
    (tmp_path / 'test_it.py').write_text(TESTS)
    (tmp_path / 'pytest.ini').write_text('[pytest]\nmarkers = slow\n')
    call = [sys.executable, '-m', 'pytest', '-p', 'run_options', '--quick', *processes]
    env = os.environ | {'PYTHONPATH': str(ROOT / 'tests')}
    run = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert '1 passed' in run.stdout
    assert '--quick left out 2 slow tests; all: bash tools/run_tests.sh' in run.stdout


def test_the_list_of_what_is_not_quick_names_tests_that_exist():
    for line in run_options.NOT_QUICK.read_text().split():
        path, *_, name = line.split('::')
        assert f'def {name}(' in (ROOT / path).read_text(), line


@pytest.mark.parametrize(
    ('name', 'slow'),
    [('a.py::test_b', True), ('a.py::test_b[1-x]', True), ('a.py::test_bc', False)],
)
def test_a_listed_test_is_slow_with_all_its_parameters(name, slow):
    item = SimpleNamespace(nodeid=name, get_closest_marker=lambda mark: None)
    assert run_options.is_slow(item, {'a.py::test_b'}) is slow
