"""The configs of this project: listed, found by name and copied."""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from .atomic_write import write_atomically
from .errors import ConfigError


def project_root() -> Path:
    """Return the folder that holds ``configs/`` and ``tools/``.

    A wheel carries them in ``mmseg_repvgg/.mim``, where mim looks. A checkout and an
    editable install have no such folder: there it is the root of the repository.
    """
    parent = Path(__file__).parents[1]
    packed = parent / 'mmseg_repvgg' / '.mim'
    return packed if packed.is_dir() else parent


def config_files() -> dict[str, Path]:
    """Return the file of each config, except for those in ``_base_``, by its name."""
    folder = project_root() / 'configs'
    files = sorted(folder.rglob('*.py'))
    return {
        file.stem: file
        for file in files
        if '_base_' not in file.relative_to(folder).parts
    }


def find_config(given: str | os.PathLike[str]) -> Path:
    """Return the file of a config.

    Args:
        given: The path of a file, or the name of a config of this project, with or
            without ``.py``. A file in the current folder comes first.

    Raises:
        ConfigError: If there is neither such a file nor such a config. The message names
            the configs with the nearest names.
    """
    given = os.fspath(given)
    return Path(given) if os.path.isfile(given) else _named_config(given)


def _named_config(given: str) -> Path:
    """Return the file of a config of this project, by its name."""
    known, name = config_files(), given.removesuffix('.py')
    if name in known:
        return known[name]
    message = f'the config {given} does not exist or is not a regular file'
    near = difflib.get_close_matches(Path(name).name, known)
    if near:
        message += f'. The nearest names of configs are {", ".join(near)}'
    raise ConfigError(message)


def describe_configs() -> dict[str, str]:
    """Return a line about each config, by its name, from the metafiles."""
    import yaml

    root, lines = project_root(), {}
    for part in yaml.safe_load((root / 'model-index.yml').read_text())['Import']:
        for model in yaml.safe_load((root / part).read_text())['Models']:
            facts = model['Metadata']
            backbone, head = facts['Architecture']
            data = facts['Training Data']
            lines[model['Name']] = f'{head} with {backbone} for {data}'
    return lines


def copy_configs(names: Sequence[str], folder: str | os.PathLike[str]) -> list[Path]:
    """Copy configs of this project and the files in their ``_base_``.

    The files keep their places below ``configs/``, so that the paths in ``_base_`` hold.

    Args:
        names: Names of configs, with or without ``.py``.
        folder: The folder to copy to; made if it does not exist.

    Returns:
        The copies of the named configs.

    Raises:
        ConfigError: If there is no such config, or a file exists with other content.
        WriteError: If a file cannot be written.
    """
    source = project_root() / 'configs'
    leaves = [_named_config(name) for name in names]
    needed = sorted({file for leaf in leaves for file in _with_bases(leaf)})
    copies = {file: Path(folder, file.relative_to(source)) for file in needed}
    for file, copy in copies.items():
        if copy.exists() and copy.read_bytes() != file.read_bytes():
            raise ConfigError(
                f'{copy} exists and differs from the config of this project: choose '
                'another folder'
            )
    for file, copy in copies.items():
        if not copy.exists():
            write_atomically(copy, file.read_bytes())
    return [copies[leaf] for leaf in leaves]


def _with_bases(file: Path) -> Iterator[Path]:
    """Yield a config and all configs that it builds on."""
    yield file
    for statement in ast.parse(file.read_text()).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id='_base_')], value=value):
                bases = ast.literal_eval(value)
                for base in [bases] if isinstance(bases, str) else bases:
                    yield from _with_bases(Path(os.path.normpath(file.parent / base)))
