"""What the benchmarks share: alternating runs, medians and spreads, the machine, and ``--json``.

options(parser)                              # --repeats, --threads, --device, --json
args = parse(parser)                         # sets the number of threads
times = alternating({'ours': f, 'theirs': g}, args.repeats, device=args.device)
finish(args, times, 'theirs')                # table, and the file of --json
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mmcoke.files import write_text


def alternating(
    functions: dict[str, Callable[[], Any]],
    repeats: int,
    *,
    device: str | torch.device = 'cpu',
    number: int = 1,
    warmup: int = 1,
) -> dict[str, dict[str, float]]:
    """Milliseconds of each function: the median and the interquartile range of its runs.

    All functions run in each round, in the other order every second time, so that a slow phase of
    the machine meets them alike. See :func:`milliseconds` for the clock.

    Args:
        functions: what to call, by name.
        repeats: rounds; 3 or more, or the spread is 0.
        device: where the work is done.
        number: calls per run, for what is too short for the clock.
        warmup: calls of each before the first round, which are not counted.
    """
    for function in functions.values():
        for _ in range(warmup):
            function()
    runs = {name: [] for name in functions}
    for i in range(repeats):
        for name in reversed(functions) if i % 2 else functions:
            runs[name].append(milliseconds(functions[name], number, torch.device(device)))
    return {name: summary(times) for name, times in runs.items()}


def milliseconds(function: Callable[[], Any], number: int, device: torch.device) -> float:
    """Of one call, over some calls.

    On a GPU, between two CUDA events, so with the time in which it waits for the host. On the CPU,
    CPU time if there is one thread, which other programs do not lengthen; else by the wall clock.
    """
    if device.type == 'cuda':
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record(torch.cuda.current_stream(device))
        for _ in range(number):
            function()
        end.record(torch.cuda.current_stream(device))
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / number
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    for _ in range(number):
        function()
    return 1000 * (clock() - start) / number


def summary(times: list[float]) -> dict[str, float]:
    """Median and interquartile range."""
    if len(times) < 2:
        return dict(median=times[0], spread=0.0)
    lower, median, upper = statistics.quantiles(times, n=4, method='inclusive')
    return dict(median=median, spread=upper - lower)


def machine(device: str | torch.device = 'cpu') -> dict[str, Any]:
    """What a figure depends on beside the code."""
    on_gpu, threads = torch.device(device).type == 'cuda', torch.get_num_threads()
    return dict(
        cpu=cpu_name(),
        threads=threads,
        gpu=torch.cuda.get_device_name(device) if on_gpu else None,
        torch=torch.__version__,
        python=platform.python_version(),
        clock='CUDA events' if on_gpu else 'CPU time' if threads == 1 else 'wall clock',
    )


def cpu_name() -> str:
    """As Linux names it, with its family and model where the name is short; else the platform's."""
    try:
        lines = Path('/proc/cpuinfo').read_text().split('\n\n')[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (x.partition(':') for x in lines)}
    name = fields.get('model name') or platform.machine()
    if 'cpu family' not in fields:
        return name
    return f'{name} (family {fields["cpu family"]}, model {fields.get("model", "?")})'


def options(parser: argparse.ArgumentParser, *, repeats: int = 9) -> None:
    """Add what all benchmarks take."""
    parser.add_argument('--repeats', type=int, default=repeats, help='rounds (%(default)s)')
    parser.add_argument('--threads', type=int, default=1, help='of the CPU (%(default)s)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda (%(default)s)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures here, too')


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Arguments, with the number of threads set; ends with a line where a device is not there."""
    args = parser.parse_args()
    if torch.device(args.device).type == 'cuda' and not torch.cuda.is_available():
        parser.error(f'--device {args.device}: torch finds no GPU; leave --device out.')
    torch.set_num_threads(args.threads)
    return args


def finish(
    args: argparse.Namespace,
    times: dict[str, dict[str, float]],
    reference: str,
    **more: Any,
) -> None:
    """Print times and their ratio to the reference's; write all of it to the file of ``--json``.

    Args:
        times: see :func:`alternating`.
        reference: the name in ``times`` that the ratios refer to.
        more: other findings for the file, such as objectives.
    """
    base, where = times[reference]['median'], machine(args.device)
    table = Table('', 'median, ms', 'spread, ms', f'of {reference}', title=describe(where))
    for name, time_ in times.items():
        ratio = time_['median'] / base
        table.add_row(name, *(f'{time_[x]:,.3f}' for x in ('median', 'spread')), f'{ratio:.3f}')
    Console().print(table)
    if args.json:
        arguments = {name: str(x) if isinstance(x, Path) else x for name, x in vars(args).items()}
        content = dict(
            program=Path(sys.argv[0]).name,
            arguments=arguments,
            machine=where,
            milliseconds=times,
            ratio={name: x['median'] / base for name, x in times.items()},
            **more,
        )
        write_text(args.json, json.dumps(content, indent=2) + '\n')


def describe(where: dict[str, Any]) -> str:
    """A machine in one line."""
    device = where['gpu'] or f'{where["cpu"]}, threads: {where["threads"]}'
    return f'{device}; torch {where["torch"]}; {where["clock"]}'
