/* SPDX-License-Identifier: Apache-2.0 */
/* Texts of a row as Python objects. */
#ifndef PROCLINE_TEXTS_H
#define PROCLINE_TEXTS_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

/* Most names are short and ASCII. For those this saves 2 to 3 ns over PyUnicode_DecodeUTF8, and an entry of eight
 * fields contains six of them. */
static inline PyObject *pl_text(const char *data, Py_ssize_t n)
{
	uint64_t word, high = 0;
	Py_ssize_t i = 0;
	PyObject *text;

	for (; i + 8 <= n; i += 8) {
		memcpy(&word, data + i, 8);
		high |= word;
	}
	for (; i < n; i++)
		high |= (unsigned char)data[i];
	if (high & 0x8080808080808080u)
		return PyUnicode_DecodeUTF8(data, n, "surrogateescape");
	text = PyUnicode_New(n, 127);
	if (text != NULL)
		memcpy(PyUnicode_1BYTE_DATA(text), data, n);
	return text;
}

/* Decode the next of several NUL-terminated strings; the last one may lack its NUL. */
static inline PyObject *pl_next_text(const char **at, const char *end)
{
	size_t n = strnlen(*at, end - *at);
	PyObject *text = pl_text(*at, n);

	*at += n + 1;
	return text;
}

/* Decode several strings into a tuple. Counts them first, because a growing list would cost as much as one more
 * argument. */
static inline PyObject *pl_texts(const char *at, const char *end)
{
	Py_ssize_t count = end > at && end[-1] != 0;
	PyObject *texts, *text;

	for (const char *p = at; p < end; p++)
		count += *p == 0;
	texts = PyTuple_New(count);
	for (Py_ssize_t i = 0; texts != NULL && i < count; i++) {
		text = pl_next_text(&at, end);
		if (text == NULL)
			Py_CLEAR(texts);
		else
			PyTuple_SET_ITEM(texts, i, text);
	}
	return texts;
}

#endif
