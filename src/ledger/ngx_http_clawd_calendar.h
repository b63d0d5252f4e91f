/*
 * Copyright (C) clawd authors
 *
 * Clock minutes, days and months of a time zone.
 */

#ifndef _NGX_HTTP_CLAWD_CALENDAR_H_INCLUDED_
#define _NGX_HTTP_CLAWD_CALENDAR_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


#pragma GCC visibility push(hidden)


#define NGX_HTTP_CLAWD_TZ_LEN  40    /* of a zone's name */


/*
 * The form of a zone's name.  NGX_OK: *offset is known without the database;
 * NGX_DECLINED: the name of one that may be in it, and can't lead out of it;
 * NGX_ERROR: no zone.
 */

static ngx_inline ngx_int_t
ngx_http_clawd_tz_form(ngx_str_t *tz, int32_t *offset)
{
    u_char  *p, c;
    size_t   i;

    p = tz->data;
    *offset = 0;

    if (tz->len == 0 || (tz->len == 3 && ngx_memcmp(p, "UTC", 3) == 0)) {
        return NGX_OK;
    }

    if (p[0] == '+' || p[0] == '-') {

        if (tz->len != 6 || p[3] != ':'
            || p[1] < '0' || p[1] > '1' || p[2] < '0' || p[2] > '9'
            || p[4] < '0' || p[4] > '5' || p[5] < '0' || p[5] > '9')
        {
            return NGX_ERROR;
        }

        *offset = ((p[1] - '0') * 10 + p[2] - '0') * 3600
                  + ((p[4] - '0') * 10 + p[5] - '0') * 60;

        if (*offset > 14 * 3600) {
            return NGX_ERROR;
        }

        if (p[0] == '-') {
            *offset = -*offset;
        }

        return NGX_OK;
    }

    if (tz->len > NGX_HTTP_CLAWD_TZ_LEN || p[0] == '/') {
        return NGX_ERROR;
    }

    for (i = 0; i < tz->len; i++) {
        c = p[i];

        /* no dots at all, so that ".." needs no rule of its own */

        if ((c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
            && (c < '0' || c > '9')
            && c != '_' && c != '+' && c != '-' && c != '/')
        {
            return NGX_ERROR;
        }
    }

    return NGX_DECLINED;
}


/* days since 1970 to months since 1970, and the first day of such a month */
int64_t ngx_http_clawd_month_of_day(int64_t day);
int64_t ngx_http_clawd_day_of_month(int64_t month);

/*
 * Seconds east of UTC in a zone at a time (seconds since 1970): "UTC",
 * "+02:00", or a name of the system's tz database.  An empty name is UTC.
 * NGX_OK, or NGX_ERROR when there is no such zone.  Reads the database once
 * per zone and quarter of an hour; leaves the process's own zone (TZ) as it
 * was.  Not for threads.
 */
ngx_int_t ngx_http_clawd_tz_offset(ngx_str_t *tz, int64_t now,
    int32_t *offset);

/*
 * When the day or month of now ends in a zone, in seconds since 1970, with a
 * change of summer time in between taken into account; now and the result as
 * above.  A zone that is none is taken as UTC.
 */
int64_t ngx_http_clawd_day_end(ngx_str_t *tz, int64_t now);
int64_t ngx_http_clawd_month_end(ngx_str_t *tz, int64_t now);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_CALENDAR_H_INCLUDED_ */
