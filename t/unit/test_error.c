/*
 * Copyright (C) clawd authors
 *
 * Errors: what each is in the three API families, as a body and in-band, and
 * how an upstream's error bodies are read.  What is written lies in memory of
 * just the size that was promised to be enough.
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "ngx_http_clawd_error.h"


#define OPENAI     NGX_HTTP_CLAWD_OPENAI
#define ANTHROPIC  NGX_HTTP_CLAWD_ANTHROPIC
#define OLLAMA     NGX_HTTP_CLAWD_OLLAMA

#define ERR(name)     NGX_HTTP_CLAWD_ERR_##name
#define FORMAT(name)  NGX_HTTP_CLAWD_FORMAT_##name
#define SSE           NGX_HTTP_CLAWD_FRAMING_SSE
#define NDJSON        NGX_HTTP_CLAWD_FRAMING_NDJSON


static void
set(ngx_str_t *s, const char *text)
{
    s->data = (u_char *) text;
    s->len = strlen(text);
}


static void
make(ngx_http_clawd_error_t *e, ngx_http_clawd_error_e id, ngx_uint_t status,
    const char *message)
{
    memset(e, 0, sizeof(ngx_http_clawd_error_t));

    e->id = id;
    e->status = status;
    set(&e->message, message);
    set(&e->request_id, "r-1");
}


/* the text in memory of its own, which the caller frees */

static char *
body(ngx_http_clawd_error_t *e, ngx_http_clawd_family_e family)
{
    char    *text;
    u_char  *p, *last;

    p = test_malloc(ngx_http_clawd_error_size(e));
    last = ngx_http_clawd_error_write(p, family, e);

    text = test_malloc(last - p + 1);
    memcpy(text, p, last - p);
    text[last - p] = '\0';

    test_free(p);

    return text;
}


static char *
inband(ngx_http_clawd_error_t *e, ngx_http_clawd_format_e format,
    ngx_http_clawd_framing_e framing)
{
    char    *text;
    u_char  *p, *last;

    p = test_malloc(ngx_http_clawd_error_size(e));
    last = ngx_http_clawd_error_inband(p, format, framing, e);

    text = test_malloc(last - p + 1);
    memcpy(text, p, last - p);
    text[last - p] = '\0';

    test_free(p);

    return text;
}


static void
check_body(ngx_http_clawd_error_t *e, ngx_http_clawd_family_e family,
    const char *expected)
{
    char  *text;

    text = body(e, family);
    assert_string_equal(text, expected);
    test_free(text);
}


static void
check_inband(ngx_http_clawd_error_t *e, ngx_http_clawd_format_e format,
    ngx_http_clawd_framing_e framing, const char *expected)
{
    char  *text;

    text = inband(e, format, framing);
    assert_string_equal(text, expected);
    test_free(text);
}


