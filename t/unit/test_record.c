/*
 * Copyright (C) clawd authors
 *
 * Records of keys, users and plans: their fields, allow-lists, packed form.
 *
 * link: src/ledger/ngx_http_clawd_record.c
 * link: src/ledger/ngx_http_clawd_models.c
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ngx_http_clawd_record.h"


#define KEY    NGX_HTTP_CLAWD_RECORD_KEY
#define USER   NGX_HTTP_CLAWD_RECORD_USER
#define PLAN   NGX_HTTP_CLAWD_RECORD_PLAN

#define TEN    "1234567890"
#define FIFTY  TEN TEN TEN TEN TEN


static ngx_http_clawd_record_t  rec;


static ngx_str_t
str(const char *s)
{
    ngx_str_t  v;

    v.data = (u_char *) s;
    v.len = strlen(s);

    return v;
}


/* the value lies in memory of its own length */

static ngx_int_t
field(ngx_uint_t kind, const char *name, const char *value)
{
    u_char      *copy;
    size_t       len;
    ngx_int_t    rc;
    ngx_str_t    n, v;

    static void *kept[64];
    static int   nkept;

    len = strlen(value);
    copy = malloc(len + (len == 0));
    assert_non_null(copy);
    memcpy(copy, value, len);

    /* strings stay in use until the record goes */

    free(kept[nkept]);
    kept[nkept] = copy;
    nkept = (nkept + 1) % 64;

    n = str(name);
    v.data = copy;
    v.len = len;

    rc = ngx_http_clawd_record_field(&rec, kind, &n, &v);
    assert_true(rec.found);

    return rc;
}


static ngx_int_t
one(ngx_uint_t kind, const char *name, const char *value)
{
    ngx_int_t  rc;

    ngx_http_clawd_record_init(&rec);

    rc = field(kind, name, value);

    if (rc == NGX_OK) {
        assert_false(rec.invalid);
        assert_int_equal(rec.fault.len, 0);

    } else {
        assert_int_equal(rc, NGX_ERROR);
        assert_true(rec.invalid);
        assert_true(rec.fault.len > 0);
        assert_int_equal(rec.field.len,
                         ngx_min(strlen(name), NGX_HTTP_CLAWD_NAME_LEN));
        assert_memory_equal(rec.field.data, name, rec.field.len);
    }

    return rc;
}


static void
assert_str(ngx_str_t *s, const char *text)
{
    assert_int_equal(s->len, strlen(text));
    assert_memory_equal(s->data, text, s->len);
}


static void
test_init(void **state)
{
    ngx_uint_t  i;

    memset(&rec, 0xa5, sizeof(rec));
    ngx_http_clawd_record_init(&rec);

    for (i = 0; i < NGX_HTTP_CLAWD_LIMITS; i++) {
        assert_int_equal(rec.limits[i], NGX_HTTP_CLAWD_UNSET);
    }

    assert_int_equal(rec.priority, NGX_HTTP_CLAWD_UNSET);
    assert_int_equal(rec.expires, 0);
    assert_null(rec.models.data);
    assert_false(rec.found || rec.invalid || rec.disabled || rec.admin);

    /* none at all is no fault */

    assert_int_equal(ngx_http_clawd_record_end(&rec, KEY), NGX_OK);
    assert_false(rec.found);
}


