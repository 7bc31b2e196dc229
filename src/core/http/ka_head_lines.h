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
V_INLINE V(ka_block) V(block_at)(const char *end, const char *p, unsigned *shift)
{
    const char *last = end - V_BLOCK, *q = p < last ? p : last;
    *shift = (unsigned)(p - q);
    return V(ka_load)(q);
}

static __attribute__((noinline)) V_TARGET const char *V(controls_from)(const char *p, const char *end)
{
    for (; p < end; p += V_BLOCK) {
        unsigned shift;
        V(ka_block) b = V(block_at)(end, p, &shift);
        uint32_t found = V(ka_controls)(b) >> shift;
        if (found)
            return p + __builtin_ctz(found);
    }
    return end;
}

static __attribute__((noinline)) V_TARGET const char *V(outside_from)(const char *p, const char *end,
                                                                      const uint8_t rows[16])
{
    for (; p < end; p += V_BLOCK) {
        unsigned shift;
        V(ka_block) b = V(block_at)(end, p, &shift);
        uint32_t found = V(ka_outside)(b, rows) >> shift;
        if (found)
            return p + __builtin_ctz(found);
    }
    return end;
}

/* Where the name of the line ends and where its value does. Most lines need one block, some two: what they have is
 * printable ASCII up to the CR. Other bytes, HTAB among them, may be of a value all the same: value_end looks
 * at them once more. Requires line < end. */
V_INLINE ends V(scan_line)(const char *line, const char *end)
{
    unsigned shift;
    V(ka_block) b = V(block_at)(end, line, &shift);
    uint32_t name = V(ka_outside)(b, ka_token_rows) >> shift;
    uint32_t value = V(ka_unusual)(b) >> shift;
    ends found = {line, line};
    if (ka_likely(name != 0))
        found.name = line + __builtin_ctz(name);
    else
        found.name = V(outside_from)(line + V_BLOCK, end, ka_token_rows);
    while (value == 0) {
        found.value += V_BLOCK;
        if (ka_unlikely(found.value >= end)) {
            found.value = end;
            return found;
        }
        b = V(block_at)(end, found.value, &shift);
        value = V(ka_unusual)(b) >> shift;
    }
    found.value += __builtin_ctz(value);
    return found;
}

static __attribute__((noinline)) V_TARGET const char *V(value_end)(const char *colon, const char *end)
{
    return colon < end && *colon == ':' ? V(controls_from)(colon + 1, end) : colon;
}

/* The first byte from `from` < end that is not of a path. */
V_INLINE const char *V(scan_path)(const char *from, const char *end)
{
    unsigned shift;
    V(ka_block) b = V(block_at)(end, from, &shift);
    uint32_t out = V(ka_outside)(b, ka_path_rows) >> shift;
    return ka_likely(out != 0) ? from + __builtin_ctz(out) : V(outside_from)(from + V_BLOCK, end, ka_path_rows);
}

V_INLINE const char *V(scan_target)(const char *from, const char *end)
{
    return V(outside_from)(from, end, ka_target_rows);
}

/* The end of the host with or without a port that begins at v < end, if it is a plain one for certain; else NULL, and
 * is_authority says what it is. */
V_INLINE const char *V(plain_host)(const char *v, const char *end)
{
    unsigned shift;
    V(ka_block) b = V(block_at)(end, v, &shift);
    uint32_t out = V(ka_outside)(b, ka_host_rows) >> shift, dots = V(ka_equal)(b, ka_dots) >> shift;
    dots &= out ^ (out - 1);
    /* Too long for one block, nothing, or an empty label. */
    if (ka_unlikely(out == 0 || ((out & 1) | (dots & (dots << 1 | 1)))))
        return NULL;
    v += __builtin_ctz(out);
    if (*v != ':')
        return v;
    uint32_t behind = V(ka_outside)(b, ka_digit_rows) >> shift >> __builtin_ctz(out) >> 1;
    /* Up to four digits are less than 65536. */
    return (behind & 0x1f) != 0 ? v + 1 + __builtin_ctz(behind) : NULL;
}

#else

/* Eight bytes at a time while all are printable ASCII. */
V_INLINE const char *V(controls_from)(const char *p, const char *end)
{
    const uint64_t ones = 0x0101010101010101u, highs = ones * 0x80;
    while (p < end) {
        for (; end - p >= 8; p += 8) {
            uint64_t w;
            memcpy(&w, p, 8);
            /* The high bit of a byte is set when it was set, when it is below 0x20, or when it is 0x7f. */
            if ((w | (w - ones * 0x20) | (w + ones)) & highs)
                break;
        }
        for (int i = 0; i < 8 && p < end; i++, p++)
            if (!ka_is(*p, KA_IS_VALUE))
                return p;
    }
    return end;
}

