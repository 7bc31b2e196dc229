# The environ of a WSGI request, PEP 3333: every key of it but wsgi.input and CONTENT_LENGTH of a request with content, which
# are known when that is complete (wsgi.pxi).
import sys
from io import BytesIO, UnsupportedOperation

cdef extern from "Python.h":
    PyObject *PyDict_SetDefault(object, object, object) except NULL  # borrowed

cdef enum:
    MAX_HTTP_KEYS = 1024
    PORTS = 256   # kept as str

cdef dict HTTP_KEYS = {}   # field name -> environ key; bounded, since names come from clients
cdef tuple COMMON_HTTP_KEYS = kept(tuple([http_key_of(one) for one in NAMES]))   # the same for NAMES
cdef int HOST = NAMES.index(b"host")


cdef object http_key(const char *buf, ka_span where):
    """The environ key for a field name that is none of NAMES, or None."""
    name = name_bytes(buf, where)
    key = HTTP_KEYS.get(name)
    if key is None:
        key = http_key_of(name)
        if len(HTTP_KEYS) < MAX_HTTP_KEYS:
            ka_keep_for_ever(key)
            key = HTTP_KEYS.setdefault(name, key)  # what is there another thread may just have got
    return key


cdef str decimal(unsigned n):
    """str(n), for a number of at most ten digits."""
    cdef char digits[10]
    cdef int i = 10
    while True:
        i -= 1
        digits[i] = <char>(48 + n % 10)
        n //= 10
        if n == 0:
            return PyUnicode_DecodeASCII(digits + i, 10 - i, NULL)


cdef class FileWrapper:
    """wsgi.file_wrapper of PEP 3333: an iterable over a file, which the server sends without reading where it can."""
    cdef object filelike
    cdef Py_ssize_t block_size

    def __init__(self, filelike, block_size=65536):
        self.filelike = filelike
        self.block_size = block_size

    def __iter__(self):
        return self

    def __next__(self):
        block = self.filelike.read(self.block_size)
        if not block:
            raise StopIteration
        return block

    def close(self):
        """Close the file, as PEP 3333 asks of it."""
        if hasattr(self.filelike, "close"):
            self.filelike.close()


class NoContent(BytesIO):
    """wsgi.input of a request without content: at its end, and for all requests the same."""

    __slots__ = ()

    def write(self, data):
        raise UnsupportedOperation("not writable")

    writelines = write

    def seek(self, offset, whence=0):
        return 0

    def close(self):
        pass


cdef object NO_CONTENT_INPUT = kept(NoContent())


cdef class WsgiExchange(CollectedExchange)


