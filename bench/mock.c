/*
 * Copyright (C) clawd authors
 *
 * The upstream of the benchmark: one thread, one epoll loop, answers made
 * once.  Prints the port of 127.0.0.1 on which it listens, serves until its
 * standard input ends, and takes the kind of the answer from a header:
 *
 *     (others)          a chat completion of 1 KB with its usage
 *     x-bench: stream N a stream of 64 events, N ms between two of them; with
 *                       N = 0 the streams take turns, one event each
 *     x-bench: idle     a stream that says nothing after its first event
 *
 * While anybody is connected it polls and never sleeps: how often a gateway
 * has to wake its peers depends on its pace, and costs more than what is to be
 * compared.
 *
 * Every event is one chunk and one write, and carries the monotonic time in
 * nanoseconds as its content.  The usage event is sent if the body asks for
 * it.
 */

#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>


#define EVENTS      64        /* with content, in a stream */
#define HEADER_MAX  8192
#define READ_SIZE   65536
#define OVERLAP     16        /* a word that two reads share is found */
#define BATCH       512

#define MODEL_HEAD                                                            \
    "{\"id\":\"chatcmpl-7f3a9c51\",\"object\":\"chat.completion.chunk\","     \
    "\"created\":1760000000,\"model\":\"bench:1b\","                          \
    "\"system_fingerprint\":\"fp_ollama\",\"choices\":"

#define STREAM_HEADER                                                         \
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"                  \
    "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"


typedef enum {
    ANSWER_JSON = 0,
    ANSWER_STREAM,
    ANSWER_IDLE
} answer_e;


typedef struct conn_s  conn_t;

struct conn_s {
    int        fd;
    answer_e   answer;
    int        pace;          /* ms */
    int        usage;         /* the body asks for it */
    int        step;          /* of the running stream; -1: none runs */
    int        blocked;       /* the peer reads no more */
    uint64_t   due;           /* ns */
    int64_t    body_left;     /* -1: the header is being read */

    conn_t    *prev;          /* running streams */
    conn_t    *next;

    size_t     out_len;       /* what a full socket did not take */
    size_t     out_pos;
    char       out[1024];

    size_t     len;
    char       in[HEADER_MAX + 1];

    size_t     tail_len;
    char       tail[OVERLAP];
};


static int      epoll_fd;
static conn_t   streams;      /* head of the ring of running streams */
static char     json[2048];
static size_t   json_len;
static int      conns;        /* open ones */


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
make_json(void)
{
    int   n;
    char  body[1536], text[600];

    for (n = 0; n < (int) sizeof(text) - 1; n++) {
        text[n] = "a quick answer of plain words "[n % 30];
    }

    text[n] = '\0';

    n = snprintf(body, sizeof(body),
                 "{\"id\":\"chatcmpl-7f3a9c51\",\"object\":"
                 "\"chat.completion\",\"created\":1760000000,"
                 "\"model\":\"bench:1b\",\"system_fingerprint\":"
                 "\"fp_ollama\",\"choices\":[{\"index\":0,\"message\":"
                 "{\"role\":\"assistant\",\"content\":\"%s\"},"
                 "\"finish_reason\":\"stop\"}],\"usage\":"
                 "{\"prompt_tokens\":180,\"completion_tokens\":120,"
                 "\"total_tokens\":300}}\n", text);

    json_len = snprintf(json, sizeof(json),
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json"
                        "\r\nContent-Length: %d\r\n\r\n%s", n, body);
}


static void
unlink_stream(conn_t *c)
{
    if (c->next) {
        c->prev->next = c->next;
        c->next->prev = c->prev;
        c->next = NULL;
    }
}


static void
link_stream(conn_t *c)
{
    c->prev = streams.prev;
    c->next = &streams;
    streams.prev->next = c;
    streams.prev = c;
}


static void
close_conn(conn_t *c)
{
    unlink_stream(c);
    close(c->fd);
    free(c);
    conns--;
}


/* 0, or -1 when the connection is gone; a rest is kept for later */

static int
send_bytes(conn_t *c, const char *p, size_t len)
{
    ssize_t  n;

    if (c->blocked) {
        return -1;
    }

    n = send(c->fd, p, len, MSG_NOSIGNAL);

    if (n == (ssize_t) len) {
        return 0;
    }

    if (n < 0 && errno != EAGAIN) {
        return -1;
    }

    if (n < 0) {
        n = 0;
    }

    if (len - n > sizeof(c->out)) {
        return -1;
    }

    memmove(c->out, p + n, len - n);
    c->out_len = len - n;
    c->out_pos = 0;
    c->blocked = 1;

    return 0;
}


/* the chunk of step number c->step; its length */

