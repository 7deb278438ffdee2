"""Configuration machinery: frozen dataclasses <-> JSON, one value replaced by its path, fingerprints, differences.

A configuration is a tree of frozen keyword-only dataclasses that live beside what they build; each checks its own
values in ``__post_init__``. A field may hold bool, int, float, str, Path, an Enum, a Literal, None, another dataclass,
a tuple, a mapping with text keys, or a union of these. Where a field's type is a union of several dataclasses (its
*variants*), the dictionary form carries ``{"type": "ClassName", ...}``.
"""

import dataclasses
import enum
import hashlib
import json
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

from xray_det.errors import InputError

T = TypeVar("T")

#: Values in messages: a file may hold one that is long, or nested deeper than Python can spell.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as a JSON-able dictionary that ``from_dict`` reads back to an equal object.

    An int in a float field is written as a float, so that equal configurations have equal fingerprints.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"to_dict wants a dataclass instance, not {config!r}")
    return cast(dict[str, Any], _encode(config, type(config)))


def from_dict(cls: type[T], value: Mapping[str, Any]) -> T:
    """Build ``cls`` (a dataclass, or a union of dataclasses) from its dictionary form.

    Raises:
        InputError: an unknown or missing key, a value of another type, or one that the dataclass itself refuses.
    """
    return cast(T, _decode(value, cls, "", text=False))


def replace(config: T, path: str, value: Any) -> T:
    """A copy of ``config`` with the value at ``path`` (``phases.1.sampling.lam``) exchanged.

    Text (from a command line) is read as the field's type: ``0.3``, ``true``, ``none``, ``800,1333`` or ``[800, 1333]``
    for a tuple, a variant's class name (its defaults) or its JSON object. Other values are taken as they are, or in
    dictionary form.

    Raises:
        InputError: no such path (the fields that exist are named), a path into another variant than the one
            configured, or a value that the field does not take.
    """
    if not path:
        raise InputError("path", "is empty", "Name a field, for example phases.0.epochs")
    return cast(T, _replace(config, type(config), path.split("."), (), value))


