/* ka_head_lines.h: the part of ka_head.c where the time goes, compiled once for each way of scanning.
 *
 * Included by ka_head.c with V(name) adding the suffix of the way, V_TARGET its target attribute, and V_BLOCK the
 * bytes of its blocks in ka_block.h, 0 without. No rule is written here that the slow functions of ka_head.c do not
 * also know: this file finds the lines, takes the common ways through them, and hands everything else over.
 *
 * With blocks, the input has at least V_BLOCK bytes. A block that would reach beyond its end is loaded further back
 * and its mask shifted, so nothing is read that is not the caller's. */

#define V_INLINE static inline __attribute__((always_inline)) V_TARGET

#if V_BLOCK

typedef struct {
    V(ka_block) block;
    unsigned shift;
} V(first_block);

/* The block at p < end. What is found in it must be shifted right by *shift. */
V_INLINE V(ka_block) V(block_at)(const char *end, const char *p, unsigned *shift) {
    const char *last = end - V_BLOCK, *q = p < last ? p : last;
    *shift = (unsigned)(p - q);
    return V(ka_load)(q);
}

static __attribute__((noinline)) V_TARGET const char *V(controls_from)(const char *p, const char *end) {
    for (; p < end; p += V_BLOCK) {
        unsigned shift;
        V(ka_block) b = V(block_at)(end, p, &shift);
        uint32_t found = V(ka_controls)(b) >> shift;
        if (found) return p + __builtin_ctz(found);
    }
    return end;
}

static __attribute__((noinline)) V_TARGET const char *V(outside_from)(const char *p, const char *end,
                                                                      const uint8_t rows[32]) {
    for (; p < end; p += V_BLOCK) {
        unsigned shift;
        V(ka_block) b = V(block_at)(end, p, &shift);
        uint32_t found = V(ka_outside)(b, rows) >> shift;
        if (found) return p + __builtin_ctz(found);
    }
    return end;
}

/* *colon: the first byte that is not of a name. Return: if that is a colon, the first byte after it that is not of a
 * value; mostly a CR. Other bytes that are not printable ASCII, HTAB among them, may be of a value all the same: they
 * are looked at once more. Most lines need one block, some two. *seen is the line's first block, for is_plain_host.
 * Requires line < end. */
V_INLINE const char *V(scan_line)(const char *line, const char *end, const char **colon, V(first_block) *seen) {
    unsigned shift;
    V(ka_block) b = V(block_at)(end, line, &shift);
    uint32_t name = V(ka_outside)(b, ka_token_rows) >> shift;
    uint32_t value = V(ka_unusual)(b) >> shift;
    seen->block = b;
    seen->shift = shift;
    if (ka_unlikely(name == 0)) {
        *colon = V(outside_from)(line + V_BLOCK, end, ka_token_rows);
        return *colon < end && **colon == ':' ? V(controls_from)(*colon + 1, end) : *colon;
    }
    *colon = line + __builtin_ctz(name);
    const char *p = line;
    while (value == 0) {
        p += V_BLOCK;
        if (ka_unlikely(p >= end)) return end;
        b = V(block_at)(end, p, &shift);
        value = V(ka_unusual)(b) >> shift;
    }
    p += __builtin_ctz(value);
    return ka_likely(*p == '\r') ? p : V(controls_from)(*colon, end);
}

/* The end of the target at `from` < end. *path is where its path ends, *is_split whether that is certain: an escape
 * has to be looked at. */
V_INLINE const char *V(scan_target)(const char *from, const char *end, const char **path, int *is_split) {
    unsigned shift;
    V(ka_block) b = V(block_at)(end, from, &shift);
    uint32_t out = V(ka_outside)(b, ka_path_rows) >> shift;
    const char *q = ka_likely(out != 0) ? from + __builtin_ctz(out) : V(outside_from)(from + V_BLOCK, end, ka_path_rows);
    *path = q;
    *is_split = 1;
    if (ka_likely(q < end && *q == ' ')) return q;
    *is_split = q < end && *q == '?';
    return V(outside_from)(q, end, ka_target_rows);
}

/* Is the value [v, to) of a line a plain host with or without a port, for certain? What is not plain is judged by
 * is_authority. The line has a byte behind the value that is none of a host. */