cdef class EnvironMaker(Application):
    """What has an environ made for each request, an application's own.

    multithread, multiprocess, scheme: of PEP 3333; script_name: where the application is mounted; environ: what every
    environ begins with besides, such as wsgi.errors.
    """
    # As in AsgiApplication: it has what the last request had.
    cdef dict template
    cdef object server, client, host  # that the template names
    cdef str target                  # that the template has, where it is a path and nothing else, with nothing decoded in it
    cdef list alike                  # see alike.pxi
    cdef list ports                  # (client, port as str) or None

    def __init__(self, multithread, multiprocess, scheme, script_name, environ):
        self.client = ...                # nobody's
        self.alike = [None] * len(NAMES)
        self.ports = [None] * PORTS
        # Every key but the client's fields, of which all but the oldest clients send Host: to fill in a copy costs less than
        # to let a dict grow.
        self.template = {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": script_name,
            "PATH_INFO": None,
            "QUERY_STRING": "",
            "RAW_URI": None,
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "",
            "SERVER_SOFTWARE": "kacore",
            "REMOTE_ADDR": None,
            "REMOTE_PORT": None,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": scheme,
            "wsgi.input": NO_CONTENT_INPUT,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": multithread,
            "wsgi.multiprocess": multiprocess,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
            **(environ or {}),
            "HTTP_HOST": None,
        }
        # One more makes room for a browser's fields, which a copy has as well, and else would have to grow for.
        self.template[""] = None
        del self.template[""]

    cdef int name_server(self, object server) except -1:
        self.server = server
        self.template["SERVER_NAME"], port = server or ("localhost", None)
        self.template["SERVER_PORT"] = "" if port is None else str(port)
        return 0

    cdef dict environ_of(self, WsgiExchange exchange, BaseDriver driver, ka_exchange *core, const ka_head *head,
                         const ka_field *fields):
        cdef const char *buf = ka_exchange_head_bytes(core)
        cdef dict environ
        server, client = driver.server_of(core), driver.client_of(core)
        if server is not self.server:
            self.name_server(server)
        if client is not None and client is not self.client:
            self.name_client(client)
        if self.target is None or not is_text_at(self.target, buf + head.target.off, head.target.len):
            self.name_target(buf, head)
        environ = self.template.copy()
        exchange.target = self.target
        if exchange.target is None:
            self.fill_target(environ, exchange, buf, head)
        exchange.method = "GET"
        if not is_get(buf, head.method):
            environ["REQUEST_METHOD"] = exchange.method = method_str(buf, head.method)
        if head.flags & KA_HEAD_IS_H2:
            environ["SERVER_PROTOCOL"] = "HTTP/2"
        elif head.minor == 0:
            environ["SERVER_PROTOCOL"] = "HTTP/1.0"
        if driver.has_proxies:
            origin = driver.origin_of(core, head, fields)
            if origin is not None:
                client = origin[0]
                environ["wsgi.url_scheme"] = origin[1] or environ["wsgi.url_scheme"]
                if client is not None:
                    environ["REMOTE_ADDR"] = client[0]
                    environ["REMOTE_PORT"] = decimal(client[1])
        if client is None:
            del environ["REMOTE_ADDR"], environ["REMOTE_PORT"]
        self.fill_fields(environ, buf, head, fields)
        if driver.request_id is not None:
            environ[driver.ids.key] = driver.request_id.decode("ascii")
        return environ

    cdef int name_client(self, tuple client) except -1:
        self.client = None  # until it is true
        self.template["REMOTE_ADDR"] = client[0]
        self.template["REMOTE_PORT"] = self.port_of(client)
        self.client = client
        return 0

    cdef object port_of(self, tuple client):
        """The port as str; of each place that a client may have in the list, the last one's is kept."""
        cdef size_t place = (<size_t><PyObject *>client // 32) % PORTS
        cdef tuple known = self.ports[place]
        if known is None or known[0] is not client:
            self.ports[place] = known = client, decimal(client[1])
        return known[1]

    cdef int name_target(self, const char *buf, const ka_head *head) except -1:
        """Put it into the template if it is a path and nothing else, with nothing decoded in it."""
        self.target = None
        if head.target.len == 0 or head.target.len != head.path.len:
            return 0
        path = path_of(buf, head, True)
        if is_text_at(path, buf + head.target.off, head.target.len):
            self.template["PATH_INFO"] = self.template["RAW_URI"] = path
            self.target = path
        return 0

    cdef int fill_target(self, dict environ, WsgiExchange exchange, const char *buf, const ka_head *head) except -1:
        environ["PATH_INFO"] = path_of(buf, head, True)
        if head.query.len:
            environ["QUERY_STRING"] = PyUnicode_DecodeASCII(buf + head.query.off, head.query.len, NULL)
        environ["RAW_URI"] = exchange.target = PyUnicode_DecodeASCII(buf + head.target.off, head.target.len, NULL)
        return 0

    cdef int fill_fields(self, dict environ, const char *buf, const ka_head *head, const ka_field *fields) except -1:
        cdef PyObject *known
        cdef uint32_t i
        cdef int name
        cdef bint has_host = False
        cdef object key, value
        for i in range(head.n_fields):
            name = ka_name_find(buf + fields[i].name.off, fields[i].name.len)
            key = http_key(buf, fields[i].name) if name < 0 else COMMON_HTTP_KEYS[name]
            if key is None:
                continue
            value = value_alike(self.alike, buf, &fields[i], name)
            if name == HOST and not has_host:
                has_host = True
                if value is not self.host:
                    environ["HTTP_HOST"] = self.template["HTTP_HOST"] = self.host = value
                continue
            known = PyDict_SetDefault(environ, key, value)
            if known != <PyObject *>value:
                environ[key] = f"{<object>known}{'; ' if key == 'HTTP_COOKIE' else ','}{value}"
        if not has_host:
            del environ["HTTP_HOST"]
        return 0