static void
test_table(void **state)
{
    size_t                             i;
    const ngx_http_clawd_error_def_t  *def;

    static const struct {
        ngx_http_clawd_error_e  id;
        ngx_uint_t              status;
        const char             *type;
        const char             *code;
        const char             *anthropic;
        const char             *reason;
    } rows[] = {
        { ERR(NO_TOKEN), 401, "invalid_request_error", "invalid_api_key",
          "authentication_error", "no_token" },
        { ERR(BAD_TOKEN), 401, "invalid_request_error", "invalid_api_key",
          "authentication_error", "bad_token" },
        { ERR(EXPIRED), 401, "invalid_request_error", "invalid_api_key",
          "authentication_error", "expired_token" },
        { ERR(DISABLED), 401, "invalid_request_error", "invalid_api_key",
          "authentication_error", "disabled_token" },
        { ERR(RECORD), 401, "invalid_request_error", "invalid_api_key",
          "authentication_error", "invalid_record" },
        { ERR(LEDGER), 503, "server_error", "auth_unavailable",
          "api_error", "ledger_unavailable" },
        { ERR(CONCURRENCY), 429, "rate_limit_error", "rate_limit_exceeded",
          "rate_limit_error", "concurrency" },
        { ERR(RPM), 429, "rate_limit_error", "rate_limit_exceeded",
          "rate_limit_error", "rpm" },
        { ERR(TPM), 429, "rate_limit_error", "rate_limit_exceeded",
          "rate_limit_error", "tpm" },
        { ERR(DAY), 429, "insufficient_quota", "insufficient_quota",
          "rate_limit_error", "tokens_per_day" },
        { ERR(MONTH), 429, "insufficient_quota", "insufficient_quota",
          "rate_limit_error", "tokens_per_month" },
        { ERR(NEVER), 400, "invalid_request_error", "request_exceeds_quota",
          "invalid_request_error", "exceeds_limit" },
        { ERR(ORIGIN), 403, "permission_error", "origin_not_allowed",
          "permission_error", "origin" },
        { ERR(ENDPOINT), 403, "permission_error", "endpoint_not_allowed",
          "permission_error", "endpoint" },
        { ERR(NOT_FOUND), 404, "not_found_error", "endpoint_not_found",
          "not_found_error", "not_found" },
        { ERR(METHOD), 405, "invalid_request_error", "method_not_allowed",
          "invalid_request_error", "method" },
        { ERR(PATH), 400, "invalid_request_error", "invalid_path",
          "invalid_request_error", "path" },
        { ERR(ENCODING), 415, "invalid_request_error", "unsupported_encoding",
          "invalid_request_error", "encoding" },
        { ERR(EMPTY_BODY), 400, "invalid_request_error", "invalid_json",
          "invalid_request_error", "empty_body" },
        { ERR(BODY), 400, "invalid_request_error", "invalid_request",
          "invalid_request_error", "body" },
        { ERR(JSON), 400, "invalid_request_error", "invalid_json",
          "invalid_request_error", "invalid_json" },
        { ERR(TRAILING), 400, "invalid_request_error", "invalid_json",
          "invalid_request_error", "trailing_data" },
        { ERR(DEPTH), 400, "invalid_request_error", "invalid_json",
          "invalid_request_error", "depth" },
        { ERR(DUPLICATE), 400, "invalid_request_error", "invalid_json",
          "invalid_request_error", "duplicate_key" },
        { ERR(TYPE), 400, "invalid_request_error", "invalid_type",
          "invalid_request_error", "type" },
        { ERR(MODEL), 400, "invalid_request_error", "invalid_json",
          "invalid_request_error", "model" },
        { ERR(MODEL_DENIED), 403, "permission_error", "model_not_allowed",
          "permission_error", "model_denied" },
        { ERR(PARAM_DENIED), 403, "permission_error", "parameter_not_allowed",
          "permission_error", "param_denied" },
        { ERR(TOO_LARGE), 413, "invalid_request_error", "request_too_large",
          "request_too_large", "too_large" },
        { ERR(BODY_TIMEOUT), 408, "invalid_request_error", "request_timeout",
          "invalid_request_error", "body_timeout" },
        { ERR(PARTIAL_BODY), 400, "invalid_request_error", "incomplete_body",
          "invalid_request_error", "partial_body" },
        { ERR(CLIENT_ABORT), 400, "invalid_request_error", "client_abort",
          "invalid_request_error", "client_abort" },
        { ERR(INTERNAL), 500, "server_error", "internal_error", "api_error",
          "internal" },
        { ERR(UNAVAILABLE), 502, "server_error", "upstream_unavailable",
          "api_error", "unavailable" },
        { ERR(INVALID), 502, "server_error", "upstream_invalid", "api_error",
          "invalid" },
        { ERR(MISCONFIGURED), 502, "server_error", "upstream_misconfigured",
          "api_error", "misconfigured" },
        { ERR(UPSTREAM_AUTH), 502, "server_error", "upstream_unauthorized",
          "api_error", "upstream_auth" },
        { ERR(TIMEOUT), 504, "server_error", "upstream_timeout", "api_error",
          "timeout" },
        { ERR(INCOMPLETE), 502, "server_error", "upstream_error", "api_error",
          "incomplete" }
    };

    assert_int_equal(sizeof(rows) / sizeof(rows[0]), ERR(MAX) - 1);

    for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        def = ngx_http_clawd_error_def(rows[i].id);

        assert_int_equal(rows[i].id, i + 1);
        assert_int_equal(def->status, rows[i].status);
        assert_string_equal(def->type.data, rows[i].type);
        assert_string_equal(def->code.data, rows[i].code);
        assert_string_equal(def->anthropic.data, rows[i].anthropic);
        assert_string_equal(def->reason.data, rows[i].reason);
        assert_int_equal(def->reason.len, strlen(rows[i].reason));
        assert_true(def->message.len > 0);
    }
}


