# What threads share is guarded by hand, for interpreters without a global lock. Where there is one, it does this work: then
# `ka_lock` and `ka_unlock` are nothing, and a region between them is as whole as it looks only because nothing in it lets go
# of the GIL. So in both builds: no call between them that may run Python code, wait, or free what may. They do not nest.
#
# Who owns what: "Threads" in docs/architecture.md.

from cpython.object cimport PyObject

cdef extern from *:
    """
    #if defined(Py_GIL_DISABLED) && defined(__SANITIZE_THREAD__) /* which does not see into PyMutex */
    #include <sched.h>
    typedef struct { char held; } ka_mutex;
    static inline void ka_lock(ka_mutex *mutex)
    {
        while (__atomic_test_and_set(&mutex->held, __ATOMIC_ACQUIRE))
            sched_yield();
    }
    #define ka_unlock(mutex) __atomic_clear(&(mutex)->held, __ATOMIC_RELEASE)
    #define KA_HAS_GIL 0
    #elif defined(Py_GIL_DISABLED)
    typedef PyMutex ka_mutex;
    #define ka_lock(mutex) PyMutex_Lock(mutex)
    #define ka_unlock(mutex) PyMutex_Unlock(mutex)
    #define KA_HAS_GIL 0
    #else
    typedef struct { char nothing; } ka_mutex;
    #define ka_lock(mutex) ((void)(mutex))
    #define ka_unlock(mutex) ((void)(mutex))
    #define KA_HAS_GIL 1
    #endif

    #define ka_add(number, n) ((void)__atomic_fetch_add((number), (n), __ATOMIC_RELAXED))
    #define ka_load(number) __atomic_load_n((number), __ATOMIC_RELAXED)

    /* dict.get(): a new reference. The dict is the application's, and another thread may be changing it. */
    static inline PyObject *ka_item_of(PyObject *dict, PyObject *key, PyObject *otherwise) {
        PyObject *found;
    #ifdef Py_GIL_DISABLED
        int got = PyDict_GetItemRef(dict, key, &found);
        return got < 0 ? NULL : got ? found : Py_NewRef(otherwise);
    #else
        found = PyDict_GetItemWithError(dict, key);
        return found ? Py_NewRef(found) : PyErr_Occurred() ? NULL : Py_NewRef(otherwise);
    #endif
    }

    /* The value of a key that nearly always comes first, as this very object. NULL without an exception: look it up. */
    static inline PyObject *ka_first_item(PyObject *dict, PyObject *key) {
    #ifdef Py_GIL_DISABLED
        (void)dict, (void)key;
        return NULL;
    #else
        PyObject *first, *value;
        Py_ssize_t at = 0;
        return PyDict_Next(dict, &at, &first, &value) && first == key ? Py_NewRef(value) : NULL;
    #endif
    }

    /* A new object that all threads will use is never freed, and so nobody counts its references, which would have them
     * wait for each other's caches. No other thread may know it yet. */
    static inline void ka_keep_for_ever(PyObject *o) {
    #ifdef Py_GIL_DISABLED
        Py_SET_REFCNT(o, PY_SSIZE_T_MAX);
    #else
        (void)o;
    #endif
    }

    /* An object that this thread has made goes to another one. Who made it would have to run once more before it can be
     * freed, and a thread that waits for work may not for hours: from now on whoever lets go of it last frees it. (Each
     * object has a count of its thread's own, and one of all others: this makes the first a part of the second, as
     * CPython does at the end of a thread.) */
    static inline void ka_hand_over(PyObject *o) {
    #ifdef Py_GIL_DISABLED
        if (!_Py_IsOwnedByCurrentThread(o) || _Py_IsImmortal(o)) return;
        Py_ssize_t own = (Py_ssize_t)o->ob_ref_local;
        __atomic_store_n(&o->ob_ref_local, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&o->ob_tid, _Py_UNOWNED_TID, __ATOMIC_RELAXED);
        Py_ssize_t others = __atomic_load_n(&o->ob_ref_shared, __ATOMIC_RELAXED), all;
        do
            all = _Py_REF_SHARED((others >> _Py_REF_SHARED_SHIFT) + own, _Py_REF_MERGED);
        while (!__atomic_compare_exchange_n(&o->ob_ref_shared, &others, all, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
    #else
        (void)o;
    #endif
    }

    static Py_ssize_t ka_count_weakrefs(PyObject *o) {
        PyObject **list = (PyObject **)((char *)o + Py_TYPE(o)->tp_weaklistoffset);
        if (Py_TYPE(o)->tp_weaklistoffset <= 0) return 0;
    #ifdef Py_GIL_DISABLED
        return __atomic_load_n(list, __ATOMIC_RELAXED) ? -1 : 0;
    #else
        Py_ssize_t n = 0;
        for (PyWeakReference *ref = (PyWeakReference *)*list; ref != NULL; ref = ref->wr_next) n++;
        return n;
    #endif
    }
    """
    ctypedef struct ka_mutex:
        pass
    void ka_lock(ka_mutex *mutex) noexcept
    void ka_unlock(ka_mutex *mutex) noexcept
    bint KA_HAS_GIL
    void ka_add(int *number, int n) noexcept
    int ka_load(int *number) noexcept
    object ka_item_of(object dict, object key, object otherwise)
    void ka_keep_for_ever(object o) noexcept
    void ka_hand_over(object o) noexcept
    PyObject *ka_first_item(object dict, object key) noexcept   # a new reference
    Py_ssize_t ka_count_weakrefs(object o) noexcept

from _weakref import getweakrefcount


cdef object kept(object made):
    """A constant of the module, made just now; of a tuple its items."""
    if isinstance(made, tuple):
        for one in made:
            ka_keep_for_ever(one)
    else:
        ka_keep_for_ever(made)
    return made


cdef ka_mutex IMPORTS   # for what is imported on first use


cdef Py_ssize_t count_weakrefs(object o) except? -1:
    """Number of weak references to it; without a call where the GIL guards their list, a node of which is a
    PyWeakReference."""
    cdef Py_ssize_t n = ka_count_weakrefs(o)
    return n if n >= 0 else getweakrefcount(o)
