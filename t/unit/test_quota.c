/*
 * Copyright (C) clawd authors
 *
 * The arithmetic of quotas.
 *
 * link: src/ledger/ngx_http_clawd_quota.c
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ngx_http_clawd_calendar.h"
#include "ngx_http_clawd_quota.h"


#define S       1000000LL
#define MIN     (60 * S)
#define CAP     9007199254740992LL

#define CONC    NGX_HTTP_CLAWD_LIMIT_CONCURRENCY
#define RPM     NGX_HTTP_CLAWD_LIMIT_RPM
#define TPM     NGX_HTTP_CLAWD_LIMIT_TPM
#define DAY     NGX_HTTP_CLAWD_LIMIT_DAY
#define MONTH   NGX_HTTP_CLAWD_LIMIT_MONTH

#define YES     NGX_HTTP_CLAWD_LIMITS

/* 2024-02-28 23:59:58 UTC, the day before a leap day */
#define LEAP    1709164798LL

/* 2024-02-29 12:00:00 UTC */
#define NOON    1709208000LL


static ngx_http_clawd_usage_t    u;
static ngx_http_clawd_terms_t    terms;
static ngx_http_clawd_windows_t  w;
static ngx_str_t                 tz = ngx_string("+01:00");


/* doubles: the zone is terms.offset, whatever its name */

int64_t
ngx_http_clawd_month_of_day(int64_t day)
{
    int64_t  month;

    for (month = 0; ngx_http_clawd_day_of_month(month + 1) <= day; month++) {
        /* void */
    }

    return month;
}


int64_t
ngx_http_clawd_day_of_month(int64_t month)
{
    int64_t  year, day, m, leap;

    static const int  days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30 };

    day = 0;

    for (year = 1970; year < 1970 + month / 12; year++) {
        day += (year % 4 == 0 && (year % 100 || year % 400 == 0)) ? 366 : 365;
    }

    leap = (year % 4 == 0 && (year % 100 || year % 400 == 0));

    for (m = 0; m < month % 12; m++) {
        day += days[m] + (m == 1 ? leap : 0);
    }

    return day;
}


int64_t
ngx_http_clawd_day_end(ngx_str_t *zone, int64_t now)
{
    assert_ptr_equal(zone, &tz);

    return ((now + terms.offset) / 86400 + 1) * 86400 - terms.offset;
}


int64_t
ngx_http_clawd_month_end(ngx_str_t *zone, int64_t now)
{
    int64_t  month;

    assert_ptr_equal(zone, &tz);

    month = ngx_http_clawd_month_of_day((now + terms.offset) / 86400);

    return ngx_http_clawd_day_of_month(month + 1) * 86400 - terms.offset;
}


static int
setup(void **state)
{
    int  i;

    memset(&u, 0, sizeof(u));
    memset(&terms, 0, sizeof(terms));
    memset(&w, 0xa5, sizeof(w));

    for (i = 0; i < NGX_HTTP_CLAWD_LIMITS; i++) {
        terms.limits[i] = NGX_HTTP_CLAWD_UNLIMITED;
    }

    return 0;
}


/* which limit is in the way, or YES */

static int
reserve(int64_t live, int64_t est, int64_t now)
{
    ngx_int_t                rc;
    ngx_http_clawd_limit_e   limit;
    ngx_http_clawd_usage_t   rolled;

    rolled = u;
    ngx_http_clawd_quota_roll(&rolled, &terms, now);

    rc = ngx_http_clawd_quota_reserve(&u, &terms, live, est, now, &w, &limit);

    if (rc == NGX_DECLINED) {

        /* nothing was charged */

        assert_memory_equal(&u, &rolled, sizeof(u));
        return limit;
    }

    assert_int_equal(rc, NGX_OK);
    assert_int_equal(w.epoch, u.epoch);
    assert_int_equal(w.minute, u.minute);
    assert_int_equal(w.day, u.day);
    assert_int_equal(w.month, u.month);
    assert_int_equal(u.n, rolled.n + 1);

    return YES;
}


static int64_t
when(ngx_http_clawd_limit_e limit, int64_t est, int64_t now)
{
    return ngx_http_clawd_quota_when(&u, &terms, &tz, limit, est, now);
}


