/*
 * Copyright (C) clawd authors
 *
 * Answers: every fixture that a 200 carried, at every split, against what its
 * sidecar expects of it; and the edges of the formats one by one.  Names of
 * tests carry the rows of the table of edge cases that they stand for.
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dirent.h>

#include <cmocka.h>
#include <jansson.h>
#include <zlib.h>

#define ANSWER_CHECK(x)  assert_true(x)

#include "answer_run.h"


#define CHAT         NGX_HTTP_CLAWD_FORMAT_CHAT
#define COMPLETIONS  NGX_HTTP_CLAWD_FORMAT_COMPLETIONS
#define RESPONSES    NGX_HTTP_CLAWD_FORMAT_RESPONSES
#define MESSAGES     NGX_HTTP_CLAWD_FORMAT_MESSAGES
#define NATIVE       NGX_HTTP_CLAWD_FORMAT_NATIVE
#define EMBEDDINGS   NGX_HTTP_CLAWD_FORMAT_EMBEDDINGS

#define JSON         NGX_HTTP_CLAWD_FRAMING_JSON
#define SSE          NGX_HTTP_CLAWD_FRAMING_SSE
#define NDJSON       NGX_HTTP_CLAWD_FRAMING_NDJSON

#define BOUNDARY     NGX_HTTP_CLAWD_END_BOUNDARY
#define COMMENT      NGX_HTTP_CLAWD_END_COMMENT
#define WHOLE        NGX_HTTP_CLAWD_END_WHOLE
#define BROKEN       NGX_HTTP_CLAWD_END_BROKEN

#define SPLIT_MAX    (64 * 1024)


typedef struct {
    ngx_http_clawd_format_e    format;
    ngx_http_clawd_framing_e   framing;
    u_char                    *body;
    size_t                     len;
    json_t                    *sidecar;
    char                       name[256];
} fixture_t;


static void
compare(const answer_result_t *got, const answer_result_t *whole,
    const char *how, size_t at)
{
    if (!answer_same(got, whole)) {
        fail_msg("%s %zu: prompt %ld/%ld completion %ld/%ld events %lu/%lu "
                 "deltas %lu/%lu end %d/%d usage_only %u/%u done %u/%u "
                 "dropped %zu/%zu", how, at,
                 (long) got->facts.prompt_tokens,
                 (long) whole->facts.prompt_tokens,
                 (long) got->facts.completion_tokens,
                 (long) whole->facts.completion_tokens,
                 (unsigned long) got->facts.events,
                 (unsigned long) whole->facts.events,
                 (unsigned long) got->facts.deltas,
                 (unsigned long) whole->facts.deltas,
                 (int) got->end, (int) whole->end,
                 got->usage_only, whole->usage_only, got->done, whole->done,
                 got->dropped, whole->dropped);
    }
}


/* whole, in two parts at each place (or where it matters), byte by byte, … */

static void
read_all_ways(answer_result_t *r, ngx_http_clawd_format_e format,
    ngx_http_clawd_framing_e framing, const u_char *body, size_t len)
{
    size_t           i;
    uint32_t         seed;
    answer_cuts_t    cuts;
    answer_result_t  got;

    memset(&cuts, 0, sizeof(answer_cuts_t));

    answer_run(r, format, framing, body, len, cuts);

    for (i = 1; i < len; i++) {

        if (len > SPLIT_MAX && body[i] != '\n' && body[i - 1] != '\n'
            && i % (len / 64))
        {
            continue;
        }

        cuts.first = i;
        answer_run(&got, format, framing, body, len, cuts);
        compare(&got, r, "split at", i);
    }

    cuts.first = 0;

    for (i = 1; i <= 7; i += 3) {
        cuts.each = i;
        answer_run(&got, format, framing, body, len, cuts);
        compare(&got, r, "pieces of", i);
    }

    cuts.each = 0;

    for (seed = 1; seed <= 20; seed++) {
        cuts.seed = seed * 2654435761u;
        answer_run(&got, format, framing, body, len, cuts);
        compare(&got, r, "random cuts", seed);
    }
}


static answer_result_t
read_bytes(ngx_http_clawd_format_e format, ngx_http_clawd_framing_e framing,
    const char *body, size_t len)
{
    answer_result_t  r;

    read_all_ways(&r, format, framing, (const u_char *) body, len);

    return r;
}


static answer_result_t
read_text(ngx_http_clawd_format_e format, ngx_http_clawd_framing_e framing,
    const char *body)
{
    return read_bytes(format, framing, body, strlen(body));
}


static void
assert_usage(const answer_result_t *r, long prompt, long completion)
{
    assert_true(r->facts.usage);
    assert_int_equal(r->facts.prompt_tokens, prompt);
    assert_int_equal(r->facts.completion_tokens, completion);
}


static void
assert_finish(const answer_result_t *r, const char *finish)
{
    assert_int_equal(r->facts.finish_len, strlen(finish));
    assert_memory_equal(r->facts.finish, finish, strlen(finish));
}


static void
assert_model(const answer_result_t *r, const char *model)
{
    assert_int_equal(r->facts.model_len, strlen(model));
    assert_memory_equal(r->facts.model, model, strlen(model));
}


/* fixtures */

static const char *
field(json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}


static void
check_sidecar(fixture_t *fx, answer_result_t *r)
{
    size_t       len;
    json_t      *e, *v;
    const char  *s;
    ngx_uint_t   chat;

    e = json_object_get(fx->sidecar, "expect");
    chat = (fx->format == CHAT || fx->format == COMPLETIONS);

    v = json_object_get(e, "prompt_tokens");

    if (json_is_integer(v)) {
        assert_usage(r, json_integer_value(v),
                     json_integer_value(json_object_get(e,
                                                       "completion_tokens")));
    } else {
        assert_false(r->facts.usage);
        assert_int_equal(r->facts.completion_tokens, -1);
    }

    s = field(e, "finish_reason");

    if (s) {
        assert_finish(r, s);

    } else if (fx->format != RESPONSES) {
        assert_int_equal(r->facts.finish_len, 0);
    }

    v = json_object_get(e, "model");

    if (v) {
        assert_model(r, json_is_string(v) ? json_string_value(v) : "");
    }

    /* of chat a finish reason is the end, whether [DONE] came or not */

    assert_int_equal(r->facts.complete,
                     chat ? s != NULL
                          : json_is_true(json_object_get(e, "terminal_seen")));

    s = field(json_object_get(e, "error"), "kind");

    assert_int_equal(r->facts.told, s && strcmp(s, "upstream_error") == 0);

    if (s == NULL) {
        assert_false(r->facts.error);
        assert_false(r->facts.anomaly);
    }

    v = json_object_get(e, "events");

    if (v) {
        assert_int_equal(r->facts.events, json_integer_value(v));
    }

    v = json_object_get(e, "delta_events");

    if (v) {
        assert_int_equal(r->facts.deltas, json_integer_value(v));
    }

    v = json_object_get(e, "content_len_bytes");

    if (v) {
        assert_int_equal(r->facts.text_bytes, json_integer_value(v));
    }

    /* what is written without escapes is as long in JSON as it is */

    s = field(e, "content");

    if (s && *s && !memchr(fx->body, '\\', fx->len)
        && fx->format != EMBEDDINGS && strchr(s, '{') == NULL)
    {
        len = strlen(s);
        s = field(e, "reasoning");
        len += s ? strlen(s) : 0;

        assert_int_equal(r->facts.text_bytes, len);
    }
}


/* row 78: the reading is the same at any split */

static void
test_fixture(void **state)
{
    answer_result_t   r;
    fixture_t        *fx = *state;

    read_all_ways(&r, fx->format, fx->framing, fx->body, fx->len);

    check_sidecar(fx, &r);
}


/* outside of a test: ends the program */

static void
check(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "cannot load %s\n", what);
        exit(1);
    }
}


