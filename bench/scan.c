/*
 * Copyright (C) clawd authors
 *
 * How fast the request reader alone is: reads each file given as one request
 * body, in pieces as the gate does, for a second, and prints a JSON line per
 * file with the best rate in GB/s (10^9 bytes).
 */

#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_http_clawd_request.h"

#include <stdio.h>
#include <time.h>


#define PIECE  65536


static double
now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);

    return ts.tv_sec + ts.tv_nsec / 1e9;
}


static ngx_int_t
scan(u_char *p, u_char *last)
{
    u_char                           *end;
    static ngx_http_clawd_request_t   rq;

    rq.format = NGX_HTTP_CLAWD_FORMAT_CHAT;
    rq.max_tokens = 4096;
    rq.native = 0;
    rq.admin = 0;

    ngx_http_clawd_request_init(&rq);

    for ( /* void */ ; p < last; p = end) {
        end = p + ngx_min(last - p, PIECE);

        if (ngx_http_clawd_request_read(&rq, p, end) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return ngx_http_clawd_request_end(&rq);
}


static u_char *
read_file(const char *name, size_t *len)
{
    long     size;
    FILE    *f;
    u_char  *p;

    f = fopen(name, "rb");
    if (f == NULL || fseek(f, 0, SEEK_END) != 0) {
        return NULL;
    }

    size = ftell(f);
    rewind(f);

    p = malloc(size);
    if (p == NULL || fread(p, 1, size, f) != (size_t) size) {
        return NULL;
    }

    fclose(f);
    *len = size;

    return p;
}


int
main(int argc, char **argv)
{
    int      i, n, turns;
    size_t   len;
    double   start, t, best;
    u_char  *p;

    for (i = 1; i < argc; i++) {
        p = read_file(argv[i], &len);
        if (p == NULL) {
            perror(argv[i]);
            return 1;
        }

        best = 1e9;
        start = now();

        /* a small one alone is shorter than what the clock can tell */

        turns = 1 + (1 << 20) / (int) len;

        do {
            t = now();

            for (n = 0; n < turns; n++) {
                if (scan(p, p + len) != NGX_OK) {
                    fprintf(stderr, "scan: %s was refused\n", argv[i]);
                    return 1;
                }
            }

            t = (now() - t) / turns;
            best = ngx_min(best, t);

        } while (now() - start < 1);

        printf("{\"file\": \"%s\", \"bytes\": %zu, \"gb_per_s\": %.3f}\n",
               argv[i], len, len / best / 1e9);
        free(p);
    }

    return 0;
}
