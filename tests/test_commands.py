"""The command ``mmcoke``: how commands are found, begin and end."""

import os
import subprocess
import sys
from argparse import Namespace
from types import SimpleNamespace

import pytest
from conftest import ROOT

from mmcoke import __version__
from mmcoke.cli import main as cli
from mmcoke.cli.commands import evaluate
from mmcoke.cli.ending import WrongArgumentsError, one_line_errors
from mmcoke.datasets import UnreadableImageError

SLOW = {'torch', 'numpy', 'mmengine', 'mmcv', 'mmpretrain', 'rich', 'yaml', 'requests'}
PROBE = """
import atexit, sys
atexit.register(lambda: print('IMPORTED', *sys.modules))
from mmcoke.cli.main import main
main(sys.argv[1:])
"""


def imported_by(*arguments):
    """Modules that the command has imported when it ends, its exit code and what it printed."""
    command = [sys.executable, '-c', PROBE, *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    output, modules = run.stdout.rsplit('IMPORTED', 1)
    return set(modules.split()), run.returncode, output + run.stderr


def ended(capsys, *arguments):
    """Exit code and error output of a command."""
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    if isinstance(end.value.code, str):  # which Python prints
        return 1, end.value.code
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize('name', ['', *cli.COMMANDS])
def test_help_imports_nothing_that_takes_time(name):
    modules, code, output = imported_by(*name.split(), '--help')
    assert code == 0 and f'usage: mmcoke {name}' in output
    assert not modules & SLOW


def test_help_names_every_command_with_its_line(capsys):
    with pytest.raises(SystemExit):
        cli.main(['--help'])
    said = capsys.readouterr().out
    assert all(f'    {name} ' in said for name in cli.COMMANDS)
    assert evaluate.HELP in said


def test_python_m_mmcoke_is_the_same_command():
    command = [sys.executable, '-m', 'mmcoke', '--version']
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == f'mmcoke {__version__}\n'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['evalute'], "invalid choice: 'evalute'"),
        (['evalute'], 'Did you mean evaluate?'),
        (['evaluate', 'kn', 'c.py', 'c.pth'], 'Did you mean knn?'),
        (['evaluate', 'knn', 'c.py', 'c.pth', '--dataroot', 'x'], 'Did you mean --data-root?'),
        (['evaluate', 'knn', 'c.py', 'c.pth', '--k', '0'], '--k must be at least 1, but is 0.'),
        (['gallery', 'photos', '--num-clusters', '3'], 'give either the NAME of a model'),
        (['zoo', 'lsit'], 'Did you mean list?'),
        ([], 'required: COMMAND'),
    ],
)
def test_wrong_arguments_end_with_status_2_and_say_what_was_meant(arguments, message, capsys):
    code, said = ended(capsys, *arguments)
    assert code == 2
    assert message in said.splitlines()[-1]


def test_what_is_near_nothing_gets_no_suggestion(capsys):
    _, said = ended(capsys, 'zzz')
    assert 'Did you mean' not in said


def test_a_misspelt_option_is_refused_by_its_own_command(capsys):
    _, said = ended(capsys, 'evaluate', 'knn', 'c.py', 'c.pth', '--temprature', '1')
    assert said.startswith('usage: mmcoke evaluate knn')


# ---- ends


def run_raising(monkeypatch, error, *arguments):
    """A command whose work raises an error."""

    def work(args):
        raise error

    monkeypatch.setattr('mmcoke.cli.commands.evaluate.knn.run', work)
    return ('evaluate', 'knn', 'c.py', 'c.pth', *arguments)


@pytest.mark.parametrize(
    ('error', 'code', 'line'),
    [
        (ValueError('no such thing'), 1, 'error: no such thing'),
        (ValueError('in\ntwo lines'), 1, 'error: in two lines'),
        (FileNotFoundError(2, 'No such file', 'a b'), 1, "error: No such file: 'a b'"),
        (ImportError('onnx is missing'), 1, 'error: onnx is missing'),
        (
            UnreadableImageError('a.jpg cannot be read.'),
            1,
            'error: a.jpg cannot be read. To leave them out, add --skip-unreadable.',
        ),
        (WrongArgumentsError('either or'), 2, 'error: either or'),
        (KeyboardInterrupt(), 130, 'Interrupted. Give the same command again to go on.'),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else '',
)
def test_errors_of_users_are_one_line(monkeypatch, capsys, error, code, line):
    found, said = ended(capsys, *run_raising(monkeypatch, error))
    assert (found, said.strip()) == (code, line)


@pytest.mark.parametrize('before', [True, False])
def test_debug_shows_the_traceback_wherever_it_stands(monkeypatch, before):
    arguments = run_raising(monkeypatch, ValueError('no such thing'))
    arguments = ('--debug', *arguments) if before else (*arguments, '--debug')
    with pytest.raises(ValueError, match='no such thing'):
        cli.main(arguments)


def test_errors_of_ours_keep_their_traceback(monkeypatch):
    with pytest.raises(RuntimeError, match='a bug'):
        cli.main(run_raising(monkeypatch, RuntimeError('a bug')))


def test_where_nothing_can_be_skipped_no_message_says_so():
    with pytest.raises(SystemExit) as end, one_line_errors(Namespace()):
        raise UnreadableImageError('a.jpg cannot be read.')
    assert end.value.code == 'error: a.jpg cannot be read.'


PRINTING = """
import os, sys
from argparse import Namespace
from mmcoke.cli.main import run
run(lambda args: print(os.fsdecode(b'caf\\xe9')), Namespace())
"""


def printed(**options):
    """A process, because pytest's streams are others: a command that prints a name in Latin-1."""
    environment = os.environ | dict(LC_ALL='C.UTF-8', PYTHONUTF8='0')
    environment.pop('PYTHONIOENCODING', None)
    return subprocess.run([sys.executable, '-c', PRINTING], cwd=ROOT, env=environment, **options)


def test_a_name_that_is_not_utf8_can_be_printed():
    assert printed(capture_output=True, check=True).stdout == b'caf\\udce9\n'


def test_a_reader_that_has_enough_ends_a_command_quietly():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, 'wb') as pipe:
        run = printed(stdout=pipe, stderr=subprocess.PIPE)
    assert (run.returncode, run.stderr) == (141, b'')


def test_a_terminal_sees_a_line_at_once_and_a_file_none(monkeypatch, capsys):
    seen = []

    def work(args):
        seen.append(capsys.readouterr().err)

    cli.run(work, Namespace())
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    cli.run(work, Namespace())
    assert seen == ['', 'loading ...\r']


def test_a_tool_is_its_command(monkeypatch, capsys):
    seen = []
    command = SimpleNamespace(
        add_arguments=lambda parser: parser.add_argument('n', type=int), run=seen.append
    )
    cli.run_tool(command, 'What it does.', ['3'])
    assert seen[0].n == 3
    with pytest.raises(SystemExit):
        cli.run_tool(command, 'What it does.', ['--help'])
    assert 'What it does.' in capsys.readouterr().out
