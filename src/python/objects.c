/* objects.c: see objects.h. */
#include "objects.h"

#include <string.h>

#if PY_VERSION_HEX < 0x030c0000
#include <structmember.h>
#define Py_T_OBJECT_EX T_OBJECT_EX
#define Py_READONLY READONLY
#endif

#include "http/ka_scan.h"

#ifdef Py_GIL_DISABLED /* what follows would need a lock */
#define KEEPS_HEADS 0
#define REUSES_PARTS 0
#else
#define KEEPS_HEADS KA_KEEPS_FREED
#define REUSES_PARTS 1
#endif

enum {
    N_METHODS = 9,
    N_VERSIONS = 11,
    VERSION_2 = 10,
    N_PARTS = 6,
    MAX_NAMES = 255 /* as ka_scan.c has it */
};

/* Owned, for ever. */
static PyObject *host_name;
static const char *const words_of_messages[] = {"type", "status", "headers", "body",
                                                "more_body"}; /* as in ka_message */
enum {
    N_WORDS = sizeof words_of_messages / sizeof *words_of_messages
};
_Static_assert(sizeof(ka_message) == N_WORDS * sizeof(PyObject *), "a word for each item");
static PyObject *words[N_WORDS];
static PyObject *methods[N_METHODS], *methods_as_bytes[N_METHODS], *versions[N_VERSIONS], *names[MAX_NAMES];