static u_char *
read_file(const char *path, size_t *len)
{
    FILE    *f;
    long     size;
    u_char  *body;

    f = fopen(path, "rb");
    check(f != NULL, path);

    check(fseek(f, 0, SEEK_END) == 0, path);
    size = ftell(f);
    check(size >= 0, path);
    rewind(f);

    body = malloc(size + 1);
    check(body != NULL, path);

    *len = fread(body, 1, size, f);
    check(*len == (size_t) size, path);

    fclose(f);

    return body;
}


static u_char *
gunzip(u_char *in, size_t *len)
{
    int       rc;
    u_char   *out;
    z_stream  z;

    memset(&z, 0, sizeof(z_stream));
    check(inflateInit2(&z, MAX_WBITS + 16) == Z_OK, "zlib");

    out = malloc(SPLIT_MAX);
    check(out != NULL, "zlib");

    z.next_in = in;
    z.avail_in = *len;
    z.next_out = out;
    z.avail_out = SPLIT_MAX;

    rc = inflate(&z, Z_FINISH);
    check(rc == Z_STREAM_END, "a compressed fixture");

    *len = z.total_out;

    inflateEnd(&z);
    free(in);

    return out;
}


/* NULL: not an answer that is read */

static fixture_t *
load_fixture(const char *dir, const char *sub, const char *name)
{
    char                         path[1024];
    json_t                      *o, *response;
    ngx_str_t                    uri;
    fixture_t                   *fx;
    const char                  *framing;
    const ngx_http_clawd_api_t  *api;

    snprintf(path, sizeof(path), "%s/%s%s", dir, sub, name);

    o = json_load_file(path, JSON_ALLOW_NUL, NULL);
    check(o != NULL, path);

    response = json_object_get(o, "response");
    framing = field(response, "framing");

    uri.data = (u_char *) field(o, "endpoint");
    uri.len = strlen((char *) uri.data);
    api = ngx_http_clawd_api_find(&uri);

    if (json_integer_value(json_object_get(response, "status")) != 200
        || api == NULL || api->format == NGX_HTTP_CLAWD_FORMAT_NONE)
    {
        json_decref(o);
        return NULL;
    }

    fx = calloc(1, sizeof(fixture_t));
    check(fx != NULL, path);

    fx->sidecar = o;
    fx->format = api->format;
    fx->framing = strcmp(framing, "sse") == 0 ? SSE
                  : strcmp(framing, "ndjson") == 0 ? NDJSON : JSON;

    snprintf(fx->name, sizeof(fx->name), "%s%.*s", sub,
             (int) strlen(name) - 5, name);
    snprintf(path, sizeof(path), "%s/%s%s", dir, sub,
             field(response, "body_file"));

    fx->body = read_file(path, &fx->len);

    if (field(json_object_get(response, "headers"), "Content-Encoding")) {
        fx->body = gunzip(fx->body, &fx->len);
    }

    return fx;
}


static int
by_name(const void *one, const void *two)
{
    return strcmp(*(char *const *) one, *(char *const *) two);
}


static size_t
load_fixtures(struct CMUnitTest *tests, size_t max, const char *dir,
    const char *sub)
{
    DIR            *d;
    char            path[1024], *names[256];
    size_t          i, n, nnames;
    fixture_t      *fx;
    struct dirent  *de;

    snprintf(path, sizeof(path), "%s/%s", dir, sub);

    d = opendir(path);

    if (d == NULL) {
        return 0;
    }

    nnames = 0;

    while ((de = readdir(d)) && nnames < 256) {
        n = strlen(de->d_name);

        if (n > 5 && strcmp(de->d_name + n - 5, ".json") == 0) {
            names[nnames++] = strdup(de->d_name);
        }
    }

    closedir(d);
    qsort(names, nnames, sizeof(char *), by_name);

    n = 0;

    for (i = 0; i < nnames; i++) {
        fx = load_fixture(dir, sub, names[i]);
        free(names[i]);

        if (fx && n < max) {
            memset(&tests[n], 0, sizeof(struct CMUnitTest));
            tests[n].name = fx->name;
            tests[n].test_func = test_fixture;
            tests[n].initial_state = fx;
            n++;
        }
    }

    return n;
}


/* chunks of a chat stream */

#define D(json)  "data: " json "\n\n"

#define CHUNK(choices)  D("{\"model\":\"m\",\"choices\":" choices "}")

#define TEXT(t)                                                               \
    CHUNK("[{\"index\":0,\"delta\":{\"content\":\"" t "\"},"                  \
          "\"finish_reason\":null}]")

#define FINISH                                                                \
    CHUNK("[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]")

