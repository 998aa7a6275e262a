"""Options of things that are chosen by name: one frozen, validated dataclass per class, one section of a recipe."""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PlainValidator, TypeAdapter

from functaconv.errors import lookup

# a description of each option stands below it
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

Name = Annotated[str, Field(min_length=1, max_length=200)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Width = Annotated[int, Field(ge=1, le=8192)]
Depth = Annotated[int, Field(ge=2, le=100)]
Steps = Annotated[int, Field(ge=1, le=1000)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
NotNegative = Annotated[float, Field(ge=0, le=1e6)]
Frequency = Annotated[float, Field(ge=1e-6, le=1e6)]
Fraction = Annotated[float, Field(ge=0, le=1)]

# parameters of a matrix, or of all matrices of a network
MOST_PARAMETERS = 1 << 30


def check_size(asked: int, most: int, what: str) -> None:
    """Refuse a size before memory is taken for it; for validators."""
    if asked > most:
        raise ValueError(f"{asked} {what}, at most {most} are possible")


def chosen_from(table: Mapping[str, Any], base: type, default: str, what: str) -> PlainValidator:
    """How pydantic reads a section whose `kind` says which class of the table it is for: as `Options` of that class."""

    def read(value: Any) -> Any:
        if isinstance(value, base):
            return value
        if not isinstance(value, Mapping):
            raise ValueError("should be a table")
        return adapter(lookup(table, str(value.get("kind", default)), what=what).Options).validate_python(dict(value))

    return PlainValidator(read)


def one_of(table: Mapping[str, Any], what: str) -> PlainValidator:
    """How pydantic reads the name of an entry of a table."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in table:
            raise ValueError(f"there is no such {what}, known: {', '.join(table)}")
        return value

    return PlainValidator(read, json_schema_input_type=Literal[tuple(table)])


@cache
def adapter(kind: type) -> TypeAdapter[Any]:
    """What validates, and describes, a dataclass."""
    return TypeAdapter(kind)
