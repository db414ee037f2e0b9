"""Fill a frozen dataclass from YAML and ``key=value`` words; report every problem at once.

The dataclass is the only place where a knob exists. Its annotations say what a file may hold:
``bool int float str``, ``Path``, enums (by member name or value), ``Literal``, nested dataclasses,
``tuple``/``list``/``dict`` of these, and unions such as ``int | None``. Ranges belong into
``__post_init__``, which raises ValueError; its text is reported with the section's name.
"""

import dataclasses
import difflib
import enum
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from clkd_core.config_files import describe_value, parse_yaml, read_config_file
from clkd_core.errors import ConfigError
from clkd_core.files import write_text_atomic

T = TypeVar("T")

_MISSING = object()
_BAD = object()  # stands for a value that could not be read; its problem is already noted


def load_config(cls: type[T], path: Path, overrides: Sequence[str] = ()) -> T:
    """Read ``path`` and then the overrides into an instance of ``cls``.

    Args:
        cls: a dataclass type; nested dataclasses are sections.
        path: a YAML file; an empty one means all defaults. Its key ``base`` names a file beside
            it whose values hold where it gives none.
        overrides: words like ``release.gamma=0.99``; the value is YAML.

    Raises:
        ConfigError: lists every unknown key, wrong type, missing key and broken range.
    """
    data = read_config_file(path)
    reader = _Reader(cls, str(path))
    for word in overrides:
        reader.override(data, word)
    return reader.read(cls, data)


def config_from_dict(cls: type[T], data: Mapping[str, Any], *, source: str) -> T:
    """Like :func:`load_config` for values at hand; ``source`` names them in errors.

    Raises:
        ConfigError: as :func:`load_config`.
    """
    return _Reader(cls, source).read(cls, data)


def config_to_dict(config: Any) -> dict[str, Any]:
    """The resolved values as plain dict, list, str and numbers, for YAML and JSON alike."""
    plain = _plain(config)
    if not isinstance(plain, dict):
        raise TypeError(f"config is a {type(config).__name__}, expected a dataclass instance")
    return plain


def save_config(config: Any, path: Path) -> None:
    """Write the resolved values as YAML which :func:`load_config` reads back to an equal config.

    Raises:
        DataError: the folder cannot be written.
    """
    write_text_atomic(path, yaml.safe_dump(config_to_dict(config), sort_keys=False))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