#define USAGE(p, c)                                                           \
    CHUNK("[],\"usage\":{\"prompt_tokens\":" #p                              \
          ",\"completion_tokens\":" #c ",\"total_tokens\":0}")

#define DONE  "data: [DONE]\n\n"


static void
test_usage_event_is_told(void **state)
{
    answer_result_t  r;

    static const char  body[] = TEXT("Hi") FINISH USAGE(26, 10) DONE;

    r = read_text(CHAT, SSE, body);

    assert_usage(&r, 26, 10);
    assert_int_equal(r.usage_only, 1);
    assert_int_equal(r.done, 1);
    assert_int_equal(r.last_start, strlen(TEXT("Hi") FINISH));
    assert_int_equal(r.dropped, strlen(USAGE(26, 10)));
    assert_int_equal(r.facts.deltas, 1);
    assert_int_equal(r.facts.text_bytes, 2);
    assert_true(r.facts.complete);
    assert_finish(&r, "stop");
    assert_model(&r, "m");
    assert_int_equal(r.end, BOUNDARY);
    assert_false(r.facts.anomaly);
}


/* which events are never the usage event, whatever else they hold */

static void
test_usage_event_is_no_other(void **state)
{
    size_t           i;
    answer_result_t  r;

    static const char  *bodies[] = {
        D("{\"choices\":[]}"),
        D("{\"choices\":[],\"usage\":null}"),
        D("{\"choices\":[],\"usage\":7}"),
        D("{\"choices\":[],\"usage\":[]}"),
        D("{\"choices\":null,\"usage\":{}}"),
        D("{\"choices\":{},\"usage\":{}}"),
        D("{\"choices\":[{}],\"usage\":{}}"),
        D("{\"choices\":[null],\"usage\":{}}"),
        D("{\"choices\":[],\"choices\":[{}],\"usage\":{}}"),
        D("{\"usage\":{}}"),
        D("{\"choices\":[],\"usage\":{},\"error\":\"x\"}"),
        D("{\"choices\":[],\"usage\":{},\"error\":{}}"),
        D("{\"x\":{\"choices\":[],\"usage\":{}}}"),
        D("[{\"choices\":[],\"usage\":{}}]"),
        D("{\"choices\":[],\"usage\":{}} x"),
        D("{\"choices\":[],\"usage\":{}}{}"),
        D("{\"choices\":[],\"usage\":{}"),
        "data: {\"choices\":[],\ndata: \"usage\":{}\n\n",
        "dat: {\"choices\":[],\"usage\":{}}\n\n",
        "x: y\ndata: {\"choices\":[],\"usage\":{}}\n\n"
    };

    for (i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        r = read_text(CHAT, SSE, bodies[i]);
        assert_int_equal(r.usage_only, 0);
    }

    r = read_text(RESPONSES, SSE, USAGE(26, 10));
    assert_int_equal(r.usage_only, 0);

    r = read_text(CHAT, NDJSON, "{\"choices\":[],\"usage\":{}}\n");
    assert_int_equal(r.usage_only, 0);
}


static void
test_usage_event_in_other_dress(void **state)
{
    size_t           i;
    answer_result_t  r;

    static const char  *bodies[] = {
        "data:{\"choices\":[],\"usage\":{\"prompt_tokens\":1,"
            "\"completion_tokens\":2}}\n\n",
        "id: 7\ndata: {\"usage\":{\"completion_tokens\":2,"
            "\"prompt_tokens\":1},\"choices\":[ ]}\r\n\r\n",
        "event: message\r\ndata: {\"choices\":[],\"usage\":{"
            "\"prompt_tokens\":1,\"completion_tokens\":2}}\r\n\r\n",
        "data: {\"choices\":[],\rdata: \"usage\":{\"prompt_tokens\":1,"
            "\"completion_tokens\":2}}\r\r",
        ": ping\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,"
            "\"completion_tokens\":2}}\n\n",
        "data: {\"choice\\u0073\":[],\"us\\u0061ge\":{\"prompt_tokens\":1,"
            "\"completion_tokens\":2}}\n\n"
    };

    for (i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        r = read_text(CHAT, SSE, bodies[i]);
        assert_int_equal(r.usage_only, 1);
        assert_usage(&r, 1, 2);
        assert_int_equal(r.last_end, strlen(bodies[i]));

        /* a comment before it is not dropped with it */

        assert_int_equal(r.last_start, bodies[i][0] == ':' ? 7 : 0);
    }
}


/* the states that the bytes are held by, after each byte of an event */

static void
test_event_states(void **state)
{
    size_t                    i, n;
    u_char                   *p;
    ngx_http_clawd_answer_t   a;

    static const struct {
        const char  *bytes;
        int          event;
    } cases[] = {
        { "d", NGX_HTTP_CLAWD_EVENT_OPEN },
        { "data: {\"id\":1,\"choices\":[", NGX_HTTP_CLAWD_EVENT_OPEN },
        { "data: {\"choices\":[{", NGX_HTTP_CLAWD_EVENT_PLAIN },
        { "data: {\"choices\":[]", NGX_HTTP_CLAWD_EVENT_EMPTY },
        { "data: {\"choices\":[],\"usage\":null}", NGX_HTTP_CLAWD_EVENT_PLAIN },
        { "data: {\"choices\":[],\"usage\":{}}\n", NGX_HTTP_CLAWD_EVENT_EMPTY },
        { "data: {\"id\":1}", NGX_HTTP_CLAWD_EVENT_PLAIN },
        { "data: {\"error\":{", NGX_HTTP_CLAWD_EVENT_PLAIN },
        { "data: {\"id\":x", NGX_HTTP_CLAWD_EVENT_PLAIN },
        { "data: [", NGX_HTTP_CLAWD_EVENT_PLAIN },
        { ":", NGX_HTTP_CLAWD_EVENT_PLAIN },
        { ": ping\n", NGX_HTTP_CLAWD_EVENT_NONE },
        { ": ping\n\n", NGX_HTTP_CLAWD_EVENT_NONE },
        { "event: x\n:", NGX_HTTP_CLAWD_EVENT_PLAIN },
        { "event: x\n", NGX_HTTP_CLAWD_EVENT_OPEN },
        { "foo:", NGX_HTTP_CLAWD_EVENT_PLAIN },
        { "data: {}\n\n", NGX_HTTP_CLAWD_EVENT_NONE },
        { "\n\n", NGX_HTTP_CLAWD_EVENT_NONE },
        { "data: {\"choices\":[],\"usage\":{}}\r\n\r",
          NGX_HTTP_CLAWD_EVENT_EMPTY },
        { "data: {\"choices\":[],\"usage\":{}}\r\n\r\n",
          NGX_HTTP_CLAWD_EVENT_NONE },
        { "data: {\"choices\":[],\"usage\":{}}\r\r",
          NGX_HTTP_CLAWD_EVENT_NONE }
    };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        n = strlen(cases[i].bytes);
        p = (u_char *) cases[i].bytes;

        ngx_http_clawd_answer_init(&a, CHAT, SSE);

        while (ngx_http_clawd_answer_read(&a, &p,
                                          (u_char *) cases[i].bytes + n)
               == NGX_OK)
        {
            /* void */
        }

        if ((int) a.event != cases[i].event) {
            fail_msg("%s: %d, not %d", cases[i].bytes, (int) a.event,
                     cases[i].event);
        }
    }

    ngx_http_clawd_answer_init(&a, RESPONSES, SSE);
    p = (u_char *) "d";
    assert_int_equal(ngx_http_clawd_answer_read(&a, &p, p + 1), NGX_AGAIN);
    assert_int_equal(a.event, NGX_HTTP_CLAWD_EVENT_PLAIN);
}


/* row 79 */

static void
test_79_split_in_crlf_utf8_escape(void **state)
{
    answer_result_t  r;

    r = read_text(CHAT, SSE,
                  "data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":"
                  "\"\xc3\xbc\xf0\x9f\x98\x80\\u00e9\\ud83d\\ude00\\n\"}}]}"
                  "\r\n\r\ndata: [DONE]\r\n\r\n");

    assert_int_equal(r.facts.deltas, 1);
    assert_int_equal(r.facts.text_bytes, 6 + 6 + 12 + 2);
    assert_int_equal(r.done, 1);
    assert_false(r.facts.anomaly);
}


/* row 80: the same stream with each line end, and with two of them mixed */

static void
test_80_line_ends(void **state)
{
    size_t            i, k, n;
    char              body[2048];
    answer_result_t   r;

    static const char   plain[] = TEXT("Hi") FINISH USAGE(26, 10) DONE;
    static const char  *ends[] = { "\n", "\r\n", "\r" };

    for (i = 0; i < 4; i++) {
        n = 0;

        for (k = 0; k < sizeof(plain) - 1; k++) {

            if (plain[k] != '\n') {
                body[n++] = plain[k];
                continue;
            }

            n += sprintf(body + n, "%s", ends[i == 3 ? k % 2 : i]);
        }

        r = read_bytes(CHAT, SSE, body, n);

        assert_usage(&r, 26, 10);
        assert_int_equal(r.facts.events, 4);
        assert_int_equal(r.facts.deltas, 1);
        assert_int_equal(r.usage_only, 1);
        assert_int_equal(r.done, 1);
        assert_int_equal(r.end, BOUNDARY);
    }
}


/* row 81 */

static void
test_81_comments(void **state)
{
    answer_result_t  r;

    r = read_text(CHAT, SSE, ": hello\n\n" TEXT("Hi") ":\n\n:\n\n"
                  ": data: {\"error\":1}\n" FINISH ": bye");

    assert_int_equal(r.facts.deltas, 1);
    assert_int_equal(r.facts.events, 2);
    assert_true(r.facts.complete);
    assert_false(r.facts.error);
    assert_false(r.facts.anomaly);
    assert_int_equal(r.end, COMMENT);

    r = read_text(CHAT, SSE, ": bye\n");
    assert_int_equal(r.end, BOUNDARY);
    assert_int_equal(r.facts.events, 0);
}


/* row 82: what the pending bytes are when the body ends */

