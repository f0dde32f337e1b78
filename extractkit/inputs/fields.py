"""Which column of a table, or key of a record, each of the model's inputs is read from."""

from collections.abc import Mapping, Sequence

from extractkit.advice import hydra_text, nested_override
from extractkit.errors import InputError, choices
from extractkit.inputs.checks import check_names, describe, without
from extractkit.inputs.protocol import Signature

TEXT_COLUMN = "text"
"""Where a text is looked for unless `inputs.column` says otherwise."""


def reads_text(columns: Mapping[str, str] | None, column: str, signature: Signature) -> bool:
    """Whether samples are texts: for a model that takes them, unless `columns` names its inputs.

    Raises:
        InputError: `column` is given, and would mean nothing.
    """
    if columns is None and signature.takes_text:
        return True
    if column != TEXT_COLUMN:
        names = [spec.name for spec in signature.specs] or ["INPUT"]
        every = nested_override(
            "inputs.columns",
            {name: hydra_text(name) for name in names} | {names[0]: hydra_text(column)},
        )
        why = "inputs.columns is given" if signature.takes_text else "the model takes no text"
        raise InputError(
            f"inputs.column={column!r} means nothing, as {why}: {signature.model!r} takes "
            f"{describe(signature)}. In its place: {every}"
        )
    return False


def text_field(column: str, available: Sequence[str], signature: Signature, at: str) -> str:
    """The column that holds the text, or the bytes of a model's one string input.

    The input's own name and the only column there is will do where no other is asked for.

    Raises:
        InputError: there is none of this name.
    """
    if column not in available:
        if column == TEXT_COLUMN and signature.string is not None:
            if signature.string.name in available:
                return signature.string.name
            if len(available) == 1:
                return available[0]
        raise InputError(
            f"{at} has no column {column!r}. {choices(column, available)} "
            f"Give the one with the text, inputs.column=…, or one for each of the model's inputs, "
            f"inputs.columns={{INPUT:COLUMN,…}}"
        )
    return column


def input_fields(
    columns: Mapping[str, str] | None, signature: Signature, available: Sequence[str], at: str
) -> dict[str, str]:
    """The column of each of the model's inputs, by the input's name.

    Unless `columns` names them, they have the inputs' names; for a model with one input the only
    column there is will do, whatever its name.

    Raises:
        InputError: an input has none, or there is none of that name.
    """
    names = [spec.name for spec in signature.specs]
    if columns is not None:
        check_names(list(columns), signature, "inputs.columns")
        fields = {name: str(columns[name]) for name in names}
    elif len(names) == len(available) == 1:
        fields = {names[0]: available[0]}
    else:
        fields = {name: name for name in names}
    for name, field in fields.items():
        if field not in available:
            raise InputError(
                f"{at} has no column {field!r} for input {name!r} of model {signature.model!r}. "
                f"{choices(field, available)} Name it: {_columns(fields, name)}"
                f"{without(signature, [one for one in names if fields[one] in available])}"
            )
    return fields


def _columns(fields: Mapping[str, str], lacking: str) -> str:
    """The columns of all inputs, as they are to be given where one is not found."""
    others = {name: hydra_text(field) for name, field in fields.items() if name != lacking}
    return nested_override("inputs.columns", {**others, lacking: "COLUMN"})
