/*
 * Copyright (C) clawd authors
 *
 * Days, months and zones.  The table of instants was made with another reader
 * of the tz database (zoneinfo of Python), which looked for the ends second by
 * second.
 *
 * link: src/ledger/ngx_http_clawd_calendar.c
 */

/* RTLD_NEXT */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <dlfcn.h>

#include <cmocka.h>

#include "ngx_http_clawd_calendar.h"


#define TEST_NOW  1751328000         /* 2025-07-01 00:00 UTC */


static ngx_uint_t  test_tzsets;


/* how often the zone of the process is changed, or put back */

void
tzset(void)
{
    static void (*next)(void);

    if (next == NULL) {
        *(void **) &next = dlsym(RTLD_NEXT, "tzset");
        assert_non_null(next);
    }

    test_tzsets++;

    next();
}


static ngx_str_t
str(const char *s)
{
    ngx_str_t  v;

    v.data = (u_char *) s;
    v.len = strlen(s);

    return v;
}


static const struct {
    const char  *zone;
    int64_t      now;
    int32_t      offset;
    int64_t      day_end;
    int64_t      month_end;
} instants[] = {
    { "Europe/Berlin", 1729989907, 7200,
      1730070000, 1730415600 },
    { "Europe/Berlin", 1711845479, 3600,
      1711922400, 1711922400 },
    { "Europe/Berlin", 1540685167, 7200,
      1540767600, 1541026800 },
    { "Europe/Berlin", 1603559640, 7200,
      1603576800, 1604185200 },
    { "Europe/Berlin", 1711845479, 3600,
      1711922400, 1711922400 },
    { "Europe/Berlin", 1730084011, 3600,
      1730156400, 1730415600 },
    { "America/New_York", 1520750847, -18000,
      1520827200, 1522555200 },
    { "America/New_York", 1362895234, -18000,
      1362974400, 1364788800 },
    { "America/New_York", 1699161429, -14400,
      1699246800, 1701406800 },
    { "America/New_York", 1425771733, -18000,
      1425790800, 1427860800 },
    { "America/New_York", 1552161894, -18000,
      1552194000, 1554091200 },
    { "America/New_York", 1705515748, -18000,
      1705554000, 1706763600 },
    { "Australia/Lord_Howe", 1728138425, 37800,
      1728219600, 1730379600 },
    { "Australia/Lord_Howe", 1728138785, 37800,
      1728219600, 1730379600 },
    { "Australia/Lord_Howe", 1412430535, 37800,
      1412514000, 1414760400 },
    { "Australia/Lord_Howe", 1648881883, 39600,
      1648904400, 1651325400 },
    { "Australia/Lord_Howe", 1443832468, 37800,
      1443879000, 1446296400 },
    { "Australia/Lord_Howe", 1601772856, 39600,
      1601816400, 1604149200 },
    { "Asia/Kathmandu", 1543386057, 20700,
      1543428900, 1543601700 },
    { "America/Santiago", 1617440690, -10800,
      1617508800, 1619841600 },
    { "America/Santiago", 1648897124, -10800,
      1648958400, 1651377600 },
    { "America/Santiago", 1494690219, -10800,
      1494734400, 1496289600 },
    { "America/Santiago", 1471128525, -14400,
      1471147200, 1472698800 },
    { "America/Santiago", 1586008478, -10800,
      1586059200, 1588305600 },
    { "America/Santiago", 1398565150, -10800,
      1398571200, 1398916800 },
    { "Africa/Cairo", 1403790268, 10800,
      1403820000, 1404165600 },
    { "Africa/Cairo", 1411631384, 10800,
      1411682400, 1412114400 },
    { "Africa/Cairo", 1411636490, 10800,
      1411682400, 1412114400 },
    { "Africa/Cairo", 1714059911, 7200,
      1714082400, 1714510800 },
    { "Africa/Cairo", 1411650599, 10800,
      1411682400, 1412114400 },
    { "Africa/Cairo", 1602831223, 7200,
      1602885600, 1604181600 },
    { "Africa/Casablanca", 1618102184, 3600,
      1618185600, 1619827200 },
    { "Africa/Casablanca", 1376098911, 0,
      1376175600, 1377990000 },
    { "Africa/Casablanca", 1490490840, 0,
      1490569200, 1491001200 },
    { "Africa/Casablanca", 1709970337, 3600,
      1710025200, 1711929600 },
    { "Africa/Casablanca", 1739195691, 3600,
      1739228400, 1740787200 },
    { "Africa/Casablanca", 1618060506, 3600,
      1618095600, 1619827200 },
    { "America/Scoresbysund", 1729979091, -3600,
      1729994400, 1730426400 },
    { "America/Scoresbysund", 1603585178, 0,
      1603674000, 1604192400 },
    { "America/Scoresbysund", 1729960937, -3600,
      1729994400, 1730426400 },
    { "America/Scoresbysund", 1445690697, 0,
      1445731200, 1446339600 },
    { "America/Scoresbysund", 1603585178, 0,
      1603674000, 1604192400 },
    { "America/Scoresbysund", 1629567698, 0,
      1629590400, 1630454400 },
    { "America/Havana", 1699159741, -14400,
      1699246800, 1701406800 },
    { "America/Havana", 1699119562, -14400,
      1699156800, 1701406800 },
    { "America/Havana", 1394313280, -18000,
      1394341200, 1396324800 },
    { "America/Havana", 1520723014, -18000,
      1520744400, 1522555200 },
    { "Asia/Beirut", 1414206000, 10800,
      1414274400, 1414792800 },
    { "Asia/Beirut", 1635552336, 10800,
      1635631200, 1635717600 },
    { "Asia/Beirut", 1572091923, 10800,
      1572127200, 1572559200 },
    { "Asia/Beirut", 1445704278, 10800,
      1445724000, 1446328800 },
    { "Asia/Beirut", 1585370927, 7200,
      1585432800, 1585688400 },
    { "Asia/Beirut", 1411850614, 10800,
      1411851600, 1412110800 },
    { "Pacific/Chatham", 1601128795, 45900,
      1601201700, 1601460900 },
    { "Pacific/Chatham", 1474725367, 45900,
      1474798500, 1475230500 },
    { "Pacific/Chatham", 1664021114, 45900,
      1664100900, 1664532900 },
    { "Pacific/Chatham", 1459561634, 49500,
      1459592100, 1462014900 },
    { "Pacific/Chatham", 1428116581, 49500,
      1428142500, 1430392500 },
    { "Pacific/Chatham", 1701643218, 49500,
      1701684900, 1704017700 },
    { "Pacific/Apia", 1325203200, -36000,
      1325239200, 1325325600 },
    { "Pacific/Apia", 1325192400, -36000,
      1325239200, 1325325600 },
    { "Pacific/Apia", 1325239199, -36000,
      1325239200, 1325325600 },
    { "Pacific/Apia", 1325239200, 50400,
      1325325600, 1325325600 }
};