static int keep_all(PyObject **to, PyObject *tuple, Py_ssize_t max)
{
    Py_ssize_t n = PyTuple_GET_SIZE(tuple);
    if (n > max) {
        PyErr_SetString(PyExc_SystemError, "more shared objects than objects.c has places for");
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        to[i] = Py_NewRef(PyTuple_GET_ITEM(tuple, i));
    return 0;
}

int ka_objects_init(PyObject *all_methods, PyObject *all_as_bytes, PyObject *all_versions, PyObject *all_names)
{
    if (keep_all(methods, all_methods, N_METHODS) || keep_all(methods_as_bytes, all_as_bytes, N_METHODS))
        return -1;
    if (keep_all(versions, all_versions, N_VERSIONS) || keep_all(names, all_names, MAX_NAMES))
        return -1;
    host_name = names[ka_name_find("host", 4)];
    for (int i = 0; i < N_WORDS; i++)
        if ((words[i] = PyUnicode_InternFromString(words_of_messages[i])) == NULL)
            return -1;
    return 0;
}

/* ---- a message ---- */

/* To walk over a few items costs less than to look up each: their keys come in the order that everybody writes them in. */
int ka_message_read(PyObject *message, ka_message *said)
{
    PyObject **item = &said->type, *key, *value;
    Py_ssize_t at = 0;
    int i = 0;
    *said = (ka_message){NULL, NULL, NULL, NULL, NULL};
#ifdef Py_GIL_DISABLED
    return 0; /* another thread may be changing it */
#endif
    if (!PyDict_CheckExact(message) || PyDict_GET_SIZE(message) > N_WORDS)
        return 0;
    while (PyDict_Next(message, &at, &key, &value)) {
        while (i < N_WORDS && words[i] != key)
            i++;
        if (i == N_WORDS)
            return 0;
        item[i] = value;
    }
    return said->type != NULL;
}

/* ---- names and values that an application gives ---- */

#ifdef Py_GIL_DISABLED
#define IS_PAIRS_TYPE(o) PyTuple_CheckExact(o)
#else
#define IS_PAIRS_TYPE(o) (PyTuple_CheckExact(o) || PyList_CheckExact(o))
#endif

static inline int text_at(PyObject *item, ka_text *to)
{
    if (PyBytes_CheckExact(item)) {
        *to = (ka_text){PyBytes_AS_STRING(item), (size_t)PyBytes_GET_SIZE(item)};
        return 1;
    }
    if (PyUnicode_CheckExact(item) && PyUnicode_IS_COMPACT(item) && PyUnicode_KIND(item) == PyUnicode_1BYTE_KIND) {
        *to = (ka_text){(const char *)PyUnicode_1BYTE_DATA(item), (size_t)PyUnicode_GET_LENGTH(item)};
        return 1;
    }
    return 0;
}

static inline int pair_at(PyObject *item, ka_text *name, ka_text *value)
{
    return IS_PAIRS_TYPE(item) && PySequence_Fast_GET_SIZE(item) == 2 &&
           text_at(PySequence_Fast_GET_ITEM(item, 0), name) && text_at(PySequence_Fast_GET_ITEM(item, 1), value);
}

int ka_text_at(PyObject *item, ka_text *to) { return text_at(item, to); }

int ka_pair_at(PyObject *item, ka_text *name, ka_text *value) { return pair_at(item, name, value); }

Py_ssize_t ka_bytes_in(PyObject *pairs, int must_be_tuples)
{
    PyObject **items = PySequence_Fast_ITEMS(pairs);
    Py_ssize_t n = PySequence_Fast_GET_SIZE(pairs);
    size_t size = 0;
    ka_text name, value;
    for (Py_ssize_t i = 0; i < n; i++) {
        if ((must_be_tuples && !PyTuple_CheckExact(items[i])) || !pair_at(items[i], &name, &value))
            return -1;
        size += name.n + value.n;
    }
    return (Py_ssize_t)size;
}

int ka_exchange_pairs(ka_exchange *core, char **at, PyObject *pairs)
{
    PyObject **items = PySequence_Fast_ITEMS(pairs);
    Py_ssize_t n = PySequence_Fast_GET_SIZE(pairs);
    ka_text name, value;
    for (Py_ssize_t i = 0; i < n && pair_at(items[i], &name, &value); i++) {
        int error = ka_exchange_field(core, at, name.at, name.n, value.at, value.n);
        if (ka_unlikely(error < 0))
            return error;
    }
    return KA_OK;
}

/* ---- one object ---- */

static inline PyObject *bytes_at(const char *buf, ka_span where)
{
    return PyBytes_FromStringAndSize(buf + where.off, where.len);
}

/* Index in `methods`, or -1. */
static inline int method_index(const char *m, uint32_t n)
{
    switch (n) {
    case 3:  return !memcmp(m, "GET", 3) ? 0 : !memcmp(m, "PUT", 3) ? 3 : -1;
    case 4:  return !memcmp(m, "POST", 4) ? 2 : !memcmp(m, "HEAD", 4) ? 1 : -1;
    case 5:  return !memcmp(m, "PATCH", 5) ? 6 : !memcmp(m, "TRACE", 5) ? 8 : -1;
    case 6:  return !memcmp(m, "DELETE", 6) ? 4 : -1;
    case 7:  return !memcmp(m, "OPTIONS", 7) ? 5 : !memcmp(m, "CONNECT", 7) ? 7 : -1;
    default: return -1;
    }
}

static inline PyObject *method_str(const char *buf, ka_span where)
{
    int i = method_index(buf + where.off, where.len);
    return i >= 0 ? Py_NewRef(methods[i]) : PyUnicode_DecodeASCII(buf + where.off, where.len, NULL);
}

static inline PyObject *name_bytes(const char *buf, ka_span where)
{
    if (where.len == 4 && ka_is_word4(buf + where.off, "host")) /* the one that is always there */
        return Py_NewRef(host_name);
    int i = ka_name_find(buf + where.off, where.len);
    if (ka_likely(i >= 0))
        return Py_NewRef(names[i]);
    PyObject *name = PyBytes_FromStringAndSize(NULL, where.len);
    if (name != NULL)
        ka_lower_copy(PyBytes_AS_STRING(name), buf + where.off, where.len);
    return name;
}

PyObject *ka_bytes_at(const char *buf, ka_span where) { return bytes_at(buf, where); }

PyObject *ka_method_str(const char *buf, ka_span where) { return method_str(buf, where); }

PyObject *ka_method_bytes(const char *buf, ka_span where)
{
    int i = method_index(buf + where.off, where.len);
    return i >= 0 ? Py_NewRef(methods_as_bytes[i]) : bytes_at(buf, where);
}

PyObject *ka_name_bytes(const char *buf, ka_span where) { return name_bytes(buf, where); }

/* ---- all of a head ---- */

static inline PyObject *headers_list(const char *buf, const ka_field *fields, uint32_t n)
{
    PyObject *headers = PyList_New(n);
    if (ka_unlikely(headers == NULL))
        return NULL;
    for (uint32_t i = 0; i < n; i++) {
        PyObject *pair = PyTuple_New(2), *name, *value;
        if (ka_unlikely(pair == NULL))
            goto failed;
        PyList_SET_ITEM(headers, i, pair);
        if (ka_unlikely((name = name_bytes(buf, fields[i].name)) == NULL))
            goto failed;
        PyTuple_SET_ITEM(pair, 0, name);
        if (ka_unlikely((value = bytes_at(buf, fields[i].value)) == NULL))
            goto failed;
        PyTuple_SET_ITEM(pair, 1, value);
    }
    return headers;
failed:
    Py_DECREF(headers);
    return NULL;
}

PyObject *ka_headers_list(const char *buf, const ka_field *fields, uint32_t n) { return headers_list(buf, fields, n); }

static PyObject *last_parts; /* owned; the tuple that was returned last */

/* A tuple of N_PARTS that nobody else has. As zip() does it: the last one again, once its caller has dropped it. What is in
 * it lives until then; it holds a list, so the garbage collector has never ceased to track it, and it has no hash. */
static inline PyObject *tuple_of_parts(void)
{
    PyObject *all;
    if (REUSES_PARTS && ka_likely(last_parts != NULL && Py_REFCNT(last_parts) == 1))
        return Py_NewRef(last_parts);
    if (ka_unlikely((all = PyTuple_New(N_PARTS)) == NULL))
        return NULL;
    if (REUSES_PARTS)
        Py_XSETREF(last_parts, Py_NewRef(all));
    return all;
}

/* What was there may have a finalizer that calls us again: then `all` has two owners already. */
static inline void set_part(PyObject *all, Py_ssize_t i, PyObject *one)
{
    PyObject *old = PyTuple_GET_ITEM(all, i);
    PyTuple_SET_ITEM(all, i, one);
    Py_XDECREF(old);
}

static inline PyObject *parts(const char *buf, const ka_head *head, const ka_field *fields, size_t end)
{
    PyObject *headers = headers_list(buf, fields, head->n_fields), *target = NULL, *method = NULL, *stop = NULL, *all;
    if (ka_unlikely(headers == NULL || (target = bytes_at(buf, head->target)) == NULL ||
                    (method = method_str(buf, head->method)) == NULL || (stop = PyLong_FromSize_t(end)) == NULL ||
                    (all = tuple_of_parts()) == NULL)) {
        Py_XDECREF(headers);
        Py_XDECREF(target);
        Py_XDECREF(method);
        Py_XDECREF(stop);
        return NULL;
    }
    set_part(all, 0, method);
    set_part(all, 1, target);
    set_part(all, 2, Py_NewRef(versions[head->minor]));
    set_part(all, 3, headers);
    set_part(all, 4, Py_NewRef(head->flags & KA_HEAD_KEEP_ALIVE ? Py_True : Py_False));
    set_part(all, 5, stop);
    return all;
}

PyObject *ka_parts(const char *buf, const ka_head *head, const ka_field *fields, size_t end)
{
    return parts(buf, head, fields, end);
}

/* ---- Head ---- */

/* The instance of head.pxi's class, whose attributes these are, in this order. Behind it stand the fields, and behind
 * those the bytes of the head if it owns a copy: one block of memory holds all of it. */
typedef struct {
    PyObject ob_base;
    ka_head c;
    PyObject *data;                          /* owned; the caller's bytes that `bytes` points into; NULL with a copy */
    PyObject *method, *version, *keep_alive; /* owned */
    const char *bytes;
    unsigned is_small; /* its block has SMALL_ROOM behind the object */
} head_object;

enum {
    SMALL_ROOM = 192, /* 12 fields */
    N_KEPT = 32,      /* blocks for the next small ones */
    /* A Head may outlive the data by far, so it does not keep more than this of what is not its own. */
    MAX_FOREIGN_BYTES = 1024
};

static PyTypeObject *head_type; /* the module lives for ever */
static void *kept[N_KEPT];
static unsigned n_kept;

static void head_free(void *block)
{
    if (KEEPS_HEADS && ((head_object *)block)->is_small && n_kept < N_KEPT)
        kept[n_kept++] = block;
    else
        PyObject_Free(block);
}

int ka_head_type_init(PyTypeObject *type)
{
    /* Members and no properties: the interpreter reads them without a call. So these are what nearly everybody asks
     * for, and are shared objects nearly always. */
    static PyMemberDef members[] = {
        {"method", Py_T_OBJECT_EX, offsetof(head_object, method), Py_READONLY, "str, as sent: \"GET\"."},
        {"version", Py_T_OBJECT_EX, offsetof(head_object, version), Py_READONLY,
         "str, as sent: \"1.1\", \"1.0\"; \"2\" of HTTP/2. A higher minor version is treated as 1.1 (RFC 9110 2.5)."},
        {"keep_alive", Py_T_OBJECT_EX, offsetof(head_object, keep_alive), Py_READONLY,
         "bool: the client can reuse the connection after this request (RFC 9112 9.3)."},
    };
    if (type->tp_basicsize != sizeof(head_object)) {
        PyErr_SetString(PyExc_SystemError, "objects.c and head.pxi do not mean the same Head");
        return -1;
    }
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        PyObject *member = PyDescr_NewMember(type, &members[i]);
        int rc = member ? PyDict_SetItemString(type->tp_dict, members[i].name, member) : -1;
        Py_XDECREF(member);
        if (rc < 0)
            return -1;
    }
    head_type = type;
    type->tp_free = head_free;
    PyType_Modified(type);
    return 0;
}