static void
test_whole(void **state)
{
    ngx_http_clawd_record_init(&rec);

    assert_int_equal(field(KEY, "user", "alice"), NGX_OK);
    assert_int_equal(field(KEY, "name", "Alice\xe2\x80\x99s laptop"), NGX_OK);
    assert_int_equal(field(KEY, "expires", "1924991999"), NGX_OK);
    assert_int_equal(field(KEY, "disabled", "no"), NGX_OK);
    assert_int_equal(field(KEY, "models", "qwen3:*, llama3"), NGX_OK);
    assert_int_equal(ngx_http_clawd_record_end(&rec, KEY), NGX_OK);

    assert_str(&rec.user, "alice");
    assert_str(&rec.name, "Alice\xe2\x80\x99s laptop");
    assert_str(&rec.models, "qwen3:*, llama3");
    assert_int_equal(rec.expires, 1924991999);
    assert_false(rec.disabled);

    ngx_http_clawd_record_init(&rec);

    assert_int_equal(field(USER, "plan", "gold"), NGX_OK);
    assert_int_equal(field(USER, "role", "admin"), NGX_OK);
    assert_int_equal(field(USER, "disabled", "1"), NGX_OK);
    assert_int_equal(field(USER, "epoch", "7"), NGX_OK);
    assert_int_equal(field(USER, "priority", "100"), NGX_OK);
    assert_int_equal(field(USER, "models", ""), NGX_OK);
    assert_int_equal(field(USER, "tz", "Europe/Berlin"), NGX_OK);
    assert_int_equal(field(USER, "name", "x"), NGX_OK);
    assert_int_equal(field(USER, "concurrency", "0"), NGX_OK);
    assert_int_equal(field(USER, "rpm", "60"), NGX_OK);
    assert_int_equal(field(USER, "tpm", "50000"), NGX_OK);
    assert_int_equal(field(USER, "tokens_per_day", "1000000000000"), NGX_OK);
    assert_int_equal(field(USER, "tokens_per_month", "unlimited"), NGX_OK);
    assert_int_equal(ngx_http_clawd_record_end(&rec, USER), NGX_OK);

    assert_str(&rec.plan, "gold");
    assert_str(&rec.tz, "Europe/Berlin");
    assert_true(rec.admin && rec.disabled);
    assert_int_equal(rec.epoch, 7);
    assert_int_equal(rec.priority, 100);
    assert_non_null(rec.models.data);
    assert_int_equal(rec.models.len, 0);
    assert_int_equal(rec.limits[NGX_HTTP_CLAWD_LIMIT_CONCURRENCY], 0);
    assert_int_equal(rec.limits[NGX_HTTP_CLAWD_LIMIT_RPM], 60);
    assert_int_equal(rec.limits[NGX_HTTP_CLAWD_LIMIT_TPM], 50000);
    assert_int_equal(rec.limits[NGX_HTTP_CLAWD_LIMIT_DAY],
                     NGX_HTTP_CLAWD_LIMIT_MAX);
    assert_int_equal(rec.limits[NGX_HTTP_CLAWD_LIMIT_MONTH],
                     NGX_HTTP_CLAWD_UNLIMITED);
}


/* Each limit's name is the one that messages use. */

static void
test_limit_names(void **state)
{
    ngx_uint_t  i, k;

    for (i = 0; i < NGX_HTTP_CLAWD_LIMITS; i++) {
        assert_int_equal(one(PLAN,
                         (char *) ngx_http_clawd_limit_names[i].data, "5"),
                         NGX_OK);

        for (k = 0; k < NGX_HTTP_CLAWD_LIMITS; k++) {
            assert_int_equal(rec.limits[k],
                             k == i ? 5 : NGX_HTTP_CLAWD_UNSET);
        }
    }
}


/* Which record has which field: 1 key, 2 user, 4 plan. */

static void
test_kinds(void **state)
{
    ngx_uint_t  i, kind, ok;

    static const struct {
        const char  *name;
        const char  *value;
        ngx_uint_t   kinds;
    } cases[] = {
        { "user", "a", 1 },
        { "expires", "1", 1 },
        { "disabled", "no", 1|2 },
        { "models", "*", 1|2|4 },
        { "name", "a", 1|2|4 },
        { "plan", "a", 2 },
        { "role", "user", 2 },
        { "epoch", "1", 2 },
        { "priority", "1", 2|4 },
        { "tz", "UTC", 2|4 },
        { "concurrency", "1", 2|4 },
        { "rpm", "1", 2|4 },
        { "tpm", "1", 2|4 },
        { "tokens_per_day", "1", 2|4 },
        { "tokens_per_month", "1", 2|4 },
        { "", "1", 0 },
        { "RPM", "1", 0 },
        { "rpm ", "1", 0 },
        { "rp", "1", 0 },
        { "rpmm", "1", 0 },
        { "token_per_day", "1", 0 },
        { FIFTY FIFTY, "1", 0 }
    };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (kind = KEY; kind <= PLAN; kind++) {
            ok = (cases[i].kinds >> kind) & 1;

            if (one(kind, cases[i].name, cases[i].value)
                != (ok ? NGX_OK : NGX_ERROR))
            {
                fail_msg("field \"%s\" of kind %lu", cases[i].name, kind);
            }
        }
    }
}


