"""The same resolver for a bundle whose code may run: what is not data is left to MONAI's own parser."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .resolver import Resolver


class TrustedResolver(Resolver):
    """Run an entry that needs code through MONAI's ConfigParser, with the bundle's imports and scripts."""

    def __init__(
        self,
        config: Mapping[str, Any],
        neighbour: Callable[[str], Mapping[str, Any] | None],
        root: Path | None,
    ) -> None:
        super().__init__(config, neighbour)
        from monai.bundle import ConfigParser

        self._root = root
        self._parser = ConfigParser(dict(config))

    def _needs_code(self, id: str, what: Any) -> Any:
        self.ran.append(id)
        with contextlib.nullcontext() if self._root is None else _scripts_of(self._root):
            try:
                return self._parser.get_parsed_content(id)
            except Exception as error:  # the bundle's code may raise anything
                raise ModelError(f"The bundle's own code failed at {id!r} ({error}); correct the bundle.") from error


@contextlib.contextmanager
def _scripts_of(root: Path) -> Iterator[None]:
    """Make the bundle's packages importable for a while, and forget them after: other bundles use the same names."""
    before, written = set(sys.modules), sys.dont_write_bytecode
    sys.path.insert(0, str(root))
    sys.dont_write_bytecode = True  # the bundle stays what was trusted: its hash covers compiled code, too
    try:
        yield
    finally:
        sys.dont_write_bytecode = written
        with contextlib.suppress(ValueError):
            sys.path.remove(str(root))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if Path(file).is_relative_to(root):
                del sys.modules[name]
