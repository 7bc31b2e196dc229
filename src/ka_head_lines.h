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
 * are looked at once more. Most lines need one block, some two. Requires line < end. */
V_INLINE const char *V(scan_line)(const char *line, const char *end, const char **colon) {
    unsigned shift;
    V(ka_block) b = V(block_at)(end, line, &shift);
    uint32_t name = V(ka_outside)(b, ka_token_rows) >> shift;
    uint32_t value = V(ka_unusual)(b) >> shift;
    if (ka_unlikely(name == 0)) {
        *colon = V(outside_from)(line + V_BLOCK, end, ka_token_rows);
        return *colon < end && **colon == ':' ? V(controls_from)(*colon + 1, end) : *colon;
    }
    *colon = line + __builtin_ctz(name);
    const char *p = line;
    while (value == 0) {
        p += V_BLOCK;
        if (p >= end) return end;
        b = V(block_at)(end, p, &shift);
        value = V(ka_unusual)(b) >> shift;
    }
    p += __builtin_ctz(value);
    return ka_likely(*p == '\r') ? p : V(controls_from)(*colon, end);
}

/* The end of the target at `from` < end. When it is short and has no escape before a "?", *is_split is set and
 * *path is the length of the path. */
V_INLINE const char *V(scan_target)(const char *from, const char *end, uint32_t *path, int *is_split) {
    unsigned shift;
    V(ka_block) b = V(block_at)(end, from, &shift);
    uint32_t out = V(ka_outside)(b, ka_target_rows) >> shift;
    if (ka_unlikely(out == 0)) return V(outside_from)(from + V_BLOCK, end, ka_target_rows);
    unsigned n = (unsigned)__builtin_ctz(out);
    uint32_t special = ((V(ka_equal)(b, ka_queries) | V(ka_equal)(b, ka_percents)) >> shift) | out;
    *path = (uint32_t)__builtin_ctz(special);
    *is_split = from[*path] != '%';
    return from + n;
}

/* Is the value a plain host with or without a port, for certain? What is not plain is judged by is_authority. */
V_INLINE int V(is_plain_host)(const char *v, uint32_t len, const char *end) {
    unsigned shift;
    V(ka_block) b = V(block_at)(end, v, &shift);
    uint32_t out = V(ka_outside)(b, ka_host_rows) >> shift, dots = V(ka_equal)(b, ka_dots) >> shift;
    if (out == 0) return 0;
    uint32_t n = (uint32_t)__builtin_ctz(out); /* at most len: a CR or a blank follows the value */
    dots &= ((uint32_t)1 << n) - 1;
    if (n == 0 || ((dots & 1) | (dots & dots << 1))) return 0;
    if (n == len) return 1;
    if (v[n] != ':' || len - n > 5) return 0; /* up to four digits are less than 65536 */
    for (n++; n < len; n++)
        if (v[n] < '0' || v[n] > '9') return 0;
    return 1;
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

V_INLINE const char *V(scan_line)(const char *line, const char *end, const char **colon) {
    *colon = ka_scan_class(line, end, KA_IS_TOKEN);
    return *colon < end && **colon == ':' ? V(controls_from)(*colon + 1, end) : *colon;
}

V_INLINE const char *V(scan_target)(const char *from, const char *end, uint32_t *path, int *is_split) {
    (void)path;
    (void)is_split;
    return ka_scan_class(from, end, KA_IS_TARGET);
}

V_INLINE int V(is_plain_host)(const char *v, uint32_t len, const char *end) {
    (void)end;
    for (uint32_t i = 0; i < len; i++)
        if (!ka_is(v[i], KA_IS_HOST) || (v[i] == '.' && (i == 0 || v[i - 1] == '.'))) return 0;
    return len > 0;
}

#endif

/* "GET" or "POST", a target in origin-form and "HTTP/1.0" or "1.1". Return: where the field section begins, NULL
 * when the line is not like that or not whole. */
V_INLINE const char *V(plain_request_line)(parse *s, const char *m, ka_head *head) {
    const char *end = s->end, *t, *q;
    uint32_t path = 0;
    int is_split = 0;
    if (end - m < 16) return NULL;
    if (!memcmp(m, "GET /", 5)) t = m + 4;
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
        head->path = (ka_span){at(s, t), path};
        if (t[path] == '?') head->query = span(s, t + path + 1, q);
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
        const char *colon, *e = V(scan_line)(line, end, &colon), *v, *to = e;
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
            if (name_len == 4 && ka_is_word4(line, "host") && s->seen.n_host == 0 && value_len > 0 &&
                head->target_form == KA_TARGET_ORIGIN && V(is_plain_host)(v, value_len, end)) {
                s->seen.n_host = 1;
                head->host = (ka_span){(uint32_t)(v - buf), value_len};
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

static V_TARGET int V(head_section)(parse *s, const char **p, ka_field *fields, ka_head *head) {
    const char *section = V(plain_request_line)(s, *p, head);
    if (ka_likely(section != NULL)) {
        *p = section;
    } else {
        head->path = head->query = (ka_span){0, 0};
        int rc = request_line(s, p, head);
        if (rc != KA_OK) return rc;
    }
    s->first_line = *p;
    if (*p < s->end && ka_unlikely(**p == ' ' || **p == '\t')) return fail(s, KA_FAULT_SPACE_BEFORE_FIELD, *p);
    return V(lines)(s, p, fields, &head->n_fields, head);
}

#undef V_INLINE