static void
test_values(void **state)
{
    ngx_uint_t  i, ok;

    static const struct {
        ngx_uint_t   kind;
        const char  *name;
        const char  *value;
        ngx_uint_t   ok;
    } cases[] = {
        { PLAN, "tpm", "", 0 },
        { PLAN, "tpm", " 1", 0 },
        { PLAN, "tpm", "1 ", 0 },
        { PLAN, "tpm", "+1", 0 },
        { PLAN, "tpm", "-1", 0 },
        { PLAN, "tpm", "-2", 0 },
        { PLAN, "tpm", "1e3", 0 },
        { PLAN, "tpm", "0x10", 0 },
        { PLAN, "tpm", "1.0", 0 },
        { PLAN, "tpm", "1,000", 0 },
        { PLAN, "tpm", "1k", 0 },
        { PLAN, "tpm", "Unlimited", 0 },
        { PLAN, "tpm", "unlimited ", 0 },
        { PLAN, "tpm", "none", 0 },
        { PLAN, "tpm", "1000000000001", 0 },
        { PLAN, "tpm", "9999999999999", 0 },
        { PLAN, "tpm", "18446744073709551617", 0 },
        { PLAN, "tpm", "\xd9\xa1", 0 },
        { PLAN, "tpm", "0", 1 },
        { PLAN, "tpm", "007", 1 },
        { KEY, "expires", "0", 1 },
        { KEY, "expires", "253402300799", 1 },
        { KEY, "expires", "253402300800", 0 },
        { KEY, "expires", "1924991999000", 0 },
        { KEY, "expires", "-1", 0 },
        { KEY, "expires", "never", 0 },
        { KEY, "expires", "2030-12-31", 0 },
        { KEY, "expires", "", 0 },
        { USER, "epoch", "0", 1 },
        { USER, "epoch", "999999999999999", 1 },
        { USER, "epoch", "1000000000000000", 0 },
        { USER, "epoch", "-1", 0 },
        { USER, "priority", "0", 1 },
        { USER, "priority", "100", 1 },
        { USER, "priority", "101", 0 },
        { USER, "priority", "high", 0 },
        { USER, "disabled", "0", 1 },
        { USER, "disabled", "1", 1 },
        { USER, "disabled", "on", 1 },
        { USER, "disabled", "off", 1 },
        { USER, "disabled", "true", 1 },
        { USER, "disabled", "false", 1 },
        { USER, "disabled", "yes", 1 },
        { USER, "disabled", "Yes", 0 },
        { USER, "disabled", "", 0 },
        { USER, "disabled", "2", 0 },
        { USER, "disabled", "no ", 0 },
        { USER, "role", "admin", 1 },
        { USER, "role", "user", 1 },
        { USER, "role", "Admin", 0 },
        { USER, "role", "", 0 },
        { USER, "role", "root", 0 },
        { USER, "plan", "", 0 },
        { USER, "plan", "a b", 0 },
        { USER, "plan", "a:b", 0 },
        { USER, "plan", "a{b}", 0 },
        { USER, "plan", "Az09._@+-", 1 },
        { USER, "plan", FIFTY TEN "1234", 1 },
        { USER, "plan", FIFTY TEN "12345", 0 },
        { KEY, "user", "caf\xc3\xa9", 0 },
        { KEY, "name", "", 0 },
        { KEY, "name", " a", 0 },
        { KEY, "name", "a ", 0 },
        { KEY, "name", "a b", 1 },
        { KEY, "name", "a\nb", 0 },
        { KEY, "name", "a\x7f", 0 },
        { KEY, "name", "a\xc2\x85", 0 },
        { KEY, "name", "a\xc2\xa0", 1 },
        { KEY, "name", "a\xe2\x80\xa8", 0 },
        { KEY, "name", "\xf0\x9f\xa6\x9e", 1 },
        { KEY, "name", "\xf0\x9f\xa6", 0 },
        { KEY, "name", "\xc0\x80", 0 },
        { KEY, "name", "\xe0\x9f\xbf", 0 },
        { KEY, "name", "\xed\xa0\x80", 0 },
        { KEY, "name", "\xf4\x90\x80\x80", 0 },
        { KEY, "name", "\xff", 0 },
        { KEY, "name", FIFTY FIFTY TEN TEN "12345678", 1 },
        { KEY, "name", FIFTY FIFTY TEN TEN "123456789", 0 },
        { PLAN, "tz", "", 0 },
        { PLAN, "tz", "UTC", 1 },
        { PLAN, "tz", "+02:00", 1 },
        { PLAN, "tz", "+14:01", 0 },
        { PLAN, "tz", "America/Argentina/Buenos_Aires", 1 },
        { PLAN, "tz", "../../etc/passwd", 0 },
        { PLAN, "tz", "/etc/localtime", 0 },
        { PLAN, "tz", "Europe Berlin", 0 },
        { PLAN, "tz", FIFTY, 0 },
        { PLAN, "models", "*", 1 },
        { PLAN, "models", "a,b c", 1 },
        { PLAN, "models", ",", 1 },
        { PLAN, "models", " a", 0 },
        { PLAN, "models", "a ", 0 },
        { PLAN, "models", "a\tb", 0 },
        { PLAN, "models", "caf\xc3\xa9", 0 },
        { PLAN, "models", "a a a a a a a a a a a a a a a a a a a a a a a a a a "
                          "a a a a a a a a a a a a a a a a a a a a a a a a a a "
                          "a a a a a a a a a a a a", 1 },
        { PLAN, "models", "a a a a a a a a a a a a a a a a a a a a a a a a a a "
                          "a a a a a a a a a a a a a a a a a a a a a a a a a a "
                          "a a a a a a a a a a a a a", 0 }
    };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        ok = (one(cases[i].kind, cases[i].name, cases[i].value) == NGX_OK);

        if (ok != cases[i].ok) {
            fail_msg("%s \"%s\"", cases[i].name, cases[i].value);
        }
    }
}