const ka_field *ka_head_fields(PyObject *self) { return (const ka_field *)((head_object *)self + 1); }

const char *ka_head_bytes(PyObject *self) { return ((head_object *)self)->bytes; }

static inline PyObject *head_new(PyObject *data, const char *buf, const ka_head *head, const ka_field *fields)
{
    size_t of_fields = head->n_fields * sizeof *fields, room = of_fields;
    PyObject *method = method_str(buf, head->method);
    head_object *o;
    if (ka_unlikely(method == NULL))
        return NULL;
    if (data == NULL || (size_t)PyBytes_GET_SIZE(data) > head->nbytes + (size_t)MAX_FOREIGN_BYTES) {
        data = NULL;
        room += head->nbytes;
    }
    unsigned is_small = room <= SMALL_ROOM;
    if (KEEPS_HEADS && is_small && n_kept > 0)
        o = kept[--n_kept];
    else if (ka_unlikely((o = PyObject_Malloc(sizeof *o + (is_small ? SMALL_ROOM : room))) == NULL)) {
        Py_DECREF(method);
        return PyErr_NoMemory();
    }
    PyObject_Init(&o->ob_base, head_type);
    o->c = *head;
    o->is_small = is_small;
    o->method = method;
    o->version = Py_NewRef(versions[head->flags & KA_HEAD_IS_H2 ? VERSION_2 : head->minor]);
    o->keep_alive = Py_NewRef(head->flags & KA_HEAD_KEEP_ALIVE ? Py_True : Py_False);
    memcpy(o + 1, fields, of_fields);
    o->data = Py_XNewRef(data);
    o->bytes = data ? buf : memcpy((char *)(o + 1) + of_fields, buf, head->nbytes);
    return &o->ob_base;
}

