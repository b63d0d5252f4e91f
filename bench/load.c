/*
 * Copyright (C) clawd authors
 *
 * The load of the benchmark: keeps a number of connections busy
 * with one POST after the other, one thread and one epoll loop, and checks
 * that every answer is whole.
 *
 *     load stream PORT CONNECTIONS SECONDS TOKEN KIND BODY-FILE [KEYS [any]]
 *     load idle   PORT CONNECTIONS SECONDS TOKEN KIND BODY-FILE
 *
 * KIND is the value of x-bench, see mock.c; "json" is no stream.
 * "stream" prints its figures as JSON.  With KEYS above 1 each request has
 * another token: the first 7 digits of TOKEN become a random number below
 * KEYS.  "any" takes answers of any status for good ones.  "idle" opens all
 * connections, prints "open" when each has got its first event, and closes
 * them when its standard input ends; SECONDS bounds the opening.
 */

#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>


#define ANSWER_MAX   65536
#define SAMPLES_MAX  (1 << 22)
#define ERRORS_MAX   1000
#define GRACE        10000000000ull   /* ns, for what runs at the end */
#define BATCH        512
#define DIGITS       7


typedef struct {
    int        fd;
    int        idle;          /* has its first event, in mode "idle" */
    char      *request;       /* its own one where tokens differ */
    size_t     sent;          /* of the request */
    uint64_t   start;         /* ns, when the request was begun */
    uint64_t   first;         /* ns, when the first event was read; 0: not */

    size_t     header;        /* its length; 0: not yet whole */
    int64_t    length;        /* of the body; -1: chunked */
    long       chunk;         /* bytes of the running chunk to come */
    size_t     raw;           /* behind it, chunk framing is still there */
    size_t     seen;          /* bytes looked through for events */
    int        events;
    int        done;          /* data: [DONE] was read */
    size_t     len;
    char       in[ANSWER_MAX + 1];
} conn_t;


/* durations in microseconds */

typedef struct {
    uint32_t  *us;
    size_t     n;
} samples_t;


static int         epoll_fd, port, idle_mode, any_status;
static char       *request;
static size_t      digits;    /* where those of the token are */
static uint64_t    keys, seed;
static size_t      request_len;
static uint64_t    stop;      /* ns; no request begins after it */
static uint64_t    requests, errors, events, reads;
static size_t      busy;      /* connections with a request, or idle */
static size_t      idle;
static samples_t   ttft, event, total;


static void
die(const char *what)
{
    perror(what);
    exit(1);
}


static uint64_t
now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}


static void
sample(samples_t *s, uint64_t ns)
{
    if (s->us == NULL) {
        s->us = malloc(SAMPLES_MAX * sizeof(uint32_t));
        if (s->us == NULL) {
            die("malloc");
        }
    }

    if (s->n < SAMPLES_MAX) {
        s->us[s->n++] = ns / 1000;
    }
}


static int
compare(const void *one, const void *two)
{
    uint32_t  a, b;

    a = *(const uint32_t *) one;
    b = *(const uint32_t *) two;

    return (a > b) - (a < b);
}


static uint32_t
percentile(samples_t *s, int percent)
{
    if (s->n == 0) {
        return 0;
    }

    return s->us[(s->n - 1) * percent / 100];
}


static void
make_request(const char *token, const char *kind, const char *file)
{
    int          fd, n;
    char         header[1024];
    ssize_t      size;
    struct stat  st;

    fd = open(file, O_RDONLY);
    if (fd < 0 || fstat(fd, &st) != 0) {
        die(file);
    }

    n = snprintf(header, sizeof(header),
                 "POST /v1/chat/completions HTTP/1.1\r\n"
                 "Host: 127.0.0.1:%d\r\n"
                 "Accept: application/json\r\n"
                 "Authorization: Bearer %s\r\n"
                 "Content-Type: application/json\r\n"
                 "User-Agent: bench\r\n"
                 "x-bench: %s\r\n"
                 "Content-Length: %jd\r\n\r\n",
                 port, token, kind, (intmax_t) st.st_size);

    request = malloc(n + st.st_size);
    if (request == NULL) {
        die("malloc");
    }

    memcpy(request, header, n);
    digits = strstr(header, "Bearer ") - header;
    digits += strcspn(header + digits, "0123456789");

    for (request_len = n; request_len < (size_t) (n + st.st_size);
         request_len += size)
    {
        size = read(fd, request + request_len, n + st.st_size - request_len);
        if (size <= 0) {
            die(file);
        }
    }

    close(fd);
}


/* another token: xorshift is random enough */

static void
next_key(conn_t *c)
{
    int       i;
    uint64_t  n;

    if (keys < 2) {
        return;
    }

    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;

    n = seed % keys;

    for (i = DIGITS - 1; i >= 0; i--) {
        c->request[digits + i] = '0' + n % 10;
        n /= 10;
    }
}


