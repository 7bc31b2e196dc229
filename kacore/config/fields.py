"""Declared options: type, unit, bounds, default and meaning of each, said once.

From a declaration follow the keyword of a class or function (`keywords_of`), the check of a value, the flag on the command
line, the environment variable, the key of kacore.toml, the help of `kacore serve`, the tables of the documentation and the
output of `kacore config`.

Knows no option by name. Imports nothing that takes time: a server's start waits for this module. That is why `dataclasses`
(which imports `inspect`) is not used; a type checker is told that a subclass of `Record` is a frozen dataclass with
keyword-only fields, and the metaclass below makes that true at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, TypeVar, cast

from kacore.errors import ConfigError

if TYPE_CHECKING:
    from inspect import Signature
    from typing import Self, dataclass_transform
else:

    def dataclass_transform(**_options):
        return lambda thing: thing


Value = bool | int | float | str

YEAR = 31_536_000.0
UINT32_MAX = 4_294_967_295
# Where a value may come from, besides a keyword in Python: a flag, a KACORE_* variable, a key of kacore.toml.
FLAG, VARIABLE, KEY = "flag", "variable", "key"


class Field:
    """One option. `name` is filled in from the attribute that it was declared as."""

    def __init__(
        self,
        kind: type,
        unit: str = "",
        *,
        default: Any = None,
        default_factory: Callable[[], Any] | None = None,
        default_text: str = "",
        low: float = 0,
        high: float | None = None,
        is_open: bool = False,
        choices: tuple[str, ...] = (),
        words: tuple[str, ...] = (),
        convert: Callable[[Any], Any] | None = None,
        to_text: Callable[[Any], str] | None = None,
        verify: Callable[[Any], bool] | None = None,
        must: str = "",
        zero: str = "",
        doc: str,
        hint: str = "",
        group: str = "",
        is_optional: bool = False,
        is_common: bool = False,
        is_secret: bool = False,
        is_repeated: bool = False,
        separator: str = "",
        flag: str = "",
        aliases: tuple[str, ...] = (),
        off_flag: str = "",
        metavar: str = "",
        sources: tuple[str, ...] = (FLAG, VARIABLE, KEY),
    ) -> None:
        self.name = ""
        self.error: type[ConfigError] = ConfigError
        self.annotation: Any = kind  # as help() shows it
        self.kind = kind
        self.unit = unit
        self.default = default
        self.is_optional = is_optional or (default is None and default_factory is None)
        self.default_factory = default_factory
        self.default_text = default_text
        self.low = low
        self.high = high if high is not None else YEAR if unit == "s" else 1 if kind is bool else UINT32_MAX
        self.is_open = is_open  # the lower bound itself is not allowed
        self.choices = choices
        self.words = words  # what a number may be instead
        self.convert = convert  # from what was given, text or not, to what is stored; ValueError says what is wrong
        self.to_text = to_text  # the way back, as it is written
        self.verify = verify  # whether a value of the right type will do
        self.must = must  # what it must be, where type and bounds do not say it all
        self.zero = zero  # what 0 means, when it means something of its own
        self.doc = doc
        self.hint = hint  # added to the message about a wrong value
        self.group = group
        self.is_common = is_common  # on the first screen of help
        self.is_secret = is_secret
        self.is_repeated = is_repeated  # several values; the flag is given once for each
        self.separator = separator  # between several values in one text; also of a flag, unless it is repeated
        self.given_flag = flag
        self.aliases = aliases
        self.off_flag = off_flag  # a flag that stands for ""
        self.given_metavar = metavar
        self.sources = sources

    # -- names -------------------------------------------------------------------------------------------

    @property
    def flag(self) -> str:
        return self.given_flag or "--" + self.name.replace("_", "-")

    @property
    def metavar(self) -> str:
        words = {"s": "SECONDS", "bytes": "BYTES", "B/s": "BYTES", "fraction": "SHARE", "bits": "BITS"}
        return self.given_metavar or "|".join(self.choices) or words.get(self.unit, "N")

    @property
    def is_many(self) -> bool:
        return self.is_repeated or bool(self.separator)

    # -- default and rule --------------------------------------------------------------------------------

    def make_default(self) -> Any:
        return self.default if self.default_factory is None else self.default_factory()

    def shown_default(self) -> str:
        return self.default_text or self.show(self.make_default())

    def unit_of(self, value: object) -> str:
        """The unit to write behind a value: none behind a word."""
        return "" if value in self.words else self.unit

    def rule(self) -> str:
        """What a value must be, as the end of the sentence "must be ..."."""
        if self.must:
            return self.must
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind is bool:
            return "True or False"
        if self.kind is str:
            return "text"
        unit = UNITS.get(self.unit, self.unit)
        low, high = show(self.low), show(self.high)
        bounds = f", above {low} and at most {high}" if self.is_open else f" between {low} and {high}"
        zero = f"0 = {self.zero}" if self.zero else ""
        word = "".join(f", or {word}" for word in self.words)
        if self.kind is int:
            notes = "; ".join(filter(None, (unit, zero)))
            return f"an integer{bounds}" + (f" ({notes})" if notes else "")
        return "a number" + (f" of {unit}" if unit else "") + bounds + (f" ({zero})" if zero else "") + word

    def allowed(self) -> str:
        """The same as a cell of a table."""
        if self.kind is bool:
            return "on, off"
        if self.choices:
            return ", ".join(self.choices)
        if self.kind in (int, float) and self.convert is None:
            bounds = f"{'above ' if self.is_open else ''}{show(self.low)} to {show(self.high)}"
            return ", ".join((*self.words, bounds))
        return self.must or "text"

    # -- values ------------------------------------------------------------------------------------------

    def check(self, value: object) -> Any:
        """The value as it is stored. ConfigError naming field, value and rule if it is not allowed."""
        if value is None and self.is_optional:
            return None
        if not self.is_many:
            return self._check_one(value)
        if isinstance(value, str):
            return (self._check_one(value),) if self.is_repeated else self.parse(value)
        if not isinstance(value, Iterable) or isinstance(value, bytes):
            raise self.refuse(value)
        return tuple(map(self._check_one, value))

    def _check_one(self, value: object) -> Any:
        if self.convert is not None:
            return self._convert(value)
        if value in self.words:
            return value
        kind = type(value)  # exact: True is an int, and would pass for 1 second
        if not (kind is self.kind or (kind is int and self.kind is float) or (kind is not bool and self._is_a(value))):
            raise self.refuse(value)
        if isinstance(value, str):
            if self.choices and value not in self.choices:
                raise self.refuse(value)
        elif isinstance(value, int | float) and (
            not self.low <= value <= self.high or (self.is_open and value == self.low)
        ):
            raise self.refuse(value)  # NaN and infinity end here too
        if self.verify is not None and not self.verify(value):
            raise self.refuse(value)
        return float(value) if self.kind is float and isinstance(value, int) else value

    def _is_a(self, value: object) -> bool:
        return self.kind not in (int, float, bool) and isinstance(value, self.kind)

    def _convert(self, value: object) -> Any:
        assert self.convert is not None
        try:
            return self.convert(value)
        except (TypeError, ValueError) as error:
            raise self.refuse(value, str(error) if isinstance(error, ValueError) else "") from None

    def refuse(self, value: object, why: str = "") -> ConfigError:
        """why: what is wrong with it, in place of the rule."""
        shown = "..." if self.is_secret else repr(value)
        hint = f"; {self.hint}" if self.hint else ""
        return self.error(f"{self.name}={shown}: {why or 'must be ' + self.rule()}{hint}", self.name)

    def parse(self, text: str) -> Any:
        """The value written as text, in an environment variable or on the command line.

        Booleans: 1/0, true/false, yes/no, on/off. Bytes may carry KiB, MiB or GiB. Several values stand between separators.
        ConfigError as in `check`.
        """
        if not self.is_many:
            return self.parse_one(text)
        parts = text.split(self.separator) if self.separator else [text]
        return tuple(self.parse_one(part) for part in parts if part.strip())

    def parse_one(self, text: str) -> Any:
        """The same where the text is one of several values."""
        if self.convert is not None:
            return self._convert(text.strip())
        if self.kind is str:
            return self._check_one(text.strip())
        word = text.strip()
        if word in self.words:
            return word
        try:
            if self.kind is bool:
                return _BOOLEANS[word.lower()]
            if self.unit == "bytes":
                for suffix, factor in _SIZES.items():
                    if word.endswith(suffix):
                        return self._check_one(int(word[: -len(suffix)]) * factor)
            return self._check_one(int(word) if self.kind is int else float(word))
        except ConfigError:
            raise
        except (KeyError, ValueError):
            raise self.refuse(text) from None

    def read(self, value: object) -> Any:
        """The value as it stands in kacore.toml: sizes may be text there, too."""
        return self.parse(value) if isinstance(value, str) and self.unit == "bytes" else self.check(value)

    def show(self, value: object) -> str:
        """For people. A secret is not shown."""
        if value is None:
            return "-"
        if self.is_secret:
            return "(not shown)"
        if isinstance(value, tuple):
            return ", ".join(map(self._show_one, value)) or "-"
        return self._show_one(value)

    def _show_one(self, value: object) -> str:
        return show(value) if self.to_text is None else self.to_text(value)

    def to_key(self, value: object) -> Any:
        """As it is written in kacore.toml."""
        if self.is_secret and value is not None:
            return self.show(value)
        if self.to_text is None or value is None:
            return value
        return [self.to_text(one) for one in value] if isinstance(value, tuple) else self.to_text(value)


UNITS = {
    "s": "seconds",
    "bytes": "bytes",
    "B/s": "bytes per second",
    "fraction": "the whole as a fraction",
}
_BOOLEANS = {
    "1": True, "true": True, "yes": True, "on": True,
    "0": False, "false": False, "no": False, "off": False,
}  # fmt: skip
_SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def show(value: object) -> str:
    """A value as the documentation and the messages write it: 75, not 75.0; on, not True."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    return str(value)


