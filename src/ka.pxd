# The extern declarations of the C core, for the .pxi files of kacore._core. No Python object here.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "ka_base.h" nogil:
    enum:
        KA_OK
        KA_PARTIAL
        KA_ENOMEM
        KA_EINVAL
        KA_ESTALE
        KA_EFULL
        KA_ECLIENT
        KA_ESLOW
        KA_EPEER

    ctypedef struct ka_span:
        uint32_t off
        uint32_t len