/* what a token lacks is nothing for who sent it */

static void
test_nobody_alike(void **state)
{
    u_char                   bufs[2][4096], *p;
    size_t                   i, f, len;
    ngx_http_clawd_error_t   e;

    static const ngx_http_clawd_error_e  ids[] = {
        ERR(EXPIRED), ERR(DISABLED), ERR(RECORD)
    };

    static const ngx_http_clawd_family_e  families[] = {
        NGX_HTTP_CLAWD_OPENAI, NGX_HTTP_CLAWD_ANTHROPIC, NGX_HTTP_CLAWD_OLLAMA
    };

    for (f = 0; f < 3; f++) {
        memset(&e, 0, sizeof(e));
        e.status = 401;
        e.id = ERR(BAD_TOKEN);

        assert_true(ngx_http_clawd_error_size(&e) <= sizeof(bufs[0]));
        p = ngx_http_clawd_error_write(bufs[0], families[f], &e);
        len = p - bufs[0];

        for (i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
            e.id = ids[i];
            p = ngx_http_clawd_error_write(bufs[1], families[f], &e);

            assert_int_equal(p - bufs[1], len);
            assert_memory_equal(bufs[0], bufs[1], len);
        }
    }
}


static void
test_statuses(void **state)
{
    assert_int_equal(ngx_http_clawd_error_of_status(413), ERR(TOO_LARGE));
    assert_int_equal(ngx_http_clawd_error_of_status(408), ERR(BODY_TIMEOUT));
    assert_int_equal(ngx_http_clawd_error_of_status(502), ERR(UNAVAILABLE));
    assert_int_equal(ngx_http_clawd_error_of_status(504), ERR(TIMEOUT));
    assert_int_equal(ngx_http_clawd_error_of_status(500), ERR(INTERNAL));
    assert_int_equal(ngx_http_clawd_error_of_status(404), ERR(NOT_FOUND));
    assert_int_equal(ngx_http_clawd_error_of_status(405), ERR(METHOD));
    assert_int_equal(ngx_http_clawd_error_of_status(400), ERR(NONE));
    assert_int_equal(ngx_http_clawd_error_of_status(403), ERR(NONE));
    assert_int_equal(ngx_http_clawd_error_of_status(429), ERR(NONE));
    assert_int_equal(ngx_http_clawd_error_of_status(503), ERR(NONE));
    assert_int_equal(ngx_http_clawd_error_of_status(200), ERR(NONE));
}


static void
test_bodies(void **state)
{
    ngx_http_clawd_error_t  e;

    make(&e, ERR(NO_TOKEN), 401, "");

    check_body(&e, OPENAI,
               "{\"error\":{\"message\":\"gateway token missing\","
               "\"type\":\"invalid_request_error\",\"param\":null,"
               "\"code\":\"invalid_api_key\"}}");
    check_body(&e, ANTHROPIC,
               "{\"type\":\"error\",\"error\":{"
               "\"type\":\"authentication_error\","
               "\"message\":\"gateway token missing\"},"
               "\"request_id\":\"r-1\"}");
    check_body(&e, OLLAMA, "{\"error\":\"gateway token missing\"}");

    set(&e.request_id, "");
    check_body(&e, ANTHROPIC,
               "{\"type\":\"error\",\"error\":{"
               "\"type\":\"authentication_error\","
               "\"message\":\"gateway token missing\"},"
               "\"request_id\":null}");
}


static void
test_param_code_and_message(void **state)
{
    ngx_http_clawd_error_t  e;

    make(&e, ERR(TYPE), 400, "");
    set(&e.param, "stream");

    check_body(&e, OPENAI,
               "{\"error\":{\"message\":"
               "\"a parameter has the wrong type: stream\","
               "\"type\":\"invalid_request_error\",\"param\":\"stream\","
               "\"code\":\"invalid_type\"}}");
    check_body(&e, OLLAMA,
               "{\"error\":\"a parameter has the wrong type: stream\"}");

    set(&e.message, "own text");
    set(&e.code, "own_code");

    check_body(&e, OPENAI,
               "{\"error\":{\"message\":\"own text\","
               "\"type\":\"invalid_request_error\",\"param\":\"stream\","
               "\"code\":\"own_code\"}}");
    check_body(&e, OLLAMA, "{\"error\":\"own text\"}");
}


