"""The contract tests of names and options, which transforms and statistics share."""

from collections.abc import Sequence
from typing import Any, ClassVar

from extractkit.errors import ConfigError


class RegisteredContract:
    """Tests that every class with a name and options in a selector must pass.

    Attributes:
        at: a configuration key for its options.
    """

    at: ClassVar[str]

    def registered(self) -> type[Any]:
        """Return the class under test."""
        raise NotImplementedError

    def own(self, name: str) -> type[Any] | None:
        """Return the class of one of extractkit's own by its name; None if there is none."""
        raise NotImplementedError

    def options(self) -> Sequence[object]:
        """Return options as written in configuration, each of which is tested."""
        return [None]

    def test_its_name_is_its_own(self) -> None:
        one = self.registered()
        assert isinstance(one.name, str)
        assert one.name.isidentifier()
        assert self.own(one.name) in (one, None), (
            f"{one.name!r} is the name of one of extractkit's own, which would be used instead"
        )

    def test_options_are_parsed_to_equal_values_that_know_their_key(self) -> None:
        for options in self.options():
            one, two = (self.registered().parse(options, self.at) for _ in range(2))
            assert one == two
            assert one.at == self.at

    def test_unknown_options_are_a_mistake_in_the_configuration(self) -> None:
        message = ""
        try:
            self.registered().parse({"no such option": object()}, self.at)
        except ConfigError as error:
            message = str(error)
        assert self.at in message, "no ConfigError names the key of an option that does not exist"