static void
test_instants(void **state)
{
    int32_t     offset;
    ngx_str_t   tz;
    ngx_uint_t  i, n;

    /* the second time from what is remembered */

    for (n = 0; n < 2; n++) {
        for (i = 0; i < sizeof(instants) / sizeof(instants[0]); i++) {
            tz = str(instants[i].zone);

            assert_int_equal(ngx_http_clawd_tz_offset(&tz, instants[i].now,
                                                      &offset), NGX_OK);

            if (offset != instants[i].offset
                || ngx_http_clawd_day_end(&tz, instants[i].now)
                   != instants[i].day_end
                || ngx_http_clawd_month_end(&tz, instants[i].now)
                   != instants[i].month_end)
            {
                fail_msg("%s at %ld", instants[i].zone,
                         (long) instants[i].now);
            }
        }
    }
}


/* All days from 0 to the year 9999, and as many before 1970. */

static void
test_months(void **state)
{
    time_t      t;
    int64_t     day, month, first, next;
    struct tm   tm;

    month = ngx_http_clawd_month_of_day(-2932896);
    first = ngx_http_clawd_day_of_month(month);
    assert_true(first <= -2932896);

    for (day = -2932896; day < 2932897; day++) {
        next = ngx_http_clawd_day_of_month(month + 1);

        if (day == next) {
            month++;
            first = next;
        }

        if (ngx_http_clawd_month_of_day(day) != month) {
            fail_msg("day %ld", (long) day);
        }

        if (day != first) {
            continue;
        }

        t = day * 86400;
        assert_non_null(gmtime_r(&t, &tm));
        assert_int_equal(tm.tm_mday, 1);
        assert_int_equal((tm.tm_year - 70) * 12 + tm.tm_mon, month);
    }

    assert_int_equal(ngx_http_clawd_month_of_day(0), 0);
    assert_int_equal(ngx_http_clawd_month_of_day(-1), -1);
    assert_int_equal(ngx_http_clawd_day_of_month(0), 0);
    assert_int_equal(ngx_http_clawd_day_of_month(-1), -31);
    assert_int_equal(ngx_http_clawd_month_of_day(2932896), 8030 * 12 - 1);
}


