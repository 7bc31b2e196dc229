/* ka_proxy.c: see ka_proxy.h. */
#include "http/ka_proxy.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>

enum {
    V1_MAX = 107,
    V2_HEAD = 16,
    V2_IP4 = 12,
    V2_IP6 = 36,
    SIGNATURE = 12
};

static const char signature[] = "\r\n\r\n\0\r\nQUIT\n";

/* --- version 2: binary --- */

static int parse_v2(const unsigned char *p, size_t len, ka_proxy_source *out)
{
    if (len < V2_HEAD)
        return KA_PARTIAL;
    unsigned command = p[12], family = p[13];
    size_t rest = (size_t)p[14] << 8 | p[15];
    if ((command != 0x20 && command != 0x21) || rest > KA_PROXY_MAX - V2_HEAD)
        return KA_EPEER;
    if (len < V2_HEAD + rest)
        return KA_PARTIAL;
    if (command == 0x21 && family == 0x11) {
        if (rest < V2_IP4)
            return KA_EPEER;
        out->family = 4;
        memcpy(out->addr, p + V2_HEAD, 4);
        out->port = (uint16_t)(p[V2_HEAD + 8] << 8 | p[V2_HEAD + 9]);
    } else if (command == 0x21 && family == 0x21) {
        if (rest < V2_IP6)
            return KA_EPEER;
        out->family = 6;
        memcpy(out->addr, p + V2_HEAD, 16);
        out->port = (uint16_t)(p[V2_HEAD + 32] << 8 | p[V2_HEAD + 33]);
    } else if (command == 0x21 && family != 0x00 && family != 0x31) {
        return KA_EPEER; /* datagrams, and what nobody has defined */
    }
    return (int)(V2_HEAD + rest);
}

/* --- version 1: one line of text --- */

/* One word up to the next space, into `word` as a string. Return the rest of the line, NULL when there is none. */
static const char *next_word(const char *at, const char *end, char word[48])
{
    const char *space = memchr(at, ' ', (size_t)(end - at));
    const char *stop = space ? space : end;
    size_t n = (size_t)(stop - at);
    if (n == 0 || n >= 48 || memchr(at, 0, n))
        return NULL;
    memcpy(word, at, n);
    word[n] = 0;
    return space ? space + 1 : end;
}

static int parse_port(const char *word, uint16_t *port)
{
    unsigned n = 0;
    for (const char *p = word; *p; p++) {
        if (*p < '0' || *p > '9' || (p > word && n == 0) || (n = n * 10 + (unsigned)(*p - '0')) > 65535)
            return KA_EPEER;
    }
    *port = (uint16_t)n;
    return KA_OK;
}

/* "TCP4 192.0.2.1 198.51.100.1 56324 443" */
static int parse_v1_line(const char *at, const char *end, ka_proxy_source *out)
{
    char word[48];
    uint8_t ignored[16];
    uint16_t port;
    ka_proxy_source found = {0};
    if ((at = next_word(at, end, word)) == NULL)
        return KA_EPEER;
    if (strcmp(word, "UNKNOWN") == 0)
        return KA_OK; /* whatever follows means nothing */
    int is_v4 = strcmp(word, "TCP4") == 0;
    if (!is_v4 && strcmp(word, "TCP6") != 0)
        return KA_EPEER;
    int family = is_v4 ? AF_INET : AF_INET6;
    if ((at = next_word(at, end, word)) == NULL || inet_pton(family, word, found.addr) != 1)
        return KA_EPEER;
    if ((at = next_word(at, end, word)) == NULL || inet_pton(family, word, ignored) != 1)
        return KA_EPEER;
    if ((at = next_word(at, end, word)) == NULL || parse_port(word, &found.port) < 0)
        return KA_EPEER;
    if (next_word(at, end, word) != end || end[-1] == ' ' || parse_port(word, &port) < 0)
        return KA_EPEER;
    found.family = is_v4 ? 4 : 6;
    *out = found;
    return KA_OK;
}

static int parse_v1(const char *bytes, size_t len, ka_proxy_source *out)
{
    size_t most = len < V1_MAX ? len : V1_MAX;
    const char *lf = memchr(bytes, '\n', most);
    if (lf == NULL)
        return len < V1_MAX ? KA_PARTIAL : KA_EPEER;
    if (lf[-1] != '\r' || parse_v1_line(bytes + 6, lf - 1, out) < 0)
        return KA_EPEER;
    return (int)(lf + 1 - bytes);
}

static int begins_with(const char *bytes, size_t len, const char *what, size_t n)
{
    return memcmp(bytes, what, len < n ? len : n) == 0;
}

int ka_proxy_parse(const char *bytes, size_t len, ka_proxy_source *out)
{
    memset(out, 0, sizeof *out);
    if (len == 0)
        return KA_PARTIAL;
    if (begins_with(bytes, len, signature, SIGNATURE))
        return parse_v2((const unsigned char *)bytes, len, out);
    if (!begins_with(bytes, len, "PROXY ", 6))
        return KA_EPEER;
    return len < 6 ? KA_PARTIAL : parse_v1(bytes, len, out);
}
