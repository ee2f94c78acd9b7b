"""Checkpoints at any address that OpenMMLab knows, read without running code from them.

mmengine's own loaders leave ``weights_only`` to torch, which leaves it to the environment, and that
for HTTP turns it off. Importing this module puts others in their place, for every scheme; a new
scheme is a function here that ends with :func:`read_safely`.
"""

import os
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.fileio import get_file_backend
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as theirs

from mmcoke.files import read_checkpoint
from mmcoke.messages import some


def read_safely(path: str | Path, map_location: Any = None) -> Any:
    """A checkpoint for mmengine, whose runner would execute ``meta['config']`` when it resumes.

    Raises as :func:`~mmcoke.files.read_checkpoint`.
    """
    checkpoint = read_checkpoint(path, map_location=map_location or 'cpu')
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    if isinstance(meta, dict):
        meta.pop('config', None)
    return checkpoint


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(path: str, map_location: Any = None) -> Any:
    """A file of this machine."""
    return read_safely(Path(path).expanduser(), map_location)


@CheckpointLoader.register_scheme(prefixes=('mmcoke://', 'http://', 'https://'), force=True)
def load_from_address(address: str, map_location: Any = None) -> Any:
    """A model of the zoo, or a file of a server: downloaded once, and kept.

    Raises:
        OSError: if it cannot be had.
        ValueError: if the zoo has no such model, or as :func:`read_safely`.
    """
    # By name, when it is needed: the zoo is above this room.
    return read_safely(import_module('mmcoke.zoo.store').local_file(address), map_location)


@CheckpointLoader.register_scheme(prefixes=('torchvision://', 'modelzoo://'), force=True)
def load_from_torchvision(address: str, map_location: Any = None) -> Any:
    """A model of torchvision, by name."""
    return load_from_address(listed(theirs.get_torchvision_models(), address), map_location)


@CheckpointLoader.register_scheme(prefixes=('open-mmlab://', 'openmmlab://'), force=True)
def load_from_openmmlab(address: str, map_location: Any = None) -> Any:
    """A model of OpenMMLab's list, or of the user's own in ``MMENGINE_HOME``."""
    scheme, _, name = address.partition('://')
    name = theirs.get_deprecated_model_names().get(name, name)
    found = listed(theirs.get_external_models(), f'{scheme}://{name}')
    if found.startswith(('http://', 'https://')):
        return load_from_address(found, map_location)
    return load_from_local(os.path.join(theirs._get_mmengine_home(), found), map_location)


@CheckpointLoader.register_scheme(prefixes='mmcls://', force=True)
def load_from_mmcls(address: str, map_location: Any = None) -> Any:
    """The backbone of a model of mmcls, by name."""
    checkpoint = load_from_address(listed(theirs.get_mmcls_models(), address), map_location)
    return theirs._process_mmcls_checkpoint(checkpoint)


@CheckpointLoader.register_scheme(prefixes=(r'(\S+\:)?s3://', r'(\S+\:)?petrel://'), force=True)
def load_from_ceph(address: str, map_location: Any = None) -> Any:
    """A file of a Ceph store; needs ``petrel_client``."""
    backend = get_file_backend(address, backend_args=dict(backend='petrel'))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'checkpoint.pth')
        path.write_bytes(backend.get(address))
        return named(address, path, map_location)


@CheckpointLoader.register_scheme(prefixes='pavi://', force=True)
def load_from_pavi(address: str, map_location: Any = None) -> Any:
    """A file of Pavi's model cloud; needs ``pavi``."""
    try:
        from pavi import modelcloud
    except ImportError as error:
        raise ImportError(f'{address} needs the package pavi, which is not installed.') from error
    model = modelcloud.get(address.removeprefix('pavi://'))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, model.name)
        model.download(str(path))
        return named(address, path, map_location)


def named(address: str, path: Path, map_location: Any) -> Any:
    """:func:`read_safely`, with the address instead of the temporary file in messages."""
    try:
        return read_safely(path, map_location)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), address, 1)) from error


def listed(addresses: Mapping[str, str], address: str) -> str:
    """Where a model of a list is.

    Raises:
        ValueError: if the list does not have it.
    """
    name = address.partition('://')[2]
    if name not in addresses:
        similar = [known for known in addresses if known[:6] == name[:6]]
        raise ValueError(f'{address} is unknown. Similar names are {some(similar)}.')
    return addresses[name]