static void
test_unlimited(void **state)
{
    assert_int_equal(reserve(1000, 7, NOON * S), YES);
    assert_int_equal(u.n, 1);
    assert_int_equal(u.minute, NOON / 60);
    assert_int_equal(u.day, 19782);
    assert_int_equal(u.month, 54 * 12 + 1);
    assert_int_equal(u.minute_requests, 1);
    assert_int_equal(u.minute_tokens, 7);
    assert_int_equal(u.day_tokens, 7);
    assert_int_equal(u.month_tokens, 7);
    assert_int_equal(u.request_tat, 0);
    assert_int_equal(u.token_tat, 0);
}


static void
test_zero_limits(void **state)
{
    int  i;

    for (i = 0; i < NGX_HTTP_CLAWD_LIMITS; i++) {
        setup(state);
        terms.limits[i] = 0;

        assert_int_equal(reserve(0, 0, NOON * S), i);
        assert_int_equal(reserve(0, 5, NOON * S), i);
        assert_int_equal(when(i, 1, NOON * S), -1);
        assert_int_equal(when(i, 0, NOON * S), -1);
        assert_int_equal(u.n, 0);
    }
}


static void
test_order(void **state)
{
    int  i;

    for (i = 0; i < NGX_HTTP_CLAWD_LIMITS; i++) {
        terms.limits[i] = 0;
    }

    for (i = 0; i < NGX_HTTP_CLAWD_LIMITS; i++) {
        assert_int_equal(reserve(0, 1, NOON * S), i);
        terms.limits[i] = NGX_HTTP_CLAWD_UNLIMITED;
    }

    assert_int_equal(reserve(0, 1, NOON * S), YES);
}


static void
test_concurrency(void **state)
{
    terms.limits[CONC] = 2;

    assert_int_equal(reserve(0, 1, NOON * S), YES);
    assert_int_equal(reserve(1, 1, NOON * S), YES);
    assert_int_equal(reserve(2, 1, NOON * S), CONC);
    assert_int_equal(reserve(3, 1, NOON * S), CONC);
    assert_int_equal(when(CONC, 1, NOON * S), -1);
    assert_int_equal(ngx_http_clawd_quota_used(&u, CONC, 2), 2);
}


static void
test_to_the_last_token(void **state)
{
    int  i;

    static const int  limits[] = { TPM, DAY, MONTH };

    for (i = 0; i < 3; i++) {
        setup(state);
        terms.limits[limits[i]] = 100;

        assert_int_equal(reserve(0, 60, NOON * S), YES);
        assert_int_equal(reserve(0, 41, NOON * S), limits[i]);
        assert_int_equal(reserve(0, 40, NOON * S), YES);
        assert_int_equal(reserve(0, 1, NOON * S), limits[i]);
        assert_int_equal(reserve(0, 0, NOON * S), YES);
        assert_int_equal(ngx_http_clawd_quota_used(&u, limits[i], 9), 100);
    }
}


static void
test_minute_edge(void **state)
{
    int64_t  t;

    terms.limits[RPM] = 2;

    t = (NOON + 60) * S - 1;

    assert_int_equal(reserve(0, 0, t), YES);
    assert_int_equal(reserve(0, 0, t), YES);
    assert_int_equal(reserve(0, 0, t), RPM);
    assert_int_equal(ngx_http_clawd_quota_used(&u, RPM, 0), 2);

    /* another minute, but the bucket is empty: half of it is back after 30 s */

    assert_int_equal(reserve(0, 0, t + 1), RPM);
    assert_int_equal(u.minute_requests, 0);
    assert_int_equal(when(RPM, 0, t + 1), t + 30 * S);
    assert_int_equal(reserve(0, 0, t + 30 * S - 1), RPM);
    assert_int_equal(reserve(0, 0, t + 30 * S), YES);
}


static void
test_minute_count(void **state)
{
    int64_t  t;

    terms.limits[RPM] = 2;

    assert_int_equal(reserve(0, 0, NOON * S), YES);
    assert_int_equal(reserve(0, 0, NOON * S), YES);

    /* the bucket has one again, the clock minute has none */

    t = (NOON + 59) * S;
    assert_int_equal(reserve(0, 0, t), RPM);
    assert_int_equal(when(RPM, 5, t), (NOON + 60) * S);
    assert_int_equal(reserve(0, 0, (NOON + 60) * S - 1), RPM);
    assert_int_equal(reserve(0, 0, (NOON + 60) * S), YES);
}