class _Reader:
    """Turns plain values into one dataclass and collects what is wrong on the way."""

    def __init__(self, root: type[Any], source: str) -> None:
        self._source = source
        self._problems: list[str] = []
        self._known = list(_dotted_keys(root))
        self._overridden: set[str] = set()

    def read(self, cls: type[T], data: Mapping[str, Any]) -> T:
        config = self._value(cls, data, "")
        if self._problems:
            raise ConfigError("\n".join(self._problems))
        return typing.cast(T, config)

    def override(self, data: dict[str, Any], word: str) -> None:
        """Put ``a.b=value`` into ``data``."""
        dotted, equals, text = word.partition("=")
        if not equals or not dotted:
            self._problems.append(f"command line: {word!r}, expected key=value")
            return
        try:
            value = parse_yaml(text)
        except yaml.YAMLError:
            self._problems.append(f"command line: the value of {word!r} is not YAML")
            return
        *sections, leaf = dotted.split(".")
        for name in sections:
            inner = data.get(name)
            data[name] = data = dict(inner) if isinstance(inner, dict) else {}
        data[leaf] = value
        self._overridden.add(dotted)

    def _problem(self, dotted: str, text: str) -> object:
        source = self._source
        if any(f"{dotted}.".startswith(f"{key}.") for key in self._overridden):
            source = "command line"
        elif any(f"{key}.".startswith(f"{dotted}.") or not dotted for key in self._overridden):
            source += " with the command line"
        self._problems.append(f"{source}: {text}")
        return _BAD

    def _wrong(self, dotted: str, value: Any, wanted: str) -> object:
        return self._problem(dotted, f"{dotted!r} is {describe_value(value)}, expected {wanted}")

    def _section(self, cls: type[Any], data: Mapping[Any, Any], prefix: str) -> Any:
        hints = typing.get_type_hints(cls)
        fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
        for key in data:
            if key not in fields:
                self._unknown(f"{prefix}{key}")
        values = {}
        for name, field in fields.items():
            raw = data.get(name, _MISSING)
            if raw is not _MISSING:
                values[name] = self._value(hints[name], raw, prefix + name)
            elif _is_required(field):
                wanted = _wanted(hints[name])
                values[name] = self._problem(
                    prefix + name, f"missing key {prefix + name!r}, expected {wanted}"
                )
        if any(value is _BAD for value in values.values()):
            return _BAD
        try:
            return cls(**values)
        except (ValueError, ConfigError) as err:
            section = prefix.rstrip(".")
            return self._problem(section, f"{section!r}: {err}" if section else str(err))

    def _unknown(self, dotted: str) -> None:
        leaf = dotted.rpartition(".")[2]
        near = difflib.get_close_matches(dotted, self._known, n=1)
        near = [key for key in self._known if key.rpartition(".")[2] == leaf] or near
        near = [key for key in near if key != dotted]  # a key of another kind of section
        hint = f", did you mean {near[0]!r}?" if near else ""
        self._problem(dotted, f"unknown key {dotted!r}{hint}")

    def _value(self, wanted: Any, raw: Any, dotted: str) -> Any:
        origin = typing.get_origin(wanted)
        if origin in (typing.Union, types.UnionType):
            return self._union(wanted, raw, dotted)
        if origin in (tuple, list, Sequence):
            return self._sequence(wanted, raw, dotted)
        if origin in (dict, Mapping):
            return self._mapping(wanted, raw, dotted)
        if hasattr(wanted, "config_variants"):
            arms = wanted.config_variants()
            if arms != (wanted,):
                return self._arms(arms, raw, dotted)
        if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
            if isinstance(raw, Mapping):
                return self._section(wanted, raw, f"{dotted}." if dotted else "")
            return self._wrong(dotted, raw, _wanted(wanted))
        value = _scalar(wanted, raw)
        return self._wrong(dotted, raw, _wanted(wanted)) if value is _BAD else value

    def _union(self, wanted: Any, raw: Any, dotted: str) -> Any:
        return self._arms(typing.get_args(wanted), raw, dotted)

    def _arms(self, arms: Sequence[Any], raw: Any, dotted: str) -> Any:
        """The first arm that fits; of sections that name their kind, the one that is named."""
        tag, tagged = _tagged_sections(arms)
        if tag and isinstance(raw, Mapping):
            name = raw.get(tag, next(iter(tagged)))
            if name in tagged:
                return self._value(tagged[name], raw, dotted)
            wanted = "one of " + ", ".join(repr(known) for known in tagged)
            return self._wrong(f"{dotted}.{tag}" if dotted else tag, name, wanted)
        outer, self._problems = self._problems, []
        section_problems: list[str] = []
        for arm in arms:
            self._problems = []
            value = self._value(arm, raw, dotted)
            if value is not _BAD and not self._problems:
                self._problems = outer
                return value
            if dataclasses.is_dataclass(arm) and isinstance(raw, Mapping):
                section_problems = section_problems or self._problems
        self._problems = outer + section_problems
        wanted = " or ".join(_wanted(arm) for arm in arms)
        return _BAD if section_problems else self._wrong(dotted, raw, wanted)

    def _sequence(self, wanted: Any, raw: Any, dotted: str) -> Any:
        origin, args = typing.get_origin(wanted), typing.get_args(wanted)
        if not isinstance(raw, list | tuple):
            return self._wrong(dotted, raw, _wanted(wanted))
        fixed = origin is tuple and args[-1] is not Ellipsis
        if fixed and len(raw) != len(args):
            return self._problem(
                dotted, f"{dotted!r} has {len(raw)} values, expected {_wanted(wanted)}"
            )
        kinds = args if fixed else (args[0],) * len(raw)
        items = [
            self._value(kind, item, f"{dotted}[{i}]")
            for i, (kind, item) in enumerate(zip(kinds, raw, strict=True))
        ]
        if any(item is _BAD for item in items):
            return _BAD
        return items if origin is list else tuple(items)

    def _mapping(self, wanted: Any, raw: Any, dotted: str) -> Any:
        if not isinstance(raw, Mapping):
            return self._wrong(dotted, raw, _wanted(wanted))
        key_kind, item_kind = typing.get_args(wanted)
        items = {}
        for key, item in raw.items():
            read_key = self._value(key_kind, key, f"{dotted}.{key}")
            items[read_key] = self._value(item_kind, item, f"{dotted}.{key}")
        return _BAD if any(_BAD in (k, v) for k, v in items.items()) else items