static size_t
make_event(conn_t *c, char *dst, size_t size)
{
    int          n;
    char         data[512];
    const char  *end;

    end = "";

    if (c->step < EVENTS) {
        n = snprintf(data, sizeof(data), "data: " MODEL_HEAD
                     "[{\"index\":0,\"delta\":{%s\"content\":\" t%016" PRIx64
                     "\"},\"finish_reason\":null}]}\n\n",
                     c->step == 0 ? "\"role\":\"assistant\"," : "", now());

    } else if (c->step == EVENTS) {
        n = snprintf(data, sizeof(data), "data: " MODEL_HEAD
                     "[{\"index\":0,\"delta\":{\"content\":\"\"},"
                     "\"finish_reason\":\"stop\"}]}\n\n");

    } else if (c->step == EVENTS + 1 && c->usage) {
        n = snprintf(data, sizeof(data), "data: " MODEL_HEAD
                     "[],\"usage\":{\"prompt_tokens\":180,"
                     "\"completion_tokens\":64,\"total_tokens\":244}}\n\n");

    } else {
        n = snprintf(data, sizeof(data), "data: [DONE]\n\n");
        end = "0\r\n\r\n";
        c->step = EVENTS + 2;
    }

    return snprintf(dst, size, "%x\r\n%s\r\n%s", n, data, end);
}


/* one event of a running stream; -1: the connection is gone */

static int
run_stream(conn_t *c)
{
    char    chunk[1024];
    size_t  n;

    n = make_event(c, chunk, sizeof(chunk));

    if (send_bytes(c, chunk, n) != 0) {
        return -1;
    }

    unlink_stream(c);

    if (++c->step > EVENTS + 2) {
        c->step = -1;
        return 0;
    }

    if (c->answer == ANSWER_IDLE) {
        return 0;
    }

    c->due = c->pace ? now() + (uint64_t) c->pace * 1000000 : 0;

    if (!c->blocked) {
        link_stream(c);
    }

    return 0;
}


static int
start_answer(conn_t *c)
{
    c->len = 0;
    c->body_left = -1;

    if (c->answer == ANSWER_JSON) {
        return send_bytes(c, json, json_len);
    }

    if (send_bytes(c, STREAM_HEADER, sizeof(STREAM_HEADER) - 1) != 0) {
        return -1;
    }

    c->step = 0;

    return run_stream(c);
}


static void
read_body(conn_t *c, char *p, size_t len)
{
    c->body_left -= len;

    if (c->answer == ANSWER_STREAM && !c->usage) {
        c->usage = memmem(p, len, "\"include_usage\"", 15) != NULL;
    }
}


/* the header in c->in is whole, of the given length; 0 or -1 */

static int
read_header(conn_t *c, size_t header)
{
    char  *p, saved;

    saved = c->in[header];
    c->in[header] = '\0';

    c->answer = ANSWER_JSON;
    c->usage = 0;
    c->pace = 0;
    c->body_left = 0;

    p = strcasestr(c->in, "\r\ncontent-length:");
    if (p) {
        c->body_left = strtoll(p + 17, NULL, 10);
    }

    p = strcasestr(c->in, "\r\nx-bench: ");
    if (p && strncmp(p + 11, "stream", 6) == 0) {
        c->answer = ANSWER_STREAM;
        c->pace = atoi(p + 17);

    } else if (p && strncmp(p + 11, "idle", 4) == 0) {
        c->answer = ANSWER_IDLE;
    }

    p = strcasestr(c->in, "\r\ntransfer-encoding:");

    c->in[header] = saved;

    return p ? -1 : 0;
}


/* what lies in c->in after a read; 0 or -1 */

static int
parse(conn_t *c)
{
    char    *end;
    size_t   header, rest;

    c->in[c->len] = '\0';

    end = strstr(c->in, "\r\n\r\n");
    if (end == NULL) {
        return c->len == HEADER_MAX ? -1 : 0;
    }

    header = end + 4 - c->in;
    rest = c->len - header;

    if (read_header(c, header) != 0 || (int64_t) rest > c->body_left) {
        return -1;
    }

    c->tail_len = 0;

    if (rest) {
        c->tail_len = rest < OVERLAP ? rest : OVERLAP;
        memcpy(c->tail, c->in + c->len - c->tail_len, c->tail_len);
        read_body(c, c->in + header, rest);
    }

    return c->body_left == 0 ? start_answer(c) : 0;
}


/* 0, -1 when the connection is gone */

