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
