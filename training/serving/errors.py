"""What a request is refused with: TensorFlow Serving's codes and the HTTP status of each."""

# As in tensorflow_serving/model_servers/http_server.cc, and three of HTTP's own for what is refused
# before the request is read.
STATUS_OF_CODE = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
    "REQUEST_TIMEOUT": 408,
    "CONTENT_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
}


class ServingError(Exception):
    """A request that gets an error for an answer.

    Args:
        code: One of `STATUS_OF_CODE`.
        message: What the client is told.
    """

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS_OF_CODE[self.code]


def invalid(message: str) -> ServingError:
    """What the client sent can't be used."""
    return ServingError("INVALID_ARGUMENT", message)


def of_tensorflow(error: Exception) -> ServingError:
    """What TensorFlow raised while it ran or loaded a model, with TensorFlow's own code."""
    number = getattr(error, "error_code", None)
    if number is None:
        code = "INVALID_ARGUMENT" if isinstance(error, (TypeError, ValueError)) else "UNKNOWN"
        if isinstance(error, OSError):
            code = "NOT_FOUND"  # files of the export that are not there
    else:
        from tensorflow.core.protobuf import error_codes_pb2

        code = error_codes_pb2.Code.Name(number)
    text = " ".join(str(getattr(error, "message", None) or error).split())
    # Without the names of nodes, which say nothing to a client.
    text = text.rpartition("<stack traces unavailable> ")[2].split(" [[{{node")[0]
    return ServingError(code if code in STATUS_OF_CODE else "UNKNOWN", text[:1000])
