"""The loaded recipes are the published ones, field by field; any other value is seen."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from published_recipes import PUBLISHED, PUBLISHED_IN_WORKERS

TESTS = Path(__file__).parent
CONFIGS = TESTS.parent / 'configs'
MACHINE = {
    *('num_workers', 'persistent_workers', 'pin_memory', 'collate_fn'),
    *('data_root', 'data_prefix'),  # where the images are
    *('env_cfg', 'vis_backends', 'visualizer', 'log_level', 'load_from', 'resume'),
    *('default_scope', 'default_hooks', 'randomness'),
}
"""Settings that a recipe does not publish, at any depth."""


def settings(value, path=()):
    """All leaves of a nested config by path, as plain values; empty containers are leaves."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    leaves = {}
    for name, child in items:
        if name in MACHINE or (path == ('custom_hooks', 0) and name == 'batch_size'):
            continue
        is_node = isinstance(child, (dict, list, tuple)) and len(child)
        leaves |= settings(child, (*path, name)) if is_node else {(*path, name): child}
    return leaves


def recipe_settings(cfg):
    """The settings of a loaded config, without its named intermediate values (pipelines, ...)."""
    sections = set.union(*(set(published) for published in PUBLISHED.values()))
    return settings({name: value for name, value in cfg.items() if name in sections})


def differences(found, expected):
    """Paths of the settings that differ, in either direction."""
    nothing = object()
    return {
        path
        for path in found.keys() | expected.keys()
        if not same(found.get(path, nothing), expected.get(path, nothing))
    }


def same(one, other):
    """Equal and of one kind: True is not 1, and an empty list no empty dict."""
    if isinstance(one, float) or isinstance(other, float):
        return isinstance(one, (int, float)) and one == pytest.approx(other, rel=1e-12)
    return type(one) is type(other) and one == other


def load(recipe):
    return Config.fromfile(CONFIGS / recipe).to_dict()


@pytest.mark.parametrize('recipe', PUBLISHED)
def test_the_loaded_recipe_is_the_published_one(recipe):
    are_equal(load(recipe), PUBLISHED[recipe])


def are_equal(cfg, published):
    found, expected = recipe_settings(cfg), settings(published)
    assert {
        '.'.join(map(str, path)): (found.get(path), expected.get(path))
        for path in differences(found, expected)
    } == {}


@pytest.mark.parametrize('recipe', PUBLISHED_IN_WORKERS)
def test_with_the_images_of_pillow_it_is_the_published_one_too(recipe, tmp_path):
    """As a user chooses them: ``_pil`` in the name of the base."""
    are_equal(
        Config.fromfile(with_pil(CONFIGS / recipe, tmp_path)).to_dict(),
        PUBLISHED_IN_WORKERS[recipe],
    )


def with_pil(recipe, folder):
    """A copy of a recipe, and of those it is based on, with the other images."""
    bases = re.findall(r"'(\S+\.py)'", recipe.read_text().partition('# method')[0])
    text = recipe.read_text()
    for base in bases:
        path = recipe.parent / base
        if path.parent == recipe.parent:
            path = with_pil(path, folder)
        elif path.parent.name == 'datasets':
            path = path.with_name(f'{path.stem}_pil.py')
        text = text.replace(f"'{base}'", repr(str(path)))
    copy = folder / recipe.name
    copy.write_text(text)
    return copy


@pytest.mark.parametrize('recipe', PUBLISHED)
def test_every_field_that_is_changed_is_seen(recipe):
    cfg, expected = load(recipe), settings(PUBLISHED[recipe])
    for path in expected:
        assert differences(recipe_settings(changed(cfg, path)), expected) == {path}


def changed(value, path):
    """A nested config with another value at a path."""
    if not path:
        return other_value(value)
    first, *rest = path
    if isinstance(value, dict):
        return {**value, first: changed(value[first], rest)}
    return [changed(x, rest) if i == first else x for i, x in enumerate(value)]


def other_value(value):
    """A value near by, which a slip may put there."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, (int, float)):
        return value * 1.25 or 0.5
    return f'{value}2'


def test_every_recipe_for_imagenet_has_its_published_values():
    recipes = {
        path.relative_to(CONFIGS).as_posix() for path in (CONFIGS / 'selfsup').rglob('*_in1k.py')
    }
    # What the papers of these set is compared beside their methods.
    others = {
        path
        for method in ('secu', 'sela', 'swav')
        for path in recipes
        if Path(path).name.removesuffix('.py') in (TESTS / f'test_{method}.py').read_text()
    }
    assert len(others) == 3
    assert recipes <= set(PUBLISHED) | others