def field(*args: Any, **said: Any) -> Any:
    """Declare an option of a `Record`: a type checker is told to take it for the value. Arguments: those of `Field`, or of
    the class that the record names in `__field__`."""
    return Declared(args, said)


class Declared:
    def __init__(self, args: tuple[Any, ...], said: dict[str, Any]) -> None:
        self.args, self.said = args, said


def unknown(name: str, known: Iterable[str]) -> str:
    """The sentence about a name that is none, with the nearest one that is."""
    from difflib import get_close_matches  # only needed to fail

    near = get_close_matches(name, list(known), n=1)
    return f"unknown name {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


class WithFields:
    """A class's text and that of its fields, put together when somebody asks for it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __get__(self, _: object, owner: Any) -> str:
        lines = [f"    {name}: {full(what)}" for name, what in owner.__fields__.items()]
        return "\n".join([self.text, "", "Fields:", *lines])


def full(what: Field) -> str:
    """What is said of it to whoever has nothing but help(): meaning, rule with unit, default."""
    return f"{what.doc} Must be {what.rule()}. Default: {what.shown_default()}."


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
class Fields(type):
    """Collects what a class body and its bases declare, in order, in `__fields__`."""

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> Fields:
        declared = {key: body.pop(key) for key in [key for key in body if isinstance(body[key], Declared)]}
        made: Any = super().__new__(cls, name, bases, body)
        fields: dict[str, Field] = {}
        for base in reversed(made.__mro__[1:]):
            fields.update(base.__dict__.get("__own__", {}))
        own: dict[str, Field] = {}
        for key, what in declared.items():
            own[key] = made.__field__(*what.args, **what.said)
            own[key].name, own[key].error = key, made.__error__
            own[key].annotation = body.get("__annotations__", {}).get(key, own[key].kind)
        made.__own__ = own
        made.__fields__ = {**fields, **own}
        if made.__fields__:
            made.__doc__ = WithFields(body.get("__doc__") or "")
        return cast("Fields", made)

    @property
    def __signature__(cls) -> Signature:
        """For help() and editors, which else see (**values)."""
        from inspect import Parameter, Signature

        fields: dict[str, Field] = cls.__dict__["__fields__"]
        keyword = Parameter.KEYWORD_ONLY
        return Signature(
            [Parameter(name, keyword, default=f.make_default(), annotation=f.annotation) for name, f in fields.items()]
        )


class Record(metaclass=Fields):
    """An immutable value made of fields."""

    __field__: ClassVar[type[Field]] = Field
    __error__: ClassVar[type[ConfigError]] = ConfigError  # of a wrong value
    __fields__: ClassVar[Mapping[str, Field]]

    def __init__(self, **values: Any) -> None:
        put = self.__dict__.__setitem__
        for name, what in self.__fields__.items():
            put(name, what.check(values.pop(name)) if name in values else what.make_default())
        if values:
            raise TypeError(unknown(next(iter(values)), self.__fields__))
        for error in self.clashes():
            raise error

    def clashes(self) -> Iterator[ConfigError]:
        """Combinations in which one field makes another impossible: these are refused."""
        yield from ()

    def replace(self, **changes: Any) -> Self:
        """The same with these fields changed. Raises as making a new one does."""
        return type(self)(**{**self.as_dict(), **changes})

    def as_dict(self) -> dict[str, Any]:
        """Field name to value, in the order of the documentation."""
        return dict(self.__dict__)

    def changes(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        fields = self.__fields__
        return {name: value for name, value in self.as_dict().items() if value != fields[name].make_default()}

    def __setattr__(self, name: str, _value: object) -> None:
        raise AttributeError(f"a {type(self).__name__} is immutable: replace({name}=...) makes a changed one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a {type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash(tuple(self.as_dict().values()))

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={value!r}" for name, value in self.changes().items())
        return f"{type(self).__name__}({said})"

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (type(self), self.as_dict())


def rebuild(cls: type[Record], values: dict[str, Any]) -> Record:
    """What pickle calls: the fields are checked again."""
    return cls(**values)


# -- functions that take the fields of a record as keywords ----------------------------------------------------

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
A = TypeVar("A")
T = TypeVar("T")


def keywords_of(record: Callable[P, R]) -> Callable[[Callable[[A, R], T]], Callable[Concatenate[A, P], T]]:
    """Decorates a function (first, record): it is called as function(first, **fields). Type checkers, editors and help()
    see the fields as keywords, each with its type and default."""

    def decorate(function: Callable[[A, R], T]) -> Callable[Concatenate[A, P], T]:
        def call(first: A, /, *nothing: P.args, **fields: P.kwargs) -> T:
            return function(first, record(*nothing, **fields))

        return cast("Callable[Concatenate[A, P], T]", with_face_of(call, function, record))

    return decorate


def method_keywords_of(
    record: Callable[P, R],
) -> Callable[[Callable[[S, A, R], T]], Callable[Concatenate[S, A, P], T]]:
    """The same for a method."""

    def decorate(method: Callable[[S, A, R], T]) -> Callable[Concatenate[S, A, P], T]:
        def call(self: S, first: A, /, *nothing: P.args, **fields: P.kwargs) -> T:
            return method(self, first, record(*nothing, **fields))

        return cast("Callable[Concatenate[S, A, P], T]", with_face_of(call, method, record))

    return decorate


def with_face_of(call: Any, function: Any, record: Any) -> Any:
    """What help() and editors show: the function's own name and text, then the options."""
    from inspect import Parameter, signature

    for name in ("__module__", "__name__", "__qualname__"):
        setattr(call, name, getattr(function, name))
    sentences = [f"    {name}: {full(what)}" for name, what in record.__fields__.items()]
    call.__doc__ = f"{function.__doc__}\n\n    Options:\n" + "\n".join(sentences)
    own = signature(function)
    first = [one.replace(kind=Parameter.POSITIONAL_ONLY) for one in own.parameters.values()][:-1]
    call.__signature__ = own.replace(parameters=[*first, *record.__signature__.parameters.values()])
    return call
