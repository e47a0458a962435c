"""Errors as answers to requests, with TensorFlow Serving's codes and HTTP statuses."""

# As in tensorflow_serving/model_servers/http_server.cc. The last three are HTTP's own, for requests
# that are refused before they are read.
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
    """An error that is the answer to a request.

    Args:
        code: One of `STATUS_OF_CODE`.
        message: For the client.
        body_is_unread: Whether part of the body may still be on its way, so that the connection
            must be closed.
    """

    def __init__(self, code: str, message: str, *, body_is_unread: bool = False):
        super().__init__(message)
        self.code = code
        self.message = message
        self.body_is_unread = body_is_unread


def invalid(message: str) -> ServingError:
    """Returns the error for an unusable request."""
    return ServingError("INVALID_ARGUMENT", message)


def not_found(message: str) -> ServingError:
    """Returns the error for a model or version that does not exist."""
    return ServingError("NOT_FOUND", message)


def of_tensorflow(error: Exception) -> ServingError:
    """Converts an exception from loading or running a model, and keeps TensorFlow's code."""
    number = getattr(error, "error_code", None)
    if number is not None:
        from tensorflow.core.protobuf import error_codes_pb2

        code = error_codes_pb2.Code.Name(number)
    elif isinstance(error, OSError):
        code = "NOT_FOUND"  # files of the export are missing
    else:
        code = "INVALID_ARGUMENT" if isinstance(error, (TypeError, ValueError)) else "UNKNOWN"
    text = " ".join(str(getattr(error, "message", None) or error).split())
    # Removes the names of graph nodes, which mean nothing to a client.
    text = text.rpartition("<stack traces unavailable> ")[2].split(" [[{{node")[0]
    return ServingError(code if code in STATUS_OF_CODE else "UNKNOWN", text[:1000])