static void
test_day_and_month_edges(void **state)
{
    terms.limits[DAY] = 10;
    terms.limits[MONTH] = 20;

    assert_int_equal(reserve(0, 10, LEAP * S), YES);
    assert_int_equal(reserve(0, 1, (LEAP + 2) * S - 1), DAY);
    assert_int_equal(when(DAY, 1, LEAP * S), (LEAP + 2) * S);
    assert_int_equal(when(DAY, 11, LEAP * S), -1);
    assert_int_equal(when(MONTH, 10, LEAP * S), LEAP * S);
    assert_int_equal(when(MONTH, 11, LEAP * S), (LEAP + 2 + 86400) * S);

    /* the leap day is of the same month */

    assert_int_equal(reserve(0, 10, (LEAP + 2) * S), YES);
    assert_int_equal(reserve(0, 1, (LEAP + 2) * S), DAY);
    assert_int_equal(reserve(0, 1, (LEAP + 2 + 86400) * S - 1), DAY);
    assert_int_equal(reserve(0, 1, (LEAP + 2 + 86400) * S), YES);
    assert_int_equal(u.month, 54 * 12 + 2);
    assert_int_equal(u.month_tokens, 1);
    assert_int_equal(u.day_tokens, 1);
}


static void
test_zones(void **state)
{
    terms.limits[MONTH] = 10;

    /* 2024-02-29 12:00 UTC: the next month for +14:00 is two hours old */

    terms.offset = 14 * 3600;
    assert_int_equal(reserve(0, 10, NOON * S), YES);
    assert_int_equal(u.day, 19783);
    assert_int_equal(u.month, 54 * 12 + 2);

    setup(state);
    terms.limits[MONTH] = 10;
    terms.offset = -11 * 3600;
    assert_int_equal(reserve(0, 10, (LEAP + 2 + 86400) * S), YES);
    assert_int_equal(u.day, 19782);
    assert_int_equal(u.month, 54 * 12 + 1);
    assert_int_equal(when(MONTH, 1, (LEAP + 2 + 86400) * S),
                     (LEAP + 2 + 86400 + 11 * 3600) * S);
}


static void
test_clock_set_back(void **state)
{
    int64_t                 t;
    ngx_http_clawd_usage_t  before;

    terms.limits[DAY] = 10;
    t = (LEAP + 86400 + 2) * S;

    assert_int_equal(reserve(0, 10, t), YES);
    before = u;

    /* into the day, the month and the minute before */

    assert_int_equal(reserve(0, 1, t - S), DAY);
    assert_memory_equal(&u, &before, sizeof(u));

    /* the window in the way is the one ahead */

    assert_int_equal(when(DAY, 1, t - S), t + 86400 * S);
    terms.limits[MONTH] = 10;
    assert_int_equal(when(MONTH, 1, t - S), t + 31 * 86400 * S);
    terms.limits[RPM] = 1;
    assert_int_equal(when(RPM, 1, t - S), t + 60 * S);
}


static void
test_epoch(void **state)
{
    terms.limits[TPM] = 10;
    terms.epoch = 4;

    assert_int_equal(reserve(0, 10, NOON * S), YES);
    assert_int_equal(u.epoch, 4);
    assert_int_equal(reserve(0, 1, NOON * S), TPM);

    terms.epoch = 5;
    assert_int_equal(reserve(0, 9, NOON * S), YES);
    assert_int_equal(u.n, 2);
    assert_int_equal(u.epoch, 5);
    assert_int_equal(u.month_tokens, 9);
    assert_int_equal(u.minute_requests, 1);
    assert_int_equal(u.token_tat, NOON * S + 54 * S);

    /* one that has not heard yet resets nothing */

    terms.epoch = 4;
    assert_int_equal(reserve(0, 2, NOON * S), TPM);
    assert_int_equal(reserve(0, 1, NOON * S), YES);
    assert_int_equal(u.epoch, 5);
    assert_int_equal(w.epoch, 5);
    assert_int_equal(u.minute_tokens, 10);
}


static void
test_settle(void **state)
{
    terms.limits[TPM] = 100;

    assert_int_equal(reserve(0, 90, NOON * S), YES);
    ngx_http_clawd_quota_settle(&u, &w, 30 - 90, 100);

    assert_int_equal(u.n, 2);
    assert_int_equal(u.minute_tokens, 30);
    assert_int_equal(u.day_tokens, 30);
    assert_int_equal(u.month_tokens, 30);
    assert_int_equal(u.token_tat, (NOON + 18) * S);

    assert_int_equal(reserve(0, 71, NOON * S), TPM);
    assert_int_equal(reserve(0, 70, NOON * S), YES);

    /* more than was thought */

    ngx_http_clawd_quota_settle(&u, &w, 20, 100);
    assert_int_equal(u.minute_tokens, 120);
    assert_int_equal(when(TPM, 1, NOON * S), (NOON + 60) * S);
    assert_int_equal(when(TPM, 100, NOON * S), (NOON + 72) * S);
}


