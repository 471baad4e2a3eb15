"""What dataclasses are for, without their price at the start of each pod."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn, Self, dataclass_transform


@dataclass_transform(frozen_default=True)
class Record:
    """An object of named values, declared and made as a frozen dataclass is.

    `dataclasses` imports `inspect` and compiles code for each class: 25 ms of CPU, a fifth of what
    a worker needs before its command. A default that is a list or a dictionary is made anew for
    each object. `frozen=False` is for a class whose values may be set.
    """

    _names: ClassVar[tuple[str, ...]] = ()
    _known: ClassVar[frozenset[str]] = frozenset()
    _defaults: ClassVar[dict[str, Any]] = {}
    _made: ClassVar[dict[str, type]] = {}

    def __init_subclass__(cls, *, frozen: bool = True) -> None:
        cls._names = tuple(cls.__annotations__)
        cls._known = frozenset(cls._names)
        defaults = {name: vars(cls)[name] for name in cls._names if name in vars(cls)}
        cls._made = {n: type(value) for n, value in defaults.items() if type(value) in (list, dict)}
        cls._defaults = {n: value for n, value in defaults.items() if n not in cls._made}
        if not frozen:
            cls.__setattr__ = object.__setattr__  # type: ignore[assignment]

    def __init__(self, *values: Any, **named: Any) -> None:
        made = {name: make() for name, make in self._made.items()}
        told = dict(zip(self._names, values, strict=False))
        content = {**self._defaults, **made, **told, **named}
        if content.keys() != self._known or len(told) < len(values) or told.keys() & named.keys():
            raise TypeError(f"{type(self).__name__} takes {', '.join(self._names)}")
        self.__dict__.update(content)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def changed(self, **values: Any) -> Self:
        """A copy with other values."""
        return type(self)(**{**vars(self), **values})

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash(tuple(vars(self)[name] for name in self._names))

    def __repr__(self) -> str:
        values = (f"{name}={vars(self)[name]!r}" for name in self._names)
        return f"{type(self).__name__}({', '.join(values)})"
