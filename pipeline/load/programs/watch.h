/* SPDX-License-Identifier: Apache-2.0 */
/* The part of procline-load that reads the tables of an instance. */
#ifndef PROCLINE_WATCH_H
#define PROCLINE_WATCH_H

#include "reader.h"

void die(const char *what);
int watch(int argc, char **argv);

#endif