def fingerprint(config: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of the configuration's canonical JSON; a dataclass or its dictionary."""
    tree = config if isinstance(config, Mapping) else to_dict(config)
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Where two dictionary forms differ: lines ``path: old -> new`` by path, ``(absent)`` for a side without it."""
    old, new = _leaves(a, ""), _leaves(b, "")
    absent = "(absent)"
    lines = []
    for path in [*old, *(path for path in new if path not in old)]:
        left = json.dumps(old[path], ensure_ascii=False) if path in old else absent
        right = json.dumps(new[path], ensure_ascii=False) if path in new else absent
        if left != right:
            lines.append(f"{path}: {left} -> {right}")
    return lines


def _leaves(tree: Any, path: str) -> dict[str, Any]:
    items: Any = ()
    if isinstance(tree, Mapping):
        items = tree.items()
    elif isinstance(tree, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in tree):
        items = enumerate(tree)
    if not items:
        return {path: list(tree) if isinstance(tree, tuple) else tree}
    return {leaf: value for key, item in items for leaf, value in _leaves(item, _below(path, key)).items()}


def _below(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


# --- types ------------------------------------------------------------------------------------------------------


@cache
def _fields(cls: type) -> dict[str, Any]:
    """Name -> type of the fields that a dataclass's constructor takes."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _members(tp: Any) -> tuple[Any, ...]:
    return get_args(tp) if get_origin(tp) in (typing.Union, types.UnionType) else (tp,)


def _variants(tp: Any) -> dict[str, type]:
    """Class name -> class of the dataclasses among a type's members."""
    return {m.__name__: m for m in _members(tp) if isinstance(m, type) and dataclasses.is_dataclass(m)}


def _spell(tp: Any) -> str:
    """A type as a user would read it in a message."""
    if get_origin(tp) is Literal:
        return "one of " + ", ".join(map(repr, get_args(tp)))
    if isinstance(tp, type) and issubclass(tp, enum.Enum):
        return "one of " + ", ".join(repr(member.value) for member in tp)
    if len(_members(tp)) > 1:
        return " or ".join(_spell(member) for member in _members(tp))
    if get_origin(tp) is tuple:
        inner = get_args(tp)
        return "a list of " + _spell(inner[0]) if inner[1:] == (...,) else f"[{', '.join(map(_spell, inner))}]"
    return "none" if tp is type(None) else getattr(tp, "__name__", str(tp))


def _refuse(path: str, value: Any, tp: Any) -> InputError:
    return InputError(path or "config", f"{_SHORT.repr(value)} is not allowed", f"Give {_spell(tp)}")


# --- encoding ---------------------------------------------------------------------------------------------------


def _encode(value: Any, tp: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        tree = {name: _encode(getattr(value, name), hint) for name, hint in _fields(type(value)).items()}
        return {"type": type(value).__name__, **tree} if len(_variants(tp)) > 1 else tree
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        hint = next((get_args(m)[1] for m in _members(tp) if len(get_args(m)) == 2), Any)
        return {str(key): _encode(item, hint) for key, item in value.items()}
    if isinstance(value, tuple | list):
        hints = _item_types(next((m for m in _members(tp) if get_origin(m) is tuple), tuple[Any, ...]), len(value))
        return [_encode(item, hint) for item, hint in zip(value, hints, strict=True)]
    if isinstance(value, int) and not isinstance(value, bool) and float in _members(tp) and int not in _members(tp):
        return float(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a configuration cannot hold {value!r}")


def _item_types(tp: Any, count: int) -> tuple[Any, ...]:
    inner = get_args(tp)
    return (inner[0],) * count if inner[1:] == (...,) else inner


# --- decoding ---------------------------------------------------------------------------------------------------


def _decode(value: Any, tp: Any, path: str, *, text: bool) -> Any:
    """``value`` as type ``tp``. ``text``: a string was typed by a person and may stand for another type."""
    members = _members(tp)
    if type(None) in members and (value is None or (text and str(value).lower() in ("none", "null"))):
        return None
    variants = _variants(tp)
    if any(type(value) is cls for cls in variants.values()):
        return value
    if variants and (isinstance(value, Mapping) or (text and isinstance(value, str))):
        tree = _tree(value, variants, path) if isinstance(value, str) else value
        if tree is not None:
            return _decode_variant(tree, variants, path)
    others = [m for m in members if m is not type(None) and not (isinstance(m, type) and dataclasses.is_dataclass(m))]
    for member in sorted(others, key=lambda m: m in (str, Path)):  # text is the reading of last resort
        try:
            return _decode_plain(value, member, path, text=text)
        except (TypeError, ValueError, LookupError, OverflowError) as error:
            if isinstance(error, InputError) and len(members) == 1:
                raise
    raise _refuse(path, value, tp)


def _tree(value: str, variants: Mapping[str, type], path: str) -> Mapping[str, Any] | None:
    """Text that stands for a dataclass: a class name or a JSON object; None when it is neither."""
    if value in variants:
        return {"type": value}
    if value.lstrip().startswith("{"):
        try:
            return cast(Mapping[str, Any], json.loads(value))
        except ValueError as error:
            raise InputError(path, f"not valid JSON ({error})", f"Give {' or '.join(variants)}") from error
    return None


def _decode_variant(tree: Mapping[str, Any], variants: Mapping[str, type], path: str) -> Any:
    name = tree.get("type", next(iter(variants)) if len(variants) == 1 else None)
    if not isinstance(name, str) or name not in variants:
        problem = "has no type" if name is None else f"{_SHORT.repr(name)} is not allowed"
        raise InputError(_below(path, "type"), problem, f"Give one of {', '.join(variants)}")
    cls = variants[name]
    hints = _fields(cls)
    for key in tree:
        if key != "type" and key not in hints:
            raise _unknown(path, key, cls, variants)
    required = [
        field.name
        for field in dataclasses.fields(cls)
        if field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [field for field in required if field not in tree]
    if missing:
        raise InputError(path or cls.__name__, f"has no value for {', '.join(missing)}", "Give one")
    return cls(**{k: _decode(v, hints[k], _below(path, k), text=False) for k, v in tree.items() if k != "type"})


def _unknown(path: str, key: str, cls: type, variants: Mapping[str, type]) -> InputError:
    owners = [name for name, other in variants.items() if other is not cls and key in _fields(other)]
    known = ", ".join(_fields(cls)) or "no fields"
    remedy = f"{cls.__name__} has {known}"
    if owners:
        remedy += f"; set {path or 'the type'} to {' or '.join(owners)} first to use {key}"
    return InputError(_below(path, key), f"{cls.__name__} has no field {key!r}", remedy)


def _decode_plain(value: Any, tp: Any, path: str, *, text: bool) -> Any:
    typed = text and isinstance(value, str)
    if get_origin(tp) is Literal:
        for choice in get_args(tp):
            if (value == choice and type(value) is type(choice)) or (typed and value == str(choice)):
                return choice
    elif get_origin(tp) is tuple:
        if typed:
            try:
                value = json.loads(value) if value.lstrip().startswith("[") else [v for v in value.split(",") if v]
            except ValueError as error:
                raise InputError(path, f"not valid JSON ({error})", f"Give {_spell(tp)}") from error
        if isinstance(value, Sequence) and not isinstance(value, str):
            hints = _item_types(tp, len(value))
            if len(hints) == len(value):
                pairs = enumerate(zip(value, hints, strict=True))
                return tuple(_decode(v, hint, _below(path, i), text=text) for i, (v, hint) in pairs)
    elif isinstance(get_origin(tp), type) and issubclass(get_origin(tp), Mapping):
        tree = json.loads(value) if typed else value
        if isinstance(tree, Mapping):
            return {str(k): _decode(v, get_args(tp)[1], _below(path, k), text=False) for k, v in tree.items()}
    elif isinstance(tp, type):
        if isinstance(value, tp) and not (isinstance(value, bool) and tp is not bool):
            return value
        if isinstance(value, str) and issubclass(tp, enum.Enum | Path):
            return tp(value)
        if tp is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if typed and tp is bool:
            return {"true": True, "false": False}[value.lower()]
        if typed and tp in (int, float):
            return tp(value)
    raise _refuse(path, value, tp)


def _replace(node: Any, tp: Any, keys: Sequence[str], done: tuple[str, ...], value: Any) -> Any:
    here = ".".join(done)
    if not keys:
        return _decode(value, tp, here, text=True)
    key, rest = keys[0], keys[1:]
    if dataclasses.is_dataclass(node):
        cls = cast(type, type(node))
        hints = _fields(cls)
        if key not in hints:
            raise _unknown(here, key, cls, _variants(tp))
        child = _replace(getattr(node, key), hints[key], rest, (*done, key), value)
        return dataclasses.replace(cast(Any, node), **{key: child})
    if isinstance(node, tuple):
        if not key.isdecimal() or int(key) >= len(node):
            problem = f"no item {key!r} among {len(node)}"
            raise InputError(_below(here, key), problem, f"Give a number from 0 to {len(node) - 1}")
        hints_of_items = _item_types(next(m for m in _members(tp) if get_origin(m) is tuple), len(node))
        child = _replace(node[int(key)], hints_of_items[int(key)], rest, (*done, key), value)
        return (*node[: int(key)], child, *node[int(key) + 1 :])
    if isinstance(node, Mapping):
        hint = next(get_args(m)[1] for m in _members(tp) if len(get_args(m)) == 2)
        if rest and key not in node:
            raise InputError(_below(here, key), "no such key", f"Known are {', '.join(map(str, node))}")
        return {**node, key: _replace(node.get(key), hint, rest, (*done, key), value)}
    problem = f"{here} is {node!r} and holds no {key!r}"
    raise InputError(_below(here, key), problem, f"Set {here} itself: {_spell(tp)}")