static void
test_faults(void **state)
{
    ngx_str_t   name, value;
    char        models[NGX_HTTP_CLAWD_MODELS_LEN + 2];

    /* twice, even with the same value */

    ngx_http_clawd_record_init(&rec);
    assert_int_equal(field(PLAN, "rpm", "1"), NGX_OK);
    assert_int_equal(field(PLAN, "rpm", "1"), NGX_ERROR);
    assert_true(rec.invalid);

    /* the first one is told, and stays over what is right */

    assert_int_equal(field(PLAN, "bogus", "1"), NGX_ERROR);
    assert_int_equal(field(PLAN, "tpm", "1"), NGX_OK);
    assert_str(&rec.field, "rpm");
    assert_int_equal(ngx_http_clawd_record_end(&rec, PLAN), NGX_ERROR);

    /* a key belongs to a user */

    ngx_http_clawd_record_init(&rec);
    assert_int_equal(field(KEY, "expires", "0"), NGX_OK);
    assert_int_equal(ngx_http_clawd_record_end(&rec, KEY), NGX_ERROR);
    assert_true(rec.invalid);
    assert_str(&rec.field, "user");

    ngx_http_clawd_record_init(&rec);
    assert_int_equal(field(KEY, "user", "a b"), NGX_ERROR);
    assert_int_equal(ngx_http_clawd_record_end(&rec, KEY), NGX_ERROR);

    ngx_http_clawd_record_init(&rec);
    assert_int_equal(field(USER, "plan", "a"), NGX_OK);
    assert_int_equal(ngx_http_clawd_record_end(&rec, USER), NGX_OK);

    /* a zero byte ends nothing */

    ngx_http_clawd_record_init(&rec);
    name = str("rpm");
    value.data = (u_char *) "1\0002";
    value.len = 3;
    assert_int_equal(ngx_http_clawd_record_field(&rec, PLAN, &name, &value),
                     NGX_ERROR);

    memset(models, 'a', sizeof(models));
    models[NGX_HTTP_CLAWD_MODELS_LEN] = '\0';
    assert_int_equal(one(PLAN, "models", models), NGX_OK);

    models[NGX_HTTP_CLAWD_MODELS_LEN] = 'a';
    models[NGX_HTTP_CLAWD_MODELS_LEN + 1] = '\0';
    assert_int_equal(one(PLAN, "models", models), NGX_ERROR);
    assert_null(rec.models.data);
}


