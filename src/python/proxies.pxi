# What a trusted proxy says about the client: X-Forwarded-For and X-Forwarded-Proto.
#
# Only these two. A proxy that sets them passes on what it does not know, and with it whatever a client wrote into
# Forwarded, X-Forwarded-Host or X-Forwarded-Prefix: believing several spellings means believing the client.

cdef extern from "arpa/inet.h" nogil:
    int inet_pton(int family, const char *text, void *to)


cdef unsigned read_address(str text, uint8_t *addr) except 99:
    """4 or 6; 0 if it is not an address."""
    cdef bytes ascii
    if not text.isascii():
        return 0
    ascii = text.encode("ascii")
    if inet_pton(AF_INET, ascii, addr) == 1:
        return 4
    return 6 if inet_pton(AF_INET6, ascii, addr) == 1 else 0


cdef tuple split_node(str text):
    """(address, port) of "192.0.2.1", "192.0.2.1:80", "2001:db8::1", "[2001:db8::1]:80"; port 0 = not said."""
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    return host, (number if number <= 65535 else 0)


cdef str forwarded_value(const char *buf, const ka_head *head, const ka_field *fields, const char *name, uint32_t n):
    """All values of a field, joined as one list (RFC 9110 5.3); None when it was not sent."""
    cdef uint32_t i
    cdef str found = None
    for i in range(head.n_fields):
        if fields[i].name.len == n and ka_equals_lower(buf + fields[i].name.off, name, n):
            value = PyUnicode_DecodeLatin1(buf + fields[i].value.off, fields[i].value.len, NULL)
            found = value if found is None else found + "," + value
    return found


cdef object network_of(object given):
    """(family, bits, packed address) of "10.0.0.0/8", "::1", "unix"; a list of them for "*". ValueError."""
    import ipaddress
    if given == "unix":
        return [(0, 0, b"")]
    if given == "*":
        return [(0, 0, b""), (4, 0, bytes(4)), (6, 0, bytes(16))]
    network = ipaddress.ip_network(given)
    return [(network.version, network.prefixlen, network.network_address.packed)]
