"""Refusals as Kubernetes words them: a metav1.Status with code, reason, message and causes."""

from collections.abc import Sequence
from dataclasses import dataclass

from lab.embedded.apiserver.kinds import Kind, Object

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    410: "Expired",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    500: "InternalError",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One field at fault; `detail` is worded like Kubernetes' field errors."""

    field: str
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.field}: {self.detail}"


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not a failure
    """Ends a request with a Status."""

    def __init__(self, code: int, message: str, *, reason: str = "", details: Object | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason or REASONS.get(code, "Unknown")
        self.message = message
        self.details = details

    def status(self) -> Object:
        """The Status object."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            **({"details": self.details} if self.details else {}),
            "code": self.code,
        }


def invalid_value(field: str, value: object, detail: str) -> Problem:
    """A value that its field cannot have."""
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return Problem(field, "FieldValueInvalid", f"Invalid value: {shown}: {detail}")


def unsupported(field: str, value: object, choices: Sequence[str]) -> Problem:
    """A value that is none of the choices."""
    listed = ", ".join(f'"{choice}"' for choice in choices)
    return Problem(field, "FieldValueNotSupported", f'Unsupported value: "{value}": supported values: {listed}')


def required(field: str, detail: str = "") -> Problem:
    """A field that must be there."""
    return Problem(field, "FieldValueRequired", f"Required value{': ' + detail if detail else ''}")


def forbidden_field(field: str, detail: str) -> Problem:
    """A field that may not be set, or not be changed."""
    return Problem(field, "FieldValueForbidden", f"Forbidden: {detail}")


def invalid(kind: Kind, name: str, problems: Sequence[Problem]) -> Refusal:
    """422, naming every field at fault."""
    texts = [str(problem) for problem in problems]
    listed = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    qualified = f"{kind.name}.{kind.group}" if kind.group else kind.name
    causes = [{"reason": p.reason, "message": p.detail, "field": p.field} for p in problems]
    details = {"name": name, "group": kind.group, "kind": kind.name, "causes": causes}
    return Refusal(422, f'{qualified} "{name}" is invalid: {listed}', details=details)


def not_found(kind: Kind, name: str) -> Refusal:
    """404 of one object."""
    return Refusal(404, f'{kind.qualified} "{name}" not found', details=_details(kind, name))


def already_exists(kind: Kind, name: str) -> Refusal:
    """409 of a create."""
    message = f'{kind.qualified} "{name}" already exists'
    return Refusal(409, message, reason="AlreadyExists", details=_details(kind, name))


def conflict(kind: Kind, name: str, why: str = "") -> Refusal:
    """409 of an update."""
    why = why or ("the object has been modified; please apply your changes to the latest version and try again")
    message = f'Operation cannot be fulfilled on {kind.qualified} "{name}": {why}'
    return Refusal(409, message, details=_details(kind, name))


def expired(asked: int, oldest: int) -> Refusal:
    """410: the history that a watch asks for is gone."""
    return Refusal(410, f"too old resource version: {asked} ({oldest})")


def _details(kind: Kind, name: str) -> Object:
    return {"name": name, "group": kind.group, "kind": kind.plural}
