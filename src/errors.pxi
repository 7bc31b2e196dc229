# The exceptions of kacore. Defined here, since everything below raises them.


class KacoreError(Exception):
    """Base of every exception that kacore raises on purpose."""


class LocalError(KacoreError):
    """The caller broke a rule of the API: a stale handle, an impossible move, a response out of order."""