static void
own_request(conn_t *c)
{
    c->request = request;

    if (keys < 2) {
        return;
    }

    c->request = malloc(request_len);
    if (c->request == NULL) {
        die("malloc");
    }

    memcpy(c->request, request, request_len);
}


/* opens the connection; the request goes out when it can be written */

static void
open_conn(conn_t *c)
{
    int                 one;
    char               *own;
    struct epoll_event  ev;
    struct sockaddr_in  sin;

    own = c->request;
    memset(c, 0, offsetof(conn_t, in));
    c->request = own;
    next_key(c);

    memset(&sin, 0, sizeof(sin));
    sin.sin_family = AF_INET;
    sin.sin_port = htons(port);
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) {
        die("socket");
    }

    one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));

    if (connect(c->fd, (struct sockaddr *) &sin, sizeof(sin)) != 0
        && errno != EINPROGRESS)
    {
        die("connect");
    }

    ev.events = EPOLLIN | EPOLLOUT | EPOLLET;
    ev.data.ptr = c;

    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &ev) != 0) {
        die("epoll_ctl");
    }

    c->start = now();
    busy++;
}


static void
close_conn(conn_t *c)
{
    close(c->fd);
    c->fd = -1;
    busy--;
}


static void
failed(conn_t *c, const char *why)
{
    if (errors++ == 0) {
        fprintf(stderr, "load: %s\n%.*s\n", why, (int) c->len, c->in);
    }

    close_conn(c);

    if (errors < ERRORS_MAX && now() < stop) {
        open_conn(c);
    }
}


/* 0, or -1 when the connection failed */

static int
write_conn(conn_t *c)
{
    ssize_t  n;

    while (c->sent < request_len) {
        n = send(c->fd, c->request + c->sent, request_len - c->sent,
                 MSG_NOSIGNAL);

        if (n < 0) {
            return errno == EAGAIN ? 0 : -1;
        }

        c->sent += n;
    }

    return 0;
}


/* the answer is whole: counts it and begins the next one */

static int
next_request(conn_t *c)
{
    uint64_t  t;

    t = now();

    requests++;
    events += c->events;
    sample(&total, t - c->start);

    if (c->first) {
        sample(&ttft, c->first - c->start);
    }

    if (t >= stop) {
        close_conn(c);
        return 0;
    }

    next_key(c);
    c->sent = 0;
    c->start = t;
    c->first = 0;
    c->header = 0;
    c->seen = 0;
    c->events = 0;
    c->done = 0;
    c->len = 0;

    return write_conn(c);
}


static int
read_header(conn_t *c)
{
    char  *p, *end;

    end = memmem(c->in, c->len, "\r\n\r\n", 4);
    if (end == NULL) {
        return 0;
    }

    if (c->len < 12
        || (!any_status && memcmp(c->in, "HTTP/1.1 200", 12) != 0))
    {
        return -1;
    }

    c->header = end + 4 - c->in;
    c->raw = c->header - 2;   /* a line break, as before any chunk */
    c->seen = c->raw;
    c->chunk = 0;
    c->length = -1;

    *end = '\0';

    p = strcasestr(c->in, "\r\ncontent-length:");
    if (p) {
        c->length = strtoll(p + 17, NULL, 10);
    }

    return 0;
}


/* counts the events that have ended, and reads their clocks */

static void
read_events(conn_t *c)
{
    char      *p, *end, *clock;
    uint64_t   t;

    t = now();

    for ( ;; ) {
        p = c->in + c->seen;

        end = memmem(p, c->in + c->raw - p, "\n\n", 2);
        if (end == NULL) {
            return;
        }

        c->seen = end + 2 - c->in;
        c->events++;

        if (c->first == 0) {
            c->first = t;
        }

        clock = memmem(p, end - p, "\"content\":\" t", 13);

        if (clock) {
            sample(&event, t - strtoull(clock + 13, NULL, 16));

        } else if (memmem(p, end - p, "data: [DONE]", 12)) {
            c->done = 1;
        }
    }
}


/*
 * Takes the chunk framing out of c->in, in place, from c->raw on.  1: the last
 * chunk has ended, 0: more is to come, -1: this is no chunk.
 */

static int
read_chunks(conn_t *c)
{
    char    *p, *last, *dst, *end;
    size_t   n;

    p = c->in + c->raw;
    last = c->in + c->len;
    dst = p;

    while (p < last) {

        if (c->chunk > 0) {
            n = last - p < c->chunk ? last - p : c->chunk;
            memmove(dst, p, n);
            dst += n;
            p += n;
            c->chunk -= n;
            continue;
        }

        /* a size line, behind the line break of the chunk before */

        end = memchr(p + 2, '\n', last - p > 2 ? last - p - 2 : 0);
        if (end == NULL) {
            break;
        }

        c->chunk = strtol(p, NULL, 16);

        if (c->chunk == 0 && last - end < 3) {
            break;
        }

        p = end + 1;

        if (c->chunk == 0) {
            c->len = c->raw = dst - c->in;
            return last - p == 2 ? 1 : -1;
        }
    }

    c->raw = dst - c->in;

    memmove(dst, p, last - p);
    c->len = c->raw + (last - p);

    return 0;
}


