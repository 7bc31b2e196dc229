/* ka_head_lines.h: the part of ka_head.c where the time goes, compiled once for each way of scanning.
 *
 * Included by ka_head.c with V(name) adding the variant's suffix, V_TARGET its target attribute, and V_BLOCKS set when
 * ka_block.h has 32-byte blocks for it. No rule is written here that the slow functions of ka_head.c do not also
 * know: this file finds the lines, takes the common ways through them, and hands everything else over.
 *
 * With blocks, s->room is where readable bytes end, at least KA_BLOCK bytes from s->buf: a block that would reach
 * beyond is loaded further back and its mask shifted, so nothing is read that is not the caller's. */

#define V_INLINE static inline __attribute__((always_inline)) V_TARGET

#if V_BLOCKS

/* Masks of the block at p < s->room must be shifted right by *shift. */
V_INLINE V(ka_block) V(block_at)(const parse *s, const char *p, unsigned *shift) {
    const char *last = s->room - KA_BLOCK, *q = p < last ? p : last;
    *shift = (unsigned)(p - q);
    return V(ka_load)(q);
}

V_INLINE const char *V(controls_from)(const parse *s, const char *p) {
    for (; p < s->end; p += KA_BLOCK) {
        unsigned shift;
        V(ka_block) b = V(block_at)(s, p, &shift);
        uint32_t found = V(ka_controls)(b) >> shift;
        if (found) return p + __builtin_ctz(found);
    }
    return s->end;
}

static __attribute__((noinline)) V_TARGET const char *V(long_name)(const parse *s, const char *p) {
    for (; p < s->end; p += KA_BLOCK) {
        unsigned shift;
        V(ka_block) b = V(block_at)(s, p, &shift);
        uint32_t found = V(ka_outside)(b, ka_token_rows) >> shift;
        if (found) return p + __builtin_ctz(found);
    }
    return s->end;
}

/* *colon: the first byte that is not of a name. Return: if that is a colon, the first byte after it that is not of a
 * value. Most lines need one block, some two. Requires line < s->end. */
V_INLINE const char *V(scan_line)(const parse *s, const char *line, const char **colon) {
    unsigned shift;
    V(ka_block) b = V(block_at)(s, line, &shift);
    uint32_t name = V(ka_outside)(b, ka_token_rows) >> shift;
    if (ka_unlikely(name == 0)) {
        *colon = V(long_name)(s, line + KA_BLOCK);
        return *colon < s->end && **colon == ':' ? V(controls_from)(s, *colon + 1) : *colon;
    }
    *colon = line + __builtin_ctz(name);
    uint32_t value = V(ka_controls)(b) >> shift;
    return value ? line + __builtin_ctz(value) : V(controls_from)(s, line + KA_BLOCK);
}

/* The end of the target at `from`; when it is short and plain origin-form, path and query are known at once. */
V_INLINE const char *V(scan_target)(const parse *s, const char *from, ka_head *head, int *is_split) {
    unsigned shift;
    V(ka_block) b = V(block_at)(s, from, &shift);
    uint32_t out = V(ka_outside)(b, ka_target_rows) >> shift;
    if (ka_likely(out != 0)) {
        unsigned n = (unsigned)__builtin_ctz(out);
        uint32_t below = ((uint32_t)1 << n) - 1;
        uint32_t query = (V(ka_equal)(b, '?') >> shift) & below, escapes = (V(ka_equal)(b, '%') >> shift) & below;
        unsigned path = query ? (unsigned)__builtin_ctz(query) : n;
        if (*from == '/' && (escapes & (((uint32_t)1 << path) - 1)) == 0) {
            head->path = (ka_span){at(s, from), path};
            head->query = query ? (ka_span){at(s, from) + path + 1, n - path - 1} : (ka_span){0, 0};
            *is_split = 1;
        }
        return from + n;
    }
    for (const char *p = from + KA_BLOCK; p < s->end; p += KA_BLOCK) {
        b = V(block_at)(s, p, &shift);
        out = V(ka_outside)(b, ka_target_rows) >> shift;
        if (out) return p + __builtin_ctz(out);
    }
    return s->end;
}

/* Is the value a plain host with or without a port, for certain? What is not plain is judged by is_authority. */
V_INLINE int V(is_plain_host)(const parse *s, const char *v, uint32_t len) {
    unsigned shift;
    V(ka_block) b = V(block_at)(s, v, &shift);
    uint32_t out = V(ka_outside)(b, ka_host_rows) >> shift;
    uint32_t n = out ? (uint32_t)__builtin_ctz(out) : KA_BLOCK - shift;
    if (n > len) n = len;
    if (n == 0 || n == KA_BLOCK) return 0;
    uint32_t dots = (V(ka_equal)(b, '.') >> shift) & (((uint32_t)1 << n) - 1);
    if ((dots & 1) | (dots & dots << 1)) return 0;
    if (n == len) return 1;
    if (v[n] != ':' || len - n > 5) return 0; /* up to four digits are less than 65536 */
    for (n++; n < len; n++)
        if (v[n] < '0' || v[n] > '9') return 0;
    return 1;
}

#else