static void
test_forms(void **state)
{
    int32_t     offset;
    ngx_str_t   tz;
    ngx_int_t   rc;
    ngx_uint_t  i;

    static const struct {
        const char  *zone;
        ngx_int_t    rc;
        int32_t      offset;
    } cases[] = {
        { "", NGX_OK, 0 },
        { "UTC", NGX_OK, 0 },
        { "+00:00", NGX_OK, 0 },
        { "+02:00", NGX_OK, 7200 },
        { "-03:30", NGX_OK, -12600 },
        { "+14:00", NGX_OK, 50400 },
        { "-14:00", NGX_OK, -50400 },
        { "+05:59", NGX_OK, 21540 },
        { "+14:01", NGX_ERROR, 0 },
        { "+15:00", NGX_ERROR, 0 },
        { "+24:00", NGX_ERROR, 0 },
        { "+02:60", NGX_ERROR, 0 },
        { "+2:00", NGX_ERROR, 0 },
        { "+0200", NGX_ERROR, 0 },
        { "+02:0x", NGX_ERROR, 0 },
        { "+02:000", NGX_ERROR, 0 },
        { "+", NGX_ERROR, 0 },
        { "Europe/Berlin", NGX_OK, 7200 },
        { "Etc/GMT+12", NGX_OK, -43200 },
        { "Europe/berlin", NGX_ERROR, 0 },
        { "Europe", NGX_ERROR, 0 },
        { "Europe/", NGX_ERROR, 0 },
        { "Nowhere/Land", NGX_ERROR, 0 },
        { "CEST-2", NGX_ERROR, 0 },
        { "UTC ", NGX_ERROR, 0 },
        { " UTC", NGX_ERROR, 0 },
        { "tzdata", NGX_ERROR, 0 },
        { "zone1970tab", NGX_ERROR, 0 },
        { "/etc/localtime", NGX_ERROR, 0 },
        { "../zoneinfo/Europe/Berlin", NGX_ERROR, 0 },
        { "Europe/../Europe/Berlin", NGX_ERROR, 0 },
        { ":Europe/Berlin", NGX_ERROR, 0 },
        { "Europe/Berlin\n", NGX_ERROR, 0 },
        { "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", NGX_ERROR, 0 },
        { "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", NGX_ERROR, 0 }
    };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        tz = str(cases[i].zone);
        rc = ngx_http_clawd_tz_offset(&tz, TEST_NOW, &offset);

        if (rc != cases[i].rc
            || (rc == NGX_OK && offset != cases[i].offset))
        {
            fail_msg("zone \"%s\": %ld, %d", cases[i].zone, (long) rc,
                     offset);
        }
    }

    tz.data = (u_char *) "Europe/Berlin\0x";
    tz.len = 15;
    assert_int_equal(ngx_http_clawd_tz_offset(&tz, TEST_NOW, &offset),
                     NGX_ERROR);

    /* one that is none counts as UTC, fixed ones have no summer */

    tz = str("Nowhere/Land");
    assert_int_equal(ngx_http_clawd_day_end(&tz, TEST_NOW),
                     TEST_NOW + 86400);
    assert_int_equal(ngx_http_clawd_month_end(&tz, TEST_NOW),
                     TEST_NOW + 31 * 86400);

    tz = str("-03:30");
    assert_int_equal(ngx_http_clawd_day_end(&tz, TEST_NOW),
                     TEST_NOW + 12600);
    assert_int_equal(ngx_http_clawd_month_end(&tz, TEST_NOW),
                     TEST_NOW + 12600);

    ngx_str_null(&tz);
    assert_int_equal(ngx_http_clawd_day_end(&tz, TEST_NOW - 1), TEST_NOW);
    assert_int_equal(ngx_http_clawd_day_end(&tz, -1), 0);
    assert_int_equal(ngx_http_clawd_month_end(&tz, -1), 0);
}


