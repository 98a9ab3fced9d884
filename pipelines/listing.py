"""``vidcomp list KIND``: what there is, one line each, and on request its settings."""

import json
import re
from importlib import resources
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from vidcomp.config import Config, load_recipe, recipe_names
from vidcomp.errors import ConfigError
from vidcomp.registry import REGISTRIES

from .output import print_json

__all__ = ["KINDS", "describe", "run_list"]

KINDS = ("recipes", *sorted(REGISTRIES))

_LIMITS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": "length >="}


def run_list(kind: str, *, verbose: bool, as_json: bool) -> int:
    """``vidcomp list``."""
    entries = describe(kind)
    if as_json:
        print_json(entries)
        return 0
    width = max((len(entry["name"]) for entry in entries), default=0)
    for entry in entries:
        online = " [streaming]" * entry.get("about", {}).get("streaming", False)
        click.echo(f"{entry['name']:<{width}}  {entry['summary']}{online}")
        if verbose:
            for line in (*_about_lines(entry.get("about")), *map(_setting_line, entry["settings"])):
                click.echo(line)
    return 0


def describe(kind: str) -> list[dict[str, Any]]:
    """All entries of a kind, sorted by name.

    Args:
        kind: samplers, selectors, encoders, compressors, projectors or recipes.

    Returns:
        For each ``name``, ``summary`` (one sentence) and ``settings``: for each ``name``, ``type``,
        ``default`` (JSON), ``required`` and ``doc``.  A recipe's settings are its sections, and
        their defaults what it sets.  What says more of itself has ``about`` too: a compressor its
        ``kind``, whether it is ``streaming``, ``paper``, ``needs``, ``cost``, ``scaling``, figures
        that were ``published`` and other ``accuracy``.

    Raises:
        ConfigError: no such kind.
    """
    if kind == "recipes":
        return [_recipe(name) for name in recipe_names()]
    if kind not in REGISTRIES:
        raise ConfigError(f"there is no kind {kind!r}: known are {', '.join(KINDS)}")
    registry = REGISTRIES[kind]
    return [_entry(name, registry[name]) for name in registry.names()]


def _entry(name: str, cls: type[Config]) -> dict[str, Any]:
    settings = [_setting(key, field) for key, field in cls.model_fields.items()]
    entry: dict[str, Any] = {
        "name": name,
        "summary": _first_sentence(cls.__doc__ or ""),
        "settings": settings,
    }
    about = getattr(cls, "about", None)
    if about is not None:
        facts = {key: getattr(cls, key) for key in ("kind", "streaming") if hasattr(cls, key)}
        entry["about"] = {**facts, **_plain(about)}
    return entry


def _setting(name: str, field: FieldInfo) -> dict[str, Any]:
    required = field.is_required()
    return {
        "name": name,
        "type": " ".join([_type_words(field.annotation), *_limits(field)]),
        "default": None if required else _plain(field.get_default(call_default_factory=True)),
        "required": required,
        "doc": _words(field.description or ""),
    }


def _recipe(name: str) -> dict[str, Any]:
    text = resources.files("vidcomp.configs").joinpath(f"{name}.yaml").read_text()
    comment = re.match(r"(?:#[^\n]*\n)*", text)
    words = re.sub(r"^#+\s?", "", comment.group() if comment else "", flags=re.MULTILINE)
    sections = load_recipe(name).dump()
    settings = [
        {"name": key, "type": "section", "default": value, "required": False, "doc": ""}
        for key, value in sections.items()
    ]
    return {"name": name, "summary": _first_sentence(words), "settings": settings}


def _first_sentence(text: str) -> str:
    paragraph = _words(text.strip().split("\n\n")[0])
    return re.split(r"(?<=[.!?])\s", paragraph, maxsplit=1)[0].removesuffix(".")


def _words(text: str) -> str:
    """On one line, without the marks for code."""
    return " ".join(text.replace("``", "").split())


def _type_words(annotation: Any) -> str:  # any annotation that pydantic takes
    """A type as a person would write it: ``'a' or 'b'``, ``int or none``."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_words(args[0])
    if origin is Literal:
        return " or ".join(str(arg) for arg in args)
    if origin in (Union, UnionType):
        return " or ".join(_type_words(arg) for arg in args)
    if origin in (tuple, list):
        inner = ", ".join(dict.fromkeys(_type_words(arg) for arg in args if arg is not ...))
        return f"list of {inner}"
    if annotation is NoneType:
        return "none"
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return "settings"
    return str(getattr(annotation, "__name__", annotation))


def _limits(field: FieldInfo) -> list[str]:
    found = [
        f"{sign} {getattr(limit, name)}"
        for limit in field.metadata
        for name, sign in _LIMITS.items()
        if getattr(limit, name, None) is not None
    ]
    return [", ".join(found)] if found else []


def _plain(value: Any) -> Any:  # any default
    """JSON values only."""
    if isinstance(value, Config):
        return value.dump()
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _about_lines(about: dict[str, Any] | None) -> list[str]:
    """What a method is, and where it comes from."""
    if about is None:
        return []
    words = [about["kind"] + ", streaming" * about["streaming"]] if "kind" in about else []
    if "needs" in about:
        words.append(f"needs {', '.join(about['needs']) or 'places only'}")
    if "cost" in about:
        words.append(", ".join([f"time {about['cost']}", *filter(None, [about.get("scaling")])]))
    told = [f"[{'; '.join(words)}]" if words else "", about.get("paper", "")]
    figures = _figure_lines(about.get("published", ()))
    return [f"    {line}" for line in (*told, *figures, about.get("accuracy", "")) if line]


def _figure_lines(published: list[dict[str, Any]]) -> list[str]:
    """One for each model and source."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in published:
        text = f"{one['score']:g} with {one['share']:g} % of the tokens"
        found.setdefault((one["model"], one["source"]), []).append(text)
    return [
        f"Percent of the score of {model}: {', '.join(texts)} ({source})"
        for (model, source), texts in found.items()
    ]


def _setting_line(setting: dict[str, Any]) -> str:
    default = "required" if setting["required"] else json.dumps(setting["default"])
    kind = "" if setting["type"] == "section" else f" ({setting['type']})"
    doc = f"  {setting['doc']}" if setting["doc"] else ""
    return f"    {setting['name']} = {default}{kind}{doc}"