static void
test_82_ends(void **state)
{
    size_t           i;
    answer_result_t  r;

    static const struct {
        int          framing;
        const char  *body;
        int          end;
        int          complete;
    } cases[] = {
        { SSE, "", BOUNDARY, 0 },
        { SSE, "\n\n", BOUNDARY, 0 },
        { SSE, FINISH, BOUNDARY, 1 },
        { SSE, "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}", WHOLE, 1 },
        { SSE, "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n", WHOLE,
          1 },
        { SSE, "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\r\n\r",
          BOUNDARY, 1 },
        { SSE, "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\r\n",
          WHOLE, 1 },
        { SSE, "data: [DONE]", WHOLE, 0 },
        { SSE, "data: [DONE", BROKEN, 0 },
        { SSE, "data: {\"choices\":[{\"finish_reason\":\"stop\"}]", BROKEN, 0 },
        { SSE, "data: ", BROKEN, 0 },
        { SSE, "dat", BROKEN, 0 },
        { SSE, "event: x\n", BROKEN, 0 },
        { SSE, ":", COMMENT, 0 },
        { SSE, FINISH ": x", COMMENT, 1 },
        { NDJSON, "", BOUNDARY, 0 },
        { NDJSON, " \n", BOUNDARY, 0 },
        { NDJSON, "{\"choices\":[{\"finish_reason\":\"stop\"}]}", WHOLE, 1 },
        { NDJSON, "{\"choices\":[{\"finish_reason\":\"stop\"}]} \r", WHOLE,
          1 },
        { NDJSON, "{\"choices\":[{\"finish_reason\":\"stop\"}]", BROKEN, 0 },
        { NDJSON, "{\"choices\":[{\"finish_reason\":\"stop\"}]} x", BROKEN,
          0 },
        { JSON, "{\"choices\":[{\"finish_reason\":\"stop\"}]", BROKEN, 0 },
        { JSON, "{\"choices\":[{\"finish_reason\":\"stop\"}]}", BOUNDARY, 1 }
    };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        r = read_text(CHAT, cases[i].framing, cases[i].body);

        if ((int) r.end != cases[i].end
            || r.facts.complete != cases[i].complete)
        {
            fail_msg("%s: end %d, complete %d", cases[i].body, (int) r.end,
                     r.facts.complete);
        }

        assert_int_equal(r.facts.anomaly, cases[i].end == BROKEN);
    }
}


/* row 82: a usage event without its blank line is told as such */

static void
test_82_usage_event_at_the_end(void **state)
{
    answer_result_t  r;

    r = read_text(CHAT, SSE, FINISH "data: {\"choices\":[],\"usage\":{"
                  "\"prompt_tokens\":1,\"completion_tokens\":2}}");

    assert_int_equal(r.end, WHOLE);
    assert_int_equal(r.usage_only, 1);
    assert_usage(&r, 1, 2);
}


/* rows 83, 84 */

static void
test_83_84_complete(void **state)
{
    size_t           i;
    answer_result_t  r;

    static const struct {
        int          format;
        int          framing;
        int          complete;
        const char  *body;
    } cases[] = {
        { CHAT, SSE, 1, TEXT("a") FINISH },
        { CHAT, SSE, 0, TEXT("a") DONE },
        { CHAT, SSE, 0, TEXT("a") USAGE(1, 2) DONE },
        { CHAT, SSE, 0, D("{\"choices\":[{\"finish_reason\":\"\"}]}") },
        { CHAT, SSE, 0, D("{\"choices\":[{\"finish_reason\":1}]}") },
        { CHAT, SSE, 0, D("{\"finish_reason\":\"stop\"}") },
        { CHAT, SSE, 0,
          D("{\"choices\":[{\"delta\":{\"finish_reason\":\"stop\"}}]}") },
        { COMPLETIONS, SSE, 1,
          D("{\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}]}") },
        { CHAT, JSON, 1, "{\"choices\":[{\"finish_reason\":\"stop\"}]}" },
        { CHAT, JSON, 0, "{\"choices\":[{\"finish_reason\":null}]}" },
        { RESPONSES, SSE, 1, D("{\"type\":\"response.completed\"}") },
        { RESPONSES, SSE, 1, D("{\"type\":\"response.incomplete\"}") },
        { RESPONSES, SSE, 1, D("{\"type\":\"response.failed\"}") },
        { RESPONSES, SSE, 0, D("{\"type\":\"response.created\"}") },
        { RESPONSES, SSE, 0,
          D("{\"response\":{\"type\":\"response.completed\"}}") },
        { RESPONSES, SSE, 0, "event: response.completed\ndata: {}\n\n" },
        { RESPONSES, JSON, 1, "{\"status\":\"completed\"}" },
        { MESSAGES, SSE, 1, D("{\"type\":\"message_stop\"}") },
        { MESSAGES, SSE, 0, D("{\"type\":\"message_delta\",\"delta\":"
                              "{\"stop_reason\":\"end_turn\"}}") },
        { MESSAGES, JSON, 1, "{\"type\":\"message\",\"content\":[]}" },
        { MESSAGES, JSON, 0, "{\"type\":\"error\",\"error\":{}}" },
        { NATIVE, NDJSON, 1, "{\"done\":true}\n" },
        { NATIVE, NDJSON, 0, "{\"done\":false}\n" },
        { NATIVE, NDJSON, 0, "{\"done\":\"true\"}\n" },
        { NATIVE, NDJSON, 1, "{\"status\":\"success\"}\n" },
        { NATIVE, NDJSON, 0, "{\"status\":\"verifying\"}\n" },
        { NATIVE, JSON, 0, "{\"error\":\"x\"}" },
        { EMBEDDINGS, JSON, 1, "{\"data\":[]}" },
        { EMBEDDINGS, JSON, 0, "{\"error\":{\"message\":\"x\"}}" }
    };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        r = read_text(cases[i].format, cases[i].framing, cases[i].body);

        if (r.facts.complete != cases[i].complete) {
            fail_msg("%s", cases[i].body);
        }
    }
}


/* row 85 */

static void
test_85_swallowed_error(void **state)
{
    answer_result_t  r;

    r = read_text(CHAT, SSE, TEXT("Hi")
                  D("{\"model\":\"\",\"choices\":[{\"delta\":"
                    "{\"content\":\"\"},\"finish_reason\":null}]}"));

    assert_true(r.facts.error);
    assert_false(r.facts.told);
    assert_false(r.facts.complete);
    assert_int_equal(r.facts.deltas, 1);

    r = read_text(COMPLETIONS, SSE,
                  D("{\"choices\":[{\"text\":\"a\"}],\"model\":\"m\"}")
                  D("{\"choices\":[{\"text\":\"\"}],\"model\":\"\"}"));

    assert_true(r.facts.error);
    assert_false(r.facts.told);

    /* an upstream that never names its model */

    r = read_text(CHAT, SSE,
                  D("{\"model\":\"\",\"choices\":[{\"delta\":{\"content\":"
                    "\"a\"}}]}")
                  D("{\"model\":\"\",\"choices\":[{\"delta\":{\"content\":"
                    "\"b\"},\"finish_reason\":\"stop\"}]}"));

    assert_false(r.facts.error);
    assert_true(r.facts.complete);

    /* after the finish there is nothing left that could have died */

    r = read_text(CHAT, SSE, TEXT("a") FINISH
                  D("{\"model\":\"\",\"choices\":[],\"usage\":{"
                    "\"prompt_tokens\":1,\"completion_tokens\":2}}"));

    assert_false(r.facts.error);
    assert_usage(&r, 1, 2);
}


/* row 86: cut within an event */

static void
test_86_cut(void **state)
{
    answer_result_t  r;

    r = read_text(CHAT, SSE, TEXT("a") "data: {\"model\":\"m\",\"choices\":"
                  "[{\"delta\":{\"content\":\"b\"},\"finish_reason\":\"stop\"");

    assert_int_equal(r.end, BROKEN);
    assert_int_equal(r.facts.deltas, 1);
    assert_false(r.facts.complete);
    assert_int_equal(r.facts.finish_len, 0);
}


/* row 87 */

static void
test_87_no_usage(void **state)
{
    answer_result_t  r;

    r = read_text(CHAT, SSE, TEXT("a") TEXT("bc") FINISH DONE);

    assert_false(r.facts.usage);
    assert_int_equal(r.facts.prompt_tokens, -1);
    assert_int_equal(r.facts.completion_tokens, -1);
    assert_int_equal(r.facts.deltas, 2);
    assert_int_equal(r.facts.text_bytes, 3);
}