/* The zone of the process is what it was, with TZ and without it. */

static void
test_own_zone(void **state)
{
    char       *tz, **env;
    int         round;
    long        seconds, gmtoff;
    time_t      now;
    int32_t     offset;
    struct tm   tm;
    ngx_str_t   zone;

    now = TEST_NOW;

    for (round = 0; round < 2; round++) {

        if (round == 0) {
            assert_int_equal(setenv("TZ", "Asia/Tokyo", 1), 0);

        } else {
            assert_int_equal(unsetenv("TZ"), 0);
        }

        tzset();
        assert_non_null(localtime_r(&now, &tm));
        gmtoff = tm.tm_gmtoff;
        seconds = timezone;
        tz = getenv("TZ");
        env = environ;

        zone = str("America/New_York");

        /* an instant for each round, so that it is looked up */

        assert_int_equal(ngx_http_clawd_tz_offset(&zone,
                                            TEST_NOW + 7 * 86400 + round * 900,
                                            &offset), NGX_OK);
        assert_int_equal(offset, -14400);

        assert_ptr_equal(environ, env);
        assert_ptr_equal(getenv("TZ"), tz);
        assert_int_equal(timezone, seconds);

        assert_non_null(localtime_r(&now, &tm));
        assert_int_equal(tm.tm_gmtoff, gmtoff);
        assert_true(round == 1 || gmtoff == 32400);
    }

    /* neither TZDIR, nor a file that is not there, leads anywhere else */

    assert_int_equal(setenv("TZDIR", "/nonexistent", 1), 0);
    assert_int_equal(ngx_http_clawd_tz_offset(&zone, TEST_NOW + 9 * 86400,
                                              &offset), NGX_OK);
    assert_int_equal(offset, -14400);
    assert_int_equal(unsetenv("TZDIR"), 0);
}


/* The database is read once for a zone and a quarter of an hour. */

static void
test_remembered(void **state)
{
    int32_t     offset;
    ngx_str_t   zone;
    ngx_uint_t  i;

    zone = str("Europe/Berlin");
    test_tzsets = 0;

    for (i = 0; i < 900; i++) {
        assert_int_equal(ngx_http_clawd_tz_offset(&zone,
                                             TEST_NOW + 20 * 86400 + i,
                                             &offset), NGX_OK);
        assert_int_equal(offset, 7200);
    }

    assert_int_equal(test_tzsets, 2);

    (void) ngx_http_clawd_tz_offset(&zone, TEST_NOW + 20 * 86400 + 900,
                                    &offset);
    assert_int_equal(test_tzsets, 4);

    /* with its ends */

    (void) ngx_http_clawd_day_end(&zone, TEST_NOW + 20 * 86400);
    (void) ngx_http_clawd_month_end(&zone, TEST_NOW + 20 * 86400);
    test_tzsets = 0;

    for (i = 0; i < 900; i++) {
        (void) ngx_http_clawd_day_end(&zone, TEST_NOW + 20 * 86400 + i);
        (void) ngx_http_clawd_month_end(&zone, TEST_NOW + 20 * 86400 + i);
    }

    assert_int_equal(test_tzsets, 0);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_instants),
        cmocka_unit_test(test_months),
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_own_zone),
        cmocka_unit_test(test_remembered)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