V_INLINE int V(is_plain_host)(const V(first_block) *seen, const char *line, const char *v, const char *to,
                              const char *end) {
    V(ka_block) b = seen->block;
    unsigned shift = seen->shift;
    if (ka_unlikely(to - line >= V_BLOCK)) { /* a long one: the block that begins with the value may hold it */
        if (to - v >= V_BLOCK) return 0;
        b = V(block_at)(end, v, &shift);
        line = v;
    }
    shift += (unsigned)(v - line);
    uint32_t out = V(ka_outside)(b, ka_host_rows) >> shift, dots = V(ka_equal)(b, ka_dots) >> shift;
    unsigned n = (unsigned)__builtin_ctz(out), len = (unsigned)(to - v);
    dots &= out ^ (out - 1);
    if (ka_unlikely((out & 1) | (dots & (dots << 1 | 1)))) return 0; /* nothing, or an empty label */
    if (n == len) return 1;
    if (v[n] != ':' || len - n > 5) return 0; /* up to four digits are less than 65536 */
    uint32_t behind = V(ka_outside)(b, ka_digit_rows) >> shift >> n >> 1;
    return (unsigned)__builtin_ctz(behind) == len - n - 1;
}

#else

/* Eight bytes at a time while all are printable ASCII. */
V_INLINE const char *V(controls_from)(const char *p, const char *end) {
    const uint64_t ones = 0x0101010101010101u, highs = ones * 0x80;
    while (p < end) {
        for (; end - p >= 8; p += 8) {
            uint64_t w;
            memcpy(&w, p, 8);
            /* The high bit of a byte is set when it was set, when it is below 0x20, or when it is 0x7f. */
            if ((w | (w - ones * 0x20) | (w + ones)) & highs) break;
        }
        for (int i = 0; i < 8 && p < end; i++, p++)
            if (!ka_is(*p, KA_IS_VALUE)) return p;
    }
    return end;
}

typedef struct {
    char unused;
} V(first_block);

V_INLINE const char *V(scan_line)(const char *line, const char *end, const char **colon, V(first_block) *seen) {
    (void)seen;
    *colon = ka_scan_class(line, end, KA_IS_TOKEN);
    return *colon < end && **colon == ':' ? V(controls_from)(*colon + 1, end) : *colon;
}

V_INLINE const char *V(scan_target)(const char *from, const char *end, const char **path, int *is_split) {
    *path = from;
    *is_split = 0;
    return ka_scan_class(from, end, KA_IS_TARGET);
}

V_INLINE int V(is_plain_host)(const V(first_block) *seen, const char *line, const char *v, const char *to,
                              const char *end) {
    (void)seen;
    (void)line;
    (void)end;
    for (const char *p = v; p < to; p++)
        if (!ka_is(*p, KA_IS_HOST) || (*p == '.' && (p == v || p[-1] == '.'))) return 0;
    return v < to;
}

#endif

/* "GET" or "POST", a target in origin-form and "HTTP/1.0" or "1.1". Return: where the field section begins, NULL
 * when the line is not like that or not whole. */
V_INLINE const char *V(plain_request_line)(parse *s, const char *m, ka_head *head) {
    const char *end = s->end, *t, *q, *path;
    int is_split;
    if (V_BLOCK < 16 && end - m < 16) return NULL;
    if (ka_likely(!memcmp(m, "GET ", 4) && m[4] == '/')) t = m + 4;
    else if (!memcmp(m, "POST /", 6)) t = m + 5;
    else return NULL;
    q = V(scan_target)(t, end, &path, &is_split);
    if (end - q < 11 || *q != ' ' || (size_t)(q - t) > s->limits->max_target_bytes) return NULL;
    uint64_t version, wanted;
    memcpy(&version, q + 1, 8);
    memcpy(&wanted, "HTTP/1.0", 8);
    uint64_t minor = (version ^ wanted) >> KA_LAST_BYTE & 0xff;
    if ((version ^ wanted) != minor << KA_LAST_BYTE || minor > 1 || !ka_is_crlf(q + 9)) return NULL;
    head->method = (ka_span){at(s, m), (uint32_t)(t - m) - 1};
    head->target = span(s, t, q);
    head->minor = (uint8_t)minor;
    if (ka_likely(is_split)) {
        head->path = span(s, t, path);
        if (*path == '?') head->query = span(s, path + 1, q);
    } else if (split_path(s, t, q, head) != KA_OK) {
        return NULL;
    }
    return q + 11;
}