static int
read_conn(conn_t *c)
{
    char         *p;
    ssize_t       n;
    size_t        size;
    static char   piece[OVERLAP + READ_SIZE];

    for ( ;; ) {

        if (c->body_left > 0) {
            p = piece + OVERLAP;
            size = READ_SIZE;

        } else {
            p = c->in + c->len;
            size = HEADER_MAX - c->len;
        }

        n = recv(c->fd, p, size, 0);

        if (n < 0) {
            return errno == EAGAIN ? 0 : -1;
        }

        if (n == 0) {
            return -1;
        }

        if (c->body_left <= 0) {
            c->len += n;

            if (parse(c) != 0) {
                return -1;
            }

            continue;
        }

        if (n > c->body_left) {
            return -1;
        }

        memcpy(p - c->tail_len, c->tail, c->tail_len);
        c->body_left += c->tail_len;
        read_body(c, p - c->tail_len, n + c->tail_len);

        c->tail_len = n < OVERLAP ? n : OVERLAP;
        memcpy(c->tail, p + n - c->tail_len, c->tail_len);

        if (c->body_left == 0 && start_answer(c) != 0) {
            return -1;
        }
    }
}


static int
write_conn(conn_t *c)
{
    ssize_t  n;

    if (!c->blocked) {
        return 0;
    }

    n = send(c->fd, c->out + c->out_pos, c->out_len - c->out_pos,
             MSG_NOSIGNAL);

    if (n < 0) {
        return errno == EAGAIN ? 0 : -1;
    }

    c->out_pos += n;

    if (c->out_pos == c->out_len) {
        c->blocked = 0;

        if (c->step >= 0 && c->answer == ANSWER_STREAM) {
            link_stream(c);
        }
    }

    return 0;
}


static void
accept_conns(int listener)
{
    int                 fd, one;
    conn_t             *c;
    struct epoll_event  ev;

    for ( ;; ) {
        fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0) {
            return;
        }

        c = calloc(1, sizeof(conn_t));
        if (c == NULL) {
            die("calloc");
        }

        conns++;
        c->fd = fd;
        c->step = -1;
        c->body_left = -1;

        one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));

        ev.events = EPOLLIN | EPOLLOUT | EPOLLET;
        ev.data.ptr = c;

        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev) != 0) {
            die("epoll_ctl");
        }
    }
}


/* one event of each stream whose time has come; ms to the next, -1: none */

static int
run_streams(void)
{
    int        end;
    conn_t    *c, *last;
    uint64_t   t;

    if (streams.next == &streams) {
        return -1;
    }

    t = now();
    last = streams.prev;

    for ( ;; ) {
        c = streams.next;

        if (c == &streams) {
            return -1;
        }

        if (c->due > t) {
            return (c->due - t) / 1000000 + 1;
        }

        end = (c == last);

        if (run_stream(c) != 0) {
            close_conn(c);
        }

        if (end) {
            return streams.next == &streams ? -1 : 0;
        }
    }
}


static int
listen_any(void)
{
    int                 fd;
    socklen_t           len;
    struct sockaddr_in  sin;

    memset(&sin, 0, sizeof(sin));
    sin.sin_family = AF_INET;
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    len = sizeof(sin);

    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

    if (fd < 0
        || bind(fd, (struct sockaddr *) &sin, len) != 0
        || listen(fd, 4096) != 0
        || getsockname(fd, (struct sockaddr *) &sin, &len) != 0)
    {
        die("listen");
    }

    printf("%d\n", ntohs(sin.sin_port));
    fflush(stdout);

    return fd;
}


int
main(int argc, char **argv)
{
    int                 i, n, fd, timeout, sleeps;
    conn_t             *c, listener, input;
    struct epoll_event  ev, events[BATCH];

    sleeps = (argc > 1 && strcmp(argv[1], "sleeps") == 0);

    make_json();
    streams.prev = streams.next = &streams;

    epoll_fd = epoll_create1(0);
    fd = listen_any();

    ev.events = EPOLLIN;
    ev.data.ptr = &listener;
    if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev) != 0) {
        die("epoll_ctl");
    }

    ev.data.ptr = &input;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &ev) != 0) {
        die("standard input must be a pipe");
    }

    for (timeout = -1; /* void */ ; timeout = run_streams()) {
        n = epoll_wait(epoll_fd, events, BATCH,
                       conns && !sleeps ? 0 : timeout);

        if (n == 0) {
            sched_yield();
        }

        for (i = 0; i < n; i++) {
            c = events[i].data.ptr;

            if (c == &input) {
                return 0;
            }

            if (c == &listener) {
                accept_conns(fd);
                continue;
            }

            if (((events[i].events & EPOLLOUT) && write_conn(c) != 0)
                || ((events[i].events & ~EPOLLOUT) && read_conn(c) != 0))
            {
                close_conn(c);
            }
        }
    }
}
