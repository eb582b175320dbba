"""What ends a fine-tuning run on purpose."""

from handler.errors import ServiceError


class FineTuningError(ServiceError):
    """The data, the settings or the run itself; the message says what is wrong and what would do."""