static void
test_settle_older_windows(void **state)
{
    ngx_http_clawd_windows_t  first;

    assert_int_equal(reserve(0, 50, LEAP * S), YES);
    first = w;
    assert_int_equal(reserve(0, 7, (LEAP + 2) * S), YES);

    /* the minute and the day are over, the month is not */

    ngx_http_clawd_quota_settle(&u, &first, -40, -1);
    assert_int_equal(u.minute_tokens, 7);
    assert_int_equal(u.day_tokens, 7);
    assert_int_equal(u.month_tokens, 17);

    /* not of this epoch */

    terms.epoch = 1;
    assert_int_equal(reserve(0, 7, (LEAP + 2) * S), YES);
    ngx_http_clawd_quota_settle(&u, &first, -3, 100);
    assert_int_equal(u.month_tokens, 7);
    assert_int_equal(u.token_tat, 0);
    assert_int_equal(u.n, 5);
}


static void
test_settle_never_below_zero(void **state)
{
    terms.limits[TPM] = 10;

    assert_int_equal(reserve(0, 1, NOON * S), YES);
    ngx_http_clawd_quota_settle(&u, &w, -1000, 10);
    assert_int_equal(u.minute_tokens, 0);
    assert_int_equal(u.day_tokens, 0);
    assert_int_equal(u.month_tokens, 0);
    assert_true(u.token_tat > 0);

    ngx_http_clawd_quota_settle(&u, &w, INT64_MIN, 1);
    assert_true(u.token_tat >= 0);
    ngx_http_clawd_quota_settle(&u, &w, INT64_MIN, 1);
    ngx_http_clawd_quota_settle(&u, &w, INT64_MIN, 1);
    assert_int_equal(u.token_tat, 0);
}


static void
test_giants(void **state)
{
    int      i;
    int64_t  limit;

    for (i = 0; i < 5; i++) {
        assert_int_equal(reserve(0, INT64_MAX, NOON * S), YES);
        ngx_http_clawd_quota_settle(&u, &w, INT64_MAX, 1);
        ngx_http_clawd_quota_settle(&u, &w, INT64_MAX, 1000000000000LL);
    }

    assert_int_equal(u.minute_tokens, CAP);
    assert_int_equal(u.month_tokens, CAP);
    assert_true(u.token_tat <= CAP);

    /* of every limit, the whole passes at once and no more */

    for (limit = NGX_HTTP_CLAWD_LIMIT_MAX - 2000;
         limit <= NGX_HTTP_CLAWD_LIMIT_MAX;
         limit++)
    {
        setup(state);
        terms.limits[TPM] = limit;

        assert_int_equal(reserve(0, limit + 1, NOON * S), TPM);
        assert_int_equal(reserve(0, limit, NOON * S), YES);
        assert_int_equal(reserve(0, 1, NOON * S), TPM);
        assert_true(u.token_tat <= NOON * S + MIN);
        assert_int_equal(when(TPM, limit, NOON * S), (NOON + 60) * S);
        assert_int_equal(when(TPM, limit + 1, NOON * S), -1);
    }
}


/* whatever when() says is true, to the microsecond */

static void
test_when_is_exact(void **state)
{
    int                     i, limit;
    int64_t                 now, t, est;
    uint64_t                x;
    ngx_http_clawd_usage_t  saved;

    terms.limits[RPM] = 7;
    terms.limits[TPM] = 1000;
    terms.limits[DAY] = 20000;
    terms.limits[MONTH] = 45000;

    x = 12345;
    now = LEAP * S;

    for (i = 0; i < 20000; i++) {
        x = x * 6364136223846793005ULL + 1442695040888963407ULL;
        est = 1 + (x >> 33) % 400;
        now += (x >> 40) % (9 * S);

        limit = reserve(0, est, now);

        if (limit == YES) {
            if (i % 3 == 0) {
                ngx_http_clawd_quota_settle(&u, &w, -est / 2, 1000);
            }

            continue;
        }

        t = when(limit, est, now);
        assert_true(t > now);
        saved = u;

        assert_int_equal(reserve(0, est, t - 1), limit);
        u = saved;
        assert_int_not_equal(reserve(0, est, t), limit);
        u = saved;

        if (i % 50 == 0) {
            now = t;
        }
    }
}