V_INLINE ends V(scan_line)(const char *line, const char *end)
{
    const char *name = ka_scan_class(line, end, KA_IS_TOKEN);
    return (ends){name, V(controls_from)(name, end)};
}

static const char *V(value_end)(const char *colon, const char *end)
{
    return colon < end && *colon == ':' ? V(controls_from)(colon + 1, end) : colon;
}

V_INLINE const char *V(scan_path)(const char *from, const char *end)
{
    while (from < end && *from != '?' && *from != '%' && ka_is(*from, KA_IS_TARGET))
        from++;
    return from;
}

V_INLINE const char *V(scan_target)(const char *from, const char *end)
{
    return ka_scan_class(from, end, KA_IS_TARGET);
}

V_INLINE const char *V(plain_host)(const char *v, const char *end)
{
    const char *p = v, *port;
    for (; p < end && ka_is(*p, KA_IS_HOST); p++)
        if (*p == '.' && (p == v || p[-1] == '.'))
            return NULL;
    if (p == v || p == end)
        return NULL;
    if (*p != ':')
        return p;
    for (port = ++p; p < end && *p >= '0' && *p <= '9';)
        p++;
    return p - port < 5 ? p : NULL;
}

#endif

/* "GET" or "POST", a target in origin-form and "HTTP/1.0" or "1.1". Return: where the field section begins, NULL
 * when the line is not like that or not whole. */
V_INLINE const char *V(plain_request_line)(const char *buf, const char *end, const ka_limits *limits, ka_head *head)
{
    const char *t, *q, *path;
    if (V_BLOCK < 16 && end - buf < 16)
        return NULL;
    if (ka_likely(!memcmp(buf, "GET ", 4) && buf[4] == '/'))
        t = buf + 4;
    else if (!memcmp(buf, "POST /", 6))
        t = buf + 5;
    else
        return NULL;
    q = path = t[1] == ' ' ? t + 1 : V(scan_path)(t, end);
    if (ka_unlikely(end - q < 11))
        return NULL;
    if (*q != ' ') {
        q = V(scan_target)(q, end);
        if (ka_unlikely(end - q < 11 || *q != ' '))
            return NULL;
        if (*path == '%') {
            path = path_end(t, q);
            if (bad_escape(t, path) != NULL)
                return NULL;
        }
        if (*path == '?')
            head->query = (ka_span){(uint32_t)(path + 1 - buf), (uint32_t)(q - path - 1)};
    }
    if (ka_unlikely((size_t)(q - t) > limits->max_target_bytes))
        return NULL;
    if (ka_likely(!memcmp(q + 1, "HTTP/1.1", 8)))
        head->minor = 1;
    else if (memcmp(q + 1, "HTTP/1.0", 8) != 0)
        return NULL;
    if (ka_unlikely(!ka_is_crlf(q + 9)))
        return NULL;
    head->method.len = (uint32_t)(t - buf) - 1;
    head->target = (ka_span){(uint32_t)(t - buf), (uint32_t)(q - t)};
    head->path = (ka_span){(uint32_t)(t - buf), (uint32_t)(path - t)};
    return q + 11;
}

/* "Host: " and a plain host at `line`, the first one, as most clients send it. Return: the line behind it, with
 * fields[0] and head->host set; else NULL, and nothing is set. */
V_INLINE const char *V(first_host)(const char *buf, const char *end, const char *line, const ka_limits *limits,
                                   ka_field *fields, ka_head *head)
{
    const char *v = line + 6, *e;
    if (end - line < 8 || !ka_is_word4(line, "host") || memcmp(line + 4, ": ", 2) != 0)
        return NULL;
    e = V(plain_host)(v, end);
    if (e == NULL || end - e < 2 || !ka_is_crlf(e))
        return NULL;
    if (ka_unlikely((size_t)(e - line) > limits->max_header_bytes || limits->max_headers == 0))
        return NULL;
    fields->name.off = (uint32_t)(line - buf);
    fields->name.len = 4;
    fields->value.off = head->host.off = (uint32_t)(v - buf);
    fields->value.len = head->host.len = (uint32_t)(e - v);
    return e + 2;
}

/* What the field `f` at `line`, whose value is [v, to), means for the message. */
V_INLINE void V(meaning)(parse *s, const ka_field *f, const char *line, const char *v, const char *to, ka_head *head)
{
    if (f->name.len == 4 && ka_is_word4(line, "host") && s->seen.n_host == 0 && head->target_form == KA_TARGET_ORIGIN &&
        V(plain_host)(v, s->end) == to) {
        s->seen.n_host = 1;
        head->host.off = at(s, v);
        head->host.len = (uint32_t)(to - v);
    } else {
        mean(s, f, head);
    }
}

/* The lines from `line` on, of which n were read before; *next is where they end. `head` NULL: a trailer section or
 * lines read before, whose fields mean nothing here.
 * Return: KA_OK with *next behind the empty line, KA_PARTIAL with *next where the first unfinished line begins,
 * KA_EPEER. */
