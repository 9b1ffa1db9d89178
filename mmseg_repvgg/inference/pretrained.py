"""Folders of a trained model: safetensors, config and model card; read without code."""

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import Registry
from mmseg.registry import MODELS, TRANSFORMS
from torch import nn

from repvgg_runtime.atomic_write import write_atomically
from repvgg_runtime.errors import ExtraError
from repvgg_runtime.extras import require

from ..checkpoints.files import write_checkpoint
from ..datasets.pipelines import find_test_pipeline
from ..engine.load_model import load_model
from ..errors import CheckpointError, ConfigError, UserError

WEIGHTS, CONFIG, CARD = 'model.safetensors', 'config.json', 'README.md'

_BUILT = ('model', 'data_preprocessor', 'test_pipeline', 'tta_pipeline', 'tta_model')
"""Keys of a config that are stored and built."""

_TRAINING = ('init_cfg', 'loss_decode', 'pretrained', 'sampler')
"""Arguments that only a training needs; some of them read files."""

# JSON has lists only, and some classes of mmseg take no tuple, others no list.
_TUPLE = 'tuple'
_KNOWN = ('torch', 'mmcv', 'mmengine', 'mmseg', 'mmseg_repvgg')
# They fetch weights, or build what an argument names in another library.
_REFUSED = ('BackendSegmentor', 'TIMMBackbone', 'VPD')
# Formulas of blocks match; whatever names a file or an address has other characters.
_WORD = re.compile(r'[\w +()-]*')
_CARD = """\
---
license: {licence}
library_name: mmseg_repvgg
pipeline_tag: image-segmentation
tags: [semantic-segmentation, repvgg, mmsegmentation]
---

# {title}

The fused model, written by mmseg_repvgg {version}.

```python
from mmseg_repvgg import Segmenter

segmenter = Segmenter.from_pretrained('THIS_FOLDER')
labels = segmenter('street.jpg')  # (H, W), uint8
```

- Data: {data}
- Classes: {classes}
- Training command: {command}
- SHA-256 of `{weights}`: `{digest}`

## Metrics

{metrics}
"""


def save(
    folder: Path,
    cfg: Config,
    model: nn.Module,
    meta: dict[str, Any],
    card: dict[str, Any],
) -> Path:
    """Write a folder and return it; its config, which makes it complete, comes last.

    The model is the fused segmentor, computed by torch. ``meta`` has ``classes`` and
    ``palette``; ``card`` has ``metrics``, ``data``, ``command`` and ``licence``.
    """
    require('safetensors', 'safetensors')
    # The pipeline of the data set may be another one.
    given = {**cfg.to_dict(), 'test_pipeline': find_test_pipeline(cfg)}
    built = {key: given[key] for key in _BUILT if given.get(key)}
    resolved = _without_training(_to_json(built))
    weights = folder / WEIGHTS
    write_checkpoint(model.state_dict(), weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    stored = dict(sha256=digest, **meta, config=resolved)
    _build(resolved, folder)  # What cannot be read back is an error now.
    write_atomically(folder / CARD, _card(cfg, meta, card, digest).encode())
    write_atomically(folder / CONFIG, (json.dumps(stored, indent=1) + '\n').encode())
    return folder


def load(
    source: str | Any, *, trust: bool = False, revision: str | None = None
) -> tuple[Config, Any]:
    """Return the config and the fused segmentor of a folder, or of one on the hub.

    Arguments and errors are those of :meth:`~.segmenter.Segmenter.from_pretrained`.
    """
    require('safetensors', 'safetensors')
    folder = Path(source)
    if not folder.is_dir():
        # An id on the hub has one slash at most.
        if len(folder.parts) > 2:
            raise CheckpointError(f'the folder {source} does not exist')
        folder = _download(str(source), revision)
    try:
        stored = json.loads((folder / CONFIG).read_text())
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        meta = dict(classes=stored['classes'], palette=stored['palette'])
        _require_meta(**meta)
        config = {key: stored['config'][key] for key in _BUILT if key in stored['config']}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f'{folder} is not a folder of save_pretrained, which has {CONFIG} and '
            f'{WEIGHTS}: {error!r}'
        ) from error
    if digest != stored.get('sha256'):
        raise CheckpointError(
            f'{folder / WEIGHTS} is damaged or of another model: its SHA-256 is not that '
            f'in {CONFIG}. Copy the folder again'
        )
    config = _without_training(config)
    if not trust:
        _require_safe(config, folder)
    cfg, model = _build(config, folder)
    model.dataset_meta = meta
    return cfg, model


