# The exceptions of kacore. Defined here, since everything below raises them.


class KacoreError(Exception):
    """Base of every exception that kacore raises on purpose."""


class LocalError(KacoreError):
    """The caller broke a rule of the API: a stale handle, an impossible transition, a response out of order."""


class PeerError(KacoreError):
    """The peer broke a rule of the protocol, or passed a limit.

    status: int, the response status to send: 400, 413, 414, 431, 501 or 505.
    code:   str, which rule; stable and machine-readable, as in docs/strictness.md: "bare_lf".
    offset: int, where in the message: bytes from its first byte to the one that broke the rule.
    The sentence names the rule with its section and, where there is one, the limit and its value.
    """

    def __init__(self, status: int, code: str, offset: int, message: str):
        super().__init__(message)
        self.status = status
        self.code = code
        self.offset = offset

    def __reduce__(self):
        return PeerError, (self.status, self.code, self.offset, str(self))


cdef object peer_error(const ka_fault *fault):
    """The PeerError for a fault that the core has filled in."""
    cdef str message = (<bytes>ka_fault_text(fault.code)).decode("ascii")
    if fault.limit:
        message = f"{message}: the limit is {fault.limit}"
    code = (<bytes>ka_fault_name(fault.code)).decode("ascii")
    return PeerError(fault.status, code, fault.offset, f"{message}, at byte {fault.offset}")