static void
test_models(void **state)
{
    ngx_str_t   models, label;
    ngx_uint_t  i, allow;

    static const struct {
        const char  *models;
        const char  *label;
        ngx_uint_t   allow;
    } cases[] = {
        { "", "llama3", 0 },
        { " , ", "llama3", 0 },
        { "*", "llama3", 1 },
        { "*", "hf.co/a/b:q4", 1 },
        { "llama3", "llama3", 1 },
        { "llama3", "llama3:70b", 0 },
        { "llama3", "llama", 0 },
        { "llama3", "llama33", 0 },
        { "LLama3", "llama3", 1 },
        { "llama3:latest", "llama3", 1 },
        { "llama3:latest", "llama3:70b", 0 },
        { "llama3:Latest", "llama3", 1 },
        { "llama3:*", "llama3", 1 },
        { "llama3:*", "llama3:70b", 1 },
        { "llama3:*", "llama3.1", 0 },
        { "llama3:?", "llama3", 0 },
        { "llama3:70?", "llama3:70b", 1 },
        { "llama3*", "llama3.1:8b", 1 },
        { "*:70b", "llama3:70b", 1 },
        { "*:70b", "llama3", 0 },
        { "*:latest", "llama3:70b", 0 },
        { "*:latest", "localhost:5000/llama3", 1 },
        { "*:latest", "localhost:5000/llama3:8b", 0 },
        { "llama?", "llama3", 1 },
        { "llama?", "llama", 0 },
        { "?", "", 0 },
        { "*", "", 1 },
        { "a*b*c", "aXbYc", 1 },
        { "a*b*c", "abcb", 0 },
        { "a**c", "abc", 1 },
        { "*a", "aab", 0 },
        { "*a*", "bab", 1 },
        { "*ab", "aab", 1 },
        { "qwen3:* llama3", "llama3", 1 },
        { "qwen3:*,llama3", "qwen3:8b", 1 },
        { "qwen3:*, llama3,", "mistral", 0 },
        { "b,llama3:latest", "llama3", 1 },
        { "*-cloud", "qwen3:480b-cloud", 1 },
        { "[a-z]*", "llama3", 0 },
        { "\\*", "llama3", 0 }
    };

    label = str("anything");
    ngx_str_null(&models);
    assert_true(ngx_http_clawd_models_allow(&models, &label));

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        models = str(cases[i].models);
        label = str(cases[i].label);

        allow = ngx_http_clawd_models_allow(&models, &label);

        if (allow != cases[i].allow) {
            fail_msg("\"%s\" for \"%s\"", cases[i].models, cases[i].label);
        }
    }
}


/* Stars by the hundred do not multiply the work: else this never ends. */

static void
test_stars(void **state)
{
    char       stars[NGX_HTTP_CLAWD_MODELS_LEN + 1], name[129];
    ngx_str_t  models, label;
    size_t     i;

    for (i = 0; i < sizeof(stars) - 2; i += 2) {
        stars[i] = '*';
        stars[i + 1] = 'a';
    }

    stars[200] = '\0';
    memset(name, 'a', sizeof(name));
    name[128] = '\0';

    models = str(stars);
    label = str(name);
    assert_true(ngx_http_clawd_models_allow(&models, &label));

    stars[199] = 'b';
    assert_false(ngx_http_clawd_models_allow(&models, &label));
}


/* a record that was packed and unpacked, from memory of its very size */

static u_char *
again(ngx_http_clawd_record_t *got, size_t *len)
{
    u_char  *copy, buf[NGX_HTTP_CLAWD_RECORD_SIZE];

    *len = ngx_http_clawd_record_pack(&rec, buf) - buf;
    assert_true(*len <= sizeof(buf));

    copy = malloc(*len);
    assert_non_null(copy);
    memcpy(copy, buf, *len);

    memset(got, 0xa5, sizeof(*got));
    assert_int_equal(ngx_http_clawd_record_unpack(got, copy, *len), NGX_OK);

    return copy;
}


