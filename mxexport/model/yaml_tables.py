"""Tables from YAML files that people write: small, plain, and every key once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mxexport.errors import InputFileError, MissingToolError

_LARGEST = 1 << 20  # bytes


def read_table(path: Path, what: str) -> Mapping:
    """The table in a YAML file; `what`: what its keys are, for messages.

    Raises:
        InputFileError, MissingToolError: as `read_yaml`; no table.
    """
    found = read_yaml(path)
    if not isinstance(found, Mapping):
        raise InputFileError(f"{path}: expected a table of {what}, found {type(found).__name__}")
    return found


def read_yaml(path: Path) -> object:
    """What a YAML file holds.

    Raises:
        InputFileError: no such file, larger than 1 MiB, no YAML, a key given twice, or nested too deep.
        MissingToolError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise MissingToolError(f"reading {path} needs PyYAML: pip install pyyaml, or give a dict") from None

    class Loader(yaml.SafeLoader):
        """Without pickles, and without the habit of taking the last of two equal keys."""

    def mapping(loader: Loader, node: yaml.MappingNode) -> dict:
        loader.flatten_mapping(node)
        keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                line = node.value[i][0].start_mark.line + 1
                raise InputFileError(f"{path}, line {line}: {key!r} is there twice; expected every key once")
        values = [loader.construct_object(value, deep=True) for _, value in node.value]
        return dict(zip(keys, values, strict=True))

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    if not path.is_file():
        raise InputFileError(f"no such file: {path}")
    try:
        if path.stat().st_size > _LARGEST:
            raise InputFileError(f"{path} has {path.stat().st_size:,} bytes; expected a table of at most {_LARGEST:,}")
        found = yaml.load(path.read_text(), Loader)
    except RecursionError:
        raise InputFileError(f"{path} is nested too deep to be a table") from None
    except (OSError, UnicodeDecodeError, ValueError, TypeError, yaml.YAMLError) as error:
        raise InputFileError(f"{path} is not readable YAML: {error}") from None
    return found
