/* SPDX-License-Identifier: Apache-2.0 */
/* Included before everything else in each extension module (setup.py). Code that handles a failed call ends in this
 * function. Because it is cold, the compiler moves such code away from the code that usually runs. */
#pragma once

static void __Pyx_AddTraceback(const char *, int, int, const char *) __attribute__((cold));