PyObject *ka_head_new(PyObject *data, const char *buf, const ka_head *head, const ka_field *fields)
{
    return head_new(data, buf, head, fields);
}

/* ---- functions of the module ---- */

static PyObject *parse_head_any_way, *parse_parts_any_way; /* owned, for ever */

/* A plain offset that lies within the data? Anything else is for the function that can say what is wrong. */
static inline int read_offset(PyObject *given, size_t n, size_t *offset)
{
    if (!PyLong_CheckExact(given))
        return 0;
    Py_ssize_t value = PyLong_AsSsize_t(given);
    if (ka_unlikely(value < 0)) {
        PyErr_Clear();
        return 0;
    }
    *offset = (size_t)value;
    return *offset <= n;
}

/* Is it a call for this file: bytes, perhaps an offset into them? The result of ka_head_parse, or KA_EINVAL. */
static inline int parse(PyObject *const *args, Py_ssize_t n_args, size_t *offset, ka_head *head, ka_field *fields)
{
    ka_fault fault;
    *offset = 0;
    if (ka_unlikely(n_args < 1 || n_args > 2 || !PyBytes_CheckExact(args[0])))
        return KA_EINVAL;
    size_t n = (size_t)PyBytes_GET_SIZE(args[0]);
    if (n_args == 2 && ka_unlikely(!read_offset(args[1], n, offset)))
        return KA_EINVAL;
    return ka_head_parse(PyBytes_AS_STRING(args[0]) + *offset, n - *offset, NULL, &ka_limits_default, head, fields,
                         &fault);
}

