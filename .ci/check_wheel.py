"""Checks the installed wheel against the checkout, whose tracked files come on standard input."""

import sys
from importlib.metadata import distribution
from pathlib import Path

import mmcoke

checkout = Path(sys.argv[1])
package = Path(mmcoke.__file__).parent
assert checkout not in package.parents, f'{package} is the checkout, not the wheel'

source = (checkout / 'mmcoke' / '__init__.py').read_text(encoding='utf-8')
assert f"__version__ = '{mmcoke.__version__}'" in source, mmcoke.__version__

for name in ('configs', 'tools', 'model-index.yml'):
    assert (package / '.mim' / name).exists(), f'mmcoke/.mim/{name} is not in the wheel'
for name in sys.stdin.read().splitlines():
    installed = name if name.startswith('mmcoke/') else f'mmcoke/.mim/{name}'
    assert (package.parent / installed).is_file(), f'{installed} is not in the wheel'

(script,) = distribution('mmcoke').entry_points
assert (script.name, script.value) == ('mmcoke', 'mmcoke.cli.main:main'), script
assert callable(script.load())
