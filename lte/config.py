"""Settings: frozen pydantic models read from YAML; an error names the file, the setting and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class ConfigError(ValueError):
    """A setting that cannot be used; the message names file, setting and remedy."""


class Config(BaseModel):
    """Base of every settings class: frozen, strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


C = TypeVar("C", bound=Config)


def load(kind: type[C], path: str | Path | None = None, overrides: Sequence[str] = ()) -> C:
    """`kind` from a YAML file, with `a.b=value` overrides (values are YAML) on top; `None` means all defaults."""
    data = {} if path is None else read(path)
    for override in overrides:
        _set(data, override)
    return parse(kind, data, str(path or "--set"))


def read(path: str | Path) -> dict[str, Any]:
    """The settings that a YAML file holds, on top of those of the file that it names under `from`."""
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigError(f"{path}: holds a {type(loaded).__name__}; wanted settings, one `name: value` a line")
    return based(loaded or {}, f"{path}: from")


def based(data: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Settings on top of those of the file that they name under `from`, each in place of the whole setting there.

    source  what an error calls the place where the file is named
    """
    rest = {key: value for key, value in data.items() if key != "from"}
    if "from" not in data:
        return rest
    if not isinstance(data["from"], (str, Path)):
        raise ConfigError(f"{source}: {data['from']!r}; wanted the path of one YAML file")
    try:
        return read(data["from"]) | rest
    except RecursionError:
        raise ConfigError(f"{source}: {data['from']}: the files stand on each other in a circle") from None


def shipped(path: str) -> Path:
    """A file of `configs/`: of the installed package, else of the checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs" / path
    return inside if inside.exists() else package.parent / "configs" / path


def parse(kind: type[C], data: Mapping[str, Any], source: str) -> C:
    """`kind` from a mapping; `source` is what error messages call it."""
    try:
        return kind.model_validate(dict(data))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(kind, source, e) for e in error.errors())) from error


def _set(data: dict[str, Any], override: str) -> None:
    path, sign, value = override.partition("=")
    if not sign or not path.strip():
        raise ConfigError(f"--set {override}: wanted name=value, e.g. --set train.learning_rate=1e-4")
    *parents, last = path.strip().split(".")
    for name in parents:
        data = data.setdefault(name, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set {override}: {name} is a value and has no settings below it")
    try:
        data[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {error}") from error
    if isinstance(data[last], dict) and not value.lstrip().startswith("{"):
        data[last] = value.strip()  # ":memory:" is a name; settings below a setting have a.b=c
    if isinstance(data[last], str):
        try:  # YAML 1.1 reads 1e-4 as a string
            data[last] = float(data[last])
        except ValueError:
            pass


def _explain(kind: type[BaseModel], source: str, error: Mapping[str, Any]) -> str:
    location = [str(part) for part in error["loc"]]
    where = ".".join(location)
    if error["type"] != "extra_forbidden":
        place = f"{source}: {where}" if where else source  # a check over several settings has no place of its own
        return f"{place}: {error['msg']} (got {error['input']!r})"
    owner = _owner(kind, location[:-1])
    names = list(owner.model_fields)
    close = difflib.get_close_matches(location[-1], names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"{source}: {where}: no such setting; {owner.__name__} has {', '.join(names)}.{hint}"


def _owner(kind: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    for name in path:
        field = kind.model_fields.get(name)
        inner = field.annotation if field else None
        for part in (inner, *get_args(inner)):  # `Sub | None` holds Sub
            if isinstance(part, type) and issubclass(part, BaseModel):
                kind = part
    return kind
