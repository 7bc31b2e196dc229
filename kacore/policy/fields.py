"""What a field of the policy is: its type, unit, bounds, default, reason, and its name in other servers.

Everything said about a field is said once, where `Policy` declares it; the check of a value, the flag on the
command line, the environment variable, the table in docs/policy.md and the output of `kacore policy` are made
from it.

Knows no field by name. Imports nothing that takes time: a server's start waits for this module. That is why
`dataclasses` (which imports `inspect`) is not used; a type checker is told that a subclass of `Record` is a
frozen dataclass with keyword-only fields, and the metaclass below makes that true at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from inspect import Signature
    from typing import Self, dataclass_transform
else:

    def dataclass_transform(**_options):
        return lambda thing: thing


Value = bool | int | float | str

# Who may set a field, from the fewest to the most.
WORKER = "worker"  # one number for a whole worker: only the default policy sets it
CONNECTION = "connection"  # also a rule over the listener or the client's network, which are known at accept
REQUEST = "request"  # also a rule over what the client itself writes: Host, User-Agent

YEAR = 31_536_000.0
UINT32_MAX = 4_294_967_295


class PolicyError(ValueError):
    """A wrong value, an impossible combination or an unknown name in a policy.

    The message names the field, the value and the rule. `field` is the name of the (first) field, "" when the
    name itself is what is wrong.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class Field:
    """One field of the policy. `name` is filled in from the attribute it was assigned to."""

    def __init__(
        self,
        kind: type[bool] | type[int] | type[float] | type[str],
        unit: str = "",
        *,
        default: Value | None = None,
        default_factory: Callable[[], Value] | None = None,
        default_text: str = "",
        low: float = 0,
        high: float | None = None,
        is_open: bool = False,
        choices: tuple[str, ...] = (),
        zero: str = "",
        scope: str = CONNECTION,
        doc: str,
        reason: str,
        hint: str = "",
        apache: str = "",
        nginx: str = "",
        haproxy: str = "",
    ) -> None:
        self.name = ""
        self.kind = kind
        self.unit = unit
        self.default = default
        self.default_factory = default_factory
        self.default_text = default_text
        self.low = low
        self.high = high if high is not None else YEAR if unit == "s" else 1 if kind is bool else UINT32_MAX
        self.is_open = is_open  # the lower bound itself is not allowed
        self.choices = choices
        self.zero = zero  # what 0 means, when it means something of its own
        self.scope = scope
        self.doc = doc
        self.reason = reason
        self.hint = hint  # added to the message about a wrong value
        self.apache, self.nginx, self.haproxy = apache, nginx, haproxy  # "" where they have no such thing

    def make_default(self) -> Value:
        if self.default_factory is not None:
            return self.default_factory()
        assert self.default is not None
        return self.default

    def shown_default(self) -> str:
        return self.default_text or show(self.make_default())

    def rule(self) -> str:
        """What a value must be, as the end of the sentence "must be ..."."""
        if self.choices:
            return "one of " + ", ".join(map(repr, self.choices))
        if self.kind is bool:
            return "True or False"
        number = "a whole number" if self.kind is int else "a number"
        unit = f" of {UNITS[self.unit]}" if self.unit else ""
        low = f"above {show(self.low)}" if self.is_open else f"at least {show(self.low)}"
        bounds = f"{low} and at most {show(self.high)}"
        return f"{number}{unit}, {bounds}" + (f" (0 = {self.zero})" if self.zero else "")

    def check(self, value: object) -> Value:
        """The value as it is stored. PolicyError naming field, value and rule if it is not allowed."""
        kind = type(value)  # exact: True is an int, and would pass for 1 second
        if kind is not self.kind and not (kind is int and self.kind is float):
            raise self.refuse(value)
        if isinstance(value, str):
            if value not in self.choices:
                raise self.refuse(value)
            return value
        assert isinstance(value, bool | int | float)
        if not self.low <= value <= self.high or (self.is_open and value == self.low):
            raise self.refuse(value)  # NaN and infinity end here too
        return float(value) if self.kind is float else value

    def refuse(self, value: object) -> PolicyError:
        hint = f"; {self.hint}" if self.hint else ""
        return PolicyError(f"{self.name}={value!r}: must be {self.rule()}{hint}", self.name)

    def parse(self, text: str) -> Value:
        """The value written as text, in an environment variable or on the command line.

        Booleans: 1/0, true/false, yes/no, on/off. Bytes may carry KiB, MiB or GiB. PolicyError as in `check`.
        """
        word = text.strip()
        try:
            if self.kind is bool:
                return _BOOLEANS[word.lower()]
            if self.kind is str:
                return self.check(word)
            if self.unit == "bytes":
                for suffix, factor in _SIZES.items():
                    if word.endswith(suffix):
                        return self.check(int(word[: -len(suffix)]) * factor)
            return self.check(int(word) if self.kind is int else float(word))
        except PolicyError:
            raise
        except (KeyError, ValueError):
            raise self.refuse(text) from None


