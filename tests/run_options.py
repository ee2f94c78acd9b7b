"""How the tests are run: a plugin of pytest, of which tools/run_tests.sh makes use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

LEFT_OUT = pytest.StashKey[int]()
NOT_QUICK = Path(__file__).with_name('not_quick.txt')
"""Tests that took over 1.5 s of one core when they were measured, one name per line."""


def pytest_addoption(parser):
    parser.addoption('--quick', action='store_true', help='leave out the slow tests')


def pytest_configure(config):
    """Without ``-m gpu``, all run on the CPU: what they claim to the bit holds there."""
    if 'gpu' not in config.option.markexpr:
        os.environ['CUDA_VISIBLE_DEVICES'] = ''


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """One process per usable core, but no more than named files; for a single file, none."""
    names = [Path(argument.split('::')[0]) for argument in config.args]
    if all(path.is_file() for path in names):
        return min(usable_cores(), len(names)) if len(names) > 1 else 0
    return usable_cores()


def pytest_collection_modifyitems(config, items):
    """Slow tests first: several processes then end at nearly the same time."""
    items.sort(key=lambda item: item.get_closest_marker('slow') is None)
    skip_without_gpu([item for item in items if item.get_closest_marker('gpu')])
    if config.option.quick:
        listed = set(NOT_QUICK.read_text().split())
        slow = [item for item in items if is_slow(item, listed)]
        config.hook.pytest_deselected(items=slow)
        config.stash[LEFT_OUT] = len(slow)
        items[:] = [item for item in items if not is_slow(item, listed)]


def skip_without_gpu(items):
    """Skip tests marked ``gpu`` where torch finds none."""
    if items:
        import torch

        if not torch.cuda.is_available():
            for item in items:
                item.add_marker(pytest.mark.skip(reason='there is no GPU'))


def is_slow(item, listed):
    """Whether a test is marked slow, or listed with all its parameters."""
    return item.get_closest_marker('slow') is not None or item.nodeid.split('[')[0] in listed


def pytest_sessionfinish(session):
    """A process of pytest-xdist hands its number on to the one that reports."""
    if hasattr(session.config, 'workeroutput'):
        session.config.workeroutput['left_out'] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    output = getattr(node, 'workeroutput', {})  # without it, the process has crashed
    if 'left_out' in output:
        node.config.stash[LEFT_OUT] = output['left_out']


def pytest_terminal_summary(terminalreporter, config):
    if config.option.quick:
        number = config.stash.get(LEFT_OUT, 0)
        everything = 'bash tools/run_tests.sh'
        terminalreporter.write_line(f'--quick left out {number} slow tests; all: {everything}')


def usable_cores(root: Path = Path('/')) -> int:
    """Those of the affinity, or fewer where a control group (a container, a job) has a quota."""
    return max(1, int(min([len(os.sched_getaffinity(0)), *quotas(root)])))


def quotas(root: Path) -> Iterator[float]:
    """Cores that the CPU quotas of this process's control groups allow, versions 1 and 2."""
    groups = root / 'proc/self/cgroup'
    for line in groups.read_text().splitlines() if groups.is_file() else []:
        _, controllers, path = line.split(':', 2)
        if controllers and 'cpu' not in controllers.split(','):
            continue
        mount = root / 'sys/fs/cgroup' / ('cpu' if controllers else '')
        group = mount / path.lstrip('/')
        # A container may see its group at the mount itself, and any group above may have a quota.
        for folder in (group, *group.parents):
            if folder.is_relative_to(mount):
                yield from quota(folder)


def quota(folder: Path) -> Iterator[float]:
    """Microseconds of CPU time by microseconds of a period, if the folder has a limit."""
    if (folder / 'cpu.max').is_file():
        limit, period = (folder / 'cpu.max').read_text().split()
    elif (folder / 'cpu.cfs_quota_us').is_file():
        limit = (folder / 'cpu.cfs_quota_us').read_text()
        period = (folder / 'cpu.cfs_period_us').read_text()
    else:
        return
    if limit != 'max' and int(limit) > 0:
        yield int(limit) / int(period)
