"""Values that change while a service runs."""

from typing import Generic, Protocol, TypeVar

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Source(Protocol[T_co]):
    """Whatever has the value of this moment; a `credentials.Watch` of mounted files is one."""

    @property
    def current(self) -> T_co:
        """The value to use now."""
        ...


class Fixed(Generic[T]):
    """A value that does not change, where a source is asked for."""

    def __init__(self, value: T) -> None:
        self.current = value