V_INLINE int V(lines)(parse *s, const char *line, const char **next, ka_field *fields, uint32_t n, uint32_t *n_fields,
                      ka_head *head)
{
    const char *const buf = s->buf, *const end = s->end;
    const uint32_t max = s->limits->max_headers, max_line = s->limits->max_header_bytes;
    ka_field spare;
    for (; ka_likely(end - line >= 2); n++) {
        if (ka_is_crlf(line)) {
            *n_fields = n;
            *next = line + 2;
            return KA_OK;
        }
        ends at_end = V(scan_line)(line, end);
        const char *colon = at_end.name, *e = at_end.value, *v, *to;
        ka_field *f;
        if (ka_unlikely(end - e < 2 || !ka_is_crlf(e)))
            e = V(value_end)(colon, end);
        /* Anything but a whole, well-formed, short enough line: the slow way says what it is. */
        if (ka_unlikely(end - e < 2 || *colon != ':' || colon == line || !ka_is_crlf(e) ||
                        (size_t)(e - line) > max_line))
            break;
        if (ka_likely(n < max)) {
            f = &fields[n];
        } else {
            f = &spare;
            if (n == max)
                note(s, KA_FAULT_TOO_MANY_HEADERS, at(s, line), max);
        }
        f->name.off = (uint32_t)(line - buf);
        f->name.len = (uint32_t)(colon - line);
        /* A value may be empty: then v may come to stand on the CR, or `to` on the colon's right. */
        v = colon + 1;
        to = e;
        if (ka_likely(*v == ' '))
            v++;
        if (ka_unlikely((uint8_t)*v <= ' '))
            while (v < e && (*v == ' ' || *v == '\t'))
                v++;
        if (ka_unlikely((uint8_t)e[-1] <= ' '))
            while (v < to && (to[-1] == ' ' || to[-1] == '\t'))
                to--;
        f->value.off = (uint32_t)(v - buf);
        f->value.len = (uint32_t)(to - v);
        if (head != NULL && ka_unlikely(may_mean(line, (uint32_t)(colon - line))))
            V(meaning)(s, f, line, v, to, head);
        line = e + 2;
    }
    *n_fields = n;
    *next = line;
    return line < end ? odd_line(s, line) : KA_PARTIAL;
}

static V_TARGET int V(field_section)(parse *s, const char **p, ka_field *fields, uint32_t *n_fields)
{
    return V(lines)(s, *p, p, fields, 0, n_fields, NULL);
}

/* What the plain way did not read: from head->nbytes on, with head->n_fields fields in front; all of it from 0. */
static __attribute__((noinline)) V_TARGET int V(rest_of_head)(const char *buf, size_t len, uint32_t *checked,
                                                              const ka_limits *limits, ka_head *head, ka_field *fields,
                                                              ka_fault *fault)
{
    const char *line = buf + head->nbytes, *next;
    int rc;
    parse s;
    begin(&s, buf, len, limits, fault);
    if (line == buf) {
        if ((rc = odd_request_line(&s, head)) != KA_OK)
            return unfinished(&s, rc, NULL, checked);
        line = s.first_line;
    } else {
        s.first_line = head->n_fields ? buf + fields->name.off : line;
        s.seen.n_host = (uint16_t)head->n_fields;
    }
    rc = V(lines)(&s, line, &next, fields, head->n_fields, &head->n_fields, head);
    if (ka_unlikely(rc != KA_OK))
        return unfinished(&s, rc, next, checked);
    head->nbytes = at(&s, next);
    return judge_head(&s, head);
}

/* The whole head, from its first byte. A plain request line with a plain Host behind it is read here, without any
 * state; a Host in HTTP/1.1 and nothing else that means anything needs no further judgement. */
static V_TARGET int V(whole_head)(const char *buf, size_t len, uint32_t *checked, const ka_limits *limits,
                                  ka_head *head, ka_field *fields, ka_fault *fault)
{
    const char *end = buf + len, *line, *second;
    *head = (ka_head){.content_length = -1};
    line = V(plain_request_line)(buf, end, limits, head);
    if (ka_likely(line != NULL)) {
        second = V(first_host)(buf, end, line, limits, fields, head);
        if (ka_likely(second != NULL)) {
            head->n_fields = 1;
            if (end - second >= 2 && ka_is_crlf(second) && head->minor > 0) {
                head->nbytes = (uint32_t)(second + 2 - buf);
                head->flags = KA_HEAD_KEEP_ALIVE;
                return KA_OK;
            }
            line = second;
        }
        head->nbytes = (uint32_t)(line - buf);
    }
    return V(rest_of_head)(buf, len, checked, limits, head, fields, fault);
}

#undef V_INLINE
