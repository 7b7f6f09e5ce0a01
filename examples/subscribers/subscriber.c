/* Print all events of a Procline instance as JSON, one a line, and what is missing. docs/wire-schema.md explains it.
 *     cc -O2 -o subscriber subscriber.c -lmsgpack-c -lzmq && ./subscriber [SOCKET] */
#include "msgpack_json.h"
#include <stdlib.h>
#include <sys/random.h>
#include <zmq.h>

enum { TOPICS = 8, ALL = (1 << TOPICS) - 1, QUIET_MS = 5000, QUEUE_MESSAGES = 8192, STEP_MAX = 1 << 20 };
static const char *const topics[TOPICS] = {"proc.fork",    "proc.exec",     "proc.exit", "proc.cred",
                                           "proc.context", "proc.reparent", "sys.loss",  "sys.stats"};
static const uint64_t UNKNOWN = UINT64_MAX;
static uint64_t stream, writer, group, step, unwatched_ns, last[TOPICS], seen_count, former_count, line_count;
static uint64_t seen[STEP_MAX], former[STEP_MAX]; /* hashes of events: of this step; of a former writer's last one */
static struct line { uint64_t order; char *text; } *lines; /* the events of a group that is not complete */

static void ask(void *socket, int option, const char *topic) { zmq_setsockopt(socket, option, topic, strlen(topic)); }
static int compare(const void *a, const void *b) { /* a line begins with its number, too */
    return (*(const uint64_t *)a > *(const uint64_t *)b) - (*(const uint64_t *)a < *(const uint64_t *)b);
}
static void flush_group(void) {
    if (line_count) qsort(lines, line_count, sizeof *lines, compare);
    for (size_t i = 0; i < line_count; i++) puts(lines[i].text), free(lines[i].text);
    line_count = 0;
    fflush(stdout);
}
static void add_event(const msgpack_object *event) {
    uint64_t id = hashed(hashed(hashed(0, get(event, "event")), get(event, "entity_id")), get(event, "time_ns"));
    if (seen_count < STEP_MAX) seen[seen_count++] = id; /* also a repeat: the next writer may repeat it again */
    if (bsearch(&id, former, former_count, sizeof id, compare)) return;
    struct line line = {.order = field(event, "order")};
    FILE *out = open_memstream(&line.text, &(size_t){0});
    write_json(out, event);
    fclose(out);
    if (!(line_count & (line_count - 1))) lines = realloc(lines, (line_count ? 2 * line_count : 1) * sizeof line);
    lines[line_count++] = line;
}
static void take(int topic, const msgpack_object *header, const char *body, size_t size) { /* topic -1: the welcome */
    uint64_t first = field(header, "first"), end = first + field(header, "count") - 1;
    const msgpack_object *seqs = get(header, "seqs"), *unwatched = get(header, "unwatched"), *period, *seq;
    uint32_t known = 0; /* periods in `unwatched` */
    if (field(header, "group") != group || field(header, "writer") != writer) flush_group();
    if (field(header, "stream") != stream) { /* the numbers begin again */
        if (topic >= 0) puts("{\"event\": \"missed\", \"topic\": null, \"reason\": \"restart\"}");
        for (int i = 0; i < TOPICS; i++) last[i] = (seq = item(seqs, i)) ? integer(seq) : UNKNOWN;
        seen_count = former_count = 0;
    } else if (field(header, "writer") != writer) { /* it may repeat what the former one did not commit */
        former_count = seen_count;
        qsort(memcpy(former, seen, seen_count * sizeof *seen), former_count, sizeof *former, compare);
        seen_count = 0;
    }
    stream = field(header, "stream"), writer = field(header, "writer"), group = field(header, "group");
    for (uint32_t i = 0; (period = item(unwatched, i)); i++) if (length(period) == unwatched_ns) known = i + 1;
    for (; (period = item(unwatched, known)); known++) {
        unwatched_ns = length(period); /* which stays the same if the clock is set */
        if (topic >= 0) printf("{\"event\": \"unwatched\", \"period\": "), write_json(stdout, period), puts("}");
    }
    if (topic < 0) return;
    if (last[topic] != UNKNOWN && first > last[topic] + 1)
        printf("{\"event\": \"missed\", \"topic\": \"%s\", \"first\": %" PRIu64 ", \"last\": %" PRIu64 "}\n",
               topics[topic], last[topic] + 1, first - 1);
    if (last[topic] == UNKNOWN || end > last[topic]) last[topic] = end;
    if (size && field(header, "step") != step) seen_count = 0, step = field(header, "step");
    msgpack_unpacked event = {0}; /* the body is `count` objects, one after the other */
    for (size_t at = 0; msgpack_unpack_next(&event, body, size, &at) == MSGPACK_UNPACK_SUCCESS;) add_event(&event.data);
    msgpack_unpacked_destroy(&event);
    if (!(field(header, "rest") & ALL)) flush_group();
}
int main(int count, char **arguments) {
    const char *endpoint = count > 1 ? arguments[1] : "ipc:///run/procline/default/stream/stream.ipc";
    int topic, frames, is_first, is_joined = 0;
    char word[32];
    uint64_t random;
    zmq_msg_t part[3]; msgpack_unpacked header = {0};
    void *socket = zmq_socket(zmq_ctx_new(), ZMQ_SUB);
    zmq_setsockopt(socket, ZMQ_RCVTIMEO, &(int){QUIET_MS}, sizeof(int));
    zmq_setsockopt(socket, ZMQ_RCVHWM, &(int){QUEUE_MESSAGES}, sizeof(int));
    for (topic = 0; topic < TOPICS; topic++) ask(socket, ZMQ_SUBSCRIBE, topics[topic]);
    if (getrandom(&random, sizeof random, 0) < 0 || zmq_connect(socket, endpoint)) return perror(endpoint), 1;
    snprintf(word, sizeof word, "sys.welcome.%016" PRIx64, random);
    ask(socket, ZMQ_SUBSCRIBE, word);
    for (;;) {
        for (frames = 0; frames < 3; frames++)
            if (zmq_msg_init(&part[frames]) || zmq_msg_recv(&part[frames], socket, 0) < 0) break;
        if (frames < 3) { /* no heartbeat either: the daemon is not running, or this user may not read its stream */
            fprintf(stderr, "subscriber: nothing arrives from %s\n", endpoint); /* ZeroMQ connects again by itself */
            if (!is_joined) ask(socket, ZMQ_UNSUBSCRIBE, word), ask(socket, ZMQ_SUBSCRIBE, word);
            continue;
        }
        size_t size = zmq_msg_size(&part[0]), bytes = zmq_msg_size(&part[2]);
        for (topic = TOPICS; topic-- > 0;)
            if (size == strlen(topics[topic]) && !memcmp(zmq_msg_data(&part[0]), topics[topic], size)) break;
        msgpack_unpack_next(&header, zmq_msg_data(&part[1]), zmq_msg_size(&part[1]), NULL);
        if (field(&header.data, "major") != 1) return fputs("subscriber: another version of the stream\n", stderr), 1;
        is_first = !is_joined && size == strlen(word) && !memcmp(zmq_msg_data(&part[0]), word, size);
        if (is_joined ? topic >= 0 : is_first) take(topic, &header.data, zmq_msg_data(&part[2]), bytes);
        if (is_first) is_joined = 1, ask(socket, ZMQ_UNSUBSCRIBE, word);
        while (frames) zmq_msg_close(&part[--frames]);
    }
}