static PyObject *parse_head(PyObject *self, PyObject *const *args, Py_ssize_t n_args, PyObject *names_of_args)
{
    ka_field fields[KA_MAX_FIELDS];
    ka_head head;
    size_t offset;
    (void)self;
    int rc = names_of_args == NULL ? parse(args, n_args, &offset, &head, fields) : KA_EINVAL;
    if (ka_likely(rc == KA_OK))
        return head_new(args[0], PyBytes_AS_STRING(args[0]) + offset, &head, fields);
    if (rc == KA_PARTIAL)
        Py_RETURN_NONE;
    return PyObject_Vectorcall(parse_head_any_way, args, (size_t)n_args, names_of_args);
}

static PyObject *parse_parts(PyObject *self, PyObject *const *args, Py_ssize_t n_args)
{
    ka_field fields[KA_MAX_FIELDS];
    ka_head head;
    size_t offset;
    (void)self;
    int rc = parse(args, n_args, &offset, &head, fields);
    if (ka_likely(rc == KA_OK))
        return parts(PyBytes_AS_STRING(args[0]) + offset, &head, fields, offset + head.nbytes);
    if (rc == KA_PARTIAL)
        Py_RETURN_NONE;
    return PyObject_Vectorcall(parse_parts_any_way, args, (size_t)n_args, NULL);
}

/* The function `call`, told of as `any_way` is. */
static PyObject *same_function(PyObject *any_way, PyObject **kept, PyMethodDef *def, PyCFunction call, int flags)
{
    if (!PyCFunction_CheckExact(any_way)) {
        PyErr_SetString(PyExc_SystemError, "the function of head.pxi is not a built-in one");
        return NULL;
    }
    const PyMethodDef *said = ((PyCFunctionObject *)any_way)->m_ml;
    *def = (PyMethodDef){said->ml_name, call, flags, said->ml_doc};
    *kept = Py_NewRef(any_way);
    return PyCFunction_NewEx(def, NULL, ((PyCFunctionObject *)any_way)->m_module);
}

PyObject *ka_parse_head_function(PyObject *any_way)
{
    static PyMethodDef def;
    return same_function(any_way, &parse_head_any_way, &def, (PyCFunction)(void (*)(void))parse_head,
                         METH_FASTCALL | METH_KEYWORDS);
}

PyObject *ka_parse_parts_function(PyObject *any_way)
{
    static PyMethodDef def;
    return same_function(any_way, &parse_parts_any_way, &def, (PyCFunction)(void (*)(void))parse_parts, METH_FASTCALL);
}
