"""JellyBean's accuracy profiles, as JSON or as the published pickle.

A pickle can run code when it is loaded, so it goes through an unpickler that knows three names and maps them to
the inert records below; every other name is refused.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, Final, NoReturn, Self

from coordinator.planning.importers.tables import damaged, read_json
from tiermesh.documents.problem import Accuracy, AccuracySample, Combination, OperatorAccuracy
from tiermesh.documents.reading import convert
from tiermesh.errors import InvalidDocument

PICKLE_BYTES: Final = 8 * 2**20


class _Record:
    """What an admitted class becomes: its attributes, and its positional arguments in `parts`."""

    parts: tuple[Any, ...]

    def __new__(cls, *parts: object) -> Self:
        record = super().__new__(cls)
        record.parts = parts
        return record

    def __init__(self, *parts: object) -> None:
        """Nothing to do: a pickle calls `__new__` alone."""


class _EndToEnd(_Record):
    """EndToEndAccuracyProfile: `operators`, `acc_profile`."""


class _Operator(_Record):
    """OperatorAccuracyProfile: `op_name`, `inputs`, `acc_profile`."""


class _Sample(_Record):
    """AccSample: the inputs' accuracies and the output's."""


_ADMITTED: Final = {
    "EndToEndAccuracyProfile": _EndToEnd,
    "OperatorAccuracyProfile": _Operator,
    "AccSample": _Sample,
}


class _Unpickler(pickle.Unpickler):  # find_class admits three inert classes only
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name == "beam_search" and global_name in _ADMITTED:
            return _ADMITTED[global_name]
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which is not admitted")


def from_pickle(file: str, data: bytes) -> Accuracy:
    """Read the published pickle.

    Raises:
        InvalidDocument: not that pickle; nothing that it names was called.
    """
    if len(data) > PICKLE_BYTES:
        raise InvalidDocument(
            f"{file} is too large", why=f"the limit is {PICKLE_BYTES} bytes", path=file
        )
    try:
        value = _Unpickler(io.BytesIO(data)).load()
        plain = _plain_pickle(value)
    except InvalidDocument:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged pickle fails in any way it likes
        raise InvalidDocument(
            f"{file} is not an accuracy profile", why=str(error) or type(error).__name__, path=file
        ) from None
    return _accuracy(file, plain)


def from_json(file: str, data: bytes) -> Accuracy:
    """Read the profile's JSON form."""
    return _accuracy(file, read_json(file, data))


def _plain_pickle(value: Any) -> dict[str, Any]:
    end_to_end, plain = value["end_to_end_profile"], dict[str, Any]()
    if end_to_end is not None:
        rows = [
            {"variants": list(_names(key)), "accuracy": float(accuracy)}
            for key, accuracy in end_to_end.acc_profile.items()
        ]
        plain["end_to_end"] = {"operators": list(end_to_end.operators), "accuracy": rows}
    plain["operators"] = [
        _plain_operator(op) for op in list[Any](value["per_operator_profiles"] or [])
    ]
    return plain


def _names(key: str | tuple[str, ...]) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else key


def _plain_operator(operator: Any) -> dict[str, Any]:
    samples = {
        variant: [{"inputs": list(s.parts[0]), "output": float(s.parts[1])} for s in rows]
        for variant, rows in operator.acc_profile.items()
    }
    return {"name": operator.op_name, "inputs": list(operator.inputs or []), "accuracy": samples}


def _accuracy(file: str, plain: Any) -> Accuracy:
    try:
        table = _table(plain.get("end_to_end"))
        operators = [_operator(row) for row in list[Any](plain.get("operators") or [])]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        _shape(file, error)
    if not table and not operators:
        _shape(file, ValueError("it holds no accuracy"))
    return Accuracy(table=table, operators=_in_order(file, operators))


def _table(end_to_end: Any) -> list[Combination]:
    if not end_to_end:
        return []
    names = end_to_end["operators"]
    return [
        convert(
            {
                "variants": dict(zip(names, row["variants"], strict=True)),
                "accuracy": row["accuracy"],
            },
            Combination,
            "the accuracy profile",
        )
        for row in end_to_end["accuracy"]
    ]


def _operator(row: Any) -> OperatorAccuracy:
    samples = {
        variant: [
            AccuracySample(inputs=[float(x) for x in s["inputs"]], output=float(s["output"]))
            for s in rows
        ]
        for variant, rows in row["accuracy"].items()
    }
    return OperatorAccuracy(stage=row["name"], inputs=list(row["inputs"] or []), samples=samples)


def _in_order(file: str, operators: list[OperatorAccuracy]) -> list[OperatorAccuracy]:
    """The operators, inputs first."""
    done: list[OperatorAccuracy] = []
    waiting = list(operators)
    while waiting:
        known = {op.stage for op in done}
        ready = [op for op in waiting if set(op.inputs) <= known]
        if not ready:
            _shape(file, ValueError("its operators read from one another in a circle"))
        done += ready
        waiting = [op for op in waiting if op not in ready]
    return done


def _shape(file: str, error: Exception) -> NoReturn:
    damaged(file, 1, 1, f"it has not the shape of an accuracy profile: {error!r}")
