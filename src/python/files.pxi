# Files as response content, sent by the kernel: never read into memory here.
import stat as stat_module

cdef extern from "unistd.h" nogil:
    int close_descriptor "close"(int fd)


cdef class OpenFile:
    """Bytes [offset, offset + n) of an open regular file. Owns the descriptor, until the last byte is sent."""
    cdef int fd
    cdef int64_t offset, n

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        if self.fd >= 0:
            close_descriptor(self.fd)

    def __len__(self):
        return self.n


cdef OpenFile open_file(object path):
    """The whole file. OSError; LocalError if it is not a regular file."""
    cdef OpenFile opened = OpenFile.__new__(OpenFile)
    # Not blocking: opening a pipe would wait for its other end.
    opened.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    found = os.fstat(opened.fd)
    if not stat_module.S_ISREG(found.st_mode):
        raise LocalError(f"{path!r} is not a regular file")
    opened.n = found.st_size
    return opened


cdef OpenFile file_behind(object readable):
    """What is left of a file object from its position on, or None when only its read() knows what it gives: an object
    with fileno() may well unpack or decode what is behind it (gzip.GzipFile does)."""
    import io
    cdef OpenFile opened
    readable = getattr(readable, "file", readable)  # what tempfile wraps
    raw = readable.raw if type(readable) in (io.BufferedReader, io.BufferedRandom) else readable
    if type(raw) is not io.FileIO:
        return None
    try:
        found = os.fstat(raw.fileno())
        if not stat_module.S_ISREG(found.st_mode):
            return None
        if readable is not raw and readable.writable():
            readable.flush()
            found = os.fstat(raw.fileno())
        at = readable.tell()
        opened = OpenFile.__new__(OpenFile)
        opened.fd = os.dup(raw.fileno())  # its owner may close it as soon as we have it
    except (OSError, ValueError):
        return None
    opened.offset = at
    opened.n = max(found.st_size - at, 0)
    return opened