static void
test_wording_by_status(void **state)
{
    size_t                  i;
    char                    expected[256];
    ngx_http_clawd_error_t  e;

    static const struct {
        ngx_uint_t   status;
        const char  *type;
        const char  *anthropic;
    } rows[] = {
        { 400, "invalid_request_error", "invalid_request_error" },
        { 401, "authentication_error", "authentication_error" },
        { 403, "permission_error", "permission_error" },
        { 404, "not_found_error", "not_found_error" },
        { 413, "invalid_request_error", "request_too_large" },
        { 422, "invalid_request_error", "invalid_request_error" },
        { 429, "rate_limit_error", "rate_limit_error" },
        { 499, "invalid_request_error", "invalid_request_error" },
        { 500, "server_error", "api_error" },
        { 502, "server_error", "api_error" },
        { 503, "server_error", "overloaded_error" },
        { 529, "server_error", "overloaded_error" },
        { 599, "server_error", "api_error" },
        { 302, "server_error", "api_error" }
    };

    for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        make(&e, ERR(NONE), rows[i].status, "m");

        sprintf(expected, "{\"error\":{\"message\":\"m\",\"type\":\"%s\","
                "\"param\":null,\"code\":null}}", rows[i].type);
        check_body(&e, OPENAI, expected);

        sprintf(expected, "{\"type\":\"error\",\"error\":{\"type\":\"%s\","
                "\"message\":\"m\"},\"request_id\":\"r-1\"}",
                rows[i].anthropic);
        check_body(&e, ANTHROPIC, expected);
    }
}


static void
test_inband_forms(void **state)
{
    ngx_http_clawd_error_t  e;

    make(&e, ERR(INCOMPLETE), 502, "gone");
    e.sequence = 1234567890123456789u;

    check_inband(&e, FORMAT(CHAT), SSE,
                 "data: {\"error\":{\"message\":\"gone\","
                 "\"type\":\"server_error\",\"param\":null,"
                 "\"code\":\"upstream_error\"}}\n\n");
    check_inband(&e, FORMAT(COMPLETIONS), SSE,
                 "data: {\"error\":{\"message\":\"gone\","
                 "\"type\":\"server_error\",\"param\":null,"
                 "\"code\":\"upstream_error\"}}\n\n");
    check_inband(&e, FORMAT(MESSAGES), SSE,
                 "event: error\ndata: {\"type\":\"error\",\"error\":{"
                 "\"type\":\"api_error\",\"message\":\"gone\"}}\n\n");
    check_inband(&e, FORMAT(RESPONSES), SSE,
                 "event: error\ndata: {\"type\":\"error\","
                 "\"code\":\"upstream_error\",\"message\":\"gone\","
                 "\"param\":null,\"sequence_number\":1234567890123456789,"
                 "\"error\":{\"message\":\"gone\",\"type\":\"server_error\","
                 "\"param\":null,\"code\":\"upstream_error\"}}\n\n");
    check_inband(&e, FORMAT(NATIVE), NDJSON, "{\"error\":\"gone\"}\n");

    e.sequence = 0;
    check_inband(&e, FORMAT(RESPONSES), SSE,
                 "event: error\ndata: {\"type\":\"error\","
                 "\"code\":\"upstream_error\",\"message\":\"gone\","
                 "\"param\":null,\"sequence_number\":0,"
                 "\"error\":{\"message\":\"gone\",\"type\":\"server_error\","
                 "\"param\":null,\"code\":\"upstream_error\"}}\n\n");
}


/* the data of an event stays on its line, whatever the message has */

static void
test_inband_is_one_event(void **state)
{
    char                    *text, *end;
    ngx_http_clawd_error_t   e;

    make(&e, ERR(INCOMPLETE), 502, "a\n\ndata: [DONE]\r\n\r\nb");

    text = inband(&e, FORMAT(CHAT), SSE);
    end = text + strlen(text) - 2;

    assert_string_equal(end, "\n\n");
    assert_ptr_equal(strpbrk(text, "\r\n"), end);

    test_free(text);

    text = inband(&e, FORMAT(NATIVE), NDJSON);
    assert_ptr_equal(strpbrk(text, "\r\n"), text + strlen(text) - 1);

    test_free(text);
}


