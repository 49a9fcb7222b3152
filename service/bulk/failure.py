"""What ends a bulk job: one sentence for a person.

Below every other module of `bulk`.
"""


class BulkError(Exception):
    """The file cannot be scored, or the result not written: what was received, what was expected, what to do."""