#define PIECE(text, finish, p, c)                                             \
    D("{\"model\":\"m\",\"choices\":[{\"text\":\"" text                       \
      "\",\"finish_reason\":" finish "}],\"usage\":{\"prompt_tokens\":" #p    \
      ",\"completion_tokens\":" #c ",\"total_tokens\":0}}")


/* row 88 */

static void
test_88_usage_in_every_chunk(void **state)
{
    answer_result_t  r;

    r = read_text(COMPLETIONS, SSE, PIECE("a", "null", 0, 0)
                  PIECE("b", "null", 0, 0) PIECE("", "\"stop\"", 0, 0)
                  USAGE(13, 12) DONE);
    assert_usage(&r, 13, 12);

    /* the real one first, zeros behind it */

    r = read_text(COMPLETIONS, SSE, PIECE("a", "null", 0, 0) USAGE(13, 12)
                  PIECE("", "\"stop\"", 0, 0) DONE);
    assert_usage(&r, 13, 12);

    /* cut before the real one: zeros for output are no report */

    r = read_text(COMPLETIONS, SSE, PIECE("a", "null", 0, 0)
                  PIECE("", "\"stop\"", 0, 0));
    assert_false(r.facts.usage);
    assert_int_equal(r.facts.completion_tokens, -1);

    /* running counts: the last, not their sum */

    r = read_text(COMPLETIONS, SSE, PIECE("a", "null", 5, 1)
                  PIECE("b", "null", 5, 2) PIECE("c", "\"stop\"", 5, 3));
    assert_usage(&r, 5, 3);

    r = read_text(COMPLETIONS, SSE, PIECE("a", "null", 5, 1) USAGE(5, 9)
                  PIECE("b", "null", 5, 2));
    assert_usage(&r, 5, 9);

    /* twice in one event */

    r = read_text(COMPLETIONS, JSON, "{\"choices\":[{\"text\":\"a\","
                  "\"finish_reason\":\"stop\"}],\"usage\":{"
                  "\"prompt_tokens\":1,\"prompt_tokens\":7,"
                  "\"completion_tokens\":2},\"usage\":{"
                  "\"completion_tokens\":3}}");
    assert_usage(&r, 7, 3);
}


/* row 89 */

static void
test_89_usage_on_the_finish_chunk(void **state)
{
    answer_result_t  r;

    r = read_text(CHAT, SSE, TEXT("a")
                  D("{\"model\":\"m\",\"choices\":[{\"delta\":{},"
                    "\"finish_reason\":\"stop\"}],\"usage\":{"
                    "\"prompt_tokens\":3,\"completion_tokens\":1}}") DONE);

    assert_usage(&r, 3, 1);
    assert_int_equal(r.usage_only, 0);
}


/* row 90 */

static void
test_90_usage_null(void **state)
{
    answer_result_t  r;

    r = read_text(CHAT, SSE, USAGE(3, 1)
                  D("{\"model\":\"m\",\"choices\":[],\"usage\":null}"));

    assert_usage(&r, 3, 1);
    assert_false(r.facts.anomaly);
}


/* row 91: each field on its own, and nothing of it is taken */

static void
test_91_junk_counts(void **state)
{
    char             body[512];
    size_t           i;
    answer_result_t  r;

    static const char  *junk[] = {
        "-1", "1.5", "1e3", "\"7\"", "true", "[]", "{}", "2147483648",
        "9007199254740993", "18446744073709551616",
        "99999999999999999999999999999999999999999999", "-0", "1.0"
    };

    for (i = 0; i < sizeof(junk) / sizeof(junk[0]); i++) {

        sprintf(body, "{\"choices\":[{\"finish_reason\":\"stop\"}],"
                "\"usage\":{\"prompt_tokens\":%s,\"completion_tokens\":5}}",
                junk[i]);
        r = read_text(CHAT, JSON, body);

        assert_true(r.facts.anomaly);
        assert_int_equal(r.facts.prompt_tokens, -1);
        assert_int_equal(r.facts.completion_tokens, 5);

        sprintf(body, "{\"done\":true,\"prompt_eval_count\":4,"
                "\"eval_count\":%s}\n", junk[i]);
        r = read_text(NATIVE, NDJSON, body);

        assert_true(r.facts.anomaly);
        assert_int_equal(r.facts.prompt_tokens, 4);
        assert_int_equal(r.facts.completion_tokens, -1);
    }

    r = read_text(CHAT, JSON, "{\"choices\":[{\"finish_reason\":\"stop\"}],"
                  "\"usage\":{\"prompt_tokens\":2147483647,"
                  "\"completion_tokens\":null}}");
    assert_int_equal(r.facts.prompt_tokens, 2147483647);
    assert_int_equal(r.facts.completion_tokens, -1);
    assert_false(r.facts.anomaly);

    r = read_text(CHAT, JSON, "{\"choices\":[{\"finish_reason\":\"stop\"}],"
                  "\"usage\":\"lots\"}");
    assert_true(r.facts.anomaly);
    assert_false(r.facts.usage);
}


/* row 92: events and lines of 1 MiB, of one string and of many line ends */

static void
test_92_big_line(void **state)
{
    char             *body;
    size_t            i, n;
    answer_cuts_t     cuts;
    answer_result_t   r, got;

    body = malloc(3 * 1024 * 1024);
    assert_non_null(body);

    n = sprintf(body, "data: {\"model\":\"m\",\"choices\":[{\"delta\":"
                "{\"content\":\"");
    memset(body + n, 'x', 1048576);
    n += 1048576;
    n += sprintf(body + n, "\"},\"finish_reason\":\"stop\"}]}\n\n");

    memset(&cuts, 0, sizeof(answer_cuts_t));
    answer_run(&r, CHAT, SSE, (u_char *) body, n, cuts);

    assert_int_equal(r.facts.text_bytes, 1048576);
    assert_true(r.facts.complete);

    cuts.each = 1;
    answer_run(&got, CHAT, SSE, (u_char *) body, n, cuts);
    compare(&got, &r, "pieces of", 1);

    /* a pass over the rest of the buffer for each line would never end */

    for (i = 0; i < 3 * 1024 * 1024; i += 3) {
        memcpy(body + i, "d:\r", 3);
    }

    cuts.each = 0;
    answer_run(&r, CHAT, SSE, (u_char *) body, i, cuts);
    assert_int_equal(r.facts.events, 0);

    memset(body, '\r', i);
    answer_run(&r, CHAT, SSE, (u_char *) body, i, cuts);
    assert_int_equal(r.end, BOUNDARY);

    memset(body, '\n', i);
    answer_run(&r, NATIVE, NDJSON, (u_char *) body, i, cuts);
    assert_int_equal(r.end, BOUNDARY);

    free(body);
}


/* row 93 */

static void
test_93_context_before_the_counts(void **state)
{
    char             *body;
    size_t            i, n;
    answer_cuts_t     cuts;
    answer_result_t   r;

    body = malloc(1024 * 1024);
    assert_non_null(body);

    n = sprintf(body, "{\"model\":\"m\",\"response\":\"\",\"done\":true,"
                "\"done_reason\":\"stop\",\"context\":[0");

    for (i = 0; i < 64 * 1024; i++) {
        n += sprintf(body + n, ",%zu", i);
    }

    n += sprintf(body + n, "],\"prompt_eval_count\":26,\"eval_count\":10}\n");

    for (i = 0; i < 4; i++) {
        memset(&cuts, 0, sizeof(answer_cuts_t));
        cuts.each = i * i;
        answer_run(&r, NATIVE, NDJSON, (u_char *) body, n, cuts);
        assert_usage(&r, 26, 10);
        assert_true(r.facts.complete);
    }

    free(body);
}


/* row 94 */

static void
test_94_content_looks_like_protocol(void **state)
{
    answer_result_t  r;

    r = read_text(CHAT, SSE,
                  TEXT("data: [DONE]\\n\\nevent: error\\ndata: "
                       "{\\\"error\\\":1}")
                  TEXT("\\\"usage\\\":{\\\"prompt_tokens\\\":0}")
                  FINISH USAGE(26, 10) DONE);

    assert_usage(&r, 26, 10);
    assert_false(r.facts.error);
    assert_int_equal(r.done, 1);
    assert_int_equal(r.facts.deltas, 2);
}


/* row 95 */

static void
test_95_tool_arguments_look_like_counts(void **state)
{
    answer_result_t  r;

    r = read_text(NATIVE, NDJSON,
                  "{\"model\":\"m\",\"message\":{\"content\":\"\","
                  "\"done\":true,"
                  "\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":"
                  "{\"done\":true,\"eval_count\":1,\"prompt_eval_count\":1,"
                  "\"error\":\"x\",\"content\":\"y\"}}}]},\"done\":false}\n");

    assert_false(r.facts.usage);
    assert_false(r.facts.complete);
    assert_false(r.facts.error);
    assert_int_equal(r.facts.deltas, 1);
    assert_int_equal(r.facts.text_bytes,
                     strlen("{\"done\":true,\"eval_count\":1,"
                            "\"prompt_eval_count\":1,\"error\":\"x\","
                            "\"content\":\"y\"}"));
}


/* row 96 */

static void
test_96_echoed_tools(void **state)
{
    answer_result_t  r;

    r = read_text(RESPONSES, SSE,
                  D("{\"type\":\"response.completed\",\"tools\":[{\"usage\":"
                    "{\"input_tokens\":0,\"output_tokens\":0}}],\"response\":"
                    "{\"tools\":[{\"parameters\":{\"usage\":{\"input_tokens\":"
                    "0},\"model\":\"evil\",\"status\":\"failed\"}}],\"model\":"
                    "\"m\",\"status\":\"completed\",\"usage\":{"
                    "\"input_tokens\":26,\"output_tokens\":10}}}"));

    assert_usage(&r, 26, 10);
    assert_model(&r, "m");
    assert_finish(&r, "completed");
    assert_false(r.facts.error);
}


/* row 97 */

static void
test_97_more_than_one_end(void **state)
{
    answer_result_t  r;

    r = read_text(CHAT, SSE, TEXT("a") FINISH FINISH USAGE(26, 10) DONE DONE
                  USAGE(26, 10) TEXT("b"));

    assert_usage(&r, 26, 10);
    assert_true(r.facts.complete);
    assert_int_equal(r.done, 2);
    assert_int_equal(r.facts.deltas, 2);
}


/* row 98, and blank lines, CRLF and leading spaces */

static void
test_98_ndjson_lines(void **state)
{
    answer_result_t  r;

    r = read_text(NATIVE, NDJSON,
                  "\n\r\n  {\"model\":\"m\",\"response\":\"a\"}\r\n\n"
                  " {\"response\":\"\",\"thinking\":\"b\"} \n"
                  "{\"done\":true,\"prompt_eval_count\":2,\"eval_count\":3}");

    assert_usage(&r, 2, 3);
    assert_true(r.facts.complete);
    assert_int_equal(r.facts.events, 3);
    assert_int_equal(r.facts.deltas, 2);
    assert_int_equal(r.end, WHOLE);
    assert_false(r.facts.anomaly);
}


/* rows 99, 123 */

static void
test_99_errors_that_the_client_sees(void **state)
{
    size_t           i;
    answer_result_t  r;

    static const struct {
        int          format;
        int          framing;
        int          told;
        const char  *body;
    } cases[] = {
        { NATIVE, NDJSON, 1, "{\"error\":\"x\"}\n" },
        { NATIVE, NDJSON, 1, "{\"error\":{\"message\":\"x\"}}\n" },
        { NATIVE, NDJSON, 0, "{\"error\":null}\n" },
        { NATIVE, NDJSON, 0, "{\"error\":\"\"}\n" },
        { NATIVE, NDJSON, 0, "{\"message\":{\"error\":\"x\"}}\n" },
        { NATIVE, JSON, 1, "{\"error\":\"x\"}" },
        { CHAT, SSE, 1, D("{\"error\":{\"message\":\"x\"}}") },
        { CHAT, SSE, 1, D("{\"error\":\"x\"}") },
        { CHAT, SSE, 0, D("{\"error\":false}") },
        { CHAT, SSE, 1, "event: error\ndata: {\"message\":\"x\"}\n\n" },
        { CHAT, SSE, 1, "event:error\r\ndata: out of memory\r\n\r\n" },
        { CHAT, SSE, 0, "event: errors\ndata: {}\n\n" },
        { CHAT, SSE, 0, "event: error\n\n" },
        { CHAT, SSE, 0, "event: error\nevent: x\ndata: {}\n\n" },
        { CHAT, JSON, 1, "{\"error\":{\"message\":\"x\"}}" },
        { RESPONSES, SSE, 1, D("{\"type\":\"error\",\"code\":\"x\"}") },
        { RESPONSES, SSE, 1, D("{\"type\":\"response.failed\"}") },
        { RESPONSES, JSON, 1, "{\"error\":{\"message\":\"x\"}}" },
        { RESPONSES, JSON, 0, "{\"error\":null,\"status\":\"completed\"}" },
        { MESSAGES, SSE, 1, "event: error\ndata: {\"type\":\"error\","
                            "\"error\":{\"type\":\"overloaded_error\"}}\n\n" },
        { MESSAGES, JSON, 1, "{\"type\":\"error\",\"error\":{}}" },
        { EMBEDDINGS, JSON, 1, "{\"error\":\"x\"}" }
    };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        r = read_text(cases[i].format, cases[i].framing, cases[i].body);

        if (r.facts.error != cases[i].told || r.facts.told != cases[i].told) {
            fail_msg("%s", cases[i].body);
        }
    }
}


