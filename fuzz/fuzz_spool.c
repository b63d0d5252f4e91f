/*
 * Copyright (C) clawd authors
 *
 * The spool.  The input lies in the file between two settlements.  It must
 * hold that:
 *
 *  - both are replayed, whatever lies between them, and what more is replayed
 *    may be appended, and is read again as it was;
 *  - the replay comes to its end, and its file goes.
 *
 * link: src/ledger/ngx_http_clawd_spool.c
 */

#include "ngx_http_clawd_spool.h"

#include "../t/unit/files.h"


#define FUZZ_MAX  16384

#define fuzz_assert(x)  do { if (!(x)) { abort(); } } while (0)


static ngx_log_t               fuzz_log;
static ngx_http_clawd_spool_t  fuzz_spool;


int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static ngx_str_t  path;

    fuzz_log.log_level = NGX_LOG_DEBUG;

    fuzz_assert(files_make(1) == 0);
    fuzz_assert(atexit(files_remove) == 0);

    path.data = (u_char *) strdup(files_path("spool"));
    fuzz_assert(path.data);
    path.len = strlen((char *) path.data);

    ngx_http_clawd_spool_init(&fuzz_spool, &path, &fuzz_log);

    return 0;
}


/* max at a time: the number of settlements, which s takes */

static ngx_uint_t
fuzz_replay(ngx_http_clawd_settlement_t *s, ngx_uint_t max)
{
    ngx_int_t   rc;
    ngx_uint_t  n, total;

    total = 0;

    for ( ;; ) {
        fuzz_assert(total + max <= FUZZ_MAX);

        rc = ngx_http_clawd_spool_next(&fuzz_spool, s + total, max, &n);

        if (rc == NGX_DONE) {
            break;
        }

        fuzz_assert(rc == NGX_OK && n > 0 && n <= max);
        total += n;
    }

    ngx_http_clawd_spool_done(&fuzz_spool);

    fuzz_assert(ngx_http_clawd_spool_next(&fuzz_spool, s, max, &n)
                == NGX_DECLINED);

    return total;
}


static void
fuzz_settlement(ngx_http_clawd_settlement_t *s, int of)
{
    memset(s, 0, sizeof(ngx_http_clawd_settlement_t));
    memset(s->rid, of, NGX_HTTP_CLAWD_RID_HEX);
    memset(s->user, of, 5);

    s->user_len = 5;
    s->est = of;
    s->tpm = -1;
    s->offset = -of;
    s->offline = of % 2;
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ngx_uint_t                   n, max;
    ngx_http_clawd_settlement_t  first, last;

    static ngx_http_clawd_settlement_t  s[FUZZ_MAX], again[FUZZ_MAX];

    if (size < 1 || size > FUZZ_MAX * 64) {
        return 0;
    }

    max = 1 + data[0];

    fuzz_settlement(&first, 'a');
    fuzz_settlement(&last, 'b');

    fuzz_assert(ngx_http_clawd_spool_append(&fuzz_spool, &first, 1)
                == NGX_OK);
    fuzz_assert(files_put("spool", data + 1, size - 1) == 0);
    fuzz_assert(ngx_http_clawd_spool_append(&fuzz_spool, &last, 1) == NGX_OK);

    n = fuzz_replay(s, max);

    fuzz_assert(n >= 2);
    fuzz_assert(memcmp(&s[0], &first, sizeof(first)) == 0);
    fuzz_assert(memcmp(&s[n - 1], &last, sizeof(last)) == 0);

    fuzz_assert(ngx_http_clawd_spool_append(&fuzz_spool, s, n) == NGX_OK);
    fuzz_assert(fuzz_replay(again, max) == n);
    fuzz_assert(memcmp(s, again, n * sizeof(first)) == 0);

    return 0;
}