/* without refunds, any minute lets twice the limit through at most, and each
   clock minute the limit; any window W: limit and what is refilled in W */

static void
test_sliding(void **state)
{
    int       i, j, n;
    int64_t   now, sum;
    uint64_t  x;

    enum { ROUNDS = 3000 };

    static int64_t  times[ROUNDS], tokens[ROUNDS];

    terms.limits[TPM] = 997;

    n = 0;
    x = 99;
    now = NOON * S;

    for (i = 0; i < ROUNDS; i++) {
        x = x * 6364136223846793005ULL + 1442695040888963407ULL;
        now += (x >> 40) % (2 * S);
        tokens[n] = 1 + (x >> 33) % 200;
        times[n] = now;

        if (reserve(0, tokens[n], now) == YES) {
            n++;
        }
    }

    assert_true(n > 100);

    for (i = 0; i < n; i++) {
        sum = 0;

        for (j = i; j < n; j++) {
            sum += tokens[j];
            assert_true((double) sum <= 997.0 + 997.0 / 60e6
                                                * (times[j] - times[i]));
        }
    }

    for (i = 0; i < n; i = j) {
        sum = 0;

        for (j = i; j < n && times[j] / MIN == times[i] / MIN; j++) {
            sum += tokens[j];
        }

        assert_true(sum <= 997);
    }
}


/* of two tellings of one usage the larger counts, each with its window */

static void
test_join(void **state)
{
    ngx_http_clawd_usage_t  other;

    u.epoch = 1;
    u.n = 5;
    u.request_tat = 10;
    u.token_tat = 40;
    u.minute = 7;
    u.minute_requests = 3;
    u.minute_tokens = 30;
    u.day = 2;
    u.day_tokens = 900;
    u.month = 1;
    u.month_tokens = 100;

    other = u;
    other.n = 4;
    other.request_tat = 20;
    other.token_tat = 30;
    other.minute = 6;
    other.minute_tokens = 1000;
    other.day = 3;
    other.day_tokens = 50;
    other.month_tokens = 200;

    ngx_http_clawd_quota_join(&u, &other);

    assert_int_equal(u.n, 5);
    assert_int_equal(u.request_tat, 20);
    assert_int_equal(u.token_tat, 40);
    assert_int_equal(u.minute, 7);
    assert_int_equal(u.minute_tokens, 30);
    assert_int_equal(u.day, 3);
    assert_int_equal(u.day_tokens, 50);
    assert_int_equal(u.month_tokens, 200);

    /* another epoch's is another usage */

    other.epoch = 0;
    other.day_tokens = 5000;
    ngx_http_clawd_quota_join(&u, &other);
    assert_int_equal(u.day_tokens, 50);

    other.epoch = 2;
    ngx_http_clawd_quota_join(&u, &other);
    assert_int_equal(u.epoch, 2);
    assert_int_equal(u.n, 5);
    assert_int_equal(u.day_tokens, 5000);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test_setup(test_unlimited, setup),
        cmocka_unit_test_setup(test_zero_limits, setup),
        cmocka_unit_test_setup(test_order, setup),
        cmocka_unit_test_setup(test_concurrency, setup),
        cmocka_unit_test_setup(test_to_the_last_token, setup),
        cmocka_unit_test_setup(test_minute_edge, setup),
        cmocka_unit_test_setup(test_minute_count, setup),
        cmocka_unit_test_setup(test_day_and_month_edges, setup),
        cmocka_unit_test_setup(test_zones, setup),
        cmocka_unit_test_setup(test_clock_set_back, setup),
        cmocka_unit_test_setup(test_epoch, setup),
        cmocka_unit_test_setup(test_settle, setup),
        cmocka_unit_test_setup(test_settle_older_windows, setup),
        cmocka_unit_test_setup(test_settle_never_below_zero, setup),
        cmocka_unit_test_setup(test_giants, setup),
        cmocka_unit_test_setup(test_when_is_exact, setup),
        cmocka_unit_test_setup(test_sliding, setup),
        cmocka_unit_test_setup(test_join, setup)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