def _tagged_sections(arms: Sequence[Any]) -> tuple[str, dict[Any, Any]]:
    """The field by which sections tell their kind, and the sections by its value.

    It is a ``Literal`` of one value; several sections among the arms must have it.
    """
    sections = [arm for arm in arms if dataclasses.is_dataclass(arm)]
    for field in dataclasses.fields(sections[0]) if sections else ():
        hints = [typing.get_type_hints(section).get(field.name) for section in sections]
        if all(typing.get_origin(hint) is typing.Literal for hint in hints):
            names = [typing.get_args(hint) for hint in hints]
            if all(len(name) == 1 for name in names) and len(set(names)) == len(names):
                return field.name, {
                    name[0]: section for name, section in zip(names, sections, strict=True)
                }
    return "", {}


def _is_required(field: Any) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _scalar(wanted: Any, raw: Any) -> Any:
    """``raw`` as ``wanted``, or ``_BAD``; nothing is converted that would lose meaning."""
    if wanted is Any:
        return raw
    if typing.get_origin(wanted) is typing.Literal:
        fits = [c for c in typing.get_args(wanted) if c == raw and type(c) is type(raw)]
        return fits[0] if fits else _BAD
    if wanted is types.NoneType:
        return None if raw is None else _BAD
    if wanted is float:
        number = isinstance(raw, (int, float)) and not isinstance(raw, bool)
        return float(raw) if number and not math.isnan(raw) else _BAD
    if wanted is Path:
        return Path(raw) if isinstance(raw, (str, Path)) and str(raw) else _BAD
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return _enum_member(wanted, raw)
    if wanted in (bool, int, str):
        return raw if type(raw) is wanted else _BAD
    raise TypeError(f"a config field is annotated {wanted!r}, which no config can hold")


def _enum_member(wanted: type[enum.Enum], raw: Any) -> Any:
    if isinstance(raw, wanted):
        return raw
    fits = [m for m in wanted if raw == m.name or (raw == m.value and type(raw) is not bool)]
    return fits[0] if fits else _BAD


def _wanted(kind: Any) -> str:
    """What an annotation asks for, in a user's words."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_wanted(arm) for arm in args)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(choice) for choice in args)
    if origin is tuple and args[-1] is not Ellipsis:
        return f"a list of {len(args)}: " + ", ".join(_wanted(arm) for arm in args)
    if origin in (tuple, list, Sequence):
        return f"a list, each {_wanted(args[0])}"
    if origin in (dict, Mapping):
        return f"keys with values, each {_wanted(args[1])}"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "one of " + ", ".join(member.name for member in kind)
    if dataclasses.is_dataclass(kind):
        return "a section of keys with values"
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
    return {**names, Path: "a path", types.NoneType: "null"}.get(kind, str(kind))


def _dotted_keys(cls: type[Any], prefix: str = "") -> typing.Iterator[str]:
    """Every key that a file may hold, sections included."""
    for name, hint in typing.get_type_hints(cls).items():
        yield prefix + name
        arms = [hint, *typing.get_args(hint)]
        arms += [
            v for arm in arms if hasattr(arm, "config_variants") for v in arm.config_variants()
        ]
        for arm in arms:
            if dataclasses.is_dataclass(arm) and isinstance(arm, type):
                yield from _dotted_keys(arm, f"{prefix}{name}.")