/* bytes that are no UTF-8 become the replacement character */

static void
check_message(json_t *error, const char *message)
{
    json_t      *member;
    const char  *s;

    member = json_object_get(error, "message");
    s = json_string_value(member ? member : error);

    assert_non_null(s);

    if (message[0] == '\0') {
        assert_true(s[0] != '\0');

    } else if ((u_char) message[0] < 0x80) {
        assert_string_equal(s, message);

    } else {
        assert_true(strlen(s) >= strlen(message));
        assert_non_null(strstr(s, "\xef\xbf\xbd"));
    }
}


static void
test_every_body_is_json(void **state)
{
    char                    *text, *data;
    json_t                  *json;
    ngx_uint_t               id, family, format, n;
    ngx_http_clawd_error_t   e;

    static const char  *messages[] = {
        "", "x", "\x01\x02\x1f\x7f\"\\/", "\xff\xfe\xc3", "\xc3\xa9\xf0\x9f",
        "\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01"
        "\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01"
        "\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01"
    };

    for (id = 0; id < ERR(MAX); id++) {
        for (n = 0; n < sizeof(messages) / sizeof(messages[0]); n++) {

            make(&e, id, 500, messages[n]);
            set(&e.param, messages[n]);
            set(&e.code, messages[n]);
            set(&e.request_id, messages[n]);
            e.sequence = UINT64_MAX;

            for (family = OPENAI; family <= OLLAMA; family++) {
                text = body(&e, family);

                json = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
                assert_non_null(json);

                check_message(json_object_get(json, "error"), messages[n]);

                json_decref(json);
                test_free(text);
            }

            for (format = 0; format <= FORMAT(EMBEDDINGS); format++) {
                text = inband(&e, format, SSE);

                data = strstr(text, "data: ");
                assert_non_null(data);

                if (format == FORMAT(RESPONSES)) {
                    /* no signed integer holds this sequence number */
                    assert_non_null(strstr(data, "18446744073709551615"));

                } else {
                    json = json_loads(data + 6, JSON_REJECT_DUPLICATES, NULL);
                    assert_non_null(json);
                    json_decref(json);
                }

                test_free(text);
            }
        }
    }
}


/* reading: body and scratch lie in memory of just their lengths */

static ngx_int_t
read_body(ngx_http_clawd_error_t *e, ngx_http_clawd_family_e family,
    const char *text, size_t len, char *message, char *code)
{
    u_char     *copy, *scratch;
    ngx_int_t   rc;

    copy = test_malloc(len + (len == 0));
    scratch = test_malloc(len + (len == 0));
    memcpy(copy, text, len);

    rc = ngx_http_clawd_error_read(e, family, copy, len, scratch);

    assert_true(rc == NGX_OK || rc == NGX_DECLINED);
    assert_memory_equal(copy, text, len);

    if (e->message.len) {
        assert_true(e->message.data >= scratch
                    && e->message.data + e->message.len <= scratch + len);
        memcpy(message, e->message.data, e->message.len);
    }

    message[e->message.len] = '\0';

    snprintf(code, 64, "%.*s", (int) e->code.len,
             e->code.len ? (char *) e->code.data : "");

    test_free(copy);
    test_free(scratch);

    return rc;
}


static void
reads(ngx_http_clawd_family_e family, const char *text, ngx_int_t expected,
    const char *expected_message, const char *expected_code)
{
    char                    message[1024], code[64];
    ngx_int_t               rc;
    ngx_http_clawd_error_t  e;

    make(&e, ERR(NONE), 400, "");

    rc = read_body(&e, family, text, strlen(text), message, code);

    if (rc != expected || strcmp(message, expected_message) != 0
        || strcmp(code, expected_code) != 0)
    {
        fail_msg("%s: rc %d, message \"%s\", code \"%s\"", text, (int) rc,
                 message, code);
    }
}


static void
passes(ngx_http_clawd_family_e family, const char *text)
{
    reads(family, text, NGX_OK, "", "");
}


static void
rewrites(ngx_http_clawd_family_e family, const char *text,
    const char *message)
{
    reads(family, text, NGX_DECLINED, message, "");
}


