"""What is in the model zoo: ``model-index.yml`` and the metafiles that it names.

They have OpenMMLab's format, so that mmpretrain and mim read them, too. Keys of our own, which
those pass over: ``Aliases``; ``Source``, if ``Weights`` begins with ``mmcoke://``: an address, or
the name of a file in ``mmcoke/zoo/weights``; ``File``, its name, if the address does not end in it;
``SHA256``, if the name does not end in its first digits; ``Layout``, ``Input``, ``Command``; and
``Source`` of a result.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import yaml

PACKAGE = Path(__file__).resolve().parent.parent

THIS_PROJECT = 'mmcoke'
"""``Source`` of figures that this project measured."""

NEIGHBOURS = {'configs/swav/metafile.yml': 'swav_resnet50_8xb32-mcrop-coslr-200e_in1k-224px-96px'}
"""Models in mmpretrain's own index, by its metafiles."""

DRIVE = re.compile(r'https://drive\.google\.com/file/d/([\w-]+)')
HASH_IN_NAME = re.compile(r'-([0-9a-f]{8,64})\.\w+$')


@dataclass(frozen=True)
class Source:
    """Where the file of a model is.

    Attributes:
        kind: 'http', 'drive' (Google Drive), 'shipped' (with mmcoke), or 'none'.
        address: for a browser; of a shipped file, its path.
        filename: what it is called in the cache and on mirrors.
        sha256: the whole hash or its first digits; empty if none is published.
    """

    kind: Literal['http', 'drive', 'shipped', 'none'] = 'none'
    address: str = ''
    filename: str = ''
    sha256: str = ''

    @property
    def drive_id(self) -> str:
        """Of a file on Google Drive."""
        return DRIVE.match(self.address)[1]


@dataclass(frozen=True)
class Figure:
    """What a model reached.

    Attributes:
        task: such as 'Linear evaluation'.
        dataset: such as 'ImageNet-1k'.
        metrics: values by name.
        source: who says so, with an address or a page; this project: see ``Entry.measured``.
    """

    task: str
    dataset: str
    metrics: dict[str, Any]
    source: str


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes:
        name: also that of its config.
        aliases: other names of it.
        method: such as 'CoKe'.
        config: file that builds the network.
        source: where its file is.
        layout: of that file: 'mmcoke'; 'coke', as the published CoKe code writes it; 'mmselfsup',
            as version 0.x writes it; 'mmpretrain'. All but 'coke' load into the config's network.
        input: what the backbone sees, 'image' or 'sobel' (two channels of a Sobel filter).
        metadata: epochs, training data and the like.
        paper: title and address.
        published: figures from elsewhere, each with its source.
        measured: figures of this project.
        command: measures the model, or trains and measures it.
    """

    name: str
    method: str
    config: Path
    source: Source
    aliases: tuple[str, ...] = ()
    layout: Literal['mmcoke', 'coke', 'mmselfsup', 'mmpretrain'] = 'mmcoke'
    input: Literal['image', 'sobel'] = 'image'
    metadata: dict[str, Any] | None = None
    paper: dict[str, str] | None = None
    published: tuple[Figure, ...] = ()
    measured: tuple[Figure, ...] = ()
    command: str = ''

    @property
    def model_id(self) -> str:
        """The shortest name that says which weights are meant."""
        return self.aliases[0] if self.aliases else self.name


def index_file() -> Path:
    """Of a checkout, of an editable install, or of an installed wheel.

    Raises:
        FileNotFoundError: if there is none.
    """
    candidates = [root / 'model-index.yml' for root in (PACKAGE / '.mim', PACKAGE.parent)]
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f'The index of the model zoo is missing: neither {candidates[0]} nor {candidates[1]} '
        'exists. Install mmcoke again.'
    )


@lru_cache
def entries() -> tuple[Entry, ...]:
    """All models, those of this project first."""
    path = index_file()
    imports = yaml.safe_load(path.read_text(encoding='utf-8'))['Import']
    own = [entry for name in imports for entry in read_metafile(path.parent / name, path.parent)]
    return *own, *neighbours()


def names(pattern: str = '*') -> list[str]:
    """Names of the models.

    Args:
        pattern: with ``*`` and ``?``; one without them is looked for anywhere in a name. Other
            names of a model count as well.
    """
    return [entry.name for entry in matching(pattern)]


def matching(pattern: str = '*') -> list[Entry]:
    """The models whose name or other name matches, as for :func:`names`."""
    pattern = pattern.lower()
    pattern = pattern if set('*?[') & set(pattern) else f'*{pattern}*'
    return [
        entry
        for entry in entries()
        if any(fnmatchcase(name.lower(), pattern) for name in (entry.name, *entry.aliases))
    ]


def find(name: str) -> Entry:
    """What is known about a model.

    Args:
        name: of the model, or another name of it.

    Raises:
        ValueError: if there is no such model, with the nearest names.
    """
    known = {n.lower(): entry for entry in entries() for n in (*entry.aliases, entry.name)}
    if name.lower() in known:
        return known[name.lower()]
    near = [n for n in known if name.lower() in n][:3]
    near = near or get_close_matches(name.lower(), known, n=3, cutoff=0.4)
    hint = f'Did you mean {", ".join(near)}? ' if near else ''
    raise ValueError(
        f'The model zoo has no {name!r}. {hint}All names: `mmcoke zoo list`, mmcoke.zoo.list().'
    )


def neighbours() -> Iterator[Entry]:
    """Models of mmpretrain's own index, where it is installed."""
    spec = find_spec('mmpretrain')
    if spec is None:
        return
    root = Path(spec.origin).parent / '.mim'
    for metafile, name in NEIGHBOURS.items():
        if (root / metafile).is_file():
            found = read_metafile(root / metafile, root, layout='mmpretrain')
            yield from (entry for entry in found if entry.name == name)