/* Eight bytes at a time while none is a control: below 0x20 (HTAB leaves the fast way too) or DEL. */
V_INLINE const char *V(controls_from)(const parse *s, const char *p) {
    const uint64_t ones = 0x0101010101010101u, highs = ones * 0x80;
    for (; s->end - p >= 8; p += 8) {
        uint64_t w, del;
        memcpy(&w, p, 8);
        del = w ^ (ones * 0x7f);
        if ((((w - ones * 0x20) & ~w) | ((del - ones) & ~del)) & highs) break;
    }
    while (p < s->end) {
        if (ka_unlikely(!ka_is(*p, KA_IS_VALUE))) return p;
        p++;
    }
    return s->end;
}

V_INLINE const char *V(scan_line)(const parse *s, const char *line, const char **colon) {
    *colon = ka_scan_class(line, s->end, KA_IS_TOKEN);
    return *colon < s->end && **colon == ':' ? V(controls_from)(s, *colon + 1) : *colon;
}

V_INLINE const char *V(scan_target)(const parse *s, const char *from, ka_head *head, int *is_split) {
    (void)head;
    (void)is_split;
    return ka_scan_class(from, s->end, KA_IS_TARGET);
}

V_INLINE int V(is_plain_host)(const parse *s, const char *v, uint32_t len) {
    (void)s;
    (void)v;
    (void)len;
    return 0;
}

#endif

/* "GET", the target and "HTTP/1.x" CRLF in the common way. Return 0 when the line is not like that, or not whole. */
V_INLINE int V(plain_request_line)(parse *s, const char **p, ka_head *head) {
    const char *m = *p, *t, *q;
    int is_split = 0;
    if (s->end - m < 16) return 0;
    if (!memcmp(m, "GET ", 4)) t = m + 4;
    else if (!memcmp(m, "POST ", 5)) t = m + 5;
    else return 0;
    q = V(scan_target)(s, t, head, &is_split);
    if (s->end - q < 11 || *q != ' ' || (size_t)(q - t) > s->limits->max_target_bytes || *t != '/') return 0;
    if (memcmp(q + 1, "HTTP/1.", 7) || (q[8] != '1' && q[8] != '0') || memcmp(q + 9, "\r\n", 2)) return 0;
    head->method = (ka_span){at(s, m), (uint32_t)(t - m) - 1};
    head->target = span(s, t, q);
    head->minor = (uint8_t)(q[8] - '0');
    head->target_form = KA_TARGET_ORIGIN;
    *p = q + 11;
    if (is_split) return 1;
    return split_path(s, t, q, head) == KA_OK;
}

/* One line at *p: KA_OK with *p behind it and *field filled; 1 at the empty line; KA_PARTIAL with *p unmoved. */
V_INLINE int V(field_line)(parse *s, const char **p, ka_field *field) {
    const char *line = *p, *end = s->end, *colon;
    if (ka_unlikely(line >= end)) return KA_PARTIAL;
    if (ka_unlikely(*line == '\r')) return odd_line(s, p);
    const char *e = V(scan_line)(s, line, &colon), *v = colon + 1;
    /* Anything but a whole, well-formed, short enough line: the slow way says what it is. */
    if (ka_unlikely(end - e < 2 || *colon != ':' || colon == line || *e != '\r' || e[1] != '\n' ||
                    (size_t)(e - line) > s->limits->max_header_bytes))
        return odd_line(s, p);
    *p = e + 2;
    if (ka_likely(*v == ' ')) v++;
    while (v < e && (*v == ' ' || *v == '\t')) v++;
    while (v < e && ka_unlikely(e[-1] == ' ' || e[-1] == '\t')) e--;
    field->name = span(s, line, colon);
    field->value = span(s, v, e);
    return KA_OK;
}

/* All lines from *p on. `head` NULL: a trailer section or lines read before, whose fields mean nothing here. */
V_INLINE int V(lines)(parse *s, const char **p, ka_field *fields, uint32_t *n_fields, ka_head *head) {
    uint32_t n = 0, max = s->limits->max_headers;
    ka_field spare;
    for (;;) {
        const char *line = *p;
        ka_field *f = n < max ? &fields[n] : &spare;
        int rc = V(field_line)(s, p, f);
        if (rc != KA_OK) {
            *n_fields = n;
            return rc > 0 ? KA_OK : rc;
        }
        if (ka_unlikely(n++ == max)) note(s, KA_FAULT_TOO_MANY_HEADERS, at(s, line), max);
        /* Only fields with the length of one that means something are looked at. */
        if (head == NULL || !may_mean(f->name.len)) continue;
        if (f->name.len == 4 && s->n_host == 0 && head->target_form == KA_TARGET_ORIGIN &&
            ka_is_word4(s->buf + f->name.off, "host") && f->value.len > 0 &&
            V(is_plain_host)(s, s->buf + f->value.off, f->value.len)) {
            s->n_host = 1;
            head->host = f->value;
        } else {
            mean(s, f, head);
        }
    }
}

static V_TARGET int V(field_section)(parse *s, const char **p, ka_field *fields, uint32_t *n_fields) {
    return V(lines)(s, p, fields, n_fields, NULL);
}

static V_TARGET int V(head_section)(parse *s, const char **p, ka_field *fields, ka_head *head) {
    const char *q = *p;
    if (!V(plain_request_line)(s, p, head)) {
        *p = q;
        head->path = head->query = (ka_span){0, 0};
        int rc = request_line(s, p, head);
        if (rc != KA_OK) return rc;
    }
    s->first_line = *p;
    if (*p < s->end && (**p == ' ' || **p == '\t')) return fail(s, KA_FAULT_SPACE_BEFORE_FIELD, *p);
    return V(lines)(s, p, fields, &head->n_fields, head);
}

#undef V_INLINE
