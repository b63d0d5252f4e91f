/*
 * Copyright (C) clawd authors
 *
 * Requests: which bodies are refused, and what changes in the others.  Every
 * body is read whole, at each split in two and byte by byte, which must give
 * the same; what goes upstream is also compared with the same change made on a
 * tree by another JSON library.  Names of tests carry the rows of the table of
 * edge cases that they stand for.
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

#include "ngx_http_clawd_request.h"


#define CHAT         NGX_HTTP_CLAWD_FORMAT_CHAT
#define COMPLETIONS  NGX_HTTP_CLAWD_FORMAT_COMPLETIONS
#define RESPONSES    NGX_HTTP_CLAWD_FORMAT_RESPONSES
#define MESSAGES     NGX_HTTP_CLAWD_FORMAT_MESSAGES
#define NATIVE       NGX_HTTP_CLAWD_FORMAT_NATIVE
#define EMBEDDINGS   NGX_HTTP_CLAWD_FORMAT_EMBEDDINGS

#define BODY_MAX     32768
#define OUT_MAX      (BODY_MAX + 1024)


typedef struct {
    ngx_http_clawd_format_e  format;
    int64_t                  cap;
    int                      native;
    int                      admin;
    int64_t                  unset;        /* the cap of who asks for none */
} setup_t;


typedef struct {
    ngx_int_t                rc;
    ngx_http_clawd_error_e   error;
    char                     param[64];
    char                     sent[NGX_HTTP_CLAWD_MODEL_LEN + 1];
    char                     label[NGX_HTTP_CLAWD_MODEL_LEN + 1];
    unsigned                 flags;
    ngx_uint_t               nedits;
    int64_t                  output;
    int64_t                  bound;
    int64_t                  guess;
    size_t                   len;
    u_char                   out[OUT_MAX];
} result_t;


static const setup_t  chat = { CHAT, 0, 0, 0, 0 };
static const setup_t  chat_cap = { CHAT, 100, 0, 0, 0 };
static const setup_t  chat_default = { CHAT, 0, 0, 0, 40 };
static const setup_t  completions = { COMPLETIONS, 0, 0, 0, 0 };
static const setup_t  completions_cap = { COMPLETIONS, 100, 0, 0, 0 };
static const setup_t  responses = { RESPONSES, 0, 0, 0, 0 };
static const setup_t  responses_cap = { RESPONSES, 100, 0, 0, 0 };
static const setup_t  messages = { MESSAGES, 0, 0, 0, 0 };
static const setup_t  messages_cap = { MESSAGES, 100, 0, 0, 0 };
static const setup_t  native = { NATIVE, 0, 1, 0, 0 };
static const setup_t  native_cap = { NATIVE, 100, 1, 0, 0 };
static const setup_t  native_admin = { NATIVE, 0, 1, 1, 0 };
static const setup_t  embed = { EMBEDDINGS, 100, 1, 0, 0 };
static const setup_t  embeddings = { EMBEDDINGS, 100, 0, 0, 0 };


static uint32_t  seed = 20;


static unsigned
rnd(unsigned n)
{
    seed = seed * 1664525 + 1013904223;

    return (seed >> 8) % n;
}


static void
keep(char *dst, size_t size, ngx_str_t *s)
{
    assert_true(s->len < size);

    if (s->len) {
        memcpy(dst, s->data, s->len);
    }

    dst[s->len] = '\0';
}


/*
 * Every piece of the body is copied to memory of its own length, so that a
 * read beyond its end is seen; step 0 takes random steps, cut > 0 one cut.
 */

static size_t
next_piece(size_t left, size_t done, size_t step, size_t cut)
{
    size_t  n;

    n = step ? step : 1 + rnd(40);

    if (cut) {
        n = (done < cut) ? cut - done : left;
    }

    return n < left ? n : left;
}


static void
run(const setup_t *s, const char *body, size_t len, size_t step, size_t cut,
    result_t *r)
{
    u_char                    *piece, *dst;
    size_t                     i, n;
    ngx_int_t                  rc;
    ngx_uint_t                 edit;
    ngx_http_clawd_request_t  *rq;

    memset(r, 0, sizeof(result_t));

    rq = test_malloc(sizeof(ngx_http_clawd_request_t));
    memset(rq, 0xa5, sizeof(ngx_http_clawd_request_t));

    rq->format = s->format;
    rq->max_tokens = s->cap;
    rq->default_tokens = s->unset;
    rq->native = s->native;
    rq->admin = s->admin;

    ngx_http_clawd_request_init(rq);

    rc = NGX_OK;

    for (i = 0; i < len && rc == NGX_OK; i += n) {
        n = next_piece(len - i, i, step, cut);

        piece = test_malloc(n);
        memcpy(piece, body + i, n);

        rc = ngx_http_clawd_request_read(rq, piece, piece + n);

        test_free(piece);
    }

    if (rc == NGX_OK) {
        rc = ngx_http_clawd_request_end(rq);
    }

    r->rc = rc;
    r->error = rq->error;
    keep(r->param, sizeof(r->param), &rq->param);

    if (rc == NGX_OK) {
        keep(r->sent, sizeof(r->sent), &rq->model.sent);
        keep(r->label, sizeof(r->label), &rq->model.label);

        r->flags = rq->stream | rq->asked_usage << 1 | rq->added_usage << 2;
        r->nedits = rq->nedits;
        r->output = rq->output_tokens;
        r->bound = rq->prompt_bound;
        r->guess = rq->prompt_guess;

        dst = r->out;
        edit = 0;

        for (i = 0; i < len; i += n) {
            n = next_piece(len - i, i, step, cut);

            piece = test_malloc(n);
            memcpy(piece, body + i, n);

            dst = ngx_http_clawd_request_copy(rq, dst, piece, piece + n, i,
                                              &edit);
            test_free(piece);
        }

        r->len = dst - r->out;

        assert_int_equal(edit, rq->nedits);
        assert_int_equal(r->len, ngx_http_clawd_request_length(rq, len));
    }

    test_free(rq);
}


static void
run_all(const setup_t *s, const char *body, size_t len, result_t *r)
{
    size_t    i;
    result_t  other;

    run(s, body, len, len, 0, r);

    for (i = 0; i <= len; i++) {

        if (i == 0) {
            run(s, body, len, 1, 0, &other);

        } else {
            run(s, body, len, 0, i, &other);
        }

        assert_memory_equal(&other, r, sizeof(result_t));
    }
}


/* the same change on a tree, by the rules and not by the code */

static int
plain(json_t *v, int64_t max)
{
    return json_is_integer(v) && json_integer_value(v) >= 1
           && json_integer_value(v) <= max;
}


static const char  *limits[] = {
    "max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict",
    "num_predict"
};


/* the object that holds limit i, or NULL */

static json_t *
tree_holder(json_t *root, size_t i)
{
    return i < 4 ? root : json_object_get(root, "options");
}


static size_t
tree_own(const setup_t *s)
{
    return s->format == RESPONSES ? 2 : s->format == NATIVE ? 4 : 0;
}


static int64_t
tree_default(const setup_t *s)
{
    if (s->cap && s->unset) {
        return s->cap < s->unset ? s->cap : s->unset;
    }

    return s->cap ? s->cap : s->unset;
}


static void
tree_cap(const setup_t *s, json_t *root)
{
    json_t  *own, *v, *obj;
    size_t   i;
    int64_t  limit, absurd;

    if ((s->cap == 0 && s->unset == 0) || s->format == EMBEDDINGS) {
        return;
    }

    obj = tree_holder(root, tree_own(s));

    if (!json_is_object(obj)) {
        obj = json_object();
        json_object_set_new(root, "options", obj);
    }

    absurd = s->unset ? 1000000000 : (int64_t) 1 << 53;
    limit = INT64_MAX;
    own = json_object_get(obj, limits[tree_own(s)]);

    if (plain(own, absurd)) {
        limit = json_integer_value(own);
    }

    v = json_object_get(root, "max_completion_tokens");

    if (s->format == CHAT && plain(v, absurd)
        && json_integer_value(v) < limit)
    {
        limit = json_integer_value(v);
    }

    if (limit == INT64_MAX) {
        limit = tree_default(s);
    }

    if (s->cap && limit > s->cap) {
        limit = s->cap;
    }

    json_object_set_new(obj, limits[tree_own(s)], json_integer(limit));

    for (i = 0; i < 5; i++) {
        obj = tree_holder(root, i);
        v = json_object_get(obj, limits[i]);

        if (v && !json_is_null(v) && !plain(v, s->unset ? limit : s->cap)) {
            json_object_set_new(obj, limits[i], json_integer(limit));
        }
    }
}


/* of the edited tree, whichever field its reader looks at */

static int64_t
tree_output(const setup_t *s, json_t *root)
{
    json_t  *v, *prompt;
    size_t   i;
    int64_t  most, n, prompts;

    static const char  *keys[] = { "n", "best_of", "n_cmpl" };

    if (s->format == EMBEDDINGS) {
        return 0;
    }

    v = json_object_get(tree_holder(root, tree_own(s)), limits[tree_own(s)]);

    if (!plain(v, (int64_t) 1 << 53)) {
        return -1;
    }

    most = 0;

    for (i = 0; i < 5; i++) {
        v = json_object_get(tree_holder(root, i), limits[i]);

        if (v == NULL || json_is_null(v)) {
            continue;
        }

        if (!plain(v, (s->cap || s->unset) ? (int64_t) 1 << 53 : 1000000000))
        {
            return -1;
        }

        most = json_integer_value(v) > most ? json_integer_value(v) : most;
    }

    n = 1;

    for (i = 0; i < 3; i++) {
        v = json_object_get(root, keys[i]);
        n = json_integer_value(v) > n ? json_integer_value(v) : n;
    }

    prompts = 0;
    prompt = json_object_get(root, "prompt");

    if (s->format == COMPLETIONS) {
        json_array_foreach(prompt, i, v) {
            prompts += json_is_string(v) || json_is_array(v)
                       || json_is_object(v);
        }
    }

    return most * n * (prompts ? prompts : 1);
}


/* bytes of all texts, without those of values under the keys of images */

static size_t
tree_text(json_t *v)
{
    size_t       i, len;
    json_t      *child;
    const char  *key;

    len = json_is_string(v) ? json_string_length(v) : 0;

    json_array_foreach(v, i, child) {
        len += tree_text(child);
    }

    json_object_foreach(v, key, child) {
        len += strlen(key);

        if (strcmp(key, "images") && strcmp(key, "image_url")
            && strcmp(key, "source") && strcmp(key, "input_audio"))
        {
            len += tree_text(child);
        }
    }

    return len;
}


