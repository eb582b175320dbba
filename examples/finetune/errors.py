"""The error that ends a fine-tuning run on purpose."""

from handler.errors import ServiceError


class FineTuningError(ServiceError):
    """The data, the settings or the run cannot be used; the message says what is wrong and what is valid."""
