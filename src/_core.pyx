# kacore._core: the one compiled module. Each .pxi is a room of its own; they are compiled together so that
# calls between them are C calls. Order: each may use those before it.
from ka cimport *

include "errors.pxi"
include "policy.pxi"
include "table.pxi"
