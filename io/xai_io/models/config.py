"""A model's JSON and YAML files as plain data, however they were made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError

ENDS = (".json", ".yaml", ".yml")
_MOST_BYTES = 2**20  # the largest config of the model zoo has 2**17; YAML of that size takes a second


def read_config(file: Path) -> Mapping[str, Any]:
    """Read a mapping from a JSON or YAML file.

    Raises
    ------
    ModelError
        If it cannot be read, is too large for a config, or holds something else.
    """
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ModelError(f"{file} has more than {_MOST_BYTES} bytes, and no model's config has; correct it.")
        content = file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({error.strerror}); check it.") from error
    return parsed(content, file)


def parsed(content: bytes, file: Path) -> Mapping[str, Any]:
    """Parse the content of a JSON file, or of a YAML file going by its name; errors as `read_config`."""
    import yaml

    try:
        text = content.decode()
        found = json.loads(text) if file.suffix not in ENDS[1:] else _yaml(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:100]
        raise ModelError(f"{file} is not valid JSON or YAML ({reason}); correct it.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file} holds no mapping of names to values; correct it.")
    return found


def _yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Without merge keys: merging merged mappings, a few lines can fill any memory."""

        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            for key, _ in node.value:
                if key.tag == "tag:yaml.org,2002:merge":
                    raise yaml.constructor.ConstructorError(None, None, "merge keys (<<) are not read", key.start_mark)

    return yaml.load(text, Loader)