static void
tree_change(const setup_t *s, json_t *root, const char *model)
{
    json_t  *options;
    size_t   i;

    static const char  *reload[] = {
        "num_ctx", "num_gpu", "num_batch", "main_gpu", "use_mmap",
        "use_mlock", "num_thread", "draft_num_predict", "low_vram", "f16_kv",
        "numa"
    };

    json_object_set_new(root, "model", json_string(model));

    if (s->native && !s->admin) {
        options = json_object_get(root, "options");

        if (json_object_get(root, "keep_alive")) {
            json_object_set_new(root, "keep_alive", json_null());
        }

        for (i = 0; i < sizeof(reload) / sizeof(reload[0]); i++) {
            if (json_object_get(options, reload[i])) {
                json_object_set_new(options, reload[i], json_null());
            }
        }
    }

    if (json_is_true(json_object_get(root, "stream"))
        && (s->format == CHAT || s->format == COMPLETIONS))
    {
        options = json_object_get(root, "stream_options");

        if (!json_is_object(options)) {
            options = json_object();
            json_object_set_new(root, "stream_options", options);
        }

        json_object_set_new(options, "include_usage", json_true());
    }

    tree_cap(s, root);
}


static void
check_tree(const setup_t *s, const char *body, size_t len, result_t *r)
{
    json_t        *before, *after;
    json_error_t   e;

    before = json_loadb(body, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL,
                        &e);

    if (before == NULL) {
        fail_msg("the body: %s: %.*s", e.text, (int) len, body);
    }

    after = json_loadb((char *) r->out, r->len,
                       JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);

    if (after == NULL) {
        fail_msg("the edited body: %s: %.*s", e.text, (int) r->len, r->out);
    }

    tree_change(s, before, r->sent);

    if (!json_equal(before, after)) {
        fail_msg("not the expected tree: %.*s", (int) r->len, r->out);
    }

    assert_int_equal(r->output, tree_output(s, after));
    assert_true(r->bound >= (int64_t) tree_text(before));
    assert_true(r->guess >= 0 && r->guess <= r->bound);

    json_decref(before);
    json_decref(after);
}


/* what was edited is read again without further edits, as the same model */

static void
check_again(const setup_t *s, size_t len, result_t *r)
{
    result_t  again;

    run(s, (char *) r->out, r->len, 0, 0, &again);

    assert_int_equal(again.rc, NGX_OK);
    assert_int_equal(again.nedits, 0);
    assert_string_equal(again.sent, r->sent);
    assert_string_equal(again.label, r->label);

    /* what an edit adds are bytes of the body, and nothing else */

    assert_int_equal(again.output, r->output);
    assert_int_equal(again.bound - r->bound, (int64_t) r->len - (int64_t) len);
}


static void
accept_raw(const setup_t *s, const char *body, size_t len,
    const char *expected, result_t *r)
{
    run_all(s, body, len, r);

    if (r->rc != NGX_OK) {
        fail_msg("refused (%d %s): %s", (int) r->error, r->param, body);
    }

    if (r->len != strlen(expected) || memcmp(r->out, expected, r->len) != 0) {
        fail_msg("\n is: %.*s\nnot: %s", (int) r->len, r->out, expected);
    }

    check_again(s, len, r);
}


static void
accepts(const setup_t *s, const char *body, const char *expected)
{
    result_t  r;

    accept_raw(s, body, strlen(body), expected, &r);
    check_tree(s, body, strlen(body), &r);
}


static void
gives(const setup_t *s, const char *body, const char *expected,
    int64_t output)
{
    result_t  r;

    accept_raw(s, body, strlen(body), expected, &r);

    if (r.output != output) {
        fail_msg("output %d instead of %d: %s", (int) r.output, (int) output,
                 body);
    }
}


static void
keeps(const setup_t *s, const char *body)
{
    result_t  r;

    accept_raw(s, body, strlen(body), body, &r);
    assert_int_equal(r.nedits, 0);
}


static void
refuses_raw(const setup_t *s, const char *body, size_t len,
    ngx_http_clawd_error_e error, const char *param)
{
    result_t  r;

    run_all(s, body, len, &r);

    if (r.rc != NGX_ERROR || r.error != error) {
        fail_msg("rc %d, error %d instead of %d: %.*s", (int) r.rc,
                 (int) r.error, (int) error, (int) len, body);
    }

    assert_string_equal(r.param, param);
}


static void
refuses(const setup_t *s, const char *body, ngx_http_clawd_error_e error,
    const char *param)
{
    refuses_raw(s, body, strlen(body), error, param);
}


static void
test_c33_empty_body(void **state)
{
    refuses(&chat, "", NGX_HTTP_CLAWD_ERR_EMPTY_BODY, "");
    refuses(&chat, " \r\n\t ", NGX_HTTP_CLAWD_ERR_EMPTY_BODY, "");
}


static void
test_c34_invalid_json(void **state)
{
    size_t  i;

    static const char  body[] =
        "{\"model\":\"m\",\"stream\":true,\"x\":[1,{\"y\":\"\\u00e9\"}]}";

    for (i = 1; i < sizeof(body) - 1; i++) {
        refuses_raw(&chat, body, i, NGX_HTTP_CLAWD_ERR_JSON, "");
    }

    refuses(&chat, "{model:\"m\"}", NGX_HTTP_CLAWD_ERR_JSON, "");
    refuses(&chat, "{\"model\":\"m\",}", NGX_HTTP_CLAWD_ERR_JSON, "");
    refuses(&chat, "{'model':'m'}", NGX_HTTP_CLAWD_ERR_JSON, "");
    refuses(&chat, "{\"model\":\"m\" \"x\":1}", NGX_HTTP_CLAWD_ERR_JSON, "");
    refuses(&chat, "{\"model\":\"m\",\"x\":01}", NGX_HTTP_CLAWD_ERR_JSON, "");
    refuses(&chat, "{\"model\":\"m\",\"x\":nul}", NGX_HTTP_CLAWD_ERR_JSON, "");
    refuses(&chat, "{\"model\":\"m\",\"x\":\"\\q\"}", NGX_HTTP_CLAWD_ERR_JSON,
            "");
    refuses(&chat, "\x1f\x8b\x08", NGX_HTTP_CLAWD_ERR_JSON, "");
}


static void
test_c35_root_is_no_object(void **state)
{
    refuses(&chat, "[]", NGX_HTTP_CLAWD_ERR_JSON, "");
    refuses(&chat, "[{\"model\":\"m\"}]", NGX_HTTP_CLAWD_ERR_JSON, "");
    refuses(&chat, "\"model\"", NGX_HTTP_CLAWD_ERR_JSON, "");
    refuses(&chat, "5", NGX_HTTP_CLAWD_ERR_JSON, "");
    refuses(&chat, "5 ", NGX_HTTP_CLAWD_ERR_JSON, "");
    refuses(&chat, "true", NGX_HTTP_CLAWD_ERR_JSON, "");
}


static void
test_c36_null(void **state)
{
    refuses(&chat, "null", NGX_HTTP_CLAWD_ERR_JSON, "");
}


static void
test_c37_model_missing(void **state)
{
    refuses(&chat, "{}", NGX_HTTP_CLAWD_ERR_MODEL, "model");
    refuses(&chat, "{\"messages\":[{\"model\":\"m\"}]}",
            NGX_HTTP_CLAWD_ERR_MODEL, "model");
    refuses(&native, "{\"name\":\"m\"}", NGX_HTTP_CLAWD_ERR_MODEL, "model");
}


static void
test_c38_model_of_no_use(void **state)
{
    refuses(&chat, "{\"model\":null}", NGX_HTTP_CLAWD_ERR_MODEL, "model");
    refuses(&chat, "{\"model\":5}", NGX_HTTP_CLAWD_ERR_MODEL, "model");
    refuses(&chat, "{\"model\":true}", NGX_HTTP_CLAWD_ERR_MODEL, "model");
    refuses(&chat, "{\"model\":[\"m\"]}", NGX_HTTP_CLAWD_ERR_MODEL, "model");
    refuses(&chat, "{\"model\":{\"a\":\"m\"}}", NGX_HTTP_CLAWD_ERR_MODEL,
            "model");
    refuses(&chat, "{\"model\":\"\"}", NGX_HTTP_CLAWD_ERR_MODEL, "model");
    refuses(&chat, "{\"model\":\"  \\t\"}", NGX_HTTP_CLAWD_ERR_MODEL,
            "model");
    refuses(&chat, "{\"model\":\"a b\"}", NGX_HTTP_CLAWD_ERR_MODEL, "model");
    refuses(&chat, "{\"model\":\"a\\nb\"}", NGX_HTTP_CLAWD_ERR_MODEL,
            "model");
    refuses(&chat, "{\"model\":\"m\\u00e9\"}", NGX_HTTP_CLAWD_ERR_MODEL,
            "model");
}


static void
test_c38_model_too_long(void **state)
{
    int       i;
    char      body[512], expected[512];
    result_t  r;

    for (i = 127; i < 400; i += (i < 130 || (i > 254 && i < 258)) ? 1 : 9) {
        sprintf(body, "{\"model\":\"%0*d\"}", i, 7);

        if (i <= NGX_HTTP_CLAWD_MODEL_LEN) {
            accept_raw(&chat, body, strlen(body), body, &r);

        } else {
            refuses(&chat, body, NGX_HTTP_CLAWD_ERR_MODEL, "model");
        }
    }

    /* spaces around it do not count, as far as the scanner keeps them */

    sprintf(body, "{\"model\":\"%*s%0*d\"}", 128, "", 128, 7);
    sprintf(expected, "{\"model\":\"%0*d\"}", 128, 7);

    accepts(&chat, body, expected);
}


