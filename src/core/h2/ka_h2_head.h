/* ka_h2_head.h: a request of HTTP/2 from decoded fields to what the rest of the house takes for a head (RFC 9113 section 8).
 *
 * Works on the section that ka_hpack_decode filled, and in its place: pseudo-header fields become the parts of a ka_head,
 * :authority the field "host" in front of the others, cookies one field; all spans are of the section's buffer. So an
 * application's side need not know which version it is. The limits and alphabets are those of HTTP/1.1. */
#ifndef KA_H2_HEAD_H
#define KA_H2_HEAD_H

#include "h2/ka_h2_frame.h"
#include "h2/ka_hpack.h"

typedef struct {
    ka_head head;   /* nbytes: what the fields took of the buffer; minor 1; KA_HEAD_KEEP_ALIVE; fields: the section's */
    ka_span scheme; /* len 0 for CONNECT */
    ka_span protocol; /* of an extended CONNECT (RFC 8441), whose target is a path as others'; else len 0 */
} ka_h2_request;

enum {
    KA_H2_REFUSED = 1 /* the request is well-formed, and is to be answered by refusal->status */
};

/* RFC 9113 8.1.1: "malformed" is what KA_EPEER says, an error of the stream; it wins over a refusal.
 * section:      as decoded. Its buffer needs as much room behind what is used as joined cookies take, which is never more
 *               than max_list; without it the request is refused.
 * ends_stream:  no content follows.
 * takes_protocol: SETTINGS_ENABLE_CONNECT_PROTOCOL was sent.
 * Return: KA_OK with *request, KA_EPEER with *fault, or KA_H2_REFUSED with *refusal. */
int ka_h2_request_read(ka_hpack_section *section, uint32_t stream, int ends_stream, int takes_protocol,
                       const ka_limits *limits, ka_h2_request *request, ka_h2_fault *fault, ka_fault *refusal);

/* A trailer section; its fields stay as they are. Returns as above. */
int ka_h2_trailers_read(const ka_hpack_section *section, uint32_t stream, const ka_limits *limits, ka_h2_fault *fault,
                        ka_fault *refusal);

#endif