/* All lines from *p on. `head` NULL: a trailer section or lines read before, whose fields mean nothing here.
 * Return: KA_OK with *p behind the empty line, KA_PARTIAL with *p where the first unfinished line begins, KA_EPEER. */
V_INLINE int V(lines)(parse *s, const char **p, ka_field *fields, uint32_t *n_fields, ka_head *head) {
    const char *const buf = s->buf, *const end = s->end, *line = *p;
    const uint32_t max = s->limits->max_headers, max_line = s->limits->max_header_bytes;
    ka_field spare;
    uint32_t n = 0;
    for (; ka_likely(line < end && *line != '\r'); n++) {
        V(first_block) seen;
        const char *colon, *e = V(scan_line)(line, end, &colon, &seen), *v, *to = e;
        /* Anything but a whole, well-formed, short enough line: the slow way says what it is. */
        if (ka_unlikely(end - e < 2 || *colon != ':' || colon == line || !ka_is_crlf(e) || (size_t)(e - line) > max_line))
            break;
        /* A value may be empty: then v may come to stand on the CR, or `to` on the colon's right. */
        v = colon + 1 + (colon[1] == ' ');
        if (ka_unlikely((uint8_t)*v <= ' '))
            while (v < e && (*v == ' ' || *v == '\t')) v++;
        if (ka_unlikely((uint8_t)e[-1] <= ' '))
            while (v < to && (to[-1] == ' ' || to[-1] == '\t')) to--;
        uint32_t name_len = (uint32_t)(colon - line), value_len = (uint32_t)(to - v);
        ka_field *f = ka_likely(n < max) ? &fields[n] : &spare;
        *f = (ka_field){{(uint32_t)(line - buf), name_len}, {(uint32_t)(v - buf), value_len}};
        if (ka_unlikely(n == max)) note(s, KA_FAULT_TOO_MANY_HEADERS, at(s, line), max);
        if (head != NULL && may_mean(line, name_len)) {
            if (ka_likely(name_len == 4 && ka_is_word4(line, "host") && s->seen.n_host == 0 &&
                          head->target_form == KA_TARGET_ORIGIN && V(is_plain_host)(&seen, line, v, to, end))) {
                s->seen.n_host = 1;
                head->host = f->value;
            } else {
                mean(s, f, head);
            }
        }
        line = e + 2;
    }
    *n_fields = n;
    *p = line;
    if (ka_likely(end - line >= 2 && ka_is_crlf(line))) {
        *p = line + 2;
        return KA_OK;
    }
    return line < end ? odd_line(s, line) : KA_PARTIAL;
}

static V_TARGET int V(field_section)(parse *s, const char **p, ka_field *fields, uint32_t *n_fields) {
    return V(lines)(s, p, fields, n_fields, NULL);
}

/* The whole head, from its first byte. */
static V_TARGET int V(whole_head)(const char *buf, size_t len, uint32_t *checked, const ka_limits *limits, ka_head *head,
                                  ka_field *fields, ka_fault *fault) {
    parse s;
    begin(&s, buf, len, limits, fault);
    *head = (ka_head){.content_length = -1};
    const char *p = V(plain_request_line)(&s, buf, head);
    if (ka_unlikely(p == NULL)) {
        int rc = odd_request_line(&s, &p, head);
        if (rc != KA_OK) return unfinished(&s, rc, p, checked);
    }
    s.first_line = p;
    if (ka_unlikely(p < s.end && (*p == ' ' || *p == '\t'))) return fail(&s, KA_FAULT_SPACE_BEFORE_FIELD, p);
    int rc = V(lines)(&s, &p, fields, &head->n_fields, head);
    if (ka_unlikely(rc != KA_OK)) return unfinished(&s, rc, p, checked);
    head->nbytes = at(&s, p);
    return judge_head(&s, head);
}

#undef V_INLINE
