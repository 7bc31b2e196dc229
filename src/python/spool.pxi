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

cdef int N_SPOOLS = 0             # files that are open now, of all threads


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
    if ka_load(&N_SPOOLS) >= max_spools():
        raise OSError(TOO_MANY, f"{ka_load(&N_SPOOLS)} temporary files are open, a quarter of the file descriptor limit")
    return TemporaryFile(prefix="kacore-", buffering=0 if is_raw else -1)


cdef class SpoolFile(OpenFile):
    """A file for a part of a response. `n`: bytes written so far."""

    def __cinit__(self):
        ka_add(&N_SPOOLS, 1)

    def __dealloc__(self):
        ka_add(&N_SPOOLS, -1)

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

    One thread puts in and the engine's takes out; the mutex guards what both change. Files are written outside of it.
    """
    cdef ka_mutex mutex
    cdef list items          # bytes, SpoolPart
    cdef int64_t n           # bytes of all
    cdef Holding holding     # for the pieces in memory
    cdef SpoolFile file      # that is being written, or None
    cdef bint has_no_file    # a file was needed, and could not be had

    cdef int put(self, bytes piece, int64_t most) except -1:
        """Behind what is there. OSError: it should go to a file and cannot: put_anyway, and wait for the client."""
        if not self.fits(piece, most):
            self.spool(piece, most)
        return 0

    cdef int put_anyway(self, bytes piece) except -1:
        self.holding.hold(KA_USE_OUTPUT, <size_t>PyBytes_GET_SIZE(piece) + OUTBOX_PIECE)
        ka_lock(&self.mutex)
        self.has_no_file = True
        self.append(piece, PyBytes_GET_SIZE(piece))
        ka_unlock(&self.mutex)
        return 0

    cdef int append(self, object item, int64_t n) except -1:
        self.items.append(item)
        self.n += n
        return 0

    cdef bint has_room(self, bytes piece, int64_t most) noexcept:
        """Whether it may stay in memory. What waits for nobody may as large as it is: the engine is about to take it."""
        cdef size_t counted
        cdef bint is_empty
        if self.holding.is_tight():
            return False
        counted = self.holding.n_held() + <size_t>PyBytes_GET_SIZE(piece) + OUTBOX_PIECE
        ka_lock(&self.mutex)
        is_empty = PyList_GET_SIZE(self.items) == 0
        ka_unlock(&self.mutex)
        return is_empty or <int64_t>counted <= min(<int64_t>OUTBOX_MEMORY, most)

    cdef bint fits(self, bytes piece, int64_t most) except -1:
        """Put it into memory, where it is counted then. False: it goes to a file. While the last one is there the next
        ones do, too: only the putting thread can change that, but for the engine that takes it."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(piece)
        cdef bint is_behind_file
        if not self.has_room(piece, most):
            return False
        ka_lock(&self.mutex)
        is_behind_file = self.last_part() is not None
        ka_unlock(&self.mutex)
        if is_behind_file or (size <= OUTBOX_MEMORY and not self.holding.hold(KA_USE_OUTPUT, <size_t>size + OUTBOX_PIECE)):
            return False
        ka_lock(&self.mutex)
        self.append(piece, size)
        ka_unlock(&self.mutex)
        return True

    cdef SpoolPart last_part(self):
        """The last item, if it is in a file."""
        cdef Py_ssize_t n = PyList_GET_SIZE(self.items)
        return self.items[n - 1] if n and isinstance(self.items[n - 1], SpoolPart) else None

    cdef int spool(self, bytes piece, int64_t most) except -1:
        cdef SpoolFile file
        cdef SpoolPart last, part
        cdef Py_ssize_t size = PyBytes_GET_SIZE(piece)
        ka_lock(&self.mutex)
        file = self.file
        ka_unlock(&self.mutex)
        if file is None or file.n >= max(<int64_t>SPOOL_FILE, most):
            file = spool_file()
            ka_hand_over(file)
        file.append(piece)
        part = part_of(file, file.n - size, size)
        ka_hand_over(part)
        ka_lock(&self.mutex)
        before, self.file = self.file, file
        last = self.last_part()
        if last is not None and last.file is file:
            last.n += size
            self.n += size
        else:
            self.append(part, size)
        ka_unlock(&self.mutex)
        return 0

    cdef object take(self):
        """The next bytes, or SpoolPart of SPOOL_PART bytes at most; None: there are none."""
        cdef SpoolPart part, first
        cdef object item = None
        ka_lock(&self.mutex)
        if PyList_GET_SIZE(self.items):
            item = self.items[0]  # nobody else takes it away, but who appends may move the list
        ka_unlock(&self.mutex)
        if item is None:
            return None
        if isinstance(item, SpoolPart):
            part = item
            first = part_of(part.file, part.offset, SPOOL_PART)
            ka_lock(&self.mutex)
            if part.n > SPOOL_PART:
                part.offset += SPOOL_PART
                part.n -= SPOOL_PART
            else:
                first.n = part.n
                del self.items[0]
            self.n -= first.n
            ka_unlock(&self.mutex)
            return first
        ka_lock(&self.mutex)
        del self.items[0]
        self.n -= PyBytes_GET_SIZE(item)
        ka_unlock(&self.mutex)
        if PyBytes_GET_SIZE(item) <= OUTBOX_MEMORY or self.has_no_file:
            self.holding.let_go(<size_t>PyBytes_GET_SIZE(item) + OUTBOX_PIECE)
        return item

    cdef bint is_full(self, int64_t most) noexcept:
        cdef int64_t n
        ka_lock(&self.mutex)
        n = self.n
        if self.has_no_file:
            most = min(most, <int64_t>OUTBOX_MEMORY)
        ka_unlock(&self.mutex)
        return n > most

    cdef int clear(self) except -1:
        """Its client is gone, and so is the memory. What is put in from now on nobody takes."""
        cdef list none = []
        cdef list items
        cdef SpoolFile file
        ka_lock(&self.mutex)
        items, file = self.items, self.file
        self.items, self.file = none, None
        self.n = 0
        ka_unlock(&self.mutex)
        self.holding.let_all_go()
        return 0


cdef Outbox outbox_of(BaseDriver driver):
    cdef Outbox outbox = Outbox.__new__(Outbox)
    outbox.items = []
    outbox.holding = holding_of(driver)
    ka_hand_over(outbox)
    ka_hand_over(outbox.holding)
    ka_hand_over(outbox.items)
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
        file = temporary_file(False)
        file.writelines(self.pieces)
        self.file = file
        ka_add(&N_SPOOLS, 1)
        self.pieces = None
        self.holding.let_all_go()
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
        if self.file is not None:
            ka_add(&N_SPOOLS, -1)
            self.file.close()


cdef Collector collector_of(BaseDriver driver):
    cdef Collector collector = Collector.__new__(Collector)
    collector.pieces = []
    collector.holding = holding_of(driver)
    return collector
