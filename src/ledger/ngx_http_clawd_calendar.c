/*
 * Copyright (C) clawd authors
 */

#include "ngx_http_clawd_calendar.h"


#define NGX_HTTP_CLAWD_TZ_ROOT      "/usr/share/zoneinfo/"

/* offsets change at no other times */
#define NGX_HTTP_CLAWD_TZ_QUARTER   900

#define NGX_HTTP_CLAWD_TZ_SETS      32
#define NGX_HTTP_CLAWD_TZ_WAYS      4

#define NGX_HTTP_CLAWD_DAY          86400


typedef struct {
    int64_t    quarter;           /* …since 1970 in which offset is good */
    int32_t    offset;
    ngx_int_t  rc;                /* NGX_ERROR: it was found to be no zone */
    size_t     len;               /* 0: a free place */
    u_char     name[NGX_HTTP_CLAWD_TZ_LEN];
} ngx_http_clawd_tz_t;


static ngx_int_t ngx_http_clawd_tz_read(ngx_str_t *tz, int64_t now,
    int32_t *offset);
static ngx_int_t ngx_http_clawd_tz_file(char *path);
static int64_t ngx_http_clawd_tz_local(ngx_str_t *tz, int64_t now);
static int64_t ngx_http_clawd_tz_reach(ngx_str_t *tz, int64_t now,
    int64_t local);
static int64_t ngx_http_clawd_floor(int64_t n, int64_t d);


/* of this process; the ends of days and months are quarters like others */

static ngx_http_clawd_tz_t
    ngx_http_clawd_tz_cache[NGX_HTTP_CLAWD_TZ_SETS][NGX_HTTP_CLAWD_TZ_WAYS];
static ngx_uint_t  ngx_http_clawd_tz_next;


int64_t
ngx_http_clawd_month_of_day(int64_t day)
{
    int64_t         month;

    static int64_t  last_day, last_month;    /* day 0 is of month 0 */

    if (day == last_day) {
        return last_month;
    }

    /* 4800 months have 146097 days, so that this is one month off at most */

    month = ngx_http_clawd_floor(day * 4800, 146097);

    while (ngx_http_clawd_day_of_month(month) > day) {
        month--;
    }

    while (ngx_http_clawd_day_of_month(month + 1) <= day) {
        month++;
    }

    last_day = day;
    last_month = month;

    return month;
}


int64_t
ngx_http_clawd_day_of_month(int64_t month)
{
    int64_t  year, past, leaps;

    static const int16_t  before[] = {
        0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334
    };

    year = 1970 + ngx_http_clawd_floor(month, 12);
    month -= (year - 1970) * 12;

    /* leap days before the month: this year's counts from March on */

    past = (month < 2) ? year - 1 : year;

    leaps = ngx_http_clawd_floor(past, 4) - ngx_http_clawd_floor(past, 100)
            + ngx_http_clawd_floor(past, 400);

    /* 477 of them were before 1970 */

    return (year - 1970) * 365 + before[month] + leaps - 477;
}


ngx_int_t
ngx_http_clawd_tz_offset(ngx_str_t *tz, int64_t now, int32_t *offset)
{
    size_t                i;
    int64_t               quarter;
    uint32_t              hash;
    ngx_int_t             rc;
    ngx_http_clawd_tz_t  *set, *z;

    rc = ngx_http_clawd_tz_form(tz, offset);

    if (rc != NGX_DECLINED) {
        return rc;
    }

    quarter = ngx_http_clawd_floor(now, NGX_HTTP_CLAWD_TZ_QUARTER);
    hash = (uint32_t) quarter;

    for (i = 0; i < tz->len; i++) {
        hash = (hash ^ tz->data[i]) * 16777619;
    }

    set = ngx_http_clawd_tz_cache[(hash >> 16) % NGX_HTTP_CLAWD_TZ_SETS];

    for (i = 0; i < NGX_HTTP_CLAWD_TZ_WAYS; i++) {
        z = &set[i];

        if (z->quarter == quarter && z->len == tz->len
            && ngx_memcmp(z->name, tz->data, tz->len) == 0)
        {
            *offset = z->offset;
            return z->rc;
        }
    }

    z = &set[ngx_http_clawd_tz_next++ % NGX_HTTP_CLAWD_TZ_WAYS];

    z->quarter = quarter;
    z->rc = ngx_http_clawd_tz_read(tz, quarter * NGX_HTTP_CLAWD_TZ_QUARTER,
                                   &z->offset);
    z->len = tz->len;
    ngx_memcpy(z->name, tz->data, tz->len);

    *offset = z->offset;

    return z->rc;
}


/*
 * The libc alone knows the database, and takes the zone from the environment:
 * it sees one of ours for the moment, so that nothing is set or copied, and
 * TZ is afterwards what it was, or not there.
 */