static void
test_f111_own_shape_passes(void **state)
{
    passes(OPENAI, "{\"error\":{\"message\":\"m\",\"type\":\"api_error\","
                   "\"param\":null,\"code\":null}}\n");
    passes(OPENAI, " {\"error\":{\"code\":400,\"message\":\"m\","
                   "\"type\":\"some_other_error\"}} \r\n");
    passes(OPENAI, "{\"error\":{\"message\":\"\"}}");
    passes(ANTHROPIC, "{\"type\":\"error\",\"error\":{\"type\":\"api_error\","
                      "\"message\":\"m\"},\"request_id\":\"req_1\"}\n");
    passes(OLLAMA, "{\"error\":\"m\"}");
    passes(OLLAMA, "{ \"error\" : \"{not json\" }\n");
}


static void
test_f111_other_shapes_are_read(void **state)
{
    rewrites(OPENAI, "{\"error\":\"m \\\"q\\\" \\u00e9\"}",
             "m \"q\" \xc3\xa9");
    rewrites(OPENAI, "{\"type\":\"error\",\"error\":{\"type\":\"api_error\","
                     "\"message\":\"m\"}}", "m");
    rewrites(ANTHROPIC, "{\"error\":\"m\"}", "m");
    rewrites(ANTHROPIC, "{\"error\":{\"message\":\"m\",\"type\":\"t\"}}",
             "m");
    rewrites(ANTHROPIC, "{\"type\":\"error\",\"error\":{\"message\":\"m\"}}",
             "m");
    rewrites(ANTHROPIC, "{\"type\":\"other\",\"error\":{\"type\":\"t\","
                        "\"message\":\"m\"}}", "m");
    rewrites(OLLAMA, "{\"error\":{\"message\":\"m\",\"type\":\"t\"}}", "m");
    rewrites(OLLAMA, "{\"object\":\"error\",\"message\":\"m\",\"code\":1}",
             "m");
    rewrites(OPENAI, "{\"detail\":\"m\"}", "m");
}


static void
test_f111_unclear_shapes(void **state)
{
    rewrites(OPENAI, "{\"error\":{\"message\":\"a\"},\"error\":\"b\"}", "a");
    rewrites(OLLAMA, "{\"error\":\"a\",\"error\":\"b\"}", "b");
    rewrites(OPENAI, "{\"error\":{\"message\":5}}", "");
    rewrites(OPENAI, "{\"error\":{}}", "");
    rewrites(OPENAI, "{\"error\":[\"m\"]}", "");
    rewrites(OPENAI, "{\"error\":null}", "");
    rewrites(OPENAI, "{}", "");
    rewrites(OPENAI, "{\"detail\":[{\"msg\":\"m\"}]}", "");
    rewrites(OPENAI, "{\"error\":{\"message\":\"m\"}} x", "");
    rewrites(OPENAI, "{\"error\":{\"message\":\"m\"", "");
    rewrites(OPENAI, "{\"error\":{\"message\":\"m\"}", "");
    rewrites(OPENAI, "[{\"error\":\"m\"}]", "");
    rewrites(OPENAI, "", "");
    rewrites(OPENAI, " \n", "");
}


static void
test_f111_status_error(void **state)
{
    rewrites(OLLAMA, "{\"StatusCode\":404,\"Status\":\"404 Not Found\","
                     "\"error\":\"m\"}", "m");
    rewrites(OPENAI, "{\"StatusCode\":404,\"error\":\"m\"}", "m");
}


static void
test_a17_signin_url_is_dropped(void **state)
{
    rewrites(OLLAMA, "{\"error\":\"unauthorized\","
                     "\"signin_url\":\"https://a/?key=k\"}", "unauthorized");
    rewrites(OPENAI, "{\"signin_url\":\"https://a/\",\"error\":"
                     "{\"message\":\"unauthorized\"}}", "unauthorized");
    rewrites(OPENAI, "{\"error\":{\"message\":\"unauthorized\","
                     "\"signin_url\":\"https://a/\"}}", "unauthorized");
}