/* 1: the answer is whole, 0: it goes on, -1: it is not what was expected */

static int
read_answer(conn_t *c)
{
    int  rc;

    if (c->header == 0 && read_header(c) != 0) {
        return -1;
    }

    if (c->header == 0) {
        return 0;
    }

    if (c->length >= 0) {
        return c->len - c->header == (size_t) c->length;
    }

    rc = read_chunks(c);

    if (rc >= 0) {
        read_events(c);
    }

    return rc == 1 && !c->done && !any_status ? -1 : rc;
}


/* 0, or -1 when the connection failed */

static int
read_conn(conn_t *c)
{
    int      rc;
    ssize_t  n;

    for ( ;; ) {

        if (c->len == ANSWER_MAX) {
            return -1;
        }

        n = recv(c->fd, c->in + c->len, ANSWER_MAX - c->len, 0);

        if (n < 0) {
            return errno == EAGAIN ? 0 : -1;
        }

        if (n == 0) {
            return -1;
        }

        c->len += n;
        reads++;

        rc = read_answer(c);

        if (rc == 1) {
            return next_request(c);
        }

        if (rc < 0) {
            return -1;
        }

        if (idle_mode && c->events && !c->idle) {
            c->idle = 1;
            idle++;
        }
    }
}


static void
handle(conn_t *c, uint32_t flags)
{
    if (c->fd == -1) {
        return;
    }

    if ((flags & EPOLLOUT) && write_conn(c) != 0) {
        failed(c, "a request could not be sent");
        return;
    }

    if ((flags & ~EPOLLOUT) && read_conn(c) != 0) {
        failed(c, "an answer is not whole");
    }
}


static void
run(size_t connections, uint64_t end)
{
    int                 i, n;
    struct epoll_event  ev[BATCH];

    while (busy && errors < ERRORS_MAX && now() < end) {
        n = epoll_wait(epoll_fd, ev, BATCH, 100);

        for (i = 0; i < n; i++) {
            handle(ev[i].data.ptr, ev[i].events);
        }

        if (idle_mode && idle == connections) {
            return;
        }
    }
}


static void
print_figures(double seconds)
{
    qsort(ttft.us, ttft.n, sizeof(uint32_t), compare);
    qsort(event.us, event.n, sizeof(uint32_t), compare);
    qsort(total.us, total.n, sizeof(uint32_t), compare);

    printf("{\"requests\": %" PRIu64 ", \"errors\": %" PRIu64
           ", \"seconds\": %.3f, \"events\": %" PRIu64
           ", \"reads\": %" PRIu64
           ", \"p50_us\": %u, \"p99_us\": %u, \"max_us\": %u"
           ", \"ttft_p50_us\": %u, \"ttft_p99_us\": %u"
           ", \"event_p50_us\": %u, \"event_p99_us\": %u}\n",
           requests, errors, seconds, events, reads,
           percentile(&total, 50), percentile(&total, 99),
           percentile(&total, 100),
           percentile(&ttft, 50), percentile(&ttft, 99),
           percentile(&event, 50), percentile(&event, 99));
}


int
main(int argc, char **argv)
{
    char           c;
    size_t         i, connections;
    conn_t        *conns;
    uint64_t       start;

    if (argc < 8 || argc > 10) {
        fprintf(stderr, "load: wrong arguments, see its source\n");
        return 2;
    }

    idle_mode = strcmp(argv[1], "idle") == 0;
    port = atoi(argv[2]);
    connections = atoi(argv[3]);
    keys = argc > 8 ? strtoull(argv[8], NULL, 10) : 0;
    any_status = argc > 9;
    seed = now() | 1;
    make_request(argv[5], argv[6], argv[7]);

    conns = calloc(connections, sizeof(conn_t));
    epoll_fd = epoll_create1(0);
    if (conns == NULL || epoll_fd < 0) {
        die("no memory");
    }

    start = now();
    stop = start + (uint64_t) (atof(argv[4]) * 1e9);

    for (i = 0; i < connections; i++) {
        own_request(&conns[i]);
        open_conn(&conns[i]);
    }

    run(connections, idle_mode ? stop : stop + GRACE);

    if (!idle_mode) {
        print_figures((now() - start) / 1e9);
        return errors ? 1 : 0;
    }

    if (idle != connections) {
        fprintf(stderr, "load: %zu of %zu streams opened\n", idle,
                connections);
        return 1;
    }

    printf("open\n");
    fflush(stdout);

    while (read(0, &c, 1) > 0) { /* void */ }

    return 0;
}
