"""Values of a YAML file against the annotations of what they are for, by pydantic and in its strict way.

A whole number will do for any number, a list for a tuple; nothing else is converted. Bounds stand in the annotation:
`Annotated[int, Ge(1)]`.
"""

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]

SINGULAR = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}
PLURAL = {int: "whole numbers", float: "numbers", bool: "true or false", str: "texts"}


def fault(value: Any, annotation: Any) -> str | None:
    """What is wrong with a `value` of plain types, in the words that follow its key; None: nothing that could be told."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError
    from pydantic_core import SchemaError

    if annotation in (inspect.Parameter.empty, Any):
        return None
    an_object = partial if getattr(annotation, "_is_protocol", False) else annotation  # pydantic knows no protocols
    try:
        adapter = TypeAdapter(an_object, config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False))
        adapter.validate_json(json.dumps(value, default=str), strict=True)  # where a list may be a tuple
    except ValidationError as error:
        kinds = {found["type"] for found in error.errors()}
        bounds = [text for member in _members(annotation) if (text := _bounds(member))]
        within = len(bounds) == 1 and any(kind.startswith(("greater_than", "less_than")) for kind in kinds)
        return f"must be {bounds[0] if within else describe(annotation)}, got {value_text(value)}"
    except (PydanticUserError, SchemaError, NameError):  # an annotation that says nothing to pydantic
        pass
    return None


def annotations(parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """The annotation of each parameter, none where it is a text that could not be evaluated."""
    given = {name: parameter.annotation for name, parameter in parameters.items()}
    return {name: Any if isinstance(annotation, str) else annotation for name, annotation in given.items()}


def value_text(value: Any) -> str:
    """A value as a command line has it."""
    return repr(value) if isinstance(value, str) else json.dumps(value, default=str)


def describe(annotation: Any) -> str:
    """An annotation in words: "a number greater than 0, or null"."""
    words = list(dict.fromkeys(_describe(member) for member in _members(annotation)))
    return ", or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _members(annotation: Any) -> Iterator[Any]:
    """The members of a union, a union's within it too."""
    if get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _describe(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return f"{describe(arguments[0])} {_bounds(annotation)}".strip()
    if origin is Literal:
        return " or ".join(str(argument) for argument in arguments)
    if annotation in SINGULAR:
        return SINGULAR[annotation]
    kind = origin or annotation
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "keys with values"
    if kind in (list, tuple, Sequence, Iterable):
        element, *more = arguments or (Any,)
        count = "" if kind is not tuple or Ellipsis in more else f"{len(arguments)} "
        each = f", each {bounds}" if (bounds := _bounds(element)) else ""
        return f"a list of {count}{PLURAL.get(get_args(element)[0] if bounds else element, 'values')}{each}"
    kind = arguments[0] if kind is partial and arguments else kind
    return f"{getattr(kind, '__name__', kind)} built by a _target_"


def _bounds(annotation: Any) -> str:
    """The bounds of an annotated number in words."""
    found = {type(bound): bound for bound in getattr(annotation, "__metadata__", ())}
    low, high = found.get(Ge, found.get(Gt)), found.get(Le, found.get(Lt))
    if isinstance(low, Ge) and isinstance(high, Le):
        return f"from {low.ge} to {high.le}"
    words = [f"{low.ge} or more"] if isinstance(low, Ge) else [f"greater than {low.gt}"] if isinstance(low, Gt) else []
    words += [f"up to {high.le}"] if isinstance(high, Le) else [f"less than {high.lt}"] if isinstance(high, Lt) else []
    return ", ".join(words)
