"""Frozen, strict settings and the recipes made of them.

A recipe is complete: one YAML file, one run.  Whatever changes the numbers is in it and in its
fingerprint; paths, workers, devices and batch sizes are arguments.
"""

import hashlib
import json
import textwrap
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from vidcomp.budget import Budget
from vidcomp.errors import ConfigError
from vidcomp.registry import COMPRESSORS, ENCODERS, PROJECTORS, SAMPLERS, SELECTORS, suggest

__all__ = [
    "CompressSettings",
    "Config",
    "Recipe",
    "Stage",
    "StoreSettings",
    "differences",
    "fingerprint",
    "identity",
    "load_recipe",
    "recipe_names",
    "with_overrides",
]


class Config(BaseModel):
    """Settings: keyword-only, validated when made, never changed, unknown names refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        ser_json_inf_nan="strings",
    )

    name: ClassVar[str] = ""
    """The name in the registry, set by it; empty for settings that are not looked up."""

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise ConfigError(_explain(error, type(self))) from error

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        return {"name": self.name, **data} if self.name else data

    def dump(self) -> dict[str, Any]:
        """Plain JSON values, defaults included, ``None`` left out."""
        return self.model_dump(mode="json", exclude_none=True)

    @classmethod
    def locations(cls) -> set[str]:
        """Fields that say where weights are, not what they are (``Field(..., json_schema_extra=
        {"location": True})``); their content's hash stands for them in a fingerprint.
        """
        return {
            name
            for name, field in cls.model_fields.items()
            if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("location")
        }


AnySampler = Annotated[SerializeAsAny[Config], BeforeValidator(SAMPLERS.parse)]
AnySelector = Annotated[SerializeAsAny[Config], BeforeValidator(SELECTORS.parse)]
AnyEncoder = Annotated[SerializeAsAny[Config], BeforeValidator(ENCODERS.parse)]
AnyCompressor = Annotated[SerializeAsAny[Config], BeforeValidator(COMPRESSORS.parse)]
AnyProjector = Annotated[SerializeAsAny[Config], BeforeValidator(PROJECTORS.parse)]


def _dump_budget(budget: Budget) -> dict[str, Any]:
    return {
        name: value
        for name in ("tokens", "retention", "per_frame", "per_second")
        if (value := getattr(budget, name)) is not None
    }


AnyBudget = Annotated[Budget, BeforeValidator(Budget.parse), PlainSerializer(_dump_budget)]


class Stage(Config):
    """One compressor of a pipeline and the share of tokens it leaves.

    In YAML it is flat: ``{name: tome, retention: 0.5, rounds: 2}``.
    """

    compressor: AnyCompressor
    retention: float | None = Field(None, gt=0, le=1)
    """Tokens after over tokens before; ``None``: close on the final budget."""

    def __init__(self, compressor: Any = None, **settings: Any) -> None:
        super().__init__(**({} if compressor is None else {"compressor": compressor}), **settings)

    @model_validator(mode="before")
    @classmethod
    def _unflatten(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"compressor": data}
        if isinstance(data, dict) and "name" in data:
            rest = {key: value for key, value in data.items() if key != "retention"}
            return {"compressor": rest, "retention": data.get("retention")}
        return data

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        return {**data["compressor"], "retention": data.get("retention")}


class CompressSettings(Config):
    """How many tokens remain and which stages get there."""

    budget: AnyBudget
    """``{tokens: 196}``, ``{retention: 0.1}``, ``{per_frame: 16}`` or ``{per_second: 8}``."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    """Compressors in order; the last one closes on the budget."""
    stream: bool = False
    """Compress while frames arrive, in memory that does not grow with the video: the last stage
    works online, those before it on blocks of 32 frames of the grid.  Other tokens than without."""

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        if not self.stream:  # left out, so that what was made without the setting stays valid
            del data["stream"]
        return data


class StoreSettings(Config):
    """How records are written; not part of the fingerprint."""

    dtype: Literal["bfloat16", "float16", "float32", "int8"] = "bfloat16"
    """Type of the token matrix on disk; ``int8`` has a scale for every channel of a video, is
    within half a scale of every value, and is read as bfloat16."""
    codec: Literal["none", "zstd"] = "none"
    """``zstd`` saves about a third of the bytes without loss, for slow disks and networks; parts
    of a video are then read as fast as all of it."""
    assign: bool = False
    """Also keep, for every source patch, the token it went to."""
    extras: tuple[str, ...] = ()
    """Names of row extras to keep; with a star (``deepstack.*``) all that match, if any do."""
    frame_extras: tuple[str, ...] = ()
    """Names of frame extras to keep, or patterns of names."""


class Recipe(Config):
    """Sample, encode, compress, optionally project, store: everything that decides the tokens."""

    sample: AnySampler
    select: AnySelector | None = None
    """Patches that the encoder is to compute, by their pixels; left out: all.  The budget counts
    what is left."""
    encode: AnyEncoder
    compress: CompressSettings | None = None
    """Left out: all tokens are kept (a dense cache) or the projector alone decides."""
    project: AnyProjector | None = None
    store: StoreSettings = StoreSettings()

    @classmethod
    def parse(cls, data: Mapping[str, Any], overrides: Sequence[str] = ()) -> Self:
        """A recipe from plain data, with ``a.b=c`` overrides (``c`` is YAML).

        Raises:
            ConfigError: an unknown or missing key, a wrong value.
        """
        return cls(**with_overrides(data, overrides))

    def with_budget(self, budget: Budget) -> Self:
        """The same recipe with another budget.

        Raises:
            ConfigError: the recipe has no compressors that could reach it.
        """
        if self.compress is None:
            raise ConfigError(
                f"this recipe has no compress section, so it cannot reach {budget}: add one"
            )
        compress = self.compress.model_copy(update={"budget": budget})
        return self.model_copy(update={"compress": compress})

    def to_yaml(self) -> str:
        """The complete recipe as YAML; ``load_recipe`` reads it back."""
        return yaml.safe_dump(self.dump(), sort_keys=False)


def recipe_names() -> list[str]:
    """Recipes that come with vidcomp."""
    folder = resources.files("vidcomp.configs")
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith("yaml"))


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name, or in that YAML file, with ``a.b=c`` overrides.

    Raises:
        ConfigError: no such recipe or file, not YAML, unknown keys or wrong values.
    """
    text, origin = _read_recipe(name_or_path)
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = str(error).replace("\n", " ")
        raise ConfigError(f"recipe {origin} is not YAML ({problem}): mend the file") from error
    if not isinstance(data, dict):
        raise ConfigError(
            f"recipe {origin} must be a mapping with sample, encode and compress, got "
            f"{type(data).__name__}: write those sections"
        )
    try:
        return Recipe.parse(data, overrides)
    except ConfigError as error:
        raise ConfigError(f"recipe {origin}: {error}") from error


