"""Names of samplers, selectors, encoders, compressors and projectors.

A class registers itself where it is defined::

    @COMPRESSORS.add("norm_topk")
    class NormTopK(Compressor): ...

and a registry imports its package on the first look-up, so a new method is a new file.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from vidcomp.errors import ConfigError

__all__ = [
    "COMPRESSORS",
    "ENCODERS",
    "PROJECTORS",
    "REGISTRIES",
    "SAMPLERS",
    "SELECTORS",
    "Registry",
    "suggest",
]

C = TypeVar("C", bound=type)


def suggest(word: str, known: list[str]) -> str:
    """``"did you mean 'tome'? "`` or an empty string, to be put into an error."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}? " if close else ""


class Registry:
    """Classes of one kind by name; the modules of ``package`` are imported when first needed."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._classes: dict[str, type[Any]] = {}
        self._loaded = False

    def add(self, name: str) -> Callable[[C], C]:
        """Decorator that files a class under ``name`` and sets its ``name``."""

        def register(cls: C) -> C:
            other = self._classes.get(name)
            if other is not None and other.__qualname__ != cls.__qualname__:
                raise ConfigError(
                    f"the {self.kind} name {name!r} is taken by {other.__module__}."
                    f"{other.__qualname__}: register {cls.__qualname__} under another name"
                )
            cls.name = name  # type: ignore[attr-defined]  # every registered class has one
            self._classes[name] = cls
            return cls

        return register

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._load()
        return sorted(self._classes)

    def __getitem__(self, name: str) -> type[Any]:
        self._load()
        try:
            return self._classes[name]
        except KeyError:
            known = self.names()
            raise ConfigError(
                f"no {self.kind} is called {name!r}: {suggest(name, known)}known are "
                f"{', '.join(known)}"
            ) from None

    def make(self, name: str, /, **settings: object) -> Any:
        """The settings object ``name`` with ``settings``; wrong ones raise ConfigError."""
        return self[name](**settings)

    def parse(self, value: object) -> object:
        """A mapping with a ``name`` becomes settings; a bare string is a name; all else passes."""
        if isinstance(value, str):
            return self.make(value)
        if not isinstance(value, Mapping):
            return value
        if "name" not in value:
            raise ConfigError(
                f"a {self.kind} needs a name, got only {sorted(map(str, value))}: "
                f"add 'name: ...', one of {', '.join(self.names())}"
            )
        return self.make(str(value["name"]), **{k: v for k, v in value.items() if k != "name"})

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self._package)
        for module in pkgutil.walk_packages(package.__path__, prefix=f"{self._package}."):
            if not module.name.rpartition(".")[2].startswith("_"):
                importlib.import_module(module.name)


SAMPLERS = Registry("sampler", "vidcomp.sample")
SELECTORS = Registry("selector", "vidcomp.sample.selectors")
ENCODERS = Registry("encoder", "vidcomp.encode")
COMPRESSORS = Registry("compressor", "vidcomp.compress")
PROJECTORS = Registry("projector", "vidcomp.projectors")
REGISTRIES = {
    "samplers": SAMPLERS,
    "selectors": SELECTORS,
    "encoders": ENCODERS,
    "compressors": COMPRESSORS,
    "projectors": PROJECTORS,
}