def _build(config: dict[str, Any], folder: Path) -> tuple[Config, Any]:
    try:
        cfg = Config(dict(_from_json(config), default_scope='mmseg'))
        return cfg, load_model(cfg, str(folder / WEIGHTS))
    except UserError:
        raise
    except Exception as error:
        # A config may be wrong in any way.
        raise CheckpointError(
            f'the model that {folder / CONFIG} describes cannot be built: {error!r}'
        ) from error


def _require_meta(classes: Any, palette: Any) -> None:
    """Raise a ValueError unless there are names and a colour for each."""
    if not classes or not all(isinstance(name, str) for name in classes):
        raise ValueError(f'classes must be names, but are {classes!r}')
    colors = np.array(palette)
    if colors.shape != (len(classes), 3) or colors.min() < 0 or colors.max() > 255:
        raise ValueError('the palette must have an RGB colour for each class')


def push(repo_id: str, private: bool, save_to: Callable[[str], Any]) -> str:
    """Upload the folder that ``save_to`` writes, and return the address of the commit."""
    hub = require('huggingface_hub', 'hub')
    with tempfile.TemporaryDirectory() as folder:
        save_to(folder)
        hub.create_repo(repo_id, private=private, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message='Add the fused model'
        )
    return str(commit.commit_url)


def _download(repo_id: str, revision: str | None) -> Path:
    try:
        hub = require('huggingface_hub', 'hub')
    except ExtraError as error:
        raise ExtraError(
            f'the folder {repo_id} does not exist. If it is an id on the Hugging Face '
            f'hub: {error}'
        ) from error
    files = [WEIGHTS, CONFIG, CARD]
    try:
        return Path(
            hub.snapshot_download(repo_id, revision=revision, allow_patterns=files)
        )
    except Exception as error:  # The library raises errors of several packages.
        raise CheckpointError(
            f'{repo_id} is no folder, and cannot be fetched from the Hugging Face hub: '
            f'{error}'
        ) from error


def _without_training(value: Any) -> Any:
    """Return a part of a config without what only a training needs."""
    if isinstance(value, dict):
        return {k: _without_training(v) for k, v in value.items() if k not in _TRAINING}
    return [_without_training(v) for v in value] if isinstance(value, list) else value


def _require_safe(value: Any, folder: Path) -> None:
    """Check that building a config builds known classes only and reads no other file.

    Raises:
        ConfigError: If it names another class, a file or an address.
    """
    if isinstance(value, dict):
        if 'type' in value and not _is_known(value['type']):
            raise ConfigError(
                f'the config of {folder} names {value["type"]!r}, which is no class of '
                f'{", ".join(_KNOWN)}. If you trust it, pass trust=True and import the '
                'package that registers it'
            )
        value = [*value, *value.values()]
    if isinstance(value, list):
        for each in value:
            _require_safe(each, folder)
    elif isinstance(value, str) and not _WORD.fullmatch(value):
        raise ConfigError(
            f'the config of {folder} holds {value!r}, which could name a file. If you '
            'trust it, pass trust=True'
        )


def _is_known(kind: Any) -> bool:
    if not isinstance(kind, str) or kind in _REFUSED:
        return False
    for registry in (MODELS, TRANSFORMS):
        level: Registry | None = registry
        while level is not None:
            found = level.module_dict.get(kind)
            if found is not None:
                return found.__module__.partition('.')[0] in _KNOWN
            level = level.parent
    return False


def _to_json(value: Any, key: str = '') -> Any:
    """Return a part of a config as JSON has it; tuples are marked."""
    if isinstance(value, dict):
        return {name: _to_json(each, name) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_to_json(each) for each in value]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    if key == 'type':
        # A class that a config holds itself is stored by its registered name.
        name = value if isinstance(value, str) else value.__name__
        scope, _, rest = name.rpartition('.')
        return rest if scope in _KNOWN else name
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TUPLE}:
        return tuple(map(_from_json, value[_TUPLE]))
    return {name: _from_json(each) for name, each in value.items()}


def _card(
    cfg: Config, meta: Mapping[str, Any], card: Mapping[str, Any], digest: str
) -> str:
    from .. import __version__

    backbone = cfg.model.get('backbone') or {}
    arch = backbone.get('arch', '')
    arch = arch if isinstance(arch, str) else ''  # Fields make no title.
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    rows = [f'| {name} | {value} |' for name, value in (card['metrics'] or {}).items()]
    return _CARD.format(
        licence=card['licence'] or 'other  # fill in that of the weights',
        title=f'{backbone.get("type", "segmentor")} {arch}'.rstrip(),
        version=__version__,
        data=card['data'] or dataset.get('type', 'not given'),
        classes=', '.join(meta['classes']),
        command=f'`{card["command"]}`' if card['command'] else 'not given',
        weights=WEIGHTS,
        digest=digest,
        metrics='\n'.join(
            ['| metric | value |', '|---|---|', *rows] if rows else ['Not given.']
        ),
    )