static void
test_c39_duplicate_key(void **state)
{
    refuses(&chat, "{\"model\":\"a\",\"model\":\"b\"}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "model");
    refuses(&chat, "{\"model\":\"a\",\"stream\":true,\"stream\":true}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "stream");
    refuses(&native,
            "{\"model\":\"a\",\"options\":{\"num_predict\":1,"
            "\"num_predict\":-1}}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "num_predict");
    refuses(&chat,
            "{\"model\":\"a\",\"stream_options\":{\"include_usage\":true,"
            "\"include_usage\":false}}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "include_usage");
    refuses(&messages,
            "{\"model\":\"a\",\"tools\":[{\"type\":\"a\",\"type\":\"b\"}]}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "type");

    /* keys without a meaning here, and the same key in another object */

    keeps(&chat, "{\"model\":\"a\",\"x\":1,\"x\":2}");
    keeps(&chat, "{\"model\":\"a\",\"x\":{\"model\":\"b\",\"model\":1}}");
    keeps(&chat, "{\"model\":\"a\",\"tools\":[{\"type\":\"function\"},"
                 "{\"type\":\"function\"}]}");
}


static void
test_c40_folded_key(void **state)
{
    size_t  i;
    char    body[256];

    static const char  *keys[][2] = {
        { "MODEL", "model" },
        { "Model", "model" },
        { "Stream", "stream" },
        { "STREAM_OPTIONS", "stream_options" },
        { "Max_Tokens", "max_tokens" },
        { "max_completion_Tokens", "max_completion_tokens" },
        { "MAX_OUTPUT_TOKENS", "max_output_tokens" },
        { "N_predict", "n_predict" },
        { "Keep_Alive", "keep_alive" },
        { "_DEBUG_RENDER_ONLY", "_debug_render_only" },
        { "OPTIONS", "options" },
        { "Tools", "tools" },
        { "Messages", "messages" },
        { "PROMPT", "prompt" },
        { "Input", "input" },
        { "Format", "format" },
        { "N", "n" }
    };

    for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        sprintf(body, "{\"model\":\"a\",\"%s\":1}", keys[i][0]);
        refuses(&chat, body, NGX_HTTP_CLAWD_ERR_DUPLICATE, keys[i][1]);

        sprintf(body, "{\"%s\":1,\"model\":\"a\"}", keys[i][0]);
        refuses(&chat, body, NGX_HTTP_CLAWD_ERR_DUPLICATE, keys[i][1]);
    }

    refuses(&native, "{\"model\":\"a\",\"options\":{\"NUM_CTX\":1}}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "num_ctx");
    refuses(&responses,
            "{\"model\":\"a\",\"tools\":[{\"Type\":\"web_search\"}]}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "type");
    refuses(&chat, "{\"model\":\"a\",\"stream_options\":"
                   "{\"Include_usage\":true}}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "include_usage");
}


static void
test_c41_unicode_folding(void **state)
{
    refuses(&chat, "{\"model\":\"a\",\"\xc5\xbftream\":true}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "stream");
    refuses(&chat, "{\"model\":\"a\",\"\\u017ftream\":true}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "stream");
    refuses(&native, "{\"model\":\"a\",\"\\u212aeep_alive\":0}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "keep_alive");
    refuses(&native, "{\"model\":\"a\",\"\xe2\x84\xaa" "eep_alive\":0}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "keep_alive");
    refuses(&chat, "{\"model\":\"a\",\"max_to\xe2\x84\xaa"
                   "en\xc5\xbf\":1}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "max_tokens");
}


static void
test_c42_escaped_key(void **state)
{
    accepts(&chat_cap, "{\"mod\\u0065l\":\"a\",\"ma\\u0078_tokens\":500}",
            "{\"mod\\u0065l\":\"a\",\"ma\\u0078_tokens\":100}");
    refuses(&chat, "{\"model\":\"a\",\"mod\\u0065l\":\"b\"}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "model");
    refuses(&chat, "{\"model\":\"a\",\"\\u004dodel\":\"b\"}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "model");
}


static void
test_c43_trailing_data(void **state)
{
    refuses(&chat, "{\"model\":\"a\"} garbage", NGX_HTTP_CLAWD_ERR_TRAILING,
            "");
    refuses(&chat, "{\"model\":\"a\"}{\"model\":\"b\"}",
            NGX_HTTP_CLAWD_ERR_TRAILING, "");
    refuses(&chat, "{\"model\":\"a\"}}", NGX_HTTP_CLAWD_ERR_TRAILING, "");
    refuses(&chat, "{\"model\":\"a\"}\n\n,", NGX_HTTP_CLAWD_ERR_TRAILING, "");
    refuses_raw(&chat, "{\"model\":\"a\"}\0", 14, NGX_HTTP_CLAWD_ERR_TRAILING,
                "");

    keeps(&chat, " \r\n{\"model\":\"a\"} \t\r\n");
}


static void
test_c44_byte_order_mark(void **state)
{
    refuses(&chat, "\xef\xbb\xbf{\"model\":\"a\"}", NGX_HTTP_CLAWD_ERR_JSON,
            "");
}


static void
nest(char *body, int depth)
{
    char  *p;

    p = body + sprintf(body, "{\"model\":\"a\",\"x\":");

    memset(p, '[', depth);
    memset(p + depth, ']', depth);
    strcpy(p + 2 * depth, "}");
}


static void
test_c45_depth(void **state)
{
    char      body[BODY_MAX];
    result_t  r;

    nest(body, NGX_HTTP_CLAWD_JSON_DEPTH - 1);
    run(&chat, body, strlen(body), 7, 0, &r);
    assert_int_equal(r.rc, NGX_OK);

    nest(body, NGX_HTTP_CLAWD_JSON_DEPTH);
    run(&chat, body, strlen(body), 7, 0, &r);
    assert_int_equal(r.rc, NGX_ERROR);
    assert_int_equal(r.error, NGX_HTTP_CLAWD_ERR_DEPTH);
}


static void
test_c46_nul(void **state)
{
    refuses(&chat, "{\"model\":\"a\\u0000b\"}", NGX_HTTP_CLAWD_ERR_MODEL,
            "model");
    refuses(&chat, "{\"model\":\"a\\u0000\"}", NGX_HTTP_CLAWD_ERR_MODEL,
            "model");
    refuses_raw(&chat, "{\"model\":\"a\0b\"}", 15, NGX_HTTP_CLAWD_ERR_JSON,
                "");
    refuses(&chat, "{\"model\":\"a\nb\"}", NGX_HTTP_CLAWD_ERR_JSON, "");

    keeps(&chat, "{\"model\":\"a\",\"prompt\":\"\\u0000\"}");
}


static void
test_c47_invalid_utf8(void **state)
{
    keeps(&chat, "{\"model\":\"a\",\"prompt\":\"\xff\xc3\"}");
    keeps(&chat, "{\"model\":\"a\",\"prompt\":\"\\ud800 \\udc00\"}");

    refuses(&chat, "{\"model\":\"a\xff\"}", NGX_HTTP_CLAWD_ERR_MODEL,
            "model");
    refuses(&chat, "{\"model\":\"a\\ud800\"}", NGX_HTTP_CLAWD_ERR_MODEL,
            "model");
}


static void
test_c48_numbers_are_kept(void **state)
{
    keeps(&chat, "{\"model\":\"a\",\"seed\":12345678901234567890123,"
                 "\"x\":1e400,\"y\":-0.10,\"z\":1.0e+5}");
    keeps(&chat, "{\"model\":\"a\",\"max_tokens\":1e400}");
    keeps(&chat, "{\"model\":\"a\",\"prompt\":\"\\u2028\\/\\u0041\xc2\x85\"}");
}


static void
test_c58_types(void **state)
{
    size_t  i;
    char    body[256];

    static const char  *bodies[][2] = {
        { "\"stream\":\"true\"", "stream" },
        { "\"stream\":1", "stream" },
        { "\"stream\":{}", "stream" },
        { "\"stream_options\":true", "stream_options" },
        { "\"stream_options\":[]", "stream_options" },
        { "\"stream_options\":{\"include_usage\":1}", "include_usage" },
        { "\"stream_options\":{\"include_usage\":\"true\"}",
          "include_usage" },
        { "\"stream_options\":{\"include_usage\":[]}", "include_usage" },
        { "\"max_tokens\":\"5\"", "max_tokens" },
        { "\"max_tokens\":true", "max_tokens" },
        { "\"max_completion_tokens\":[5]", "max_completion_tokens" },
        { "\"max_output_tokens\":{}", "max_output_tokens" },
        { "\"n_predict\":\"-1\"", "n_predict" },
        { "\"options\":[]", "options" },
        { "\"options\":\"x\"", "options" },
        { "\"options\":{\"num_predict\":\"-1\"}", "num_predict" }
    };

    for (i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        sprintf(body, "{\"model\":\"a\",%s}", bodies[i][0]);
        refuses(&chat, body, NGX_HTTP_CLAWD_ERR_TYPE, bodies[i][1]);

        sprintf(body, "{%s,\"model\":\"a\"}", bodies[i][0]);
        refuses(&native_cap, body, NGX_HTTP_CLAWD_ERR_TYPE, bodies[i][1]);
    }
}


static void
test_c59_stream_null(void **state)
{
    result_t  r;

    keeps(&native, "{\"model\":\"a\",\"stream\":null}");
    keeps(&chat, "{\"model\":\"a\",\"stream\":null}");

    run(&native, "{\"model\":\"a\",\"stream\":null}", 27, 27, 0, &r);
    assert_int_equal(r.flags, 0);
}


static void
test_c60_stream_options_without_stream(void **state)
{
    result_t  r;

    static const char  body[] =
        "{\"model\":\"a\",\"stream_options\":{\"include_usage\":true}}";

    keeps(&chat, body);
    keeps(&chat, "{\"model\":\"a\",\"stream\":false,\"stream_options\":null}");
    keeps(&chat, "{\"model\":\"a\",\"stream_options\":{\"x\":1}}");

    run(&chat, body, strlen(body), 9, 0, &r);
    assert_int_equal(r.flags, 2);
}


static void
test_c61_usage_is_asked_for(void **state)
{
    accepts(&chat, "{\"model\":\"a\",\"stream\":true}",
            "{\"stream_options\":{\"include_usage\":true},"
            "\"model\":\"a\",\"stream\":true}");
    accepts(&completions, " { \"model\" : \"a\" , \"stream\" : true } ",
            " {\"stream_options\":{\"include_usage\":true},"
            " \"model\" : \"a\" , \"stream\" : true } ");
    accepts(&chat,
            "{\"model\":\"a\",\"stream\":true,\"stream_options\": null}",
            "{\"model\":\"a\",\"stream\":true,\"stream_options\": "
            "{\"include_usage\":true}}");
    accepts(&chat,
            "{\"model\":\"a\",\"stream\":true,\"stream_options\":{}}",
            "{\"model\":\"a\",\"stream\":true,\"stream_options\":"
            "{\"include_usage\":true}}");
    accepts(&chat,
            "{\"model\":\"a\",\"stream\":true,\"stream_options\":{ \n }}",
            "{\"model\":\"a\",\"stream\":true,\"stream_options\":"
            "{\"include_usage\":true \n }}");
    accepts(&chat,
            "{\"stream_options\":{ \"x\":{}},\"stream\":true,"
            "\"model\":\"a\"}",
            "{\"stream_options\":{\"include_usage\":true, \"x\":{}},"
            "\"stream\":true,\"model\":\"a\"}");
    accepts(&chat,
            "{\"model\":\"a\",\"stream\":true,"
            "\"stream_options\":{\"x\":1,\"include_usage\":false}}",
            "{\"model\":\"a\",\"stream\":true,"
            "\"stream_options\":{\"x\":1,\"include_usage\":true}}");
    accepts(&chat,
            "{\"model\":\"a\",\"stream\":true,"
            "\"stream_options\":{\"include_usage\":null}}",
            "{\"model\":\"a\",\"stream\":true,"
            "\"stream_options\":{\"include_usage\":true}}");

    keeps(&chat, "{\"model\":\"a\",\"stream\":true,"
                 "\"stream_options\":{\"include_usage\":true}}");
    keeps(&responses, "{\"model\":\"a\",\"stream\":true}");
    keeps(&messages, "{\"model\":\"a\",\"stream\":true}");
    keeps(&native, "{\"model\":\"a\",\"stream\":true}");
    keeps(&chat, "{\"model\":\"a\",\"stream\":false}");
}


static void
test_c61_usage_facts(void **state)
{
    result_t  r;

    static const char  plain_body[] = "{\"model\":\"a\",\"stream\":true}";
    static const char  asked[] =
        "{\"model\":\"a\",\"stream\":true,"
        "\"stream_options\":{\"include_usage\":true}}";

    run(&chat, plain_body, strlen(plain_body), 1, 0, &r);
    assert_int_equal(r.flags, 1 | 4);

    run(&chat, asked, strlen(asked), 1, 0, &r);
    assert_int_equal(r.flags, 1 | 2);

    run(&messages, plain_body, strlen(plain_body), 1, 0, &r);
    assert_int_equal(r.flags, 1);
}


static void
test_c62_debug_render(void **state)
{
    refuses(&native, "{\"model\":\"a\",\"_debug_render_only\":true}",
            NGX_HTTP_CLAWD_ERR_PARAM_DENIED, "_debug_render_only");
    refuses(&chat, "{\"model\":\"a\",\"_debug_render_only\":1}",
            NGX_HTTP_CLAWD_ERR_PARAM_DENIED, "_debug_render_only");

    keeps(&native, "{\"model\":\"a\",\"_debug_render_only\":false}");
    keeps(&native, "{\"model\":\"a\",\"_debug_render_only\":null}");
    keeps(&native_admin, "{\"model\":\"a\",\"_debug_render_only\":true}");
}


static void
test_c63_keep_alive(void **state)
{
    accepts(&native, "{\"model\":\"a\",\"keep_alive\":0}",
            "{\"model\":\"a\",\"keep_alive\":null}");
    accepts(&native, "{\"model\":\"a\",\"keep_alive\" : \"-1s\" }",
            "{\"model\":\"a\",\"keep_alive\" : null }");
    accepts(&native, "{\"keep_alive\":{\"a\":[1,2]},\"model\":\"a\"}",
            "{\"keep_alive\":null,\"model\":\"a\"}");
    accepts(&embed, "{\"model\":\"a\",\"keep_alive\":-1}",
            "{\"model\":\"a\",\"keep_alive\":null}");

    keeps(&native, "{\"model\":\"a\",\"keep_alive\":null}");
    keeps(&native_admin, "{\"model\":\"a\",\"keep_alive\":0}");
    keeps(&chat, "{\"model\":\"a\",\"keep_alive\":0}");
}


static void
test_c64_reload_options(void **state)
{
    accepts(&native,
            "{\"model\":\"a\",\"options\":{\"num_ctx\":8192,"
            "\"temperature\":0.10,\"num_gpu\":-1,\"num_batch\":[1],"
            "\"main_gpu\":{},\"use_mmap\":false,\"num_thread\":\"x\","
            "\"draft_num_predict\":3,\"use_mlock\":true,\"low_vram\":true,"
            "\"f16_kv\":true,\"numa\":true}}",
            "{\"model\":\"a\",\"options\":{\"num_ctx\":null,"
            "\"temperature\":0.10,\"num_gpu\":null,\"num_batch\":null,"
            "\"main_gpu\":null,\"use_mmap\":null,\"num_thread\":null,"
            "\"draft_num_predict\":null,\"use_mlock\":null,"
            "\"low_vram\":null,\"f16_kv\":null,\"numa\":null}}");
    accepts(&embed, "{\"model\":\"a\",\"options\":{\"num_ctx\":1}}",
            "{\"model\":\"a\",\"options\":{\"num_ctx\":null}}");

    keeps(&native, "{\"model\":\"a\",\"options\":{\"seed\":1,\"x\":"
                   "{\"num_ctx\":5}}}");
    keeps(&native, "{\"model\":\"a\",\"options\":{\"num_ctx\":null}}");
    keeps(&native_admin, "{\"model\":\"a\",\"options\":{\"num_ctx\":1}}");
}


static void
test_c65_cap_native(void **state)
{
    accepts(&native_cap, "{\"model\":\"a\"}",
            "{\"options\":{\"num_predict\":100},\"model\":\"a\"}");
    accepts(&native_cap, "{\"model\":\"a\",\"options\":null}",
            "{\"model\":\"a\",\"options\":{\"num_predict\":100}}");
    accepts(&native_cap, "{\"model\":\"a\",\"options\":{}}",
            "{\"model\":\"a\",\"options\":{\"num_predict\":100}}");
    accepts(&native_cap, "{\"model\":\"a\",\"options\":{\t}}",
            "{\"model\":\"a\",\"options\":{\"num_predict\":100\t}}");
    accepts(&native_cap, "{\"model\":\"a\",\"options\":{\"num_ctx\":1}}",
            "{\"model\":\"a\",\"options\":{\"num_predict\":100,"
            "\"num_ctx\":null}}");
    accepts(&native_cap, "{\"model\":\"a\",\"options\":{\"num_predict\":-1}}",
            "{\"model\":\"a\",\"options\":{\"num_predict\":100}}");
    accepts(&native_cap, "{\"model\":\"a\",\"options\":{\"num_predict\":0}}",
            "{\"model\":\"a\",\"options\":{\"num_predict\":100}}");
    accepts(&native_cap,
            "{\"model\":\"a\",\"options\":{\"num_predict\":null}}",
            "{\"model\":\"a\",\"options\":{\"num_predict\":100}}");
    accepts(&native_cap,
            "{\"model\":\"a\",\"options\":{\"num_predict\":101}}",
            "{\"model\":\"a\",\"options\":{\"num_predict\":100}}");
    accepts(&native_cap,
            "{\"model\":\"a\",\"options\":{\"num_predict\":50},"
            "\"max_tokens\":5000}",
            "{\"model\":\"a\",\"options\":{\"num_predict\":50},"
            "\"max_tokens\":50}");

    keeps(&native_cap, "{\"model\":\"a\",\"options\":{\"num_predict\":100}}");
    keeps(&native_cap, "{\"model\":\"a\",\"options\":{\"num_predict\":1}}");
    keeps(&native, "{\"model\":\"a\",\"options\":{\"num_predict\":-1}}");
}


static void
test_c65_cap_chat(void **state)
{
    accepts(&chat_cap, "{\"model\":\"a\"}",
            "{\"max_tokens\":100,\"model\":\"a\"}");
    accepts(&chat_cap, "{\"model\":\"a\",\"max_tokens\":0}",
            "{\"model\":\"a\",\"max_tokens\":100}");
    accepts(&chat_cap, "{\"model\":\"a\",\"max_tokens\":-1}",
            "{\"model\":\"a\",\"max_tokens\":100}");
    accepts(&chat_cap, "{\"model\":\"a\",\"max_tokens\":null}",
            "{\"model\":\"a\",\"max_tokens\":100}");
    accepts(&chat_cap, "{\"model\":\"a\",\"max_tokens\":101}",
            "{\"model\":\"a\",\"max_tokens\":100}");

    keeps(&chat_cap, "{\"model\":\"a\",\"max_tokens\":100}");
    keeps(&chat_cap, "{\"model\":\"a\",\"max_tokens\":7}");
    keeps(&chat, "{\"model\":\"a\",\"max_tokens\":-1}");
}


static void
test_c65_cap_chat_other_limits(void **state)
{
    /* one server ignores max_completion_tokens, others prefer it */

    accepts(&chat_cap, "{\"model\":\"a\",\"max_completion_tokens\":50}",
            "{\"max_tokens\":50,\"model\":\"a\","
            "\"max_completion_tokens\":50}");
    accepts(&chat_cap, "{\"model\":\"a\",\"max_completion_tokens\":5000}",
            "{\"max_tokens\":100,\"model\":\"a\","
            "\"max_completion_tokens\":100}");
    accepts(&chat_cap,
            "{\"model\":\"a\",\"max_tokens\":10,"
            "\"max_completion_tokens\":5000}",
            "{\"model\":\"a\",\"max_tokens\":10,"
            "\"max_completion_tokens\":10}");
    accepts(&chat_cap,
            "{\"model\":\"a\",\"max_tokens\":50,"
            "\"max_completion_tokens\":10}",
            "{\"model\":\"a\",\"max_tokens\":10,"
            "\"max_completion_tokens\":10}");
    accepts(&chat_cap,
            "{\"model\":\"a\",\"max_tokens\":0,"
            "\"max_completion_tokens\":0}",
            "{\"model\":\"a\",\"max_tokens\":100,"
            "\"max_completion_tokens\":100}");
    accepts(&chat_cap,
            "{\"model\":\"a\",\"max_tokens\":10,\"n_predict\":-1}",
            "{\"model\":\"a\",\"max_tokens\":10,\"n_predict\":10}");
    accepts(&chat_cap, "{\"model\":\"a\",\"n_predict\":99}",
            "{\"max_tokens\":100,\"model\":\"a\",\"n_predict\":99}");

    /* null makes its reader look at max_tokens */

    keeps(&chat_cap,
          "{\"model\":\"a\",\"max_tokens\":10,"
          "\"max_completion_tokens\":null,\"n_predict\":null}");
}


static void
test_c65_cap_odd_numbers(void **state)
{
    size_t    i;
    char      body[256];
    result_t  r;

    static const char  *numbers[] = {
        "1.5", "1e3", "1e0", "50.0", "-0", "-5", "12345678901234567890",
        "99999999999999999999999999", "1e400", "9007199254740993",
        "18446744073709551617", "4294967297", "5E-1"
    };

    for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        sprintf(body, "{\"model\":\"a\",\"max_tokens\":%s}", numbers[i]);
        accept_raw(&chat_cap, body, strlen(body),
                   "{\"model\":\"a\",\"max_tokens\":100}", &r);

        sprintf(body, "{\"model\":\"a\",\"options\":{\"num_predict\":%s}}",
                numbers[i]);
        accept_raw(&native_cap, body, strlen(body),
                   "{\"model\":\"a\",\"options\":{\"num_predict\":100}}", &r);
    }
}


static void
test_c65_cap_other_formats(void **state)
{
    setup_t  large = { CHAT, (int64_t) 1 << 53, 0, 0, 0 };

    accepts(&completions_cap, "{\"model\":\"a\",\"n_predict\":500}",
            "{\"max_tokens\":100,\"model\":\"a\",\"n_predict\":100}");
    accepts(&responses_cap, "{\"model\":\"a\"}",
            "{\"max_output_tokens\":100,\"model\":\"a\"}");
    accepts(&responses_cap, "{\"model\":\"a\",\"max_output_tokens\":0}",
            "{\"model\":\"a\",\"max_output_tokens\":100}");
    accepts(&messages_cap, "{\"model\":\"a\"}",
            "{\"max_tokens\":100,\"model\":\"a\"}");
    accepts(&messages_cap, "{\"model\":\"a\",\"max_tokens\":101}",
            "{\"model\":\"a\",\"max_tokens\":100}");
    accepts(&large, "{\"model\":\"a\"}",
            "{\"max_tokens\":9007199254740992,\"model\":\"a\"}");

    keeps(&embed, "{\"model\":\"a\",\"input\":\"x\"}");
    keeps(&embeddings, "{\"model\":\"a\",\"input\":\"x\"}");
}


/* a limit for who asks for none; unlike the cap it clamps nobody who does */

static void
test_default_chat(void **state)
{
    size_t    i;
    char      body[256], expected[256];

    static const char  *useless[] = {
        "null", "0", "-1", "1.5", "1e3", "1000000001", "1e18",
        "1000000000000000000", "99999999999999999999"
    };

    accepts(&chat_default, "{\"model\":\"a\"}",
            "{\"max_tokens\":40,\"model\":\"a\"}");

    for (i = 0; i < sizeof(useless) / sizeof(useless[0]); i++) {
        sprintf(body, "{\"model\":\"a\",\"max_tokens\":%s}", useless[i]);
        gives(&chat_default, body, "{\"model\":\"a\",\"max_tokens\":40}", 40);

        sprintf(body, "{\"model\":\"a\",\"max_tokens\":7,"
                      "\"max_completion_tokens\":%s}", useless[i]);
        sprintf(expected, "{\"model\":\"a\",\"max_tokens\":7,"
                          "\"max_completion_tokens\":%s}", i ? "7" : "null");
        gives(&chat_default, body, expected, 7);
    }

    refuses(&chat_default, "{\"model\":\"a\",\"max_tokens\":\"5\"}",
            NGX_HTTP_CLAWD_ERR_TYPE, "max_tokens");

    keeps(&chat_default, "{\"model\":\"a\",\"max_tokens\":41}");
    keeps(&chat_default, "{\"model\":\"a\",\"max_tokens\":1000000000}");
    keeps(&chat_default, "{\"model\":\"a\",\"max_tokens\":1}");

    /* no reader of another field gets more than the format's own one */

    accepts(&chat_default,
            "{\"model\":\"a\",\"max_tokens\":500,\"n_predict\":501,"
            "\"max_output_tokens\":500,\"max_completion_tokens\":600,"
            "\"options\":{\"num_predict\":-1}}",
            "{\"model\":\"a\",\"max_tokens\":500,\"n_predict\":500,"
            "\"max_output_tokens\":500,\"max_completion_tokens\":500,"
            "\"options\":{\"num_predict\":500}}");
    accepts(&chat_default,
            "{\"model\":\"a\",\"max_tokens\":500,"
            "\"max_completion_tokens\":50}",
            "{\"model\":\"a\",\"max_tokens\":50,"
            "\"max_completion_tokens\":50}");
    accepts(&chat_default, "{\"model\":\"a\",\"max_completion_tokens\":50}",
            "{\"max_tokens\":50,\"model\":\"a\","
            "\"max_completion_tokens\":50}");
}


static void
test_default_other_formats(void **state)
{
    static const setup_t  completions_default = { COMPLETIONS, 0, 0, 0, 40 };
    static const setup_t  responses_default = { RESPONSES, 0, 0, 0, 40 };
    static const setup_t  messages_default = { MESSAGES, 0, 0, 0, 40 };
    static const setup_t  native_default = { NATIVE, 0, 1, 0, 40 };
    static const setup_t  embed_default = { EMBEDDINGS, 0, 1, 0, 40 };

    gives(&completions_default, "{\"model\":\"a\"}",
          "{\"max_tokens\":40,\"model\":\"a\"}", 40);
    gives(&responses_default, "{\"model\":\"a\",\"max_output_tokens\":-1}",
          "{\"model\":\"a\",\"max_output_tokens\":40}", 40);
    gives(&messages_default, "{\"model\":\"a\",\"max_tokens\":0}",
          "{\"model\":\"a\",\"max_tokens\":40}", 40);
    gives(&native_default, "{\"model\":\"a\"}",
          "{\"options\":{\"num_predict\":40},\"model\":\"a\"}", 40);
    gives(&native_default,
          "{\"model\":\"a\",\"options\":{\"num_predict\":-2},"
          "\"max_tokens\":41}",
          "{\"model\":\"a\",\"options\":{\"num_predict\":40},"
          "\"max_tokens\":40}", 40);
    gives(&native_default,
          "{\"model\":\"a\",\"options\":{\"num_predict\":400}}",
          "{\"model\":\"a\",\"options\":{\"num_predict\":400}}", 400);
    gives(&embed_default, "{\"model\":\"a\",\"n\":\"x\"}",
          "{\"model\":\"a\",\"n\":\"x\"}", 0);
}


static void
test_default_and_cap(void **state)
{
    static const setup_t  both = { CHAT, 100, 0, 0, 40 };
    static const setup_t  smaller = { CHAT, 30, 0, 0, 40 };

    gives(&both, "{\"model\":\"a\"}", "{\"max_tokens\":40,\"model\":\"a\"}",
          40);
    gives(&both, "{\"model\":\"a\",\"max_tokens\":90}",
          "{\"model\":\"a\",\"max_tokens\":90}", 90);
    gives(&both, "{\"model\":\"a\",\"max_tokens\":101}",
          "{\"model\":\"a\",\"max_tokens\":100}", 100);
    gives(&both, "{\"model\":\"a\",\"max_tokens\":5000000000}",
          "{\"model\":\"a\",\"max_tokens\":40}", 40);
    gives(&both, "{\"model\":\"a\",\"max_tokens\":10,\"n_predict\":90}",
          "{\"model\":\"a\",\"max_tokens\":10,\"n_predict\":10}", 10);
    gives(&smaller, "{\"model\":\"a\"}",
          "{\"max_tokens\":30,\"model\":\"a\"}", 30);
    gives(&smaller, "{\"model\":\"a\",\"max_tokens\":35}",
          "{\"model\":\"a\",\"max_tokens\":30}", 30);
}


static void
test_output_without_a_limit(void **state)
{
    static const struct {
        const char  *body;
        int64_t      output;
    } cases[] = {
        { "{\"model\":\"a\"}", -1 },
        { "{\"model\":\"a\",\"max_tokens\":null}", -1 },
        { "{\"model\":\"a\",\"max_tokens\":-1}", -1 },
        { "{\"model\":\"a\",\"max_tokens\":1000000001}", -1 },
        { "{\"model\":\"a\",\"max_completion_tokens\":5}", -1 },
        { "{\"model\":\"a\",\"max_tokens\":5}", 5 },
        { "{\"model\":\"a\",\"max_tokens\":5,\"n_predict\":9}", 9 },
        { "{\"model\":\"a\",\"max_tokens\":5,\"n_predict\":-1}", -1 },
        { "{\"model\":\"a\",\"max_tokens\":5,\"n\":3}", 15 }
    };

    size_t  i;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        gives(&chat, cases[i].body, cases[i].body, cases[i].output);
    }

    /* a limit that stays below the cap may be the one that is read */

    gives(&chat_cap, "{\"model\":\"a\",\"max_tokens\":5,\"n_predict\":90}",
          "{\"model\":\"a\",\"max_tokens\":5,\"n_predict\":90}", 90);
}


static void
test_output_multipliers(void **state)
{
    size_t  i, k;
    char    body[256];

    static const char  *keys[] = { "n", "best_of", "n_cmpl" };
    static const char  *refused[] = {
        "0", "-1", "1025", "1.0", "1e2", "\"5\"", "true", "[]", "{}",
        "9007199254740993", "1000000000000000000"
    };

    for (k = 0; k < 3; k++) {
        for (i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
            sprintf(body, "{\"model\":\"a\",\"%s\":%s}", keys[k], refused[i]);
            refuses(&chat, body, NGX_HTTP_CLAWD_ERR_TYPE, keys[k]);
        }

        sprintf(body, "{\"model\":\"a\",\"max_tokens\":10,\"%s\":null}",
                keys[k]);
        gives(&chat, body, body, 10);

        sprintf(body, "{\"model\":\"a\",\"max_tokens\":10,\"%s\":1024}",
                keys[k]);
        gives(&chat, body, body, 10240);
    }

    refuses(&native, "{\"model\":\"a\",\"N\":5}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "n");
    refuses(&chat, "{\"model\":\"a\",\"n\":1,\"n\":5}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "n");

    gives(&completions_cap,
          "{\"max_tokens\":2,\"model\":\"a\",\"n\":3,\"best_of\":5}",
          "{\"max_tokens\":2,\"model\":\"a\",\"n\":3,\"best_of\":5}", 10);
}


static void
test_output_of_prompts(void **state)
{
    static const struct {
        const char  *prompt;
        int64_t      output;
    } cases[] = {
        { "\"x\"", 100 },
        { "null", 100 },
        { "[]", 100 },
        { "[\"x\"]", 100 },
        { "[\"x\",\"y\",\"\"]", 300 },
        { "[1,2,3]", 100 },
        { "[[1,2],[3]]", 200 },
        { "[[1,2],\"x\",{\"prompt_string\":\"y\"}]", 300 },
        { "[[[],[]]]", 100 }
    };

    size_t    i;
    char      body[256];
    result_t  r;
    setup_t   large = { COMPLETIONS, (int64_t) 1 << 53, 0, 0, 0 };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        sprintf(body, "{\"max_tokens\":100,\"model\":\"a\",\"prompt\":%s}",
                cases[i].prompt);
        gives(&completions_cap, body, body, cases[i].output);

        run(&completions_cap, body, strlen(body), 1, 0, &r);
        assert_int_equal(r.bound, strlen(body)
                                  + NGX_HTTP_CLAWD_TEMPLATE_TOKENS
                                    * cases[i].output / 100);

        sprintf(body, "{\"max_tokens\":10,\"model\":\"a\",\"n\":2,"
                      "\"prompt\":%s}", cases[i].prompt);
        gives(&completions, body, body, cases[i].output / 5);
    }

    /* nothing overflows, and the largest is a number of its own kind */

    sprintf(body, "{\"max_tokens\":9007199254740992,\"model\":\"a\","
                  "\"n\":1024,\"prompt\":[\"a\",\"b\",\"c\"]}");
    run(&large, body, strlen(body), 1, 0, &r);
    assert_int_equal(r.output, (int64_t) 1 << 53);
}


/* bytes that must not count as text, and images that must count */

static void
prompt_is(const setup_t *s, const char *value, const char *key,
    size_t aside, int images, int more)
{
    size_t    len;
    char      body[2048];
    result_t  r;

    len = sprintf(body, "{\"model\":\"a\",\"%s\":%s}", key, value);

    run_all(s, body, len, &r);

    if (r.rc != NGX_OK) {
        fail_msg("refused (%d %s): %s", (int) r.error, r.param, body);
    }

    if (r.bound != (int64_t) (len - aside) + images * 8192 + 128 + more
        || r.guess != (int64_t) (len - aside) / 4 + images * 300)
    {
        fail_msg("bound %d of %d bytes, guess %d: %s", (int) r.bound,
                 (int) len, (int) r.guess, body);
    }
}


static void
test_prompt_text(void **state)
{
    prompt_is(&chat, "[{\"role\":\"user\",\"content\":\"data:image/png,x\"}]",
              "messages", 0, 0, 8);
    prompt_is(&chat, "[{},{},1]", "messages", 0, 0, 24);
    prompt_is(&chat, "[{\"content\":[{\"type\":\"text\",\"text\":\"x\"}]}]",
              "messages", 0, 0, 8);
    prompt_is(&responses, "\"text\"", "input", 0, 0, 0);
    prompt_is(&responses, "[{\"content\":\"x\"},{}]", "input", 0, 0, 16);
    prompt_is(&native, "[1,2,3]", "context", 0, 0, 0);
    prompt_is(&embed, "[\"a\",\"b\"]", "input", 0, 0, 0);
    prompt_is(&embeddings, "[[1,2],[3]]", "input", 0, 0, 0);
    prompt_is(&completions, "[1,2,3]", "prompt", 0, 0, 0);

    prompt_is(&chat, "[]", "tools", 0, 0, 0);
    prompt_is(&chat, "[{\"type\":\"function\"},{}]", "tools", 0, 0,
              512 + 2 * 64);

    /* a template can say everything more than once */

    prompt_is(&native, "\"{{ .Prompt }}\"", "template", 0, 0, 1048576);
    prompt_is(&native, "\"\"", "template", 0, 0, 0);
    prompt_is(&native, "null", "template", 0, 0, 0);
    prompt_is(&chat, "\"x\"", "chat_template", 0, 0, 1048576);
}


#define PNG  "data:image/png;base64,QmVuY2g="
#define B64  "QmVuY2g="
#define LEN(x)  (sizeof(x) - 1)

#define CONTENT(x)  "[{\"role\":\"user\",\"content\":[" x "]}]"


static void
test_prompt_chat_images(void **state)
{
    prompt_is(&chat,
              CONTENT("{\"type\":\"image_url\",\"image_url\":\"" PNG "\"}"),
              "messages", LEN(PNG), 1, 8);
    prompt_is(&chat,
              CONTENT("{\"image_url\":{\"detail\":\"low\",\"url\":\"" PNG
                      "\"},\"type\":\"image_url\"}"),
              "messages", LEN(PNG), 1, 8);
    prompt_is(&chat,
              CONTENT("{\"type\":\"text\",\"text\":\"x\"},"
                      "{\"type\":\"image_url\",\"image_url\":"
                      "{\"url\":\"" PNG "\"}},{\"type\":\"image_url\","
                      "\"image_url\":{\"url\":\"data:image\\/png;base64,"
                      "AA\"}}"),
              "messages", LEN(PNG) + 25, 2, 8);

    /* an escape before the colon is another spelling of the same */

    prompt_is(&chat,
              CONTENT("{\"type\":\"image\\u005furl\",\"image_url\":"
                      "\"dat\\u0061:x\"}"),
              "messages", 11, 1, 8);

    /* elsewhere an image, but not its text */

    prompt_is(&chat,
              CONTENT("{\"type\":\"image_url\",\"image_url\":"
                      "{\"url\":\"http://a/b.png\"}}"),
              "messages", 0, 1, 8);
    prompt_is(&chat,
              CONTENT("{\"image_url\":{\"url\":\"" PNG "\"}}"),
              "messages", 0, 1, 8);
    prompt_is(&chat,
              CONTENT("{\"type\":\"image_url\",\"image_url\":\"a data:x\"}"),
              "messages", 0, 1, 8);
}


static void
test_prompt_audio(void **state)
{
    prompt_is(&chat,
              CONTENT("{\"type\":\"input_audio\",\"input_audio\":"
                      "{\"format\":\"wav\",\"data\":"
                      "\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}}"),
              "messages", 30, 1, 8);
    prompt_is(&chat,
              CONTENT("{\"type\":\"text\",\"input_audio\":"
                      "{\"data\":\"AAAAAAAAAAAAAAAAAAAAAAAA\"}}"),
              "messages", 0, 1, 8);
}


static void
test_prompt_messages_images(void **state)
{
    static const char  image[] =
        CONTENT("{\"type\":\"image\",\"source\":{\"type\":\"base64\","
                "\"media_type\":\"image/png\",\"data\":\"" B64 "\"}}");

    prompt_is(&messages, image, "messages", LEN(B64), 1, 8);
    prompt_is(&messages,
              CONTENT("{\"source\":{\"data\":\"" B64 "\",\"type\":\"base64\"}"
                      ",\"type\":\"image\"}"),
              "messages", LEN(B64), 1, 8);
    prompt_is(&messages,
              CONTENT("{\"type\":\"image\",\"source\":{\"type\":\"url\","
                      "\"url\":\"" PNG "\"}}"),
              "messages", 0, 1, 8);
    prompt_is(&messages,
              CONTENT("{\"type\":\"tool_result\",\"content\":[{\"type\":"
                      "\"image\",\"source\":{\"type\":\"base64\",\"data\":"
                      "\"" B64 "\"}},{\"type\":\"image\",\"source\":{\"type\":"
                      "\"base64\",\"data\":\"" B64 "\"}},{\"type\":\"text\","
                      "\"text\":\"x\"}]}"),
              "messages", 2 * LEN(B64), 2, 8);

    prompt_is(&messages,
              CONTENT("{\"content\":[{\"source\":{\"data\":\"" B64 "\","
                      "\"type\":\"base64\"},\"type\":\"image\"}],"
                      "\"type\":\"tool_result\"}"),
              "messages", LEN(B64), 1, 8);

    /* a document may be plain text */

    prompt_is(&messages,
              CONTENT("{\"type\":\"document\",\"source\":{\"type\":\"text\","
                      "\"data\":\"" B64 "\"}}"),
              "messages", 0, 1, 8);
    prompt_is(&messages,
              CONTENT("{\"type\":\"image\",\"source\":{\"type\":\"text\","
                      "\"data\":\"" B64 "\"}}"),
              "messages", 0, 1, 8);
    prompt_is(&messages,
              CONTENT("{\"type\":\"text\",\"content\":[{\"type\":"
                      "\"image\",\"source\":{\"type\":\"base64\",\"data\":"
                      "\"" B64 "\"}}]}"),
              "messages", 0, 1, 8);

    /* of the format of others */

    prompt_is(&chat, image, "messages", 0, 0, 8);
    prompt_is(&messages,
              CONTENT("{\"type\":\"image_url\",\"image_url\":\"" PNG "\"}"),
              "messages", 0, 0, 8);
}


static void
test_prompt_responses_images(void **state)
{
    prompt_is(&responses,
              CONTENT("{\"type\":\"input_image\",\"image_url\":\"" PNG "\"}"),
              "input", LEN(PNG), 1, 8);
    prompt_is(&responses,
              "[{\"type\":\"function_call_output\",\"output\":[{\"type\":"
              "\"input_image\",\"image_url\":\"" PNG "\"}]}]",
              "input", LEN(PNG), 1, 8);
    prompt_is(&responses,
              CONTENT("{\"type\":\"input_text\",\"image_url\":\"" PNG "\"}"),
              "input", 0, 1, 8);
    prompt_is(&responses,
              CONTENT("{\"type\":\"image_url\",\"image_url\":{\"url\":\"" PNG
                      "\"}}"),
              "input", 0, 1, 8);
}


static void
test_prompt_native_images(void **state)
{
    prompt_is(&native, "[{\"content\":\"x\",\"images\":[\"" B64 "\",\"" B64
                       "\"]},{\"images\":null}]",
              "messages", 2 * LEN(B64), 2, 16);
    prompt_is(&native, "[\"" B64 "\",\"AA\"]", "images", LEN(B64) + 2, 2, 0);
    prompt_is(&native, "\"" B64 "\"", "images", 0, 0, 0);
    prompt_is(&native, "[[1,2,3],null,5]", "images", 0, 1, 0);

    /* a chat ignores those of the root: should it not be one, they count */

    prompt_is(&native, "[\"" B64 "\"],\"messages\":[]", "images", 0, 1, 0);
    prompt_is(&native, "[\"" B64 "\"],\"messages\":null", "images", LEN(B64),
              1, 0);

    prompt_is(&chat, "[\"" B64 "\"]", "images", 0, 0, 0);
    prompt_is(&chat, "[{\"images\":[\"" B64 "\"]}]", "messages", 0, 0, 8);
}


static void
test_prompt_completions_images(void **state)
{
    prompt_is(&completions,
              "{\"prompt_string\":\"x\",\"multimodal_data\":[\"" B64 "\"]}",
              "prompt", 0, 1, 0);
    prompt_is(&completions,
              "[{\"prompt_string\":\"x\",\"multimodal_data\":[\"" B64
              "\"]}]",
              "prompt", 0, 1, 0);
}


/* what leads to an image has one reading, too */

static void
test_prompt_second_readings(void **state)
{
    refuses(&native, "{\"model\":\"a\",\"messages\":[{\"Images\":[]}]}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "images");
    refuses(&chat,
            "{\"model\":\"a\",\"messages\":[{\"CONTENT\":[]}]}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "content");
    refuses(&messages,
            "{\"model\":\"a\",\"messages\":" CONTENT("{\"Source\":{}}") "}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "source");
    refuses(&chat,
            "{\"model\":\"a\",\"messages\":"
            CONTENT("{\"type\":\"image_url\",\"type\":\"text\"}") "}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "type");
    refuses(&chat,
            "{\"model\":\"a\",\"messages\":[{\"content\":[],"
            "\"content\":\"x\"}]}",
            NGX_HTTP_CLAWD_ERR_DUPLICATE, "content");

    keeps(&chat, "{\"model\":\"a\",\"messages\":[{\"Role\":\"x\","
                 "\"tool_calls\":[{\"Type\":1,\"type\":2,\"type\":3}]}]}");
}


static void
test_c65_cap_and_usage(void **state)
{
    accepts(&chat_cap, "{\"model\":\" a:LOCAL \",\"stream\":true}",
            "{\"stream_options\":{\"include_usage\":true},"
            "\"max_tokens\":100,\"model\":\"a\",\"stream\":true}");
}


static void
test_c66_overrides_pass(void **state)
{
    keeps(&native, "{\"model\":\"a\",\"raw\":true,\"template\":\"t\","
                   "\"system\":\"s\",\"context\":[1,2],\"think\":\"high\","
                   "\"format\":{\"type\":\"object\"}}");
}


static void
test_c67_web_search(void **state)
{
    static const char  body[] =
        "{\"model\":\"a\",\"tools\":[{\"type\":\"function\"},"
        "{\"name\":\"x\",\"type\":\"web_search_20250305\"}]}";

    refuses(&responses, body, NGX_HTTP_CLAWD_ERR_PARAM_DENIED, "tools");
    refuses(&messages, body, NGX_HTTP_CLAWD_ERR_PARAM_DENIED, "tools");
    refuses(&messages, "{\"tools\":[{\"type\":\"Web\\u005fsearch\"}],"
                       "\"model\":\"a\"}",
            NGX_HTTP_CLAWD_ERR_PARAM_DENIED, "tools");

    keeps(&chat, body);
    keeps(&messages, "{\"model\":\"a\",\"tools\":[{\"type\":\"web_searc\"},"
                     "{\"name\":\"web_search\"},{\"type\":5},"
                     "{\"x\":{\"type\":\"web_search\"}}]}");
}


static void
test_c68_empty_messages(void **state)
{
    keeps(&native, "{\"model\":\"a\",\"messages\":[]}");
}


static void
test_d69_one_form(void **state)
{
    result_t  r;

    static const char  body[] =
        "{\"model\":\"http://registry.ollama.ai/library/Llama3.2:LATEST\"}";

    accepts(&chat, body, "{\"model\":\"Llama3.2:LATEST\"}");

    run(&chat, body, strlen(body), 3, 0, &r);
    assert_string_equal(r.sent, "Llama3.2:LATEST");
    assert_string_equal(r.label, "llama3.2");
}


static void
test_d70_spaces(void **state)
{
    accepts(&chat, "{\"model\":\" llama3.2 \"}", "{\"model\":\"llama3.2\"}");
    accepts(&chat, "{\"model\":\"\\tllama3.2\\u0020\",\"x\":\"\\u0020\"}",
            "{\"model\":\"llama3.2\",\"x\":\"\\u0020\"}");

    /* the spelling of the JSON string is its own business */

    keeps(&chat, "{\"model\":\"llam\\u0061\\/3\"}");
}


static void
test_d71_cloud(void **state)
{
    refuses(&chat, "{\"model\":\"x:cloud\"}", NGX_HTTP_CLAWD_ERR_MODEL_DENIED,
            "model");
    refuses(&native_admin, "{\"model\":\"x:20b-cloud\"}",
            NGX_HTTP_CLAWD_ERR_MODEL_DENIED, "model");
    refuses(&chat, "{\"model\":\"x:cloud:local\"}", NGX_HTTP_CLAWD_ERR_MODEL,
            "model");
}


static void
test_d72_local(void **state)
{
    accepts(&chat, "{\"model\":\"x:local\"}", "{\"model\":\"x\"}");
    accepts(&chat, "{\"model\":\"x:7b:Local\"}", "{\"model\":\"x:7b\"}");
}


/* random bodies: valid JSON, every key once, values of every type */

static char  *random_end;    /* from here on nothing new is nested */


static char *
random_space(char *p)
{
    while (rnd(6) == 0) {
        *p++ = " \t\r\n"[rnd(4)];
    }

    return p;
}


static char *
random_scalar(char *p, int number)
{
    static const char  *numbers[] = {
        "0", "-1", "1", "99", "100", "101", "4096", "-0", "1.5", "1e2", "null"
    };
    static const char  *scalars[] = {
        "true", "false", "null", "17", "-2.5", "\"\"", "\"x\\\"y\"",
        "\"\\u00e9\\\\\"", "\"web_search\"", "\"include_usage\""
    };

    if (number && rnd(20)) {
        return p + sprintf(p, "%s", numbers[rnd(11)]);
    }

    return p + sprintf(p, "%s", scalars[rnd(10)]);
}


static char *random_object(char *p, const char **keys, int nkeys, int depth);


static char *
random_value(char *p, const char *key, int depth)
{
    static const char  *models[] = {
        "\"m\"", "\" m \"", "\"m:latest\"", "\"library/M\"",
        "\"https://registry.ollama.ai/library/m:local\"", "\"a/b:c\"",
        "\"\\u006d\"", "\"m:cloud\""
    };
    static const char  *options[] = {
        "num_predict", "num_ctx", "temperature", "use_mmap", "numa", "x"
    };
    static const char  *stream[] = { "include_usage", "x" };
    static const char  *any[] = {
        "type", "a", "b", "content", "image_url", "url", "source", "data",
        "images", "input_audio", "output", "multimodal_data"
    };
    static const char  *types[] = {
        "\"image_url\"", "\"input_image\"", "\"image\"", "\"base64\"",
        "\"input_audio\"", "\"tool_result\"", "\"text\""
    };
    static const char  *data[] = {
        "\"data:image/png;base64,QmVuY2g=\"", "\"QmVuY2hCZW5jaA\\/=\"",
        "\"http://a/b\"", "\"\""
    };
    static const char  *some[] = { "1", "2", "7", "null" };

    int  i;

    if (strcmp(key, "model") == 0 && rnd(30)) {
        return p + sprintf(p, "%s", models[rnd(8)]);
    }

    if (strcmp(key, "stream") == 0 && rnd(30)) {
        return p + sprintf(p, "%s", rnd(3) ? "true" : "false");
    }

    if (strcmp(key, "include_usage") == 0 && rnd(10)) {
        return p + sprintf(p, "%s", rnd(2) ? "true" : "false");
    }

    if (strcmp(key, "options") == 0 && rnd(10)) {
        return rnd(5) ? random_object(p, options, 6, depth)
                      : p + sprintf(p, "null");
    }

    if (strcmp(key, "stream_options") == 0 && rnd(10)) {
        return rnd(5) ? random_object(p, stream, 2, depth)
                      : p + sprintf(p, "null");
    }

    if (strncmp(key, "max_", 4) == 0 || strcmp(key, "n_predict") == 0
        || strcmp(key, "num_predict") == 0)
    {
        return random_scalar(p, 1);
    }

    if ((strcmp(key, "n") == 0 || strcmp(key, "best_of") == 0
         || strcmp(key, "n_cmpl") == 0)
        && rnd(20))
    {
        return p + sprintf(p, "%s", some[rnd(4)]);
    }

    if (strcmp(key, "type") == 0 && rnd(10)) {
        return p + sprintf(p, "%s", types[rnd(7)]);
    }

    if (depth == 0 || p > random_end || rnd(3) == 0) {
        return rnd(3) ? p + sprintf(p, "%s", data[rnd(4)])
                      : random_scalar(p, 0);
    }

    if (strcmp(key, "messages") && strcmp(key, "content")
        && strcmp(key, "images") && rnd(2))
    {
        return random_object(p, any, 12, depth - 1);
    }

    *p++ = '[';

    for (i = rnd(4); i > 0; i--) {
        p = random_space(p);
        p = random_value(p, "", depth - 1);
        p = random_space(p);

        if (i > 1) {
            *p++ = ',';
        }
    }

    *p++ = ']';

    return p;
}


static char *
random_object(char *p, const char **keys, int nkeys, int depth)
{
    int       i, n;
    unsigned  used;

    *p++ = '{';
    p = random_space(p);

    used = 0;

    for (n = 0; rnd(depth == 6 ? 12 : 4); n++) {
        i = rnd(nkeys);

        if (used & 1u << i) {
            continue;
        }

        if (used) {
            *p++ = ',';
            p = random_space(p);
        }

        used |= 1u << i;

        p += sprintf(p, "\"%s\"", keys[i]);
        p = random_space(p);
        *p++ = ':';
        p = random_space(p);
        p = random_value(p, keys[i], depth);
        p = random_space(p);
    }

    *p++ = '}';

    return p;
}


static void
test_random_bodies(void **state)
{
    char      body[BODY_MAX];
    size_t    len;
    setup_t   s;
    result_t  whole, pieces;
    unsigned  i, accepted;

    static const char  *keys[] = {
        "model", "stream", "stream_options", "max_tokens",
        "max_completion_tokens", "max_output_tokens", "n_predict",
        "keep_alive", "options", "tools", "messages", "x", "n", "best_of",
        "n_cmpl", "prompt", "input", "images", "template"
    };

    accepted = 0;

    for (i = 0; i < 10000; i++) {
        s.native = rnd(3) == 0;
        s.format = s.native ? NATIVE : CHAT + rnd(4);
        s.cap = rnd(3) ? 100 : 0;
        s.unset = rnd(2) ? 1 + rnd(150) : 0;
        s.admin = rnd(4) == 0;

        random_end = body + sizeof(body) / 4;
        len = random_object(random_space(body), keys, 19, 6) - body;

        run(&s, body, len, len, 0, &whole);

        run(&s, body, len, 0, 0, &pieces);
        assert_memory_equal(&pieces, &whole, sizeof(result_t));

        run(&s, body, len, 1, 0, &pieces);
        assert_memory_equal(&pieces, &whole, sizeof(result_t));

        if (whole.rc == NGX_OK) {
            accepted++;
            check_tree(&s, body, len, &whole);
            check_again(&s, len, &whole);
        }
    }

    assert_in_range(accepted, 2000, 9000);
}


static void
test_large_body(void **state)
{
    u_char                    *body, *out, *p;
    size_t                     i, n, len;
    ngx_uint_t                 edit;
    ngx_http_clawd_request_t   rq;

    static const char  head[] =
        "{\"stream\":true,\"messages\":[{\"content\":\"";
    static const char  tail[] = "\"}],\"max_tokens\":5000,\"model\":\" m \"}";
    static const char  expected[] =
        "\"}],\"max_tokens\":100,\"model\":\"m\"}";

    len = 1 << 20;
    body = test_malloc(len);
    out = test_malloc(len + 1024);

    memset(body, 'x', len);
    memcpy(body, head, sizeof(head) - 1);
    memcpy(body + len - (sizeof(tail) - 1), tail, sizeof(tail) - 1);

    rq.format = CHAT;
    rq.max_tokens = 100;
    rq.native = 0;
    rq.admin = 0;

    ngx_http_clawd_request_init(&rq);

    for (i = 0; i < len; i += n) {
        n = len - i < 8192 ? len - i : 8192;
        assert_int_equal(ngx_http_clawd_request_read(&rq, body + i,
                                                     body + i + n),
                         NGX_OK);
    }

    assert_int_equal(ngx_http_clawd_request_end(&rq), NGX_OK);

    p = out;
    edit = 0;

    for (i = 0; i < len; i += n) {
        n = len - i < 5000 ? len - i : 5000;
        p = ngx_http_clawd_request_copy(&rq, p, body + i, body + i + n, i,
                                        &edit);
    }

    assert_int_equal(p - out, ngx_http_clawd_request_length(&rq, len));
    assert_memory_equal(p - (sizeof(expected) - 1), expected,
                        sizeof(expected) - 1);

    test_free(body);
    test_free(out);
}


static void
test_ends_refused(void **state)
{
    u_char                    body[] = "{\"model\":\"m\"}}";
    ngx_http_clawd_request_t  rq;

    rq.format = CHAT;
    rq.max_tokens = 0;
    rq.default_tokens = 0;
    rq.native = 0;
    rq.admin = 0;

    ngx_http_clawd_request_init(&rq);

    assert_int_equal(ngx_http_clawd_request_read(&rq, body, body + 14),
                     NGX_ERROR);
    assert_int_equal(ngx_http_clawd_request_read(&rq, body, body + 13),
                     NGX_ERROR);
    assert_int_equal(ngx_http_clawd_request_end(&rq), NGX_ERROR);
    assert_int_equal(rq.error, NGX_HTTP_CLAWD_ERR_TRAILING);

    /* a later body starts afresh */

    ngx_http_clawd_request_init(&rq);

    assert_int_equal(ngx_http_clawd_request_read(&rq, body, body + 13),
                     NGX_OK);
    assert_int_equal(ngx_http_clawd_request_end(&rq), NGX_OK);
}


/* as it was sent; broken JSON is kept as a text, a character for each byte */

static size_t
recorded_body(json_t *request, char *body)
{
    size_t       i, len;
    unsigned     c;
    const char  *p;

    if (!json_is_string(request)) {
        len = json_dumpb(request, body, BODY_MAX, 0);
        assert_true(len > 0 && len <= BODY_MAX);

        return len;
    }

    p = json_string_value(request);
    len = 0;

    for (i = 0; i < json_string_length(request); i++) {
        c = (u_char) p[i];

        if (c >= 0xc0) {
            c = (c & 0x1f) << 6 | (p[++i] & 0x3f);
        }

        assert_true(c < 0x100 && len < BODY_MAX);
        body[len++] = (char) c;
    }

    return len;
}


static ngx_http_clawd_error_e
recorded_error(const char *name)
{
    size_t  i;

    static const struct {
        const char              *name;
        ngx_http_clawd_error_e   error;
    } refused[] = {
        { "79_err_cloud_disabled_native_shape_on_v1",
          NGX_HTTP_CLAWD_ERR_MODEL_DENIED },
        { "bom_body", NGX_HTTP_CLAWD_ERR_JSON },
        { "debug_render", NGX_HTTP_CLAWD_ERR_PARAM_DENIED },
        { "dup_key_case", NGX_HTTP_CLAWD_ERR_DUPLICATE },
        { "dup_key_case_rev", NGX_HTTP_CLAWD_ERR_DUPLICATE },
        { "err_chat_bad_json", NGX_HTTP_CLAWD_ERR_JSON },
        { "err_chat_bad_type", NGX_HTTP_CLAWD_ERR_TYPE },
        { "err_chat_empty_body", NGX_HTTP_CLAWD_ERR_EMPTY_BODY },
        { "err_chat_no_model", NGX_HTTP_CLAWD_ERR_MODEL },
        { "err_native_bad_json", NGX_HTTP_CLAWD_ERR_JSON },
        { "gzip_request", NGX_HTTP_CLAWD_ERR_JSON },
        { "long_s_stream", NGX_HTTP_CLAWD_ERR_DUPLICATE },
        { "trailing_data", NGX_HTTP_CLAWD_ERR_TRAILING }
    };

    for (i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        if (strcmp(name, refused[i].name) == 0) {
            return refused[i].error;
        }
    }

    return NGX_HTTP_CLAWD_ERR_NONE;
}


static void
check_recorded(const char *dir, const char *name, int *n)
{
    char                         path[512], body[BODY_MAX];
    size_t                       len;
    json_t                      *sidecar, *request;
    setup_t                      s;
    result_t                     whole, pieces;
    ngx_str_t                    uri;
    const ngx_http_clawd_api_t  *api;

    snprintf(path, sizeof(path), "%s/%s.json", dir, name);
    sidecar = json_load_file(path, JSON_ALLOW_NUL, NULL);
    assert_non_null(sidecar);

    uri.data = (u_char *) json_string_value(json_object_get(sidecar,
                                                            "endpoint"));
    uri.len = strlen((char *) uri.data);

    api = ngx_http_clawd_api_find(&uri);
    request = json_object_get(sidecar, "request");

    if (api && api->class == NGX_HTTP_CLAWD_CLASS_INFER
        && request && !json_is_null(request))
    {
        len = recorded_body(request, body);

        s.format = api->format;
        s.cap = 8;
        s.unset = 0;
        s.native = (ngx_http_clawd_api_family(&uri)
                    == NGX_HTTP_CLAWD_OLLAMA);
        s.admin = 0;

        run(&s, body, len, len, 0, &whole);
        run(&s, body, len, 1, 0, &pieces);
        assert_memory_equal(&pieces, &whole, sizeof(result_t));

        if (whole.error != recorded_error(name)) {
            fail_msg("%s/%s: error %d", dir, name, (int) whole.error);
        }

        if (whole.rc == NGX_OK) {
            check_tree(&s, body, len, &whole);
            check_again(&s, len, &whole);
        }

        (*n)++;
    }

    json_decref(sidecar);
}


static void
test_recorded_requests(void **state)
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

            if (dot && strcmp(dot, ".json") == 0) {
                *dot = '\0';
                check_recorded(dir, name, &n);
            }
        }

        closedir(d);
    }

    assert_true(n >= 80);
}


static void
test_size(void **state)
{
    assert_true(sizeof(ngx_http_clawd_request_t) <= 4096);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_c33_empty_body),
        cmocka_unit_test(test_c34_invalid_json),
        cmocka_unit_test(test_c35_root_is_no_object),
        cmocka_unit_test(test_c36_null),
        cmocka_unit_test(test_c37_model_missing),
        cmocka_unit_test(test_c38_model_of_no_use),
        cmocka_unit_test(test_c38_model_too_long),
        cmocka_unit_test(test_c39_duplicate_key),
        cmocka_unit_test(test_c40_folded_key),
        cmocka_unit_test(test_c41_unicode_folding),
        cmocka_unit_test(test_c42_escaped_key),
        cmocka_unit_test(test_c43_trailing_data),
        cmocka_unit_test(test_c44_byte_order_mark),
        cmocka_unit_test(test_c45_depth),
        cmocka_unit_test(test_c46_nul),
        cmocka_unit_test(test_c47_invalid_utf8),
        cmocka_unit_test(test_c48_numbers_are_kept),
        cmocka_unit_test(test_c58_types),
        cmocka_unit_test(test_c59_stream_null),
        cmocka_unit_test(test_c60_stream_options_without_stream),
        cmocka_unit_test(test_c61_usage_is_asked_for),
        cmocka_unit_test(test_c61_usage_facts),
        cmocka_unit_test(test_c62_debug_render),
        cmocka_unit_test(test_c63_keep_alive),
        cmocka_unit_test(test_c64_reload_options),
        cmocka_unit_test(test_c65_cap_native),
        cmocka_unit_test(test_c65_cap_chat),
        cmocka_unit_test(test_c65_cap_chat_other_limits),
        cmocka_unit_test(test_c65_cap_odd_numbers),
        cmocka_unit_test(test_c65_cap_other_formats),
        cmocka_unit_test(test_default_chat),
        cmocka_unit_test(test_default_other_formats),
        cmocka_unit_test(test_default_and_cap),
        cmocka_unit_test(test_output_without_a_limit),
        cmocka_unit_test(test_output_multipliers),
        cmocka_unit_test(test_output_of_prompts),
        cmocka_unit_test(test_prompt_text),
        cmocka_unit_test(test_prompt_chat_images),
        cmocka_unit_test(test_prompt_audio),
        cmocka_unit_test(test_prompt_messages_images),
        cmocka_unit_test(test_prompt_responses_images),
        cmocka_unit_test(test_prompt_native_images),
        cmocka_unit_test(test_prompt_completions_images),
        cmocka_unit_test(test_prompt_second_readings),
        cmocka_unit_test(test_c65_cap_and_usage),
        cmocka_unit_test(test_c66_overrides_pass),
        cmocka_unit_test(test_c67_web_search),
        cmocka_unit_test(test_c68_empty_messages),
        cmocka_unit_test(test_d69_one_form),
        cmocka_unit_test(test_d70_spaces),
        cmocka_unit_test(test_d71_cloud),
        cmocka_unit_test(test_d72_local),
        cmocka_unit_test(test_random_bodies),
        cmocka_unit_test(test_large_body),
        cmocka_unit_test(test_ends_refused),
        cmocka_unit_test(test_recorded_requests),
        cmocka_unit_test(test_size)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