/* rows 100, 101: the framing is the answer's, not the request's */

static void
test_100_101_format_and_framing(void **state)
{
    answer_result_t  r;

    r = read_text(NATIVE, JSON, "{\"model\":\"m\",\"done\":true,"
                  "\"done_reason\":\"load\"}\n");
    assert_true(r.facts.complete);
    assert_finish(&r, "load");
    assert_false(r.facts.usage);

    r = read_text(CHAT, NDJSON, "{\"model\":\"m\",\"choices\":[{\"delta\":"
                  "{\"content\":\"a\"}}]}\n{\"choices\":[{\"finish_reason\":"
                  "\"stop\"}],\"usage\":{\"prompt_tokens\":1,"
                  "\"completion_tokens\":2}}\n");
    assert_usage(&r, 1, 2);

    r = read_text(NATIVE, SSE, D("{\"response\":\"a\"}")
                  D("{\"done\":true,\"eval_count\":2,"
                    "\"prompt_eval_count\":1}"));
    assert_usage(&r, 1, 2);
    assert_true(r.facts.complete);

    r = read_text(NGX_HTTP_CLAWD_FORMAT_NONE, JSON, "{\"error\":\"x\"}");
    assert_false(r.facts.error);

    r = read_text(CHAT, NGX_HTTP_CLAWD_FRAMING_NONE, FINISH);
    assert_false(r.facts.complete);
    assert_int_equal(r.end, BOUNDARY);
}


static void
test_sse_fields(void **state)
{
    answer_result_t  r;

    /* a byte order mark, fields without a colon, data in several lines */

    r = read_text(CHAT, SSE, "\xef\xbb\xbf" "data: {\"model\":\"m\",\n"
                  "data\ndata:\"choices\":[{\"finish_reason\":\ndata:  "
                  "\"stop\"}]}\nid\nretry: 10\n\nretry: 10\n\n");

    assert_true(r.facts.complete);
    assert_model(&r, "m");
    assert_int_equal(r.facts.events, 1);
    assert_false(r.facts.anomaly);

    r = read_text(CHAT, SSE, "\xef\xbb\xbf: x\n" FINISH);
    assert_true(r.facts.complete);
    assert_int_equal(r.facts.events, 1);

    r = read_text(NATIVE, NDJSON, "\xef\xbb\xbf{\"done\":true}\n");
    assert_true(r.facts.complete);

    r = read_text(NATIVE, JSON, "\xef\xbb\xbf{\"done\":true}");
    assert_true(r.facts.complete);
    assert_false(r.facts.anomaly);

    r = read_text(NATIVE, JSON, "\xef\xbb{\"done\":true}");
    assert_false(r.facts.complete);
    assert_true(r.facts.anomaly);

    /* only at the very start, and names are whole words */

    r = read_text(CHAT, SSE, "\xef\xbb\xbf:\n\n\xef\xbb\xbf" FINISH
                  "xdata: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n"
                  "Data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n"
                  " data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n");

    assert_false(r.facts.complete);
    assert_int_equal(r.facts.events, 0);

    /* a line end within a string is none of JSON's */

    r = read_text(CHAT, SSE, "data: {\"model\":\"\ndata: m\"}\n\n" FINISH);

    assert_true(r.facts.anomaly);
    assert_true(r.facts.complete);
}