UNITS = {
    "s": "seconds",
    "bytes": "bytes",
    "B/s": "bytes per second",
    "connections": "connections",
    "responses": "responses",
    "fields": "fields",
    "bits": "bits",
    "fraction": "the whole as a fraction",
}
_BOOLEANS = {
    "1": True, "true": True, "yes": True, "on": True,
    "0": False, "false": False, "no": False, "off": False,
}  # fmt: skip
_SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def show(value: Value) -> str:
    """A value as the documentation and the messages write it: 75, not 75.0; on, not True."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    return str(value)


def field(*args: Any, **said: Any) -> Any:
    """Declare a field of `Policy`: a `Field`, which a type checker is told to take for the value."""
    return Field(*args, **said)


def unknown(name: str, known: Iterable[str]) -> str:
    """The sentence about a name that is none, with the nearest one that is."""
    from difflib import get_close_matches  # only needed to fail

    near = get_close_matches(name, list(known), n=1)
    return f"unknown name {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
class Fields(type):
    """Turns the `Field`s of a class body into slots and collects them, in order, in `__fields__`."""

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> Fields:
        fields = {key: value for key, value in body.items() if isinstance(value, Field)}
        for key, value in fields.items():
            value.name = key
            del body[key]
        slots = (*body.pop("__slots__", ()), *fields)
        return super().__new__(cls, name, bases, {**body, "__slots__": slots, "__fields__": fields})

    @property
    def __signature__(cls) -> Signature:
        """For help() and editors, which else see (**values)."""
        from inspect import Parameter, Signature

        fields: dict[str, Field] = cls.__dict__["__fields__"]
        keyword = Parameter.KEYWORD_ONLY
        return Signature(
            [Parameter(name, keyword, default=f.make_default(), annotation=f.kind) for name, f in fields.items()]
        )


class Record(metaclass=Fields):
    """An immutable value made of fields."""

    __slots__ = ()
    __fields__: ClassVar[dict[str, Field]]

    def __init__(self, **values: Any) -> None:
        put = object.__setattr__
        for name, what in self.__fields__.items():
            put(self, name, what.check(values.pop(name)) if name in values else what.make_default())
        if values:
            raise TypeError(unknown(next(iter(values)), self.__fields__))
        self._check_together()

    def _check_together(self) -> None:
        """Refuse combinations in which one field makes another impossible."""

    def replace(self, **changes: Any) -> Self:
        """The same with these fields changed. Raises as making a new one does."""
        return type(self)(**{**self.as_dict(), **changes})

    def as_dict(self) -> dict[str, Value]:
        """Field name to value, in the order of the documentation."""
        return {name: getattr(self, name) for name in self.__fields__}

    def changes(self) -> dict[str, Value]:
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


def rebuild(cls: type[Record], values: dict[str, Value]) -> Record:
    """What pickle calls: the fields are checked again."""
    return cls(**values)
