"""What a request is told when it is not answered, in the form that OpenAI's API has."""

from typing import Any


class Problem(Exception):
    """An error of the protocol.

    status: of HTTP. kind: OpenAI's `type`. code, param: as OpenAI has them, or None.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.code, self.param = code, param

    def body(self) -> dict[str, Any]:
        """The JSON of the reply."""
        told = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": told}


def refused(message: str, param: str | None = None, code: str | None = None) -> Problem:
    """The request asks for what cannot be."""
    return Problem(400, message, param=param, code=code)


def overloaded(message: str) -> Problem:
    """The server cannot take it now; clients come again."""
    return Problem(503, message, kind="server_error", code="overloaded")


def failed(message: str) -> Problem:
    """The computation failed, by no fault of the request."""
    return Problem(500, message, kind="server_error", code="internal_error")


def timed_out(seconds: float) -> Problem:
    message = f"the request took more than {seconds:g} s, in the queue and after it"
    return Problem(504, message, kind="server_error", code="timeout")