static void
test_done_marker(void **state)
{
    size_t           i;
    answer_result_t  r;

    static const struct {
        const char  *body;
        unsigned     done;
    } cases[] = {
        { "data: [DONE]\n\n", 1 },
        { "data:[DONE]\n\n", 1 },
        { "data:[DONE]\r\n\r\n", 1 },
        { "data: [DONE]x\n\n", 0 },
        { "data: [DON\n\n", 0 },
        { "data: [done]\n\n", 0 },
        { "data: [DO\ndata: NE]\n\n", 0 },
        { "[DONE]\n\n", 0 },
        { ": [DONE]\n\n", 0 }
    };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        r = read_text(CHAT, SSE, cases[i].body);

        if (r.done != cases[i].done) {
            fail_msg("%s", cases[i].body);
        }
    }
}


static void
test_malformed_events_are_passed_over(void **state)
{
    char             body[4096];
    size_t           n;
    answer_result_t  r;

    r = read_text(CHAT, SSE, TEXT("a")
                  D("{\"choices\":[{\"delta\":{\"content\":\"b\"},}]}")
                  D("{\"choices\":[{\"finish_reason\":\"stop\"}]} x")
                  D("no JSON") TEXT("c") FINISH);

    assert_true(r.facts.anomaly);
    assert_int_equal(r.facts.deltas, 2);
    assert_int_equal(r.facts.text_bytes, 2);
    assert_true(r.facts.complete);

    /* too deep */

    n = sprintf(body, "{\"x\":");
    memset(body + n, '[', 1000);
    memset(body + n + 1000, ']', 1000);
    n += 2000;
    n += sprintf(body + n, ",\"done\":true}\n{\"done\":false,"
                 "\"response\":\"a\"}\n");

    r = read_bytes(NATIVE, NDJSON, body, n);

    assert_true(r.facts.anomaly);
    assert_false(r.facts.complete);
    assert_int_equal(r.facts.deltas, 1);
}


/* of one JSON value that is cut, what had come was generated all the same */

static void
test_json_cut(void **state)
{
    answer_result_t  r;

    r = read_text(CHAT, JSON, "{\"model\":\"m\",\"choices\":[{\"message\":"
                  "{\"content\":\"abcd\"},\"finish_reason\":\"stop\"}],"
                  "\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}");

    assert_int_equal(r.end, BROKEN);
    assert_false(r.facts.complete);
    assert_int_equal(r.facts.text_bytes, 4);
    assert_usage(&r, 1, 2);
    assert_true(r.facts.anomaly);

    r = read_text(CHAT, JSON, "{\"choices\":[{\"message\":{\"content\":\"ab\","
                  "},\"finish_reason\":\"stop\"}]}");
    assert_false(r.facts.complete);
    assert_true(r.facts.anomaly);

    /* garbage behind it is none of its business, but noted */

    r = read_text(CHAT, JSON, "\n{\"choices\":[{\"finish_reason\":\"stop\"}]}"
                  "\n");
    assert_true(r.facts.complete);
    assert_false(r.facts.anomaly);

    r = read_text(CHAT, JSON, "{\"choices\":[{\"finish_reason\":\"stop\"}]}"
                  "\n{}");
    assert_true(r.facts.complete);
    assert_true(r.facts.anomaly);
    assert_int_equal(r.end, BOUNDARY);
}


static void
test_output_of_chat(void **state)
{
    size_t           i;
    answer_result_t  r;

    static const struct {
        const char  *delta;
        size_t       text;
        int          deltas;
    } cases[] = {
        { "{\"role\":\"assistant\",\"content\":\"\"}", 0, 0 },
        { "{\"content\":null}", 0, 0 },
        { "{\"content\":\"abc\"}", 3, 1 },
        { "{\"content\":\"\",\"reasoning\":\"ab\"}", 2, 1 },
        { "{\"reasoning_content\":\"ab\"}", 2, 1 },
        { "{\"refusal\":\"no\"}", 2, 1 },
        { "{\"tool_calls\":[]}", 0, 0 },
        { "{\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":"
          "\"{}\"}}]}", 2, 1 },
        { "{\"function_call\":{\"name\":\"f\",\"arguments\":\"{}\"}}", 2, 1 },
        { "{\"audio\":\"abc\",\"x\":{\"content\":\"abc\"}}", 0, 0 }
    };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char  body[512];

        sprintf(body, "data: {\"choices\":[{\"delta\":%s}]}\n\n",
                cases[i].delta);
        r = read_text(CHAT, SSE, body);
        assert_int_equal(r.facts.text_bytes, cases[i].text);
        assert_int_equal(r.facts.deltas, cases[i].deltas);

        sprintf(body, "{\"choices\":[{\"message\":%s}]}", cases[i].delta);
        r = read_text(CHAT, JSON, body);
        assert_int_equal(r.facts.text_bytes, cases[i].text);
        assert_int_equal(r.facts.deltas, cases[i].deltas);
    }
}


static void
test_messages(void **state)
{
    answer_result_t  r;

    static const char  start[] =
        "event: message_start\n"
        D("{\"type\":\"message_start\",\"message\":{\"model\":\"m\","
          "\"usage\":{\"input_tokens\":4,\"output_tokens\":0}}}")
        D("{\"type\":\"content_block_delta\",\"delta\":{\"type\":"
          "\"text_delta\",\"text\":\"ab\"}}")
        D("{\"type\":\"content_block_delta\",\"delta\":{\"thinking\":\"c\"}}")
        D("{\"type\":\"content_block_delta\",\"delta\":{\"partial_json\":"
          "\"{}\"}}");

    char  body[2048];

    /* an estimate alone is no report */

    r = read_text(MESSAGES, SSE, start);

    assert_false(r.facts.usage);
    assert_int_equal(r.facts.prompt_tokens, 4);
    assert_int_equal(r.facts.completion_tokens, -1);
    assert_int_equal(r.facts.deltas, 3);
    assert_int_equal(r.facts.text_bytes, 5);
    assert_false(r.facts.complete);

    sprintf(body, "%s%s%s", start,
            D("{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":"
              "\"tool_use\"},\"usage\":{\"input_tokens\":26,"
              "\"output_tokens\":10}}"),
            D("{\"type\":\"message_stop\"}"));
    r = read_text(MESSAGES, SSE, body);

    assert_usage(&r, 26, 10);
    assert_finish(&r, "tool_use");
    assert_true(r.facts.complete);

    /* the output alone: the input of the start holds */

    sprintf(body, "%s%s", start,
            D("{\"usage\":{\"output_tokens\":10},\"type\":"
              "\"message_delta\"}"));
    r = read_text(MESSAGES, SSE, body);
    assert_usage(&r, 4, 10);

    /* tokens of the prompt that a cache served are tokens of the prompt */

    r = read_text(MESSAGES, JSON, "{\"type\":\"message\",\"model\":\"m\","
                  "\"content\":[{\"type\":\"text\",\"text\":\"ab\"},{\"type\":"
                  "\"tool_use\",\"input\":{\"a\":1}}],\"stop_reason\":"
                  "\"end_turn\",\"usage\":{\"cache_read_input_tokens\":100,"
                  "\"input_tokens\":3,\"cache_creation_input_tokens\":20,"
                  "\"cache_read_input_tokens\":100,\"output_tokens\":5}}");
    assert_usage(&r, 123, 5);
    assert_int_equal(r.facts.text_bytes, 2 + 7);
    assert_finish(&r, "end_turn");
}