static void
test_f115_json_in_a_string(void **state)
{
    static const char  native[] =
        "{\"error\":\"{\\\"error\\\":{\\\"code\\\":400,\\\"message\\\":"
        "\\\"too \\\\\\\"long\\\\\\\"\\\",\\\"type\\\":"
        "\\\"exceed_context_size_error\\\"}}\"}";
    static const char  openai[] =
        "{\"error\":{\"message\":\"{\\\"error\\\":{\\\"message\\\":\\\"m\\\","
        "\\\"type\\\":\\\"exceed_context_size_error\\\"}}\","
        "\"type\":\"invalid_request_error\"}}";

    reads(OLLAMA, native, NGX_DECLINED, "too \"long\"",
          "context_length_exceeded");
    reads(OPENAI, native, NGX_DECLINED, "too \"long\"",
          "context_length_exceeded");
    reads(OPENAI, openai, NGX_DECLINED, "m", "context_length_exceeded");
    reads(ANTHROPIC, openai, NGX_DECLINED, "m", "context_length_exceeded");

    rewrites(OLLAMA, "{\"error\":\"{\\\"error\\\":\\\"m\\\"}\"}", "m");
    rewrites(OPENAI, "{\"error\":{\"message\":\"{\\\"error\\\":"
                     "{\\\"message\\\":\\\"m\\\",\\\"type\\\":\\\"t\\\"}}\"}}",
             "m");
    rewrites(OPENAI, "{\"error\":\"{\\\"error\\\":\"}", "{\"error\":");
    passes(OLLAMA, "{\"error\":\"{\\\"x\\\":1}\"}");
}


static void
test_f116_html(void **state)
{
    rewrites(OPENAI, "<html>\n<body>502</body></html>\n", "");
    rewrites(OLLAMA, "\n <!DOCTYPE html>", "");
}


static void
test_f118_text(void **state)
{
    char  text[256];

    rewrites(OPENAI, "404 page not found", "404 page not found");
    rewrites(OLLAMA, " 405 method not allowed\n", "405 method not allowed");
    rewrites(OPENAI, "two\nlines", "");
    rewrites(OPENAI, "a\x01", "");
    rewrites(OPENAI, "a\x7f", "");
    rewrites(OPENAI, "\xff\xfe", "");

    memset(text, 'x', sizeof(text));

    text[200] = '\0';
    rewrites(OPENAI, text, text);

    text[200] = 'x';
    text[201] = '\0';
    rewrites(OPENAI, text, "");
}


static char *
slurp(const char *path, size_t *len)
{
    char  *text;
    FILE  *f;

    f = fopen(path, "rb");
    if (f == NULL) {
        fail_msg("%s cannot be read", path);
    }

    text = test_malloc(65536);
    *len = fread(text, 1, 65536, f);
    fclose(f);

    return text;
}


static const char *
message_of(json_t *error)
{
    json_t  *inner;

    inner = json_object_get(error, "message");

    return json_string_value(inner ? inner : error);
}


/*
 * One recorded answer: what the caller gets, passed or written, has the
 * family's shape and the message of the sidecar, or the one inside of it.
 */

static void
check_fixture(const char *dir, const char *name)
{
    char                     path[512], code[64], message[65536];
    char                    *text, *out;
    size_t                   len;
    json_t                  *sidecar, *json, *error, *inner;
    ngx_int_t                rc;
    ngx_str_t                uri;
    const char              *expected, *got;
    ngx_http_clawd_error_t   e;
    ngx_http_clawd_family_e  family;

    snprintf(path, sizeof(path), "%s/%s.json", dir, name);
    sidecar = json_load_file(path, 0, NULL);
    assert_non_null(sidecar);

    set(&uri, json_string_value(json_object_get(sidecar, "endpoint")));
    family = ngx_http_clawd_api_family(&uri);

    snprintf(path, sizeof(path), "%s/%s.body", dir, name);
    text = slurp(path, &len);

    json = json_object_get(sidecar, "response");
    make(&e, ERR(NONE),
         json_integer_value(json_object_get(json, "status")), "");

    rc = read_body(&e, family, text, len, message, code);

    if (rc == NGX_OK) {
        json = json_loadb(text, len, 0, NULL);

    } else {
        set(&e.message, message);
        out = body(&e, family);
        json = json_loads(out, 0, NULL);
        test_free(out);
    }

    assert_non_null(json);

    error = json_object_get(json, "error");
    got = message_of(error);

    assert_true(json_is_string(error) == (family == OLLAMA));
    assert_true((family == ANTHROPIC)
                == (json_object_get(json, "type") != NULL));

    expected = message_of(json_object_get(json_object_get(sidecar, "expect"),
                                          "error"));

    if (expected && expected[0]) {
        inner = json_loads(expected, 0, NULL);

        if (inner) {
            expected = message_of(json_object_get(inner, "error"));
            assert_string_equal(code, "context_length_exceeded");
        }

        assert_string_equal(got, expected);
        json_decref(inner);

    } else {
        assert_int_equal(rc, NGX_DECLINED);
        assert_string_equal(message, "");
        assert_true(got[0] != '\0');
    }

    json_decref(json);
    json_decref(sidecar);
    test_free(text);
}


