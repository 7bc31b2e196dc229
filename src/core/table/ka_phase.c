/* ka_phase.c: see ka_phase.h. */
#include "table/ka_phase.h"

static const char *const phase_names[KA_N_PHASES] = {"free", "handshake", "new",  "head",   "body",
                                                     "busy", "write",     "idle", "linger", "tunnel"};

static const char *const cause_names[KA_N_CAUSES] = {[KA_CAUSE_NONE] = "none",
#define X(name, text) [KA_CAUSE_##name] = text,
                                                     KA_CAUSES(X)
#undef X
};

const char *ka_phase_name(unsigned phase) { return phase < KA_N_PHASES ? phase_names[phase] : "?"; }
const char *ka_cause_name(unsigned cause) { return cause < KA_N_CAUSES ? cause_names[cause] : "?"; }

uint64_t ka_bucket_edge(unsigned bucket)
{
    if (bucket < 2)
        return bucket;
    return (uint64_t)(2 + (bucket & 1)) << (bucket / 2 - 1);
}