def with_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of nested plain data with ``a.b=c`` changes; ``c`` is YAML, list places are numbers.

    Raises:
        ConfigError: an override is not of that form or leads nowhere.
    """
    merged: dict[str, Any] = json.loads(json.dumps(data))
    for text in overrides:
        _override(merged, text)
    return merged


def fingerprint(
    recipe: Recipe | Mapping[str, Any], weights: Mapping[str, str], format_version: int
) -> str:
    """16 hex digits that change whenever the tokens may change.

    Args:
        recipe: settings (the ``store`` section is left out, and where weights lie too), or what
            ``identity`` made of them.
        weights: content hashes by section, e.g. ``{"encode": "sha256..."}``.
        format_version: of the cache.
    """
    plain = identity(recipe) if isinstance(recipe, Recipe) else dict(recipe)
    data = {"recipe": plain, "weights": dict(weights), "format": format_version}
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identity(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that decides its tokens, as plain JSON values."""
    data = recipe.dump()
    del data["store"]
    for section in ("encode", "project"):
        config = getattr(recipe, section)
        if config is not None:
            for field in type(config).locations():
                data[section].pop(field, None)
    return data


def differences(a: object, b: object, path: str = "") -> list[str]:
    """Leaves in which two JSON trees differ, as ``compress.budget.tokens: 196 != 64``."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(set(a) | set(b))
        return [
            d
            for k in keys
            for d in differences(a.get(k), b.get(k), f"{path}.{k}" * bool(path) or k)
        ]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [
            d
            for i, (x, y) in enumerate(zip(a, b, strict=True))
            for d in differences(x, y, f"{path}[{i}]")
        ]
    return [] if a == b else [f"{path}: {_shown(a)} != {_shown(b)}"]


def _shown(value: object) -> str:
    return textwrap.shorten(repr(value), 40, placeholder=" ...")


def _read_recipe(name_or_path: str | Path) -> tuple[str, str]:
    name = str(name_or_path)
    if name in recipe_names():
        return resources.files("vidcomp.configs").joinpath(f"{name}.yaml").read_text(), name
    path = Path(name)
    if path.is_file():
        return path.read_text(), name
    known = recipe_names()
    raise ConfigError(
        f"no recipe is called {name!r} and there is no such file: {suggest(name, known)}known are "
        f"{', '.join(known)}; or pass the path of a YAML file"
    )


def _override(data: dict[str, Any], text: str) -> None:
    """Set ``a.b=c`` in nested mappings and lists, in place."""
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"an override looks like a.b=value, got {text!r}: write it so")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value in {text!r} is not YAML: quote it") from error
    if keys[:2] == ["compress", "budget"] and len(keys) == 3:
        # A budget is said in one way only: a new way replaces the old one.
        keys, parsed = keys[:2], {keys[2]: parsed}
    node: Any = data
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                raise ConfigError(
                    f"{'.'.join(keys[:depth])} is a list of {len(node)}, and {key!r} in {text!r} "
                    f"is no place in it: use 0 to {len(node) - 1}"
                )
            place: Any = int(key)
        elif isinstance(node, dict):
            place = key
            if node.get(key) is None and not last:
                node[key] = {}
        else:
            raise ConfigError(
                f"{'.'.join(keys[:depth])} is the value {node!r}, so {text!r} cannot set a key "
                f"below it: override the value itself"
            )
        if last:
            node[place] = parsed
        else:
            node = node[place]


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a failed validation as one sentence."""
    problems = error.errors(include_url=False)
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"]) or "settings"
    more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
    title = f"{model.name!r}" if issubclass(model, Config) and model.name else model.__name__
    if first["type"] == "extra_forbidden":
        known = list(model.model_fields)
        hint = f"{suggest(where, known)}known are {', '.join(known) or 'none'}"
        return f"{title} has no setting {where!r}: {hint}{more}"
    if first["type"] == "missing":
        return f"{title} needs the setting {where!r}: add it{more}"
    if first["type"] == "value_error":  # our own sentence, raised below
        return first["msg"].removeprefix("Value error, ") + more
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{title} setting {where!r} is {first['input']!r}, but {message}{more}"
