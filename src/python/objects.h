/* objects.h: Python objects made of a request head, what a response's head is made of, and the functions that a caller of
 * the parser waits for.
 *
 * What Cython makes of the .pxi is compiled for size in wheels, and clang cannot be asked to do otherwise for some of
 * its functions; these take most of the time of a small head, so they are C by hand, in a file that is compiled for speed.
 * No rule is written here: ka_head.c judges, and whatever is not the common case goes to a function of head.pxi. */
#ifndef KA_OBJECTS_H
#define KA_OBJECTS_H

#include <Python.h>

#include "http/ka_head.h"
#include "talk/ka_exchange.h"

/* Compiled for size by gcc it would be a call, for each of the two dozen references that a request lets go. */
#if defined(__GNUC__) && !defined(__clang__) && !defined(Py_GIL_DISABLED)
static inline __attribute__((always_inline)) void(Py_DECREF)(PyObject *);
#endif

/* Once, before all others. The tuples are kept for ever: the registered methods in the order of method_index as str and as
 * bytes, "1.0" to "1.9" and "2", and the names of ka_name_at as bytes. -1 with an exception. */
int ka_objects_init(PyObject *methods, PyObject *methods_as_bytes, PyObject *versions, PyObject *names);

/* All return a new reference, or NULL with an exception. */
PyObject *ka_bytes_at(const char *buf, ka_span where);
PyObject *ka_method_str(const char *buf, ka_span where);   /* the registered ones of RFC 9110 are shared objects */
PyObject *ka_method_bytes(const char *buf, ka_span where); /* as well */
PyObject *ka_name_bytes(const char *buf, ka_span where);   /* in lower case; the common ones are shared objects */
/* [(lower-cased name, value), ...], all bytes, in the order sent. */
PyObject *ka_headers_list(const char *buf, const ka_field *fields, uint32_t n);
PyObject *ka_parts(const char *buf, const ka_head *head, const ka_field *fields, size_t end);

/* What a message that an ASGI application sends has, all borrowed; NULL: it has no such item. */
typedef struct {
    PyObject *type, *status, *headers, *body, *more_body;
} ka_message;

/* Return 1 where nothing else is in it, and its keys are the objects that these words are in any source. 0: look them up. */
int ka_message_read(PyObject *message, ka_message *said);

/* The bytes of a name or a value, borrowed. */
typedef struct {
    const char *at;
    size_t n;
} ka_text;

/* Those of a bytes object, or of a str whose characters all fit Latin-1, which is stored as such. 0: it is neither. */
int ka_text_at(PyObject *item, ka_text *to);

/* Both halves of a tuple or list of two. 0: it is something else, or a list that another thread may be changing. */
int ka_pair_at(PyObject *item, ka_text *name, ka_text *value);

/* Sum of the lengths in a list or tuple of pairs; -1 when they are not that, or not tuples where only those will do. */
Py_ssize_t ka_bytes_in(PyObject *pairs, int must_be_tuples);

/* All of them as fields of the response, which ka_bytes_in has seen: the result of ka_exchange_field. */
int ka_exchange_pairs(ka_exchange *core, char **at, PyObject *pairs);

/* The class Head of head.pxi, once. -1 with an exception. */
int ka_head_type_init(PyTypeObject *type);

/* A Head. data: bytes of which buf[0..head->nbytes) is a part, to be kept instead of a copy; NULL without. */
PyObject *ka_head_new(PyObject *data, const char *buf, const ka_head *head, const ka_field *fields);
const ka_field *ka_head_fields(PyObject *self);
const char *ka_head_bytes(PyObject *self);

/* The built-in function `any_way` with the common calls answered here: bytes, and limits that are absent. */
PyObject *ka_parse_head_function(PyObject *any_way);
PyObject *ka_parse_parts_function(PyObject *any_way);

#endif
