# What is moved out of memory into files: content that is being collected, and responses ahead of their clients.
#
# Such a file has no name; it is gone with whoever holds it. A response's files are written by the application's thread
# and sent by the kernel, as every file is (files.pxi). No byte is ever written over another: of what was sent the kernel
# may still hold the page and not a copy of it. So that what is sent leaves the disk all the same, a response goes on in
# another file after a while.
from errno import EMFILE as TOO_MANY, ENOSPC as NO_SPACE

cdef enum:
    OUTBOX_MEMORY = 256 * 1024    # of a response ahead of its client, in memory
    OUTBOX_PIECE = 64             # what a piece takes besides its bytes
    SPOOL_FILE = 1 << 20          # bytes of one file, at least, before another is begun
    SPOOL_PART = 1 << 20          # of a file, given to the conversation at once
    COLLECT_MEMORY = 512 * 1024   # content of a request in memory
    COLLECT_TIGHT = 16 * 1024     # the same while half of the budget is used

cdef int N_SPOOLS = 0             # files that are open now


cdef int max_spools() except -1:
    """A quarter of the descriptors: the rest is for connections, and for the application."""
    try:
        from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit
    except ImportError:
        return 1024
    soft = getrlimit(RLIMIT_NOFILE)[0]
    return 65536 if soft == RLIM_INFINITY else min(65536, max(16, soft // 4))


cdef object temporary_file(bint is_raw):
    """A new file without a name. OSError: no place for one, no descriptor to spare."""
    from tempfile import TemporaryFile
    if N_SPOOLS >= max_spools():
        raise OSError(TOO_MANY, f"{N_SPOOLS} temporary files are open, a quarter of the file descriptor limit")
    return TemporaryFile(prefix="kacore-", buffering=0 if is_raw else -1)


cdef class SpoolFile(OpenFile):
    """A file for a part of a response. `n`: bytes written so far."""

    def __cinit__(self):
        global N_SPOOLS
        N_SPOOLS += 1

    def __dealloc__(self):
        global N_SPOOLS
        N_SPOOLS -= 1

    cdef int append(self, bytes piece) except -1:
        """OSError: it could not be written, and nothing of it counts."""
        cdef Py_ssize_t at = 0, n, size = PyBytes_GET_SIZE(piece)
        view = memoryview(piece)
        while at < size:
            n = os.pwrite(self.fd, view[at:], self.n + at)
            if n == 0:
                raise OSError(NO_SPACE, "no space left for a temporary file")
            at += n
        self.n += size
        return 0


cdef SpoolFile spool_file():
    cdef SpoolFile file
    with temporary_file(True) as made:
        file = SpoolFile.__new__(SpoolFile)
        file.fd = os.dup(made.fileno())
    return file


cdef class SpoolPart:
    """Bytes [offset, offset + n) of a file."""
    cdef SpoolFile file
    cdef int64_t offset, n


cdef SpoolPart part_of(SpoolFile file, int64_t offset, int64_t n):
    cdef SpoolPart part = SpoolPart.__new__(SpoolPart)
    part.file = file
    part.offset = offset
    part.n = n
    return part


cdef class Outbox:
    """What a thread has produced ahead of its client, in order: in memory at first, then in files.

    One thread puts in and the engine's takes out. They share it by holding the GIL, which is let go of only while a file
    is written, before anything here changes.
    """
    cdef list items          # bytes, SpoolPart
    cdef int64_t n           # bytes of all
    cdef Holding holding     # for the pieces in memory
    cdef SpoolFile file      # that is being written, or None
    cdef bint has_no_file    # a file was needed, and could not be had

    cdef int put(self, bytes piece, int64_t most) except -1:
        """Behind what is there. OSError: it should go to a file and cannot: put_anyway, and wait for the client."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(piece)
        if self.fits(piece, most):
            self.items.append(piece)
        else:
            self.spool(piece, most)
        self.n += size
        return 0

    cdef int put_anyway(self, bytes piece) except -1:
        self.has_no_file = True
        self.holding.hold(KA_USE_OUTPUT, <size_t>PyBytes_GET_SIZE(piece) + OUTBOX_PIECE)
        self.items.append(piece)
        self.n += PyBytes_GET_SIZE(piece)
        return 0

    cdef bint has_room(self, bytes piece, int64_t most) noexcept:
        """Whether it may stay in memory. What waits for nobody may as large as it is: the engine is about to take it."""
        cdef size_t counted = self.holding.nbytes + <size_t>PyBytes_GET_SIZE(piece) + OUTBOX_PIECE
        return not self.holding.is_tight() and (not self.items or <int64_t>counted <= min(<int64_t>OUTBOX_MEMORY, most))

    cdef bint fits(self, bytes piece, int64_t most) except -1:
        """Whether it stays in memory, where it is counted then."""
        if not self.has_room(piece, most) or (self.items and isinstance(self.items[len(self.items) - 1], SpoolPart)):
            return False
        if PyBytes_GET_SIZE(piece) > OUTBOX_MEMORY:
            return True
        return self.holding.hold(KA_USE_OUTPUT, <size_t>PyBytes_GET_SIZE(piece) + OUTBOX_PIECE)

    cdef int spool(self, bytes piece, int64_t most) except -1:
        cdef SpoolFile file = self.file
        cdef SpoolPart last
        cdef Py_ssize_t size = PyBytes_GET_SIZE(piece)
        if file is None or file.n >= max(<int64_t>SPOOL_FILE, most):
            file = self.file = spool_file()
        file.append(piece)
        if self.items and isinstance(self.items[len(self.items) - 1], SpoolPart):
            last = self.items[len(self.items) - 1]
            if last.file is file:
                last.n += size
                return 0
        self.items.append(part_of(file, file.n - size, size))
        return 0

    cdef object take(self):
        """The next bytes, or SpoolPart of SPOOL_PART bytes at most."""
        cdef SpoolPart part
        item = self.items[0]
        if isinstance(item, SpoolPart):
            part = item
            self.n -= min(part.n, <int64_t>SPOOL_PART)
            if part.n > SPOOL_PART:
                item = part_of(part.file, part.offset, SPOOL_PART)
                part.offset += SPOOL_PART
                part.n -= SPOOL_PART
                return item
        else:
            self.n -= PyBytes_GET_SIZE(item)
            if PyBytes_GET_SIZE(item) <= OUTBOX_MEMORY or self.has_no_file:
                self.holding.let_go(<size_t>PyBytes_GET_SIZE(item) + OUTBOX_PIECE)
        del self.items[0]
        return item

    cdef bint is_full(self, int64_t most) noexcept:
        return self.n > (min(most, <int64_t>OUTBOX_MEMORY) if self.has_no_file else most)

    cdef int clear(self) except -1:
        self.items = []
        self.n = 0
        self.file = None
        self.holding.let_go(self.holding.nbytes)
        return 0


cdef Outbox outbox_of(BaseDriver driver):
    cdef Outbox outbox = Outbox.__new__(Outbox)
    outbox.items = []
    outbox.holding = holding_of(driver)
    return outbox


cdef class Collector:
    """The content of a request, gathered until it is complete: in memory, then in a temporary file."""
    cdef list pieces
    cdef object file
    cdef Holding holding     # for what is in memory
    cdef Py_ssize_t n

    cdef int add(self, bytes piece) except -1:
        """OSError: there is room neither in memory nor on the disk."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(piece)
        cdef bint may_stay = self.n + size <= (COLLECT_TIGHT if self.holding.is_tight() else COLLECT_MEMORY)
        self.n += size
        if self.file is None:
            if may_stay and self.keep(piece):
                return 0
            try:
                self.begin_file()
            except OSError as error:  # memory will do, if there is some and it is little
                if self.n > COLLECT_MEMORY or not self.keep(piece):
                    raise
                return self.holding.driver.application.say_of_files(error)
        self.file.write(piece)
        return 0

    cdef bint keep(self, bytes piece) except -1:
        if not self.holding.hold(KA_USE_INPUT, <size_t>PyBytes_GET_SIZE(piece)):
            return False
        self.pieces.append(piece)
        return True

    cdef int begin_file(self) except -1:
        global N_SPOOLS
        file = temporary_file(False)
        file.writelines(self.pieces)
        self.file = file
        N_SPOOLS += 1
        self.pieces = None
        self.holding.let_go(self.holding.nbytes)
        return 0

    cdef int seal(self) except -1:
        """It is all there. OSError: the last of it could not be written."""
        if self.file is not None:
            self.file.seek(0)
        return 0

    cdef object as_file(self):
        """A binary file at its start. Once."""
        if self.file is not None:
            return self.file
        whole = self.as_bytes()
        self.pieces = None
        return BytesIO(whole)

    cdef bytes as_bytes(self):
        if self.file is not None:
            self.file.seek(0)
            return self.file.read()
        if len(self.pieces) != 1:
            self.pieces = [b"".join(self.pieces)]
        return self.pieces[0]

    def __del__(self):
        global N_SPOOLS
        if self.file is not None:
            N_SPOOLS -= 1
            self.file.close()


cdef Collector collector_of(BaseDriver driver):
    cdef Collector collector = Collector.__new__(Collector)
    collector.pieces = []
    collector.holding = holding_of(driver)
    return collector