def read_metafile(path: Path, root: Path, layout: str = 'mmcoke') -> list[Entry]:
    """The models of a metafile.

    Args:
        path: of the metafile.
        root: folder that its configs' paths begin in.
        layout: of files for which it names none.
    """
    content = yaml.safe_load(path.read_text(encoding='utf-8'))
    collections = {collection['Name']: collection for collection in content['Collections']}
    models = {model['Name']: model for model in content['Models']}
    entries = []
    for model in models.values():
        downstream = [models[name] for name in model.get('Downstream') or () if name in models]
        figures = [figure for m in (model, *downstream) for figure in read_figures(m)]
        collection = collections[model['In Collection']]
        entries.append(read_entry({'Layout': layout} | model, collection, figures, root))
    return entries


def read_entry(model: dict, collection: dict, figures: list[Figure], root: Path) -> Entry:
    """One model of a metafile, and what it has from its collection."""
    return Entry(
        name=model['Name'],
        method=collection['Name'],
        config=root / model['Config'],
        source=read_source(model),
        aliases=tuple(model.get('Aliases', ())),
        layout=model['Layout'],
        input=model.get('Input', 'image'),
        metadata=(collection.get('Metadata') or {}) | (model.get('Metadata') or {}),
        paper=model.get('Paper') or collection.get('Paper'),
        published=tuple(x for x in figures if x.source != THIS_PROJECT),
        measured=tuple(x for x in figures if x.source == THIS_PROJECT),
        command=model.get('Command', ''),
    )


def read_figures(model: dict) -> Iterator[Figure]:
    """The results of a model in a metafile."""
    for result in model.get('Results') or ():
        source = result.get('Source', "OpenMMLab's metafile")
        yield Figure(result['Task'], result['Dataset'], result['Metrics'], source)


def read_source(model: dict) -> Source:
    """Where the file of a model in a metafile is."""
    address = model.get('Source') or model.get('Weights') or ''
    if not address:
        return Source()
    filename = model.get('File', address.rpartition('/')[2])
    found = HASH_IN_NAME.search(filename)
    sha256 = str(model.get('SHA256') or (found[1] if found else ''))
    if address.startswith('https://drive.google.com/'):
        return Source('drive', address, filename, sha256)
    if address.startswith(('http://', 'https://')):
        return Source('http', address, filename, sha256)
    return Source('shipped', str(PACKAGE / 'zoo' / 'weights' / filename), filename, sha256)