static ngx_int_t
ngx_http_clawd_tz_read(ngx_str_t *tz, int64_t now, int32_t *offset)
{
    char        *last, **saved, *env[2];
    time_t       t;
    struct tm    tm, *set;

    static char  text[sizeof("TZ=:" NGX_HTTP_CLAWD_TZ_ROOT)
                      + NGX_HTTP_CLAWD_TZ_LEN] = "TZ=:" NGX_HTTP_CLAWD_TZ_ROOT;

    *offset = 0;

    last = text + sizeof("TZ=:" NGX_HTTP_CLAWD_TZ_ROOT) - 1;
    last = (char *) ngx_cpymem(last, tz->data, tz->len);
    *last = '\0';

    if (ngx_http_clawd_tz_file(text + sizeof("TZ=:") - 1) != NGX_OK) {
        return NGX_ERROR;
    }

    t = (time_t) now;

    saved = environ;

    env[0] = text;
    env[1] = NULL;
    environ = env;

    tzset();
    set = localtime_r(&t, &tm);

    environ = saved;

    tzset();

    if (set == NULL) {
        return NGX_ERROR;
    }

    *offset = (int32_t) tm.tm_gmtoff;

    return NGX_OK;
}


/* Without a file of that name the libc would take the zone for UTC. */

static ngx_int_t
ngx_http_clawd_tz_file(char *path)
{
    char         magic[4];
    ssize_t      n;
    ngx_fd_t     fd;
    struct stat  sb;

    fd = open(path, O_RDONLY|O_NONBLOCK|O_CLOEXEC);

    if (fd == -1) {
        return NGX_ERROR;
    }

    n = -1;

    if (fstat(fd, &sb) == 0 && S_ISREG(sb.st_mode)) {
        n = read(fd, magic, sizeof(magic));
    }

    (void) close(fd);

    if (n != sizeof(magic) || ngx_memcmp(magic, "TZif", 4) != 0) {
        return NGX_ERROR;
    }

    return NGX_OK;
}


int64_t
ngx_http_clawd_day_end(ngx_str_t *tz, int64_t now)
{
    int64_t  day;

    day = ngx_http_clawd_floor(ngx_http_clawd_tz_local(tz, now),
                               NGX_HTTP_CLAWD_DAY);

    return ngx_http_clawd_tz_reach(tz, now, (day + 1) * NGX_HTTP_CLAWD_DAY);
}


int64_t
ngx_http_clawd_month_end(ngx_str_t *tz, int64_t now)
{
    int64_t  day, month;

    day = ngx_http_clawd_floor(ngx_http_clawd_tz_local(tz, now),
                               NGX_HTTP_CLAWD_DAY);
    month = ngx_http_clawd_month_of_day(day) + 1;

    return ngx_http_clawd_tz_reach(tz, now, ngx_http_clawd_day_of_month(month)
                                            * NGX_HTTP_CLAWD_DAY);
}


static int64_t
ngx_http_clawd_tz_local(ngx_str_t *tz, int64_t now)
{
    int32_t  offset;

    if (ngx_http_clawd_tz_offset(tz, now, &offset) != NGX_OK) {
        return now;
    }

    return now + offset;
}


/* When the zone's clocks, which are before local now, get to it or past it. */

static int64_t
ngx_http_clawd_tz_reach(ngx_str_t *tz, int64_t now, int64_t local)
{
    int64_t     t, low, high, middle;
    ngx_uint_t  i;

    t = local - (ngx_http_clawd_tz_local(tz, now) - now);

    /* by the offset of now; if it is not that one then, by the one it is */

    for (i = 0; i < 2; i++) {

        if (ngx_http_clawd_tz_local(tz, t) == local) {
            return t;
        }

        t = local - (ngx_http_clawd_tz_local(tz, t) - t);
    }

    if (ngx_http_clawd_tz_local(tz, t) == local) {
        return t;
    }

    /* the clocks skip it: the change itself is the time, at a full quarter */

    low = ngx_http_clawd_floor(local, NGX_HTTP_CLAWD_TZ_QUARTER) - 16 * 4;
    high = low + 2 * 16 * 4;

    while (high - low > 1) {
        middle = low + (high - low) / 2;

        if (ngx_http_clawd_tz_local(tz, middle * NGX_HTTP_CLAWD_TZ_QUARTER)
            >= local)
        {
            high = middle;

        } else {
            low = middle;
        }
    }

    return high * NGX_HTTP_CLAWD_TZ_QUARTER;
}


static int64_t
ngx_http_clawd_floor(int64_t n, int64_t d)
{
    int64_t  q;

    q = n / d;

    return (n % d < 0) ? q - 1 : q;
}
