/* SPDX-License-Identifier: Apache-2.0 */
/* Included before everything else in each extension module (setup.py). Every call of a function may fail, and then ends
 * here: the compiler puts what leads here out of the way of what does not. */
#pragma once

static void __Pyx_AddTraceback(const char *, int, int, const char *) __attribute__((cold));
