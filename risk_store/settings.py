"""Configuration from the environment and from a YAML file.

```yaml
monitoring:
  enforcement: {slow_threshold_ms: 500, critical_threshold_ms: 2000, timeout_ms: 5000}
```

``RISK_STORE_MONITORING__ENFORCEMENT__SLOW_THRESHOLD_MS`` and so on come before the file, which ``RISK_STORE_CONFIG``
names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from risk_store.alerts import Thresholds
from risk_store.errors import InvalidValue

__all__ = ["CONFIG_VARIABLE", "configured_thresholds", "load_thresholds"]

CONFIG_VARIABLE = "RISK_STORE_CONFIG"
PREFIX = "RISK_STORE_"
_MOST_BYTES = 64 * 1024  # a file of settings is short; a few hundred bytes of YAML can stand for millions of values


def configured_thresholds() -> Thresholds:
    """The thresholds of the environment, or the defaults. Where nothing is configured this costs nothing.

    >>> configured_thresholds().timeout_ms
    5000
    """
    if not any(name.upper().startswith((f"{PREFIX}MONITORING", CONFIG_VARIABLE)) for name in os.environ):
        return Thresholds()
    return load_thresholds(os.environ.get(CONFIG_VARIABLE))


def load_thresholds(file: str | Path | None = None) -> Thresholds:
    """The thresholds of a YAML file, and of the environment, which comes first.

    Raises InvalidValue, naming the setting, its value and what would be right: also for an unknown setting below
    ``monitoring``, a key given twice, and for a file that cannot be read. Other top-level keys are another program's.

    >>> path = getfixture("tmp_path") / "risk.yaml"
    >>> _ = path.write_text("monitoring: {enforcement: {slow_threshold_ms: 250}}")
    >>> load_thresholds(path)
    Thresholds(slow_threshold_ms=250, critical_threshold_ms=2000, timeout_ms=5000)
    """
    values = _of_file(Path(file)) if file else {}
    values |= _of_environment()
    try:
        return Thresholds(**values)
    except InvalidValue as error:
        raise InvalidValue(f"{_GROUP}.{error.field}", error.value, error.expected) from None


_GROUP = "monitoring.enforcement"
_NAMES = tuple(field.name for field in fields(Thresholds))


def _of_environment() -> dict[str, int]:
    from pydantic import BaseModel, ConfigDict, Field, ValidationError
    from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

    class Enforcement(BaseModel):
        model_config = ConfigDict(extra="forbid")
        slow_threshold_ms: int | None = None
        critical_threshold_ms: int | None = None
        timeout_ms: int | None = None

    class Monitoring(BaseModel):
        model_config = ConfigDict(extra="forbid")
        enforcement: Enforcement = Field(default_factory=Enforcement)

    class Environment(BaseSettings):
        model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="ignore")
        monitoring: Monitoring = Field(default_factory=Monitoring)

    try:
        return Environment().monitoring.enforcement.model_dump(exclude_none=True)
    except ValidationError as error:
        first = error.errors()[0]
        variable = PREFIX + "__".join(str(part) for part in first["loc"]).upper()
        unknown = first["type"] == "extra_forbidden"
        raise InvalidValue(variable, first["input"], _KNOWN if unknown else "a whole number of milliseconds") from None
    except SettingsError as error:
        raise InvalidValue(f"{PREFIX}MONITORING", str(error), _KNOWN) from None


_KNOWN = f"one of the settings of {_GROUP}: {', '.join(_NAMES)}"


def _of_file(file: Path) -> dict[str, Any]:
    """What the file says under ``monitoring.enforcement``, as it stands there."""
    found: Any = _read(file)
    for name in ("the file", "monitoring", _GROUP):
        key = name.rpartition(".")[2]
        found = found if key == "the file" else found.get(key, {})
        if found is None:
            return {}
        if not isinstance(found, Mapping):
            raise InvalidValue(name, found, f"a group of settings (in {file})")
        if key != "the file" and (unknown := found.keys() - ({"enforcement"} if key == "monitoring" else {*_NAMES})):
            raise InvalidValue(f"{name}.{min(unknown, key=str)}", found[min(unknown, key=str)], f"{_KNOWN} (in {file})")
    return dict(found)


def _read(file: Path) -> Any:
    import yaml

    class Strict(yaml.SafeLoader):
        """No aliases, and no key twice: the last one would win silently."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases are not taken")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = {str(key) for key in keys if keys.count(key) > 1}
            if twice:
                raise yaml.YAMLError(f"{', '.join(sorted(twice))}: given twice")
            return super().construct_mapping(node, deep)

    try:
        if file.stat().st_size > _MOST_BYTES:
            raise InvalidValue("file", str(file), f"a YAML file of at most {_MOST_BYTES} bytes")
        found = yaml.load(file.read_text(encoding="utf-8"), Loader=Strict)
    except OSError as error:
        raise InvalidValue("file", str(file), f"a YAML file that can be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InvalidValue("file", str(file), f"YAML of settings ({reason})") from error
    return found
