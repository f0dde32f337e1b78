"""The setting `model.state`: the state that each call of a stateful model starts from."""

from extractkit.errors import ConfigError, choices

KEY = "model.state"
RESET, CARRY = "reset", "carry"


def check_state(state: object) -> str | None:
    """Check and return the setting `model.state`.

    Raises:
        ConfigError: It is not null, "reset" or "carry".
    """
    if state is None or state in (RESET, CARRY):
        return None if state is None else str(state)
    raise ConfigError(f"{KEY}={state!r} is not a policy. {choices(str(state), [RESET, CARRY])}")


def choice(setting: str) -> str:
    """Return the end of a warning that calls start from the initial state.

    Args:
        setting: The setting of a policy, with `{}` for the policy.
    """
    return f"To carry it: {setting.format(CARRY)}; to hide this warning: {setting.format(RESET)}"