static void
test_recorded_errors(void **state)
{
    int             n;
    DIR            *d;
    char            dir[512], name[256], *dot;
    size_t          i;
    const char     *root;
    struct dirent  *entry;

    static const char  *dirs[] = { "", "/recorded", "/recorded-llamacpp" };

    root = getenv("CLAWD_FIXTURES");
    root = root ? root : "t/fixtures";

    n = 0;

    for (i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
        snprintf(dir, sizeof(dir), "%s%s", root, dirs[i]);

        d = opendir(dir);
        assert_non_null(d);

        for (entry = readdir(d); entry; entry = readdir(d)) {
            snprintf(name, sizeof(name), "%s", entry->d_name);

            dot = strrchr(name, '.');

            if (dot == NULL || strcmp(dot, ".body") != 0
                || (strncmp(name, "err_", 4) != 0
                    && strstr(name, "_err_") == NULL))
            {
                continue;
            }

            *dot = '\0';
            check_fixture(dir, name);
            n++;
        }

        closedir(d);
    }

    assert_true(n >= 35);
}


/* cut and changed bodies: the sanitizers judge */

static void
test_hostile_bodies(void **state)
{
    char                    text[512], message[1024], code[64];
    size_t                  i, j, len;
    uint32_t                seed;
    ngx_uint_t              family;
    ngx_http_clawd_error_t  e;

    static const char  *bodies[] = {
        "{\"error\":{\"message\":\"m\\u00e9\\ud83d\\ude00\",\"type\":\"t\"}}",
        ("{\"error\":\"{\\\"error\\\":{\\\"message\\\":\\\"\\\\u0041\\\","
         "\\\"type\\\":\\\"exceed_context_size_error\\\"}}\"}"),
        "{\"type\":\"error\",\"error\":{\"type\":\"a\",\"message\":\"m\"}}",
        "404 page not found",
        "{\"StatusCode\":404,\"Status\":\"404 Not Found\",\"error\":\"m\"}"
    };

    seed = 7;

    for (i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {

        for (len = 0; len <= strlen(bodies[i]); len++) {
            for (family = OPENAI; family <= OLLAMA; family++) {
                make(&e, ERR(NONE), 500, "");
                read_body(&e, family, bodies[i], len, message, code);
            }
        }

        for (j = 0; j < 5000; j++) {
            len = strlen(bodies[i]);
            memcpy(text, bodies[i], len);

            do {
                seed = seed * 1664525 + 1013904223;
                text[(seed >> 8) % len] = "\"\\{}[]:,u0 \xff\xc3"[seed % 13];
            } while (seed & 0x40000000);

            make(&e, ERR(NONE), 500, "");
            read_body(&e, j % 3, text, len, message, code);
        }
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_nobody_alike),
        cmocka_unit_test(test_statuses),
        cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_param_code_and_message),
        cmocka_unit_test(test_wording_by_status),
        cmocka_unit_test(test_inband_forms),
        cmocka_unit_test(test_inband_is_one_event),
        cmocka_unit_test(test_every_body_is_json),
        cmocka_unit_test(test_f111_own_shape_passes),
        cmocka_unit_test(test_f111_other_shapes_are_read),
        cmocka_unit_test(test_f111_unclear_shapes),
        cmocka_unit_test(test_f111_status_error),
        cmocka_unit_test(test_a17_signin_url_is_dropped),
        cmocka_unit_test(test_f115_json_in_a_string),
        cmocka_unit_test(test_f116_html),
        cmocka_unit_test(test_f118_text),
        cmocka_unit_test(test_recorded_errors),
        cmocka_unit_test(test_hostile_bodies)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