static void
test_pack(void **state)
{
    char                      text[NGX_HTTP_CLAWD_MODELS_LEN + 1];
    size_t                    i, len;
    u_char                   *copy;
    ngx_http_clawd_record_t   got;

    /* nothing */

    ngx_http_clawd_record_init(&rec);
    copy = again(&got, &len);
    assert_false(got.found || got.invalid || got.disabled || got.admin);
    assert_null(got.models.data);
    assert_int_equal(got.limits[0], NGX_HTTP_CLAWD_UNSET);
    assert_int_equal(got.priority, NGX_HTTP_CLAWD_UNSET);
    assert_true(len < 20);
    free(copy);

    /* an empty list is not a missing one */

    assert_int_equal(one(USER, "models", ""), NGX_OK);
    copy = again(&got, &len);
    assert_non_null(got.models.data);
    assert_int_equal(got.models.len, 0);
    free(copy);

    /* everything, as long as it gets */

    ngx_http_clawd_record_init(&rec);
    memset(text, 'm', sizeof(text));
    text[sizeof(text) - 1] = '\0';

    assert_int_equal(field(USER, "models", text), NGX_OK);
    text[128] = '\0';
    assert_int_equal(field(USER, "name", text), NGX_OK);
    text[64] = '\0';
    assert_int_equal(field(USER, "plan", text), NGX_OK);
    text[40] = '\0';
    assert_int_equal(field(USER, "tz", text), NGX_OK);
    assert_int_equal(field(USER, "epoch", "999999999999999"), NGX_OK);
    assert_int_equal(field(USER, "role", "admin"), NGX_OK);
    assert_int_equal(field(USER, "disabled", "yes"), NGX_OK);
    assert_int_equal(field(USER, "priority", "0"), NGX_OK);

    for (i = 0; i < NGX_HTTP_CLAWD_LIMITS; i++) {
        rec.limits[i] = NGX_HTTP_CLAWD_LIMIT_MAX - i;
    }

    rec.user = rec.plan;
    rec.expires = 253402300799;

    copy = again(&got, &len);
    assert_memory_equal(got.limits, rec.limits, sizeof(rec.limits));
    assert_int_equal(got.expires, rec.expires);
    assert_int_equal(got.epoch, rec.epoch);
    assert_int_equal(got.priority, 0);
    assert_true(got.found && got.admin && got.disabled && !got.invalid);
    assert_int_equal(got.models.len, 1024);
    assert_int_equal(got.name.len, 128);
    assert_int_equal(got.tz.len, 40);
    assert_int_equal(got.user.len, 64);
    assert_memory_equal(got.plan.data, rec.plan.data, 64);
    free(copy);

    /* what no record has: packed as one that can't be used */

    rec.models.len++;
    copy = again(&got, &len);
    assert_true(got.found && got.invalid);
    assert_true(got.fault.len);
    free(copy);

    rec.models.len--;
    rec.limits[2] = -3;
    copy = again(&got, &len);
    assert_true(got.invalid);
    free(copy);

    /* of an invalid one the fault is kept */

    assert_int_equal(one(USER, FIFTY FIFTY, "1"), NGX_ERROR);
    copy = again(&got, &len);
    assert_true(got.found && got.invalid);
    assert_ptr_equal(got.fault.data, rec.fault.data);
    assert_int_equal(got.field.len, 64);
    assert_int_equal(got.limits[0], NGX_HTTP_CLAWD_UNSET);
    free(copy);
}


/* Each cut and each changed byte: an error or a record, never a read outside */

static void
test_unpack(void **state)
{
    size_t                    i, len, n;
    u_char                   *copy, *part, was;
    ngx_uint_t                bit;
    ngx_http_clawd_record_t   got;

    ngx_http_clawd_record_init(&rec);
    assert_int_equal(field(USER, "plan", "gold"), NGX_OK);
    assert_int_equal(field(USER, "models", "qwen3:*"), NGX_OK);
    assert_int_equal(field(USER, "tpm", "1000000000000"), NGX_OK);
    assert_int_equal(field(USER, "rpm", "300"), NGX_OK);

    copy = again(&got, &len);

    for (n = 0; n < len; n++) {
        part = malloc(n + (n == 0));
        assert_non_null(part);
        memcpy(part, copy, n);
        assert_int_equal(ngx_http_clawd_record_unpack(&got, part, n),
                         NGX_ERROR);
        free(part);
    }

    for (i = 0; i < len; i++) {
        was = copy[i];

        for (bit = 0; bit < 256; bit++) {
            copy[i] = (u_char) bit;

            if (ngx_http_clawd_record_unpack(&got, copy, len) == NGX_OK) {
                assert_true(got.models.len <= NGX_HTTP_CLAWD_MODELS_LEN);
                assert_true(got.limits[0] <= NGX_HTTP_CLAWD_LIMIT_MAX);

            } else {
                assert_false(got.found);
            }
        }

        copy[i] = was;
    }

    part = realloc(copy, len + 1);
    assert_non_null(part);
    part[len] = 0;
    assert_int_equal(ngx_http_clawd_record_unpack(&got, part, len + 1),
                     NGX_ERROR);
    free(part);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_init),
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_limit_names),
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_stars),
        cmocka_unit_test(test_pack),
        cmocka_unit_test(test_unpack)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
