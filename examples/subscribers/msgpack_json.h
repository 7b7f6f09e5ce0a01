/* Look up keys of msgpack maps, and write msgpack objects as JSON in ASCII, which is safe on a terminal. */
#include <inttypes.h>
#include <msgpack.h>
#include <stdio.h>
#include <string.h>

/* Return the value of a key, or nil. Keys are always str. */
static const msgpack_object *get(const msgpack_object *map, const char *key) {
    static const msgpack_object nil = {.type = MSGPACK_OBJECT_NIL};
    for (uint32_t i = 0; map->type == MSGPACK_OBJECT_MAP && i < map->via.map.size; i++) {
        const msgpack_object_str *name = &map->via.map.ptr[i].key.via.str;
        if (name->size == strlen(key) && !memcmp(name->ptr, key, name->size)) return &map->via.map.ptr[i].val;
    }
    return &nil;
}

/* Return an integer; 0 if it is none. A time can be negative (before 1970): cast it to int64_t. */
static uint64_t integer(const msgpack_object *value) {
    if (!value) return 0;
    int is_integer = value->type == MSGPACK_OBJECT_POSITIVE_INTEGER || value->type == MSGPACK_OBJECT_NEGATIVE_INTEGER;
    return is_integer ? value->via.u64 : 0;
}

static uint64_t field(const msgpack_object *map, const char *key) {
    return integer(get(map, key));
}

/* Return an item of an array, or NULL behind its end and if it is none. */
static const msgpack_object *item(const msgpack_object *array, uint32_t at) {
    return array->type == MSGPACK_OBJECT_ARRAY && at < array->via.array.size ? &array->via.array.ptr[at] : NULL;
}

/* Return how long a [from, to] is. */
static uint64_t length(const msgpack_object *period) {
    return integer(item(period, 1)) - integer(item(period, 0));
}

/* Continue a hash (FNV-1a) with a text or an integer. */
static uint64_t hashed(uint64_t hash, const msgpack_object *value) {
    uint64_t number = integer(value);
    int is_text = value->type == MSGPACK_OBJECT_STR;
    const unsigned char *bytes = is_text ? (const unsigned char *)value->via.str.ptr : (unsigned char *)&number;
    for (size_t left = is_text ? value->via.str.size : sizeof number; left; left--)
        hash = (hash ^ *bytes++) * 0x100000001b3;
    return hash;
}

/* A str is UTF-8. A bin is text that is not, so each of its bytes is written as a character of Latin-1. */
static void write_text(FILE *out, const char *bytes, uint32_t size, int is_utf8) {
    fputc('"', out);
    for (uint32_t i = 0; i < size; i++) {
        uint32_t c = (unsigned char)bytes[i], more = !is_utf8 || c < 0xc0 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
        for (c &= more ? 0x3f >> more : 0xff; more && i + 1 < size; more--) c = c << 6 | (bytes[++i] & 0x3f);
        if (c > 0xffff)
            fprintf(out, "\\u%04x\\u%04x", 0xd7c0 + (c >> 10), 0xdc00 | (c & 0x3ff));
        else if (c < ' ' || c > '~' || c == '"' || c == '\\')
            fprintf(out, "\\u%04x", c);
        else
            fputc((int)c, out);
    }
    fputc('"', out);
}

static void write_json(FILE *out, const msgpack_object *value) {
    switch (value->type) {
    case MSGPACK_OBJECT_BOOLEAN: fputs(value->via.boolean ? "true" : "false", out); break;
    case MSGPACK_OBJECT_POSITIVE_INTEGER: fprintf(out, "%" PRIu64, value->via.u64); break;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER: fprintf(out, "%" PRId64, value->via.i64); break;
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64: fprintf(out, "%.17g", value->via.f64); break;
    case MSGPACK_OBJECT_STR: write_text(out, value->via.str.ptr, value->via.str.size, 1); break;
    case MSGPACK_OBJECT_BIN: write_text(out, value->via.bin.ptr, value->via.bin.size, 0); break;
    case MSGPACK_OBJECT_ARRAY:
        fputc('[', out);
        for (uint32_t i = 0; i < value->via.array.size; i++) {
            if (i) fputs(", ", out);
            write_json(out, &value->via.array.ptr[i]);
        }
        fputc(']', out);
        break;
    case MSGPACK_OBJECT_MAP:
        fputc('{', out);
        for (uint32_t i = 0; i < value->via.map.size; i++) {
            if (i) fputs(", ", out);
            write_json(out, &value->via.map.ptr[i].key);
            fputs(": ", out);
            write_json(out, &value->via.map.ptr[i].val);
        }
        fputc('}', out);
        break;
    default: fputs("null", out);
    }
}