static void
test_responses(void **state)
{
    answer_result_t  r;

    /* keys in any order; what "done" events repeat is not counted again */

    r = read_text(RESPONSES, SSE,
                  D("{\"response\":{\"status\":\"in_progress\",\"usage\":null,"
                    "\"model\":\"m\"},\"type\":\"response.created\"}")
                  D("{\"delta\":\"ab\",\"type\":"
                    "\"response.output_text.delta\"}")
                  D("{\"delta\":\"{}\",\"type\":"
                    "\"response.function_call_arguments.delta\"}")
                  D("{\"text\":\"ab\",\"type\":"
                    "\"response.output_text.done\"}")
                  D("{\"response\":{\"output\":[{\"content\":[{\"text\":"
                    "\"ab\"}]}],\"status\":\"incomplete\",\"usage\":{"
                    "\"input_tokens\":1,\"output_tokens\":2}},\"type\":"
                    "\"response.incomplete\"}"));

    assert_usage(&r, 1, 2);
    assert_finish(&r, "incomplete");
    assert_model(&r, "m");
    assert_int_equal(r.facts.deltas, 2);
    assert_int_equal(r.facts.text_bytes, 4);

    /* cut: not finished, whatever its status was meanwhile */

    r = read_text(RESPONSES, SSE,
                  D("{\"response\":{\"status\":\"in_progress\"}}"));
    assert_int_equal(r.facts.finish_len, 0);

    r = read_text(RESPONSES, SSE,
                  D("{\"type\":\"response.failed\",\"response\":{\"status\":"
                    "\"failed\",\"error\":{\"message\":\"x\"}}}"));
    assert_true(r.facts.complete);
    assert_true(r.facts.error);
    assert_finish(&r, "failed");

    r = read_text(RESPONSES, JSON, "{\"status\":\"completed\",\"model\":\"m\","
                  "\"output\":[{\"summary\":[{\"text\":\"a\"}]},{\"content\":"
                  "[{\"text\":\"bc\"}]},{\"arguments\":\"{}\"}],\"usage\":{"
                  "\"input_tokens\":1,\"output_tokens\":2}}");
    assert_usage(&r, 1, 2);
    assert_int_equal(r.facts.text_bytes, 5);
}


static void
test_embeddings(void **state)
{
    answer_result_t  r;

    r = read_text(EMBEDDINGS, JSON, "{\"model\":\"m\",\"data\":[{\"embedding\":"
                  "[0.5,-1e-3]}],\"usage\":{\"prompt_tokens\":7}}");
    assert_usage(&r, 7, 0);

    r = read_text(EMBEDDINGS, JSON, "{\"embeddings\":[[1,2]],"
                  "\"prompt_eval_count\":7}");
    assert_usage(&r, 7, 0);

    r = read_text(EMBEDDINGS, JSON, "{\"embedding\":[1,2]}");
    assert_false(r.facts.usage);
    assert_true(r.facts.complete);
}


/* names go into logs and labels */

static void
test_names_are_printable(void **state)
{
    char             body[1024];
    char             name[301];
    answer_result_t  r;

    r = read_text(CHAT, SSE, D("{\"model\":\"a\\u0000\\n\xc3\xbc b\\\"\"}"));
    assert_model(&r, "a????\?b\"");

    memset(name, 'x', 300);
    name[300] = '\0';

    sprintf(body, "data: {\"model\":\"%s\",\"choices\":[{\"finish_reason\":"
            "\"%s\"}]}\n\n", name, name);
    r = read_text(CHAT, SSE, body);

    assert_int_equal(r.facts.model_len, 128);
    assert_int_equal(r.facts.finish_len, 32);

    r = read_text(CHAT, SSE, D("{\"model\":\"first\"}")
                  D("{\"model\":\"second\"}"));
    assert_model(&r, "first");
}


static void
test_memory_is_bounded(void **state)
{
    assert_true(sizeof(ngx_http_clawd_answer_t) <= 1100);
}


/* bytes at random: nothing to expect but the same at any split */

static void
test_noise(void **state)
{
    char      body[64];
    size_t    i, n;
    uint32_t  x;

    static const char   alphabet[] = "{}[]\":,\\u0 \r\n:dateenv1x.-";
    static const char  *heads[] = {
        "data: ", "{\"choices\":[", "\r\n\r\n", "event: error\n", "\"usage\":{",
        ": "
    };

    x = 1;

    for (i = 0; i < 400; i++) {
        n = sprintf(body, "%s", heads[i % 6]);

        while (n < 30 + i % 20) {
            x = x * 1664525 + 1013904223;
            body[n++] = alphabet[(x >> 16) % (sizeof(alphabet) - 1)];
        }

        (void) read_bytes(i % 6 + 1, i % 3 + 1, body, n);
    }
}


int
main(void)
{
    size_t             n, own, failed;
    const char        *dir;
    struct CMUnitTest  tests[256];

    static const struct CMUnitTest  edges[] = {
        cmocka_unit_test(test_usage_event_is_told),
        cmocka_unit_test(test_usage_event_is_no_other),
        cmocka_unit_test(test_usage_event_in_other_dress),
        cmocka_unit_test(test_event_states),
        cmocka_unit_test(test_79_split_in_crlf_utf8_escape),
        cmocka_unit_test(test_80_line_ends),
        cmocka_unit_test(test_81_comments),
        cmocka_unit_test(test_82_ends),
        cmocka_unit_test(test_82_usage_event_at_the_end),
        cmocka_unit_test(test_83_84_complete),
        cmocka_unit_test(test_85_swallowed_error),
        cmocka_unit_test(test_86_cut),
        cmocka_unit_test(test_87_no_usage),
        cmocka_unit_test(test_88_usage_in_every_chunk),
        cmocka_unit_test(test_89_usage_on_the_finish_chunk),
        cmocka_unit_test(test_90_usage_null),
        cmocka_unit_test(test_91_junk_counts),
        cmocka_unit_test(test_92_big_line),
        cmocka_unit_test(test_93_context_before_the_counts),
        cmocka_unit_test(test_94_content_looks_like_protocol),
        cmocka_unit_test(test_95_tool_arguments_look_like_counts),
        cmocka_unit_test(test_96_echoed_tools),
        cmocka_unit_test(test_97_more_than_one_end),
        cmocka_unit_test(test_98_ndjson_lines),
        cmocka_unit_test(test_99_errors_that_the_client_sees),
        cmocka_unit_test(test_100_101_format_and_framing),
        cmocka_unit_test(test_sse_fields),
        cmocka_unit_test(test_done_marker),
        cmocka_unit_test(test_malformed_events_are_passed_over),
        cmocka_unit_test(test_json_cut),
        cmocka_unit_test(test_output_of_chat),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_responses),
        cmocka_unit_test(test_embeddings),
        cmocka_unit_test(test_names_are_printable),
        cmocka_unit_test(test_memory_is_bounded),
        cmocka_unit_test(test_noise)
    };

    dir = getenv("CLAWD_FIXTURES");

    if (dir == NULL) {
        dir = "t/fixtures";
    }

    own = load_fixtures(tests, 256, dir, "");

    if (own == 0) {
        fprintf(stderr, "no fixtures in %s\n", dir);
        return 1;
    }

    n = own;
    n += load_fixtures(tests + n, 256 - n, dir, "recorded/");
    n += load_fixtures(tests + n, 256 - n, dir, "recorded-llamacpp/");

    failed = cmocka_run_group_tests_name("edges", edges, NULL, NULL);
    failed += _cmocka_run_group_tests("fixtures", tests, n, NULL, NULL);

    return failed != 0;
}
