/* The module whose file holds all compiled ones: `names` lists them, for the import system. */
#include <Python.h>

static int native_exec(PyObject *module) {
    PyObject *text = PyUnicode_FromString(CK_MODULES);
    PyObject *names = text ? PyUnicode_Split(text, NULL, -1) : NULL;
    int result = names ? PyModule_AddObjectRef(module, "names", names) : -1;
    Py_XDECREF(names);
    Py_XDECREF(text);
    return result;
}

static PyModuleDef_Slot native_slots[] = {
    {Py_mod_exec, native_exec},
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef native = {
    PyModuleDef_HEAD_INIT,
    .m_name = "native",
    .m_doc = "Tells in `names` which modules lie in the same file.",
    .m_slots = native_slots,
};

PyMODINIT_FUNC PyInit_native(void) { return PyModuleDef_Init(&native); }
